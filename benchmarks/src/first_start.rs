//! Row 11: the first start of `sexton up` with a large crontab, from its start to `ready`, with its peak memory.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use testbed::ReadyProcess;

use crate::meter;

/// Entries of the crontab.
const ENTRIES: u32 = 100_000;

/// Longest wait for `ready`. Chosen: far above the goal.
const READY_MAX: Duration = Duration::from_secs(600);

/// Seconds until `ready`, and the peak memory in bytes.
///
/// # Errors
/// When `up` does not become ready.
pub(crate) fn measure(sexton: &Path) -> Result<(f64, u64)> {
    let folder = TempDir::with_prefix("bench-")?;
    let mut crontab = String::new();
    for number in 0..ENTRIES {
        let (minute, hour) = (number % 60, number / 60 % 24);
        writeln!(crontab, "{minute} {hour} * * * /usr/local/bin/job-{number} --account {number}")?;
    }
    let path = folder.path().join("crontab");
    std::fs::write(&path, crontab)?;
    let mut command = Command::new(sexton);
    command.args(["up", "--listen", &testbed::free_port().to_string(), "--state"]).arg(folder.path().join("state"));
    command.arg("--crontab").arg(path);
    let start = Instant::now();
    let process = ReadyProcess::spawn(&mut command).with_context(|| format!("cannot start {}", sexton.display()))?;
    if !process.is_ready_within(READY_MAX) {
        bail!("`sexton up` did not become ready: {}", process.printed());
    }
    let seconds = start.elapsed().as_secs_f64();
    let peak = meter::peak_bytes(process.pid()).context("`sexton up` has exited")?;
    Ok((seconds, peak))
}
