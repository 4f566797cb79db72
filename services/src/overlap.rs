//! Limits the open runs of a job. Each start of a job whose runs must not overlap also writes the job's state
//! (`job_guard`). Called by the scheduler, by `release` and by the command that starts a job.

use std::collections::BTreeMap;

use domain::job::{Concurrency, Job, JobKey, MAX_OPEN_DEFAULT};
use domain::ports::{Ports, RunFilter, RunQuery, RunWrite, Stored};
use domain::run::{Outcome, Run, RunKey, State, Trigger};
use jiff::Timestamp;

use crate::Result;
use crate::concurrency::{ConcurrencyDecision, decide};
use crate::job_guard::JobGuard;
use crate::run_end::{end_without_report, write_run};

/// Open runs read for one job. Chosen, not measured.
const OPEN_RUNS_MAX: usize = 1000;

/// How many runs of the job may be open; `None`: any number, because this backend does not count them.
pub(crate) fn open_max(ports: &Ports, job: &Job) -> Option<usize> {
    match job.concurrency {
        Concurrency::Allow => ports.enforces_max_open.then(|| job.max_open.unwrap_or(MAX_OPEN_DEFAULT) as usize),
        Concurrency::Forbid | Concurrency::Queue | Concurrency::Replace => Some(1),
    }
}

/// Reads the guards of those jobs whose open runs are limited.
///
/// # Errors
/// Returns the port's error.
pub(crate) async fn read_guards(ports: &Ports, jobs: impl Iterator<Item = &Job>) -> Result<BTreeMap<JobKey, JobGuard>> {
    let keys: Vec<JobKey> = jobs.filter(|job| open_max(ports, job).is_some()).map(Job::key).collect();
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    let states = ports.alerts.states(&keys).await?;
    Ok(keys.into_iter().zip(states.into_iter().map(JobGuard::new)).collect())
}

/// A job's open runs, newest first. Includes the run that the guard names as started last: an index may not contain it
/// yet.
pub(crate) async fn open_runs(ports: &Ports, key: &JobKey, guard: Option<&JobGuard>) -> Result<Vec<Stored<Run>>> {
    let query = RunQuery { filter: RunFilter::Open, ..RunQuery::of_job(key) };
    let mut open = ports.runs.list(&query, None, OPEN_RUNS_MAX).await?.records;
    let last_started = guard.and_then(JobGuard::last_started).cloned();
    if let Some(run_id) = last_started.filter(|run_id| !open.iter().any(|run| run.record.run_id == *run_id)) {
        let found = ports.runs.get(&[RunKey::new(&key.group, run_id)]).await?;
        open.extend(found.into_iter().filter(|run| run.record.is_open()));
        open.sort_by(|one, other| other.record.run_id.cmp(&one.record.run_id));
    }
    Ok(open)
}

/// All open runs by job, newest first; `None` when there are too many to read at once.
pub(crate) async fn all_open_runs(ports: &Ports) -> Result<Option<BTreeMap<JobKey, Vec<Stored<Run>>>>> {
    let query = RunQuery { filter: RunFilter::Open, ..RunQuery::default() };
    let page = ports.runs.list(&query, None, OPEN_RUNS_MAX).await?;
    if page.next.is_some() {
        return Ok(None);
    }
    let mut by_job: BTreeMap<JobKey, Vec<Stored<Run>>> = BTreeMap::new();
    for run in page.records {
        by_job.entry(run.record.key()).or_default().push(run);
    }
    Ok(Some(by_job))
}

/// Starts, holds or skips `run` as the job's `concurrency` requires, and notes it in the guard. Skips or stops the runs
/// that it replaces, and removes the skipped ones from `open`.
pub(crate) async fn apply_concurrency(
    ports: &Ports,
    job: &Job,
    run: &mut Run,
    open: &mut Vec<Stored<Run>>,
    guard: Option<&mut JobGuard>,
    now: Timestamp,
) -> Result<()> {
    let itself = open.iter().position(|other| other.record.run_id == run.run_id).map(|place| open.remove(place));
    let others: Vec<&Run> = open.iter().map(|stored| &stored.record).collect();
    let decision = decide(job, run, &others, open_max(ports, job).unwrap_or(usize::MAX));
    let replaced_by_newer = job.concurrency == Concurrency::Replace && matches!(decision, ConcurrencyDecision::Skip(_));
    match decision {
        ConcurrencyDecision::Start => {}
        ConcurrencyDecision::Hold(reason) => hold_run(run, reason),
        ConcurrencyDecision::Skip(reason) => run.finish(Outcome::Skipped, reason, now),
        ConcurrencyDecision::Replace { hold } => {
            for other in std::mem::take(open) {
                if let Some(other) = replace_run(ports, job, other, run, now).await? {
                    open.push(other);
                }
            }
            if let Some(reason) = hold {
                hold_run(run, reason);
            }
        }
    }
    if let Some(guard) = guard {
        if run.is_open() && !run.held {
            let waits = open.iter().any(|other| other.record.held);
            guard.start(job, run, waits, now);
        } else if run.trigger == Trigger::Schedule && !replaced_by_newer {
            guard.block(job, run, open, now);
        }
    }
    open.extend(itself);
    Ok(())
}

pub(crate) fn replaced_reason(by: &Run) -> String {
    format!("replaced by run {} before it started", by.run_id)
}

/// Skips a run that has not started. Asks one that has started to stop, and returns it: it is still open.
async fn replace_run(
    ports: &Ports,
    job: &Job,
    mut other: Stored<Run>,
    by: &Run,
    now: Timestamp,
) -> Result<Option<Stored<Run>>> {
    if other.record.state == State::Scheduled {
        end_without_report(ports, Some(job), &other, Outcome::Skipped, replaced_reason(by), now).await?;
        return Ok(None);
    }
    if other.record.stop_requested_at.is_none() {
        other.record.stop_requested_at = Some(now);
        let reason = format!("replaced by run {}", by.run_id);
        other.record.reason = Some(reason.clone());
        other.record.stop_reason = Some(reason);
        let write = RunWrite { run: other.record.clone(), expected: Some(other.version), alert: None };
        write_run(ports, write).await?;
    }
    Ok(Some(other))
}

/// Holds a run that waits for other runs. Its latest start stays, unless it makes up for a missed firing: such runs
/// wait for each other as long as it takes.
fn hold_run(run: &mut Run, reason: String) {
    if run.trigger == Trigger::CatchUp {
        return hold_until_release(run, reason);
    }
    run.held = true;
    run.reason = Some(reason);
}

/// Holds a run until the end of maintenance. Its latest start counts from its release.
pub(crate) fn hold_until_release(run: &mut Run, reason: String) {
    run.held = true;
    run.reason = Some(reason);
    run.start_by = None;
}
