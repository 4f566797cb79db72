//! Releases held runs: those of a maintenance window after its end, and those that wait for earlier runs of their job
//! after the end of these. Called every minute for all jobs, and after each collection for the jobs whose runs ended.

use std::collections::{BTreeMap, BTreeSet};

use domain::job::{CatchUp, Concurrency, Job, JobKey};
use domain::ports::{Ports, RunWrite, Stored, WriteResult};
use domain::run::{Outcome, Run};
use jiff::Timestamp;

use crate::error::Failures;
use crate::maintenance::{self, Windows};
use crate::new_runs::{due_at, new_order, start_by};
use crate::ordering::send_order;
use crate::run_end::{end_without_report, load_jobs, write_run};
use crate::{Result, overlap};

/// What one call did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReleaseSummary {
    /// Runs that may start now.
    pub released: u32,
    /// Held runs that another run replaced or caught up, or whose job was deleted.
    pub skipped: u32,
    /// Held runs whose latest start passed.
    pub missed: u32,
}

/// Why a held run must not start any more: the latest start of a run that waits for other runs counts, too.
pub(crate) fn too_late_reason(run: &Run, windows: &Windows, now: Timestamp) -> Option<String> {
    let start_by = run.start_by.filter(|start_by| run.held && *start_by < now && !windows.held(run, now))?;
    let reason = run.reason.as_deref().unwrap_or("held");
    Some(format!("not started by {start_by}, its `start_within`: {reason}"))
}

/// Releases the held runs that may start. `open`: all open runs.
///
/// # Errors
/// Returns the port's error; the next call retries.
pub async fn release_due(ports: &Ports, open: &[Stored<Run>], now: Timestamp) -> Result<ReleaseSummary> {
    let held: BTreeSet<JobKey> = open.iter().filter(|run| run.record.held).map(|run| run.record.key()).collect();
    let mut by_job: BTreeMap<JobKey, Vec<Stored<Run>>> = BTreeMap::new();
    for run in open {
        let key = run.record.key();
        if held.contains(&key) {
            by_job.entry(key).or_default().push(run.clone());
        }
    }
    release_held(ports, by_job, now).await
}

/// Releases the held runs of these jobs that may start ([`crate::collector::CollectorSummary::ended_jobs`]).
///
/// # Errors
/// Returns the port's error; the next call retries.
pub async fn release_jobs(ports: &Ports, jobs: &BTreeSet<JobKey>, now: Timestamp) -> Result<ReleaseSummary> {
    let mut by_job = BTreeMap::new();
    for key in jobs {
        let open = overlap::open_runs(ports, key, None).await?;
        if open.iter().any(|run| run.record.held) {
            by_job.insert(key.clone(), open);
        }
    }
    release_held(ports, by_job, now).await
}

/// `by_job`: all open runs of each job. Jobs under maintenance are not even read.
async fn release_held(
    ports: &Ports,
    mut by_job: BTreeMap<JobKey, Vec<Stored<Run>>>,
    now: Timestamp,
) -> Result<ReleaseSummary> {
    let mut summary = ReleaseSummary::default();
    if by_job.is_empty() {
        return Ok(summary);
    }
    let windows = maintenance::read(ports).await?;
    by_job.retain(|key, _| windows.active_window(&key.group, now).is_none());
    let jobs = load_jobs(ports, by_job.keys().cloned()).await?;
    let mut failures = Failures::default();
    for (key, mut open) in by_job {
        open.sort_by(|one, other| one.record.run_id.cmp(&other.record.run_id));
        let released = match jobs.get(&key) {
            Some(job) => release_job(ports, job, open, &windows, now, &mut summary).await,
            None => skip_deleted(ports, &open, now, &mut summary).await,
        };
        if let Err(error) = released {
            tracing::error!(job = %key, %error, "cannot release a held run; trying again later");
            failures.add(error)?;
        }
    }
    failures.result()?;
    Ok(summary)
}

/// `open`: all open runs of a job that was deleted.
async fn skip_deleted(ports: &Ports, open: &[Stored<Run>], now: Timestamp, summary: &mut ReleaseSummary) -> Result<()> {
    for run in open.iter().filter(|run| run.record.held) {
        let reason = "the job was deleted while the run was held".to_owned();
        end_without_report(ports, None, run, Outcome::Skipped, reason, now).await?;
        summary.skipped += 1;
    }
    Ok(())
}

