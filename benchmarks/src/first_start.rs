//! Row 11: the first start of `sexton up` with a large crontab, from its start to `ready`, with its peak memory; and
//! how long firings wait while a running `up` applies such a crontab.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;
use testbed::ReadyProcess;

use crate::meter;
use crate::starts::{list_runs, seconds_within_day};

/// Entries of the crontab.
const ENTRIES: u32 = 100_000;

/// Longest wait for `ready`. Chosen: far above the goal.
const READY_MAX: Duration = Duration::from_secs(600);

/// Runs that are listed. Chosen: more than fire while the crontab is applied.
const RUNS_MAX: u64 = 10_000;

/// Poll interval for the end of an apply. Chosen: short beside the seconds that it takes.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Each entry fires once a day, and about 70 in each minute. Their programs do not exist.
fn crontab() -> Result<String> {
    let mut crontab = String::new();
    for number in 0..ENTRIES {
        let (minute, hour) = (number % 60, number / 60 % 24);
        writeln!(crontab, "{minute} {hour} * * * /usr/local/bin/job-{number} --account {number}")?;
    }
    Ok(crontab)
}

fn start(sexton: &Path, folder: &Path, crontabs: &[&str]) -> Result<ReadyProcess> {
    let mut command = Command::new(sexton);
    command.args(["up", "--listen", &testbed::free_port().to_string(), "--state"]).arg(folder.join("state"));
    command.arg("--crontab").args(crontabs.iter().map(|name| folder.join(name)));
    let process = ReadyProcess::spawn(&mut command).with_context(|| format!("cannot start {}", sexton.display()))?;
    if !process.is_ready_within(READY_MAX) {
        bail!("`sexton up` did not become ready: {}", process.printed());
    }
    Ok(process)
}

/// Seconds until `ready`, and the peak memory in bytes.
///
/// # Errors
/// When `up` does not become ready.
pub(crate) fn measure(sexton: &Path) -> Result<(f64, u64)> {
    let folder = TempDir::with_prefix("bench-")?;
    std::fs::write(folder.path().join("crontab"), crontab()?)?;
    let begin = Instant::now();
    let process = start(sexton, folder.path(), &["crontab"])?;
    let seconds = begin.elapsed().as_secs_f64();
    let peak = meter::peak_bytes(process.pid()).context("`sexton up` has exited")?;
    Ok((seconds, peak))
}

/// The longest time in seconds from a firing to the start of its run, while `up` applies the crontab. A job fires every
/// second meanwhile.
///
/// # Errors
/// When `up` does not apply it, or no firing falls into that time.
pub(crate) fn measure_wait(sexton: &Path) -> Result<f64> {
    let folder = TempDir::with_prefix("bench-")?;
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
    write("ticks", "# sexton: name=tick rules=\n@every 1s true\n")?;
    write("crontab", "# no entry yet\n")?;
    let process = start(sexton, folder.path(), &["ticks", "crontab"])?;
    write("crontab.new", &crontab()?)?;
    std::fs::rename(folder.path().join("crontab.new"), folder.path().join("crontab"))?;
    let begin = Instant::now();
    while !process.printed().contains(&format!("{ENTRIES} jobs added")) {
        if begin.elapsed() > READY_MAX {
            bail!("`sexton up` did not apply the crontab: {}", process.printed());
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    let applied_in = begin.elapsed();
    let runs = list_runs(sexton, &folder.path().join("state"), RUNS_MAX)?;
    let wait = |run: &Value| -> Result<f64> {
        let instant = |name: &str| seconds_within_day(run[name].as_str().with_context(|| format!("no `{name}`"))?);
        // Over midnight, the difference has the other sign.
        Ok((instant("started_at")? - instant("nominal")?).rem_euclid(86_400.0))
    };
    let ticks = runs.iter().filter(|run| run["job"] == "tick" && !run["started_at"].is_null());
    let waits = ticks.map(wait).collect::<Result<Vec<f64>>>()?;
    if (waits.len() as u64) < applied_in.as_secs() / 2 {
        bail!("only {} of the firings of {applied_in:?} have started", waits.len());
    }
    waits.into_iter().reduce(f64::max).context("no firing")
}
