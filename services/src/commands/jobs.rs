//! Jobs: read, store, delete, pause, resume.

use domain::job::{Job, JobKey, Pause};
use domain::ports::{Due, Ports, StoredJob};
use jiff::Timestamp;

use super::apply::BATCH_JOBS;
use crate::new_runs::{next_due_entry, schedule_of};
use crate::{Error, Result, error::CONFLICTS_MAX, removed_jobs};

/// The stored job: its definition, or the reason why it is unreadable.
///
/// # Errors
/// Returns [`Error::NoSuchJob`], or the port's error.
pub async fn get(ports: &Ports, key: &JobKey) -> Result<StoredJob> {
    find_job(ports, key).await?.ok_or_else(|| Error::NoSuchJob(key.clone()))
}

/// Creates or replaces a job and returns what was stored. The fields that Sexton maintains (`anchor`, `paused`) are
/// kept.
///
/// # Errors
/// Returns [`Error::BadJob`] when the definition is invalid, or the port's error.
pub async fn put(ports: &Ports, job: &Job, now: Timestamp) -> Result<Job> {
    check_job(job)?;
    change_job(ports, &job.key(), now, |before| {
        let before = before.and_then(|before| before.job.ok());
        let mut wanted = job.clone();
        wanted.paused = before.as_ref().and_then(|before| before.paused.clone());
        wanted.anchor = anchor_of(before.as_ref(), job, now);
        Ok(wanted)
    })
    .await
}

/// Deletes a job and its alert state. Its runs are kept, and orders already sent still start. A job that was removed
/// from its file before is forgotten.
///
/// # Errors
/// Returns [`Error::NoSuchJob`], or the port's error.
pub async fn remove(ports: &Ports, key: &JobKey, now: Timestamp) -> Result<()> {
    let before = find_job(ports, key).await?;
    let was_removed = removed_jobs::forget(ports, key).await?;
    match &before {
        Some(before) => delete(ports, std::slice::from_ref(before), now).await?,
        None if was_removed => {}
        None => return Err(Error::NoSuchJob(key.clone())),
    }
    removed_jobs::reset_alert_state(ports, key).await
}

/// Deletes jobs that their file no longer contains, in batches. What a job needs when it returns is kept.
pub(super) async fn remove_from_file(ports: &Ports, keys: &[JobKey], now: Timestamp) -> Result<()> {
    // Jobs that share a record are in the same batches, so that no record is written once for each batch.
    let mut keys: Vec<&JobKey> = keys.iter().collect();
    keys.sort_by_key(|key| removed_jobs::part_of(key));
    for batch in keys.chunks(BATCH_JOBS) {
        let batch: Vec<JobKey> = batch.iter().map(|key| (*key).clone()).collect();
        let stored = ports.jobs.get(&batch).await?;
        removed_jobs::remember(ports, &stored, now).await?;
        delete(ports, &stored, now).await?;
    }
    Ok(())
}

async fn delete(ports: &Ports, jobs: &[StoredJob], now: Timestamp) -> Result<()> {
    let keys: Vec<JobKey> = jobs.iter().map(|stored| stored.key.clone()).collect();
    ports.jobs.remove(&keys).await?;
    let entry = |stored: &StoredJob| {
        let job = stored.job.as_ref().ok()?;
        next_due_entry(job, &schedule_of(job).ok()?, now)
    };
    let entries: Vec<Due> = jobs.iter().filter_map(entry).collect();
    if entries.is_empty() {
        return Ok(());
    }
    Ok(ports.due.remove(&entries).await?)
}

/// Pauses a job now (`since`) until it is resumed, or until an instant. Its firings are recorded as skipped.
///
/// # Errors
/// Returns [`Error::NoSuchJob`], [`Error::BadJob`] when the stored job is unreadable, or the port's error.
pub async fn pause(ports: &Ports, key: &JobKey, pause: Pause) -> Result<Job> {
    change_job(ports, key, pause.since, |before| {
        let mut job = readable_job(key, before)?;
        job.paused = Some(pause.clone());
        Ok(job)
    })
    .await
}

