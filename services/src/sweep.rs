//! Looks at every job now and then: puts the due entry of one that has none (its row was edited by hand, or a command
//! died before it put the entry), and tells of jobs that cannot fire. Putting an entry that is there already changes
//! nothing.

use std::time::Duration;

use domain::alert::{AlertKind, Transition};
use domain::job::JobKey;
use domain::ports::{AlertStep, Due, Ports, Quarantined, StoredJob};
use jiff::Timestamp;

use crate::Result;
use crate::alerts::bad_job_transition;
use crate::new_runs::{elapsed_since, next_due_entry, schedule_of};
use crate::settings::{self, SWEEP, SweepState};

/// How often. Ours: what is edited by hand fires within a quarter of an hour.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(900);

/// Jobs read together.
pub const PAGE_MAX: usize = 500;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepSummary {
    pub jobs: u32,
    pub bad_jobs: u32,
}

/// Sweeps when it is time; returns `None` when it is not.
///
/// # Errors
/// A port's.
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

/// Tells of each record that the backend could not read: orders, reports, runs. (Of jobs, the sweep tells itself.)
async fn alert_quarantined(ports: &Ports, now: Timestamp) -> Result<()> {
    let transition = |quarantined: &Quarantined| {
        let id = format!("set_aside:{}:{}", quarantined.kind, quarantined.key);
        let reason =
            format!("a stored record ({} {}) was set aside: {}", quarantined.kind, quarantined.key, quarantined.why);
        Transition::new(id, AlertKind::BadJob, &JobKey::new("", ""), reason, now)
    };
    let transitions: Vec<Transition> = ports.settings.quarantined().await?.iter().map(transition).collect();
    if !transitions.is_empty() {
        ports.alerts.raise(&AlertStep { state: None, transitions }).await?;
    }
    Ok(())
}

/// Looks at all jobs now.
///
/// # Errors
/// A port's.
pub async fn sweep(ports: &Ports, now: Timestamp) -> Result<SweepSummary> {
    alert_quarantined(ports, now).await?;
    let mut summary = SweepSummary::default();
    let mut after = None;
    loop {
        let page = ports.jobs.list(None, after.as_ref(), PAGE_MAX).await?;
        check_jobs(ports, &page.records, now, &mut summary).await?;
        after = page.next;
        if after.is_none() {
            return Ok(summary);
        }
    }
}

/// Looks at these jobs, which somebody edited; those that are gone need nothing.
///
/// # Errors
/// A port's.
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
    if !entries.is_empty() {
        ports.due.put(&entries).await?;
    }
    if !transitions.is_empty() {
        ports.alerts.raise(&AlertStep { state: None, transitions }).await?;
    }
    Ok(())
}
