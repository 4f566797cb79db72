//! Deletes old runs: by age, and by number per job. Called periodically; each call does a bounded part, and the next
//! continues. Never deletes a run that is open.

use std::time::Duration;

use domain::job::JobKey;
use domain::ports::{Cursor, Ports, RunQuery};
use domain::run::RunKey;
use jiff::Timestamp;

use crate::new_runs::saturating_sub;
use crate::settings::{self, PRUNER, PrunerState};
use crate::{Result, overdue, removed_jobs};

/// Which runs are kept.
#[derive(Clone, Copy, Debug)]
pub struct RetentionPolicy {
    /// Runs whose nominal time is older are deleted.
    pub age_max: Duration,
    /// Runs kept of each job: the newest ones.
    pub runs_per_job_max: usize,
}

impl Default for RetentionPolicy {
    /// 90 days, and the runs of a week of a job that runs every minute.
    fn default() -> RetentionPolicy {
        RetentionPolicy { age_max: Duration::from_secs(90 * 86_400), runs_per_job_max: 10_000 }
    }
}

/// Runs read and deleted in one step. Chosen, not measured.
const BATCH_MAX: usize = 500;

/// Batches deleted by age in one call. Chosen, not measured.
const BATCHES_MAX: usize = 20;

/// Jobs whose runs are counted in one call. Chosen, not measured.
const JOBS_MAX: usize = 100;

/// What one [`tick`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrunerSummary {
    /// Runs deleted.
    pub removed: u32,
    /// More runs may be too old: call again.
    pub more: bool,
}

/// Deletes a bounded part of the runs that need not be kept.
///
/// # Errors
/// Returns the port's error; the next call retries.
pub async fn tick(ports: &Ports, policy: &RetentionPolicy, now: Timestamp) -> Result<PrunerSummary> {
    let mut summary = PrunerSummary::default();
    prune_by_age(ports, policy, now, &mut summary).await?;
    prune_by_count(ports, policy, &mut summary).await?;
    forget_removed_jobs(ports, policy, now).await?;
    overdue::delete_old_runners(ports, now).await?;
    Ok(summary)
}

async fn prune_by_age(
    ports: &Ports,
    policy: &RetentionPolicy,
    now: Timestamp,
    summary: &mut PrunerSummary,
) -> Result<()> {
    let query = RunQuery { until: Some(saturating_sub(now, policy.age_max)), ..RunQuery::default() };
    let mut after: Option<Cursor> = None;
    for _ in 0..BATCHES_MAX {
        let page = ports.runs.list(&query, after.as_ref(), BATCH_MAX).await?;
        remove_ended(ports, page.records.iter().map(|stored| &stored.record), summary).await?;
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
    summary.more = true;
    Ok(())
}

async fn prune_by_count(ports: &Ports, policy: &RetentionPolicy, summary: &mut PrunerSummary) -> Result<()> {
    let mut state = settings::read::<PrunerState>(ports, PRUNER).await?;
    let page = ports.jobs.list(None, state.value.after.as_ref(), JOBS_MAX).await?;
    for stored in &page.records {
        prune_job(ports, &stored.key, policy.runs_per_job_max, summary).await?;
    }
    state.value.after = page.next;
    state.write(ports).await?;
    Ok(())
}

/// Forgets the jobs that were removed before the oldest run that is kept, in one part of them.
async fn forget_removed_jobs(ports: &Ports, policy: &RetentionPolicy, now: Timestamp) -> Result<()> {
    let mut state = settings::read::<PrunerState>(ports, PRUNER).await?;
    removed_jobs::forget_old(ports, state.value.removed_part, policy.age_max, now).await?;
    state.value.removed_part = (state.value.removed_part + 1) % removed_jobs::PARTS;
    state.write(ports).await?;
    Ok(())
}

/// Deletes the runs of a job beyond its newest ones.
async fn prune_job(ports: &Ports, key: &JobKey, runs_max: usize, summary: &mut PrunerSummary) -> Result<()> {
    let query = RunQuery::of_job(key);
    if ports.runs.count(&query).await?.scheduled <= runs_max as u64 {
        return Ok(());
    }
    let (mut kept, mut after) = (0, None);
    loop {
        let page = ports.runs.list(&query, after.as_ref(), BATCH_MAX).await?;
        let kept_here = runs_max.saturating_sub(kept).min(page.records.len());
        remove_ended(ports, page.records[kept_here..].iter().map(|stored| &stored.record), summary).await?;
        kept += kept_here;
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

async fn remove_ended<'r>(
    ports: &Ports,
    runs: impl Iterator<Item = &'r domain::run::Run>,
    summary: &mut PrunerSummary,
) -> Result<()> {
    let ended: Vec<RunKey> = runs.filter(|run| !run.is_open()).map(domain::run::Run::run_key).collect();
    if !ended.is_empty() {
        ports.runs.remove(&ended).await?;
        summary.removed += ended.len() as u32;
    }
    Ok(())
}