/// Ends a pause. A job that is not paused stays as it is.
///
/// # Errors
/// Like [`pause`].
pub async fn resume(ports: &Ports, key: &JobKey, now: Timestamp) -> Result<Job> {
    change_job(ports, key, now, |before| {
        let mut job = readable_job(key, before)?;
        job.paused = None;
        Ok(job)
    })
    .await
}

/// Checks a job as the reader of files does.
pub(super) fn check_job(job: &Job) -> Result<()> {
    domain::jobs_file::check_job(job).map_err(|message| Error::BadJob { key: job.key(), message })
}

/// The instant from which `@every` counts: kept unless the schedule changes. Whole seconds, the resolution of run ids.
pub(super) fn anchor_of(before: Option<&Job>, job: &Job, now: Timestamp) -> Option<Timestamp> {
    let kept = before.filter(|before| before.schedule == job.schedule).and_then(|before| before.anchor);
    job.anchor.or(kept).or_else(|| Timestamp::from_second(now.as_second()).ok())
}

/// Stores the job that `edit` makes of the stored one, and its due entry.
pub(super) async fn change_job(
    ports: &Ports,
    key: &JobKey,
    now: Timestamp,
    edit: impl Fn(Option<StoredJob>) -> Result<Job>,
) -> Result<Job> {
    let (was, job) = store_job(ports, key, edit).await?;
    update_due_entries(ports, was.as_ref(), &job, now).await?;
    Ok(job)
}

/// Stores the job that `edit` makes of the stored one, without a due entry. Returns both.
pub(super) async fn store_job(
    ports: &Ports,
    key: &JobKey,
    edit: impl Fn(Option<StoredJob>) -> Result<Job>,
) -> Result<(Option<Job>, Job)> {
    for _ in 0..CONFLICTS_MAX {
        let before = find_job(ports, key).await?;
        let version = before.as_ref().map(|before| before.version);
        let was = before.as_ref().and_then(|before| before.job.clone().ok());
        let job = edit(before)?;
        if ports.jobs.put(&job, version).await? {
            return Ok((was, job));
        }
    }
    Err(Error::Conflict(format!("job {key}")))
}

/// Puts the entry of the job's next firing and removes the one of its former schedule. When this is interrupted, the
/// sweep puts the entry, and the scheduler drops the former one.
async fn update_due_entries(ports: &Ports, was: Option<&Job>, job: &Job, now: Timestamp) -> Result<()> {
    let (entry, former) = due_entries(was, job, now)?;
    if let Some(entry) = entry {
        ports.due.put(&[entry]).await?;
    }
    if let Some(former) = former {
        ports.due.remove(&[former]).await?;
    }
    Ok(())
}

/// The entry of the job's next firing, and that of its former schedule, where it differs.
pub(super) fn due_entries(was: Option<&Job>, job: &Job, now: Timestamp) -> Result<(Option<Due>, Option<Due>)> {
    let schedule = schedule_of(job).map_err(|message| Error::BadJob { key: job.key(), message })?;
    let changed = was.filter(|was| was.timing() != job.timing());
    let former = changed.and_then(|was| next_due_entry(was, &schedule_of(was).ok()?, now));
    Ok((next_due_entry(job, &schedule, now), former))
}

async fn find_job(ports: &Ports, key: &JobKey) -> Result<Option<StoredJob>> {
    Ok(ports.jobs.get(std::slice::from_ref(key)).await?.into_iter().next())
}

fn readable_job(key: &JobKey, stored: Option<StoredJob>) -> Result<Job> {
    let stored = stored.ok_or_else(|| Error::NoSuchJob(key.clone()))?;
    stored.job.map_err(|message| Error::BadJob { key: key.clone(), message })
}
