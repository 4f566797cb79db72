//! Row 10: many jobs that are due in the same minute. Each is /bin/true, so the time and the CPU are those of Sexton:
//! scheduler, claims, orders on disk, keepers, reports.

use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::rows::Outcome;
use crate::sexton_process::SextonProcess;

/// Seconds of a minute that must be left when the jobs are stored. Chosen: storing 1,000 jobs takes far less.
const LEFT_MIN: u64 = 25;

/// Time after the minute at which the runs are listed first. Chosen: a listing costs CPU that is not to be measured.
const FIRST_LOOK: Duration = Duration::from_secs(4);

/// How long the runs may take. Chosen: a busy machine must not hang the benchmark.
const END_MAX: Duration = Duration::from_secs(50);

/// Starts `count` jobs in one minute. Returns the seconds from the minute to the last start, and the CPU seconds of
/// Sexton, its keepers and the jobs.
///
/// # Errors
/// When a run does not succeed.
pub(crate) fn measure(sexton: &Path, count: u64) -> Result<Outcome> {
    let crontab: String =
        (0..count).map(|number| format!("# sexton: name=job{number} rules=\n* * * * * /bin/true\n")).collect();
    let into_minute = since_epoch()?.as_secs() % 60;
    if 60 - into_minute < LEFT_MIN {
        sleep(Duration::from_secs(61 - into_minute));
    }
    let up = SextonProcess::start_crontab(sexton, &crontab)?;
    let minute = Duration::from_secs((since_epoch()?.as_secs() / 60 + 1) * 60);
    sleep((minute + FIRST_LOOK).saturating_sub(since_epoch()?));
    loop {
        let cpu = up.cpu_since_ready_with_jobs()?;
        let starts = starts(&up.list_runs(count * 2)?, minute)?;
        if starts.len() as u64 >= count {
            let last = starts.into_iter().fold(0.0, f64::max);
            return Ok(Outcome { values: vec![Some(last), Some(cpu)], notes: Vec::new() });
        }
        if since_epoch()? > minute + END_MAX {
            bail!("{} of {count} runs have succeeded", starts.len());
        }
        sleep(Duration::from_secs(1));
    }
}

fn since_epoch() -> Result<Duration> {
    SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")
}

/// Seconds between the minute and the start of each run that has succeeded.
fn starts(runs: &[Value], minute: Duration) -> Result<Vec<f64>> {
    let mut starts = Vec::new();
    for run in runs.iter().filter(|run| run["outcome"] == "succeeded") {
        let started = run["started_at"].as_str().context("a run without a start")?;
        starts.push(seconds_within_day(started)? - (minute.as_secs() % 86_400) as f64);
    }
    Ok(starts)
}

/// The seconds since midnight of a time like `2026-11-23T07:50:00.25Z`.
pub(crate) fn seconds_within_day(time: &str) -> Result<f64> {
    let clock = time.split_once('T').and_then(|(_, clock)| clock.strip_suffix('Z')).context("not a time in UTC")?;
    clock.split(':').try_fold(0.0, |seconds, part| Ok(seconds * 60.0 + part.parse::<f64>()?))
}

/// Lists the newest runs of an `up`.
///
/// # Errors
/// When it does not answer.
pub(crate) fn list_runs(sexton: &Path, state: &Path, most: u64) -> Result<Vec<Value>> {
    let listed =
        Command::new(sexton).args(["runs", "--json", "--limit", &most.to_string(), "--state"]).arg(state).output()?;
    if !listed.status.success() {
        bail!("`sexton runs` failed: {}", String::from_utf8_lossy(&listed.stderr));
    }
    let text = String::from_utf8_lossy(&listed.stdout);
    text.lines().map(|line| serde_json::from_str(line).context("`sexton runs --json` printed no JSON")).collect()
}
