//! Alerts about jobs that name a rule pack or an alert channel that does not exist. Such a job keeps running, with the
//! packs that exist. Every stored job is checked at the start and when the rule packs change; those of a file when it
//! is applied.

use std::sync::Arc;
use std::time::Duration;

use domain::alert::Transition;
use domain::job::Job;
use domain::ports::{AlertStep, Cursor, PortResult, Ports};
use jiff::Timestamp;
use rules::Packs;
use services::alerts::fault_transition;
use tokio_util::sync::CancellationToken;

use crate::known_names::KnownNames;
use crate::local_runner::SharedPacks;

/// Interval of checking whether the packs were replaced. Chosen: compares one pointer.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Jobs per read of the store.
const PAGE_JOBS: usize = 1000;

/// Checks all stored jobs now and whenever the packs are replaced, until `stop`.
pub(super) async fn watch_names(packs: SharedPacks, channels: Vec<String>, ports: Ports, stop: CancellationToken) {
    let mut checked: Option<Arc<Packs>> = None;
    loop {
        let current = packs.current();
        if !checked.as_ref().is_some_and(|checked| Arc::ptr_eq(checked, &current)) {
            let known = KnownNames { packs: &current, channels: Some(&channels) };
            match check_stored_jobs(&ports, &known).await {
                Ok(()) => checked = Some(current),
                Err(error) => tracing::warn!(%error, "cannot check the names in stored jobs; retrying"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
    }
}

async fn check_stored_jobs(ports: &Ports, known: &KnownNames<'_>) -> PortResult<()> {
    let mut after: Option<Cursor> = None;
    loop {
        let page = ports.jobs.list(None, after.as_ref(), PAGE_JOBS).await?;
        let jobs: Vec<Job> = page.records.into_iter().filter_map(|stored| stored.job.ok()).collect();
        alert_problems(ports, known, &jobs, Timestamp::now()).await?;
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Alerts about the names in these jobs through all channels, for each job and problem at most once a day.
///
/// # Errors
/// Returns the port's error.
pub(super) async fn alert_problems(
    ports: &Ports,
    known: &KnownNames<'_>,
    jobs: &[Job],
    now: Timestamp,
) -> PortResult<()> {
    let alert = |job: &Job, problem: String| {
        let reason = format!("{problem}; the job keeps running with the packs and channels that exist");
        fault_transition("unknown_name", &job.key(), &problem, reason, now)
    };
    let transitions_of = |job| known.problems_of(job).into_iter().map(move |problem| alert(job, problem));
    let transitions: Vec<Transition> = jobs.iter().flat_map(transitions_of).collect();
    if !transitions.is_empty() {
        ports.alerts.raise(&AlertStep { state: None, transitions }).await?;
    }
    Ok(())
}
