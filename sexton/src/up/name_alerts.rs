//! Alerts about jobs that name a rule pack or an alert channel that does not exist. Such a job keeps running, with the
//! packs that exist. Every stored job is checked at the start and when the rule packs change; those of a file when it
//! is applied.

use std::sync::Arc;
use std::time::Duration;

use domain::job::JobKey;
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
        let problems = known.problems_of_all(page.records.into_iter().filter_map(|stored| stored.job.ok()));
        alert_problems(ports, &problems, Timestamp::now()).await?;
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Alerts about problems of jobs through all channels, each at most once a day.
///
/// # Errors
/// Returns the port's error.
pub(super) async fn alert_problems(ports: &Ports, problems: &[(JobKey, String)], now: Timestamp) -> PortResult<()> {
    let alert = |(key, problem): &(JobKey, String)| {
        let reason = format!("{problem}; the job keeps running with the packs and channels that exist");
        fault_transition("unknown_name", key, problem, reason, now)
    };
    if !problems.is_empty() {
        let transitions = problems.iter().map(alert).collect();
        ports.alerts.raise(&AlertStep { state: None, transitions }).await?;
    }
    Ok(())
}
