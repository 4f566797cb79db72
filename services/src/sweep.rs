//! Checks every job periodically: puts a missing due entry (after an edit by hand, or when a command died before it
//! put the entry), and alerts about jobs that cannot fire. Putting an entry that exists changes nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::alert::{AlertKind, Transition};
use domain::job::JobKey;
use domain::ports::{AlertStep, Due, PortError, Ports, Quarantined, StoredJob};
use jiff::Timestamp;

use crate::Result;
use crate::alerts::bad_job_transition;
use crate::new_runs::{elapsed_since, next_due_entry, schedule_of};
use crate::scheduler::zone_changes;
use crate::settings::{self, SWEEP, SweepState};

/// Time between two sweeps. Chosen: a job edited by hand fires within a quarter of an hour.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(900);

/// Jobs read in one page. Chosen, not measured.
pub const PAGE_MAX: usize = 500;

/// What one sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepSummary {
    /// Jobs that were checked.
    pub jobs: u32,
    /// Jobs that cannot fire.
    pub bad_jobs: u32,
}

/// Sweeps if [`SWEEP_INTERVAL`] has passed; returns `None` otherwise.
///
/// # Errors
/// Returns the port's error; the next call retries.
pub async fn tick(ports: &Ports, now: Timestamp) -> Result<Option<SweepSummary>> {
    let mut state = settings::read::<SweepState>(ports, SWEEP).await?;
    if state.value.swept_at.is_some_and(|swept_at| swept_at <= now && elapsed_since(swept_at, now) < SWEEP_INTERVAL) {
        return Ok(None);
    }
    let summary = sweep(ports, now).await?;
    state.value.swept_at = Some(now);
    state.write(ports).await?;
    Ok(Some(summary))
}

/// Alerts about each quarantined record that the backend could not read: orders, reports, runs. The sweep itself
/// alerts about jobs.
async fn alert_quarantined(ports: &Ports, now: Timestamp) -> Result<()> {
    let transition = |quarantined: &Quarantined| {
        let id = format!("set_aside:{}:{}", quarantined.kind, quarantined.key);
        let reason = format!(
            "an unreadable record ({} {}) was quarantined: {}",
            quarantined.kind, quarantined.key, quarantined.why
        );
        let transition = Transition::new(id, AlertKind::BadJob, &JobKey::new("", ""), reason, now);
        Transition { since: Some(quarantined.at), ..transition }
    };
    let transitions: Vec<Transition> = ports.settings.quarantined().await?.iter().map(transition).collect();
    if !transitions.is_empty() {
        ports.alerts.raise(&AlertStep { state: None, transitions }).await?;
    }
    Ok(())
}

/// Checks all jobs now.
///
/// # Errors
/// Returns the port's error; the next call retries.
pub async fn sweep(ports: &Ports, now: Timestamp) -> Result<SweepSummary> {
    alert_quarantined(ports, now).await?;
    let mut summary = SweepSummary::default();
    let mut after = None;
    let mut zones = BTreeSet::new();
    loop {
        let page = ports.jobs.list(None, after.as_ref(), PAGE_MAX).await?;
        zones.extend(page.records.iter().filter_map(|stored| Some(stored.job.as_ref().ok()?.zone.clone())));
        check_jobs(ports, &page.records, now, &mut summary).await?;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    zone_changes::record_zones(ports, zones.iter().map(String::as_str)).await?;
    Ok(summary)
}

/// Checks these jobs, which were edited. Deleted ones need nothing.
///
/// # Errors
/// Returns the port's error; the next call retries.
pub async fn sweep_jobs(ports: &Ports, keys: &[JobKey], now: Timestamp) -> Result<SweepSummary> {
    let mut summary = SweepSummary::default();
    let jobs = ports.jobs.get(keys).await?;
    check_jobs(ports, &jobs, now, &mut summary).await?;
    Ok(summary)
}

async fn check_jobs(ports: &Ports, jobs: &[StoredJob], now: Timestamp, summary: &mut SweepSummary) -> Result<()> {
    let mut entries: Vec<Due> = Vec::new();
    let mut transitions: Vec<Transition> = Vec::new();
    for stored in jobs {
        summary.jobs += 1;
        let planned = stored.job.as_ref().map_err(Clone::clone).and_then(|job| {
            let schedule = schedule_of(job)?;
            Ok(next_due_entry(job, &schedule, now))
        });
        match planned {
            Ok(entry) => entries.extend(entry),
            Err(message) => {
                summary.bad_jobs += 1;
                transitions.push(bad_job_transition(&stored.key, &message, now));
            }
        }
    }
    let all = if entries.is_empty() { Ok(()) } else { ports.due.put(&entries).await };
    match all {
        Err(PortError::Permanent(_)) if entries.len() > 1 => {
            let mut refused = Vec::new();
            for entry in &entries {
                match ports.due.put(std::slice::from_ref(entry)).await {
                    Err(PortError::Permanent(reason)) => refused.push((&entry.key, reason)),
                    put => put?,
                }
            }
            if refused.len() == entries.len()
                && let Some((_, reason)) = refused.pop()
            {
                // The fault is not of the jobs.
                return Err(PortError::Permanent(reason).into());
            }
            summary.bad_jobs += refused.len() as u32;
            transitions.extend(refused.iter().map(|(key, reason)| bad_job_transition(key, reason, now)));
        }
        put => put?,
    }
    if !transitions.is_empty() {
        ports.alerts.raise(&AlertStep { state: None, transitions }).await?;
    }
    Ok(())
}
