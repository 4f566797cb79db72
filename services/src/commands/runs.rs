//! Runs: start one now, stop one, count them.

use domain::alert::Occurrence;
use domain::job::JobKey;
use domain::ledger::Ledger;
use domain::ports::{Ports, RunQuery, RunWrite, Stored, WriteResult};
use domain::run::{Outcome, Run, RunId, State, Trigger};
use jiff::Timestamp;

use crate::error::CONFLICTS_MAX;
use crate::new_runs::{new_order, start_by};
use crate::ordering::{Ordered, send_order};
use crate::overlap::{apply_concurrency, open_runs};
use crate::run_end::{load_jobs, write_run, write_with_alerts};
use crate::{Error, Result, overlap};

/// Starts a job now, even if it is paused or under maintenance, because an operator asked for it. The job's
/// `concurrency` still applies. `random` makes the run id unique.
///
/// # Errors
/// Returns [`Error::NoSuchJob`], [`Error::BadJob`] when the stored job is unreadable, [`Error::Refused`] when the run
/// id exists, or the port's error.
pub async fn run_now(ports: &Ports, key: &JobKey, random: [u8; 6], now: Timestamp) -> Result<Run> {
    let job = super::get(ports, key).await?.job.map_err(|message| Error::BadJob { key: key.clone(), message })?;
    let nominal = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let mut new = Run::new(RunId::unscheduled(nominal, random), key, nominal, Trigger::Manual, now);
    new.start_by = Some(start_by(&job, now));
    for _ in 0..CONFLICTS_MAX {
        let mut run = new.clone();
        let mut guard = overlap::read_guards(ports, [&job].into_iter()).await?.remove(key);
        let mut open = open_runs(ports, key, guard.as_ref()).await?;
        apply_concurrency(ports, &job, &mut run, &mut open, guard.as_mut(), now).await?;
        let start = run.is_open() && !run.held;
        let alert = guard.and_then(|guard| guard.alert_step(&run));
        match write_run(ports, RunWrite { run: run.clone(), expected: None, alert }).await? {
            WriteResult::Done => {}
            WriteResult::AlertConflict => continue,
            _ => {
                return Err(Error::Refused(format!(
                    "run {} already exists; try again with other random bytes",
                    run.run_id
                )));
            }
        }
        if start {
            match send_order(ports, new_order(&run, &job, now), now).await? {
                Ordered::Ended(reason) => {
                    return Err(Error::Refused(format!("run {} is missed: {reason}", run.run_id)));
                }
                Ordered::Denied(reason) => run.reason = Some(reason),
                Ordered::Sent | Ordered::Retry(_) => {}
            }
        }
        return Ok(run);
    }
    Err(Error::Conflict(format!("job {key}")))
}

/// Stops a run: one that has not started ends now; a running one is stopped by its runner. Of one
/// that has ended with its output still open, the runner stops the processes that are left. Repeating it is harmless.
/// `by` is who requested it, for the `reason` of the run.
///
/// # Errors
/// Returns [`Error::NoSuchRun`], [`Error::Refused`] when the run has ended, or the port's error.
pub async fn stop(ports: &Ports, run_id: &RunId, by: &str, now: Timestamp) -> Result<Run> {
    for _ in 0..CONFLICTS_MAX {
        let found = ports.runs.list(&RunQuery::by_id(run_id), None, 1).await?.records.into_iter().next();
        let Some(Stored { record: mut run, version }) = found else { return Err(Error::NoSuchRun(run_id.clone())) };
        let written = match run.state {
            // The stop is for the processes that still have its output open; the outcome stays.
            State::Finished if run.output_open && run.stop_requested_at.is_some() => return Ok(run),
            State::Finished if run.output_open => {
                run.stop_requested_at = Some(now);
                write_run(ports, RunWrite { run: run.clone(), expected: Some(version), alert: None }).await?
            }
            State::Finished => {
                return Err(Error::Refused(format!("run {run_id} has already ended: {}", outcome_name(&run))));
            }
            State::Scheduled => {
                run.stop_requested_at = Some(now);
                run.finish(Outcome::Stopped, format!("stopped on request of {by} before it started"), now);
                let jobs = load_jobs(ports, [run.key()]).await?;
                let occurrence = Occurrence::Ended(Outcome::Stopped);
                write_with_alerts(ports, jobs.get(&run.key()), &run, Some(version), occurrence, now).await?
            }
            State::Claimed | State::Running if run.stop_requested_at.is_some() => return Ok(run),
            State::Claimed | State::Running => {
                run.stop_requested_at = Some(now);
                run.stop_reason = Some(format!("stopped on request of {by}"));
                write_run(ports, RunWrite { run: run.clone(), expected: Some(version), alert: None }).await?
            }
        };
        if written == WriteResult::Done {
            return Ok(run);
        }
    }
    Err(Error::Conflict(format!("run {run_id}")))
}

fn outcome_name(run: &Run) -> &'static str {
    run.outcome.map_or("without an outcome", Outcome::name)
}

/// Counts the runs with a nominal time in the window: from `since` (included) to `until` (excluded).
///
/// # Errors
/// Returns the port's error.
pub async fn ledger(ports: &Ports, since: Option<Timestamp>, until: Option<Timestamp>) -> Result<Ledger> {
    Ok(ports.runs.count(&RunQuery { since, until, ..RunQuery::default() }).await?)
}
