//! Guards jobs whose runs must not overlap. Each start also writes the job's state at the version read before the
//! search for open runs; the second writer gets a conflict and searches again. Called by the scheduler, by `release`
//! and by the command that starts a job.

use std::collections::BTreeMap;

use domain::alert::JobState;
use domain::job::{Concurrency, Job, JobKey};
use domain::ports::{AlertStep, Ports, RunFilter, RunQuery, RunWrite, StateChange, Stored};
use domain::run::{Outcome, Run, RunKey, State};
use jiff::Timestamp;

use crate::Result;
use crate::concurrency::{ConcurrencyDecision, decide};
use crate::run_end::{end_without_report, write_run};

/// Open runs read for one job. Chosen, not measured.
const OPEN_RUNS_MAX: usize = 1000;

/// A job's state, read before the search for its open runs.
pub(crate) struct OverlapGuard(Stored<JobState>);

impl OverlapGuard {
    /// The state change to write together with the start of `run`. Names the run.
    pub(crate) fn alert_step(&self, run: &Run) -> AlertStep {
        let Stored { record, version } = self.0.clone();
        let state = JobState { last_started: Some(run.run_id.clone()), ..record };
        AlertStep { state: Some(StateChange { key: run.key(), expected: version, state }), transitions: Vec::new() }
    }
}

/// Reads the guards of those jobs whose runs may not overlap.
///
/// # Errors
/// Returns the port's error.
pub(crate) async fn read_guards(
    ports: &Ports,
    jobs: impl Iterator<Item = &Job>,
) -> Result<BTreeMap<JobKey, OverlapGuard>> {
    let keys: Vec<JobKey> = jobs.filter(|job| job.concurrency != Concurrency::Allow).map(Job::key).collect();
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    let states = ports.alerts.states(&keys).await?;
    Ok(keys.into_iter().zip(states.into_iter().map(OverlapGuard)).collect())
}

/// A job's open runs, newest first. Includes the run that the guard names as started last: an index may not contain it
/// yet.
pub(crate) async fn open_runs(ports: &Ports, key: &JobKey, guard: Option<&OverlapGuard>) -> Result<Vec<Stored<Run>>> {
    let query = RunQuery { filter: RunFilter::Open, ..RunQuery::of_job(key) };
    let mut open = ports.runs.list(&query, None, OPEN_RUNS_MAX).await?.records;
    let last_started = guard.and_then(|guard| guard.0.record.last_started.clone());
    if let Some(run_id) = last_started.filter(|run_id| !open.iter().any(|run| run.record.run_id == *run_id)) {
        let found = ports.runs.get(&[RunKey::new(&key.group, run_id)]).await?;
        open.extend(found.into_iter().filter(|run| run.record.is_open()));
        open.sort_by(|one, other| other.record.run_id.cmp(&one.record.run_id));
    }
    Ok(open)
}

/// Starts, holds or skips `run` as the job's `concurrency` requires. Skips or stops the runs that it replaces, and
/// removes the skipped ones from `open`.
pub(crate) async fn apply_concurrency(
    ports: &Ports,
    job: &Job,
    run: &mut Run,
    open: &mut Vec<Stored<Run>>,
    now: Timestamp,
) -> Result<()> {
    let itself = open.iter().position(|other| other.record.run_id == run.run_id).map(|place| open.remove(place));
    let others: Vec<&Run> = open.iter().map(|stored| &stored.record).collect();
    let decision = decide(job, run, &others);
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
        other.record.reason = Some(format!("replaced by run {}", by.run_id));
        let write = RunWrite { run: other.record.clone(), expected: Some(other.version), alert: None };
        write_run(ports, write).await?;
    }
    Ok(Some(other))
}

pub(crate) fn hold_run(run: &mut Run, reason: String) {
    run.held = true;
    run.reason = Some(reason);
    run.start_by = None;
}
