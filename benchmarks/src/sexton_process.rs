//! The measured process: `sexton up` with its own state directory and one job, which `sexton run` starts. The CPU time
//! is that of `up` and of the keeper together, without the job.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;
use testbed::ReadyProcess;

use crate::meter;

/// How long `up` may take to become ready. Chosen, not measured.
const READY_MAX: Duration = Duration::from_secs(60);

/// Poll interval for the memory of the keeper. Chosen: the keeper of a measured run exists for seconds.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The one job.
pub(crate) const JOB: &str = "bench/job";

/// Credentials for the CloudWatch sink. The receiver checks only that a request is signed.
const CREDENTIALS: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "example"), ("AWS_EC2_METADATA_DISABLED", "true")];

/// A running `sexton up`. Killed when it is dropped, because a regular stop would wait for a dead sink.
pub(crate) struct SextonProcess {
    process: ReadyProcess,
    sexton: PathBuf,
    folder: TempDir,
    cpu_when_ready: f64,
}

/// The counts of a finished run.
pub(crate) struct FinishedRun {
    /// CPU seconds of the job, which do not count.
    job_cpu: f64,
    pub keeper_peak_bytes: u64,
    pub lines: u64,
}

impl SextonProcess {
    /// Starts `up` with a job of this argument list and these sinks (TOML), and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start; the error contains its log.
    pub(crate) fn start(sexton: &Path, job: &[String], sinks: &str) -> Result<SextonProcess> {
        let argv = job.iter().map(|argument| format!("{argument:?}")).collect::<Vec<_>>().join(", ");
        let (group, name) = JOB.split_once('/').unwrap_or_default();
        let jobs = format!(
            "[[job]]\ngroup = \"{group}\"\nname = \"{name}\"\nschedule = \"@manually\"\nargv = [{argv}]\nrules = []\n"
        );
        SextonProcess::start_with(sexton, ("--jobs", "jobs.toml"), &jobs, sinks)
    }

    /// Starts `up` with this crontab and no sink.
    ///
    /// # Errors
    /// As [`SextonProcess::start`].
    pub(crate) fn start_crontab(sexton: &Path, crontab: &str) -> Result<SextonProcess> {
        SextonProcess::start_with(sexton, ("--crontab", "crontab"), crontab, "")
    }

    fn start_with(sexton: &Path, (flag, file): (&str, &str), jobs: &str, sinks: &str) -> Result<SextonProcess> {
        let folder = TempDir::with_prefix("bench-")?;
        let path = |name: &str| folder.path().join(name);
        fs::write(path(file), jobs)?;
        fs::write(path("sinks.toml"), sinks)?;
        let mut command = Command::new(sexton);
        command.args(["up", "--listen", &testbed::free_port().to_string(), "--state"]).arg(path("state"));
        command.arg(flag).arg(path(file)).arg("--sinks").arg(path("sinks.toml")).envs(CREDENTIALS);
        let process = ReadyProcess::spawn(&mut command)
            .with_context(|| format!("cannot start {}; run cargo build -p sexton", sexton.display()))?;
        if !process.is_ready_within(READY_MAX) {
            bail!("`sexton up` did not become ready: {}", process.printed());
        }
        let mut up = SextonProcess { process, sexton: sexton.to_owned(), folder, cpu_when_ready: 0.0 };
        up.cpu_when_ready = up.cpu()?;
        Ok(up)
    }

    /// Its state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Starts the job and waits until its run has succeeded.
    ///
    /// # Errors
    /// When it does not succeed.
    pub(crate) fn run(&self) -> Result<FinishedRun> {
        let peak = Arc::new(AtomicU64::new(0));
        let is_over = Arc::new(AtomicBool::new(false));
        let runs = self.folder.path().join("state/runner/runs");
        let watch = thread::spawn({
            let (peak, is_over) = (Arc::clone(&peak), Arc::clone(&is_over));
            move || {
                while !is_over.load(Ordering::Relaxed) {
                    let bytes = keeper_pid(&runs).and_then(meter::peak_bytes).unwrap_or(0);
                    peak.fetch_max(bytes, Ordering::Relaxed);
                    sleep(POLL_INTERVAL);
                }
            }
        });
        let state = self.folder.path().join("state");
        let output =
            Command::new(&self.sexton).args(["run", JOB, "--wait", "--json", "--state"]).arg(state).output()?;
        is_over.store(true, Ordering::Relaxed);
        // The thread only reads /proc and cannot fail.
        let _joined = watch.join();
        let run: Value = serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "`sexton run` printed no run: {}{}",
                String::from_utf8_lossy(&output.stderr),
                self.process.printed()
            )
        })?;
        if run["outcome"] != "succeeded" {
            bail!("the job did not succeed: {run}");
        }
        Ok(FinishedRun {
            job_cpu: run["cpu_ms"].as_f64().unwrap_or(0.0) / 1000.0,
            keeper_peak_bytes: peak.load(Ordering::Relaxed),
            lines: run["stdout_lines"].as_u64().unwrap_or(0),
        })
    }

    /// CPU seconds of `up` and of its keepers, since `up` was ready and without the job.
    ///
    /// # Errors
    /// When `up` has exited.
    pub(crate) fn cpu_since_ready(&self, ran: &FinishedRun) -> Result<f64> {
        Ok(self.cpu()? - self.cpu_when_ready - ran.job_cpu)
    }

    /// CPU seconds of `up`, and of its keepers with their jobs, since `up` was ready.
    ///
    /// # Errors
    /// When `up` has exited.
    pub(crate) fn cpu_since_ready_with_jobs(&self) -> Result<f64> {
        Ok(self.cpu()? - self.cpu_when_ready)
    }

    /// The newest runs.
    ///
    /// # Errors
    /// When `up` does not answer.
    pub(crate) fn list_runs(&self, most: u64) -> Result<Vec<Value>> {
        crate::starts::list_runs(&self.sexton, &self.folder.path().join("state"), most)
    }

    /// # Errors
    /// When `up` has exited.
    pub(crate) fn peak_bytes(&self) -> Result<u64> {
        meter::peak_bytes(self.process.pid())
            .with_context(|| format!("`sexton up` has exited: {}", self.process.printed()))
    }

    fn cpu(&self) -> Result<f64> {
        let cpu = meter::cpu(self.process.pid())
            .with_context(|| format!("`sexton up` has exited: {}", self.process.printed()))?;
        Ok(cpu.own + cpu.below)
    }
}

/// The process id of the keeper; `None` before it is written.
fn keeper_pid(runs: &Path) -> Option<u32> {
    let run = fs::read_dir(runs).ok()?.flatten().next()?;
    fs::read_to_string(run.path().join("keeper")).ok()?.trim().parse().ok()
}
