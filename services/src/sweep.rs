//! Looks at every job now and then: puts the due entry of one that has none (its row was edited by hand, or a command
//! died before it put the entry), and tells of jobs that cannot fire. Putting an entry that is there already changes
//! nothing.

use std::time::Duration;

use domain::alert::{AlertKind, Transition};
use domain::job::JobKey;
use domain::ports::{AlertStep, Due, Ports, Quarantined, StoredJob};
use jiff::Timestamp;

use crate::Result;
use crate::alerts::bad_job;
use crate::new_runs::{due_after, schedule_of, since};
use crate::settings::{self, SWEEP, SweepState};

/// How often. Ours: what is edited by hand fires within a quarter of an hour.
pub const SWEEP_EVERY: Duration = Duration::from_secs(900);

/// Jobs read together.
pub const PAGE_MAX: usize = 500;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub jobs: u32,
    pub bad_jobs: u32,
}

/// Sweeps when it is time; returns `None` when it is not.
///
/// # Errors
/// A port's.
pub async fn tick(ports: &Ports, now: Timestamp) -> Result<Option<Summary>> {
    let mut state = settings::read::<SweepState>(ports, SWEEP).await?;
    if state.value.swept_at.is_some_and(|swept_at| swept_at <= now && since(swept_at, now) < SWEEP_EVERY) {
        return Ok(None);
    }
    let summary = sweep(ports, now).await?;
    state.value.swept_at = Some(now);
    state.write(ports).await?;
    Ok(Some(summary))
}

/// Tells of each record that the backend could not read: orders, reports, runs. (Of jobs, the sweep tells itself.)
async fn tell_set_aside(ports: &Ports, now: Timestamp) -> Result<()> {
    let told = |aside: &Quarantined| {
        let id = format!("set_aside:{}:{}", aside.kind, aside.key);
        let reason = format!("a stored record ({} {}) was set aside: {}", aside.kind, aside.key, aside.why);
        Transition::new(id, AlertKind::BadJob, &JobKey::new("", ""), reason, now)
    };
    let transitions: Vec<Transition> = ports.settings.quarantined().await?.iter().map(told).collect();
    if !transitions.is_empty() {
        ports.alerts.raise(&AlertStep { state: None, transitions }).await?;
    }
    Ok(())
}

/// Looks at all jobs now.
///
/// # Errors
/// A port's.
pub async fn sweep(ports: &Ports, now: Timestamp) -> Result<Summary> {
    tell_set_aside(ports, now).await?;
    let mut summary = Summary::default();
    let mut after = None;
    loop {
        let page = ports.jobs.list(None, after.as_ref(), PAGE_MAX).await?;
        look(ports, &page.records, now, &mut summary).await?;
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
pub async fn changed(ports: &Ports, keys: &[JobKey], now: Timestamp) -> Result<Summary> {
    let mut summary = Summary::default();
    let jobs = ports.jobs.get(keys).await?;
    look(ports, &jobs, now, &mut summary).await?;
    Ok(summary)
}

async fn look(ports: &Ports, jobs: &[StoredJob], now: Timestamp, summary: &mut Summary) -> Result<()> {
    let mut entries: Vec<Due> = Vec::new();
    let mut transitions: Vec<Transition> = Vec::new();
    for stored in jobs {
        summary.jobs += 1;
        let planned = stored.job.as_ref().map_err(Clone::clone).and_then(|job| {
            let schedule = schedule_of(job)?;
            Ok(due_after(job, &schedule, now))
        });
        match planned {
            Ok(entry) => entries.extend(entry),
            Err(says) => {
                summary.bad_jobs += 1;
                transitions.push(bad_job(&stored.key, &says, now));
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