/// `open`: all open runs of the job, oldest first.
async fn release_job(
    ports: &Ports,
    job: &Job,
    open: Vec<Stored<Run>>,
    windows: &Windows,
    now: Timestamp,
    summary: &mut ReleaseSummary,
) -> Result<()> {
    let mut started = open.iter().filter(|run| !run.record.held).count();
    let open_max = overlap::open_max(ports, job).unwrap_or(usize::MAX);
    let mut waiting: Vec<&Stored<Run>> = open.iter().filter(|run| run.record.held).collect();
    for caught_up in caught_up_once(&mut waiting, windows, job) {
        let newest = waiting.last().map(|run| run.record.nominal).unwrap_or(now);
        let reason = format!("caught up by the run of {newest} after maintenance");
        end_without_report(ports, Some(job), caught_up, Outcome::Skipped, reason, now).await?;
        summary.skipped += 1;
    }
    let (late, in_time): (Vec<_>, Vec<_>) =
        waiting.into_iter().partition(|run| too_late_reason(&run.record, windows, now).is_some());
    for run in late {
        let reason = too_late_reason(&run.record, windows, now).unwrap_or_default();
        end_without_report(ports, Some(job), run, Outcome::Missed, reason, now).await?;
        summary.missed += 1;
    }
    waiting = in_time;
    if job.concurrency == Concurrency::Replace {
        // Of several held runs, only the newest replaces.
        while waiting.len() > 1 {
            let reason = "replaced by a newer run before it started".to_owned();
            end_without_report(ports, Some(job), waiting.remove(0), Outcome::Skipped, reason, now).await?;
            summary.skipped += 1;
        }
    }
    let waiting_count = waiting.len();
    for (index, run) in waiting.into_iter().enumerate() {
        if started >= open_max {
            return Ok(());
        }
        let run = from_release(run, windows, now);
        if release_run(ports, job, &run, index + 1 < waiting_count, now).await? {
            summary.released += 1;
        }
        // After a conflict, the run of the other writer has started.
        started += 1;
    }
    Ok(())
}

/// The run, whose latest start counts from its release where maintenance held it.
fn from_release(run: &Stored<Run>, windows: &Windows, now: Timestamp) -> Stored<Run> {
    let mut run = run.clone();
    run.record.start_by = run.record.start_by.filter(|_| !windows.held(&run.record, now));
    run
}

/// Removes from `waiting` (oldest first) the runs that a window with `catch_up = "once"` held, except the newest of
/// them.
fn caught_up_once<'r>(waiting: &mut Vec<&'r Stored<Run>>, windows: &Windows, job: &Job) -> Vec<&'r Stored<Run>> {
    let held_by_once = |run: &Stored<Run>| {
        let due = due_at(job, run.record.nominal);
        windows.0.iter().any(|window| window.catch_up == CatchUp::Once && window.contains(&job.group, due))
    };
    let Some(newest) = waiting.iter().rposition(|run| held_by_once(run)) else { return Vec::new() };
    let (caught_up, kept): (Vec<_>, Vec<_>) =
        std::mem::take(waiting).into_iter().enumerate().partition(|(index, run)| *index < newest && held_by_once(run));
    *waiting = kept.into_iter().map(|(_, run)| run).collect();
    caught_up.into_iter().map(|(_, run)| run).collect()
}

/// Starts a held run. `waits`: others of the job still wait. If this call dies before it sends the order, `overdue`
/// resends it.
async fn release_run(ports: &Ports, job: &Job, held: &Stored<Run>, waits: bool, now: Timestamp) -> Result<bool> {
    let mut guard = overlap::read_guards(ports, [job].into_iter()).await?.remove(&job.key());
    if job.concurrency != Concurrency::Allow
        && overlap::open_runs(ports, &job.key(), guard.as_ref()).await?.iter().any(|run| !run.record.held)
    {
        // Another run has started since the job's runs were read.
        return Ok(false);
    }
    let mut run = held.record.clone();
    run.held = false;
    run.reason = None;
    run.not_before = Some(now);
    run.start_by = run.start_by.or_else(|| Some(start_by(job, now)));
    let alert = guard.as_mut().and_then(|guard| {
        guard.start(job, &run, waits, now);
        guard.alert_step(&run)
    });
    let write = RunWrite { run: run.clone(), expected: Some(held.version), alert };
    if write_run(ports, write).await? != WriteResult::Done {
        return Ok(false);
    }
    send_order(ports, new_order(&run, job, now), now).await?;
    Ok(true)
}
