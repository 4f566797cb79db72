//! Row 12: the time from `sexton stop` to the end of the job's process, on one machine.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::rows::Outcome;
use crate::sexton_process::{JOB, SextonProcess};
use crate::table::quantile;

/// Stops in one measurement; the median counts.
const STOPS: usize = 10;

/// Poll interval of the job's process. Chosen: far below the goal.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// How long a start or a stop may take. Chosen: a busy machine must not hang the benchmark.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Returns the milliseconds from the start of the command to the end of the process.
///
/// # Errors
/// When a run does not start or does not stop.
pub(crate) fn measure(sexton: &Path) -> Result<Outcome> {
    let up = SextonProcess::start(sexton, &["sleep".to_owned(), "1000".to_owned()], "")?;
    let mut times_ms = Vec::new();
    for _ in 0..STOPS {
        times_ms.push(stop_once(sexton, &up)?);
    }
    Ok(Outcome { values: vec![quantile(&times_ms, 0.5)], notes: Vec::new() })
}

fn stop_once(sexton: &Path, up: &SextonProcess) -> Result<f64> {
    let state = up.state();
    let started = Command::new(sexton).args(["run", JOB, "--json", "--state"]).arg(&state).output()?;
    let run: Value = serde_json::from_slice(&started.stdout).context("`sexton run` printed no run")?;
    let run_id = run["run_id"].as_str().context("a run without an id")?;
    let record = state.join("runner/runs").join(format!("{run_id}.1/started.json"));
    let pid = wait_until(|| {
        let record: Value = serde_json::from_slice(&std::fs::read(&record).ok()?).ok()?;
        record["pid"].as_u64()
    })?;
    let process = Path::new("/proc").join(pid.to_string());
    let start = Instant::now();
    let mut stop = Command::new(sexton).args(["stop", run_id, "--state"]).arg(&state).stdout(Stdio::null()).spawn()?;
    wait_until(|| (!process.exists()).then_some(()))?;
    let took = start.elapsed();
    if !stop.wait()?.success() {
        bail!("`sexton stop` failed");
    }
    Ok(took.as_secs_f64() * 1000.0)
}

fn wait_until<T>(mut find: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = find() {
            return Ok(found);
        }
        if start.elapsed() > WAIT_MAX {
            bail!("a run did not start or stop in time");
        }
        sleep(POLL_INTERVAL);
    }
}
