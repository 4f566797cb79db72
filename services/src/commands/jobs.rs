//! Jobs: look up, store, remove, pause, resume.

use domain::job::{Job, JobKey, Pause};
use domain::jobs_file::fields::check_name;
use domain::ports::{Ports, StoredJob};
use jiff::Timestamp;

use crate::new_runs::{next_due_entry, schedule_of};
use crate::{Error, Result, error::CONFLICTS_MAX};

/// The stored job, as it can be read or as one sentence why not.
///
/// # Errors
/// That there is none; a port's.
pub async fn get(ports: &Ports, key: &JobKey) -> Result<StoredJob> {
    find_job(ports, key).await?.ok_or_else(|| Error::NoSuchJob(key.clone()))
}

/// Stores a job, new or changed, and gives back what is stored. The system's own fields (`anchor`, `paused`) stay as
/// they are.
///
/// # Errors
/// That the job is faulty; a port's.
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

/// Removes a job. Its runs stay; those that wait in a queue still run.
///
/// # Errors
/// That there is none; a port's.
pub async fn remove(ports: &Ports, key: &JobKey, now: Timestamp) -> Result<()> {
    let before = get(ports, key).await?;
    ports.jobs.remove(key).await?;
    if let Ok(job) = &before.job
        && let Ok(schedule) = schedule_of(job)
        && let Some(entry) = next_due_entry(job, &schedule, now)
    {
        ports.due.remove(&[entry]).await?;
    }
    Ok(())
}

/// Keeps a job from firing until it is resumed, or until an instant. Its firings are recorded as skipped.
///
/// # Errors
/// That there is no such job, or that it cannot be read; a port's.
pub async fn pause(ports: &Ports, key: &JobKey, until: Option<Timestamp>, why: &str, now: Timestamp) -> Result<Job> {
    change_job(ports, key, now, |before| {
        let mut job = readable_job(key, before)?;
        job.paused = Some(Pause { since: now, until, why: why.to_owned() });
        Ok(job)
    })
    .await
}

/// Ends a pause; a job that is not paused stays as it is.
///
/// # Errors
/// As [`pause`].
pub async fn resume(ports: &Ports, key: &JobKey, now: Timestamp) -> Result<Job> {
    change_job(ports, key, now, |before| {
        let mut job = readable_job(key, before)?;
        job.paused = None;
        Ok(job)
    })
    .await
}

/// What can be wrong with a job that did not come out of a file.
pub(super) fn check_job(job: &Job) -> Result<()> {
    let fault = |message| Error::BadJob { key: job.key(), message };
    check_name("group", &job.group).map_err(fault)?;
    check_name("name", &job.name).map_err(fault)?;
    schedule_of(job).map_err(fault)?;
    Ok(())
}

/// Where `@every` counts from: as it was, unless the schedule is a new one. Whole seconds, as runs' names have no less.
pub(super) fn anchor_of(before: Option<&Job>, job: &Job, now: Timestamp) -> Option<Timestamp> {
    let kept = before.filter(|before| before.schedule == job.schedule).and_then(|before| before.anchor);
    job.anchor.or(kept).or_else(|| Timestamp::from_second(now.as_second()).ok())
}

/// Writes what `edit` makes of the stored job, and its due entry.
pub(super) async fn change_job(
    ports: &Ports,
    key: &JobKey,
    now: Timestamp,
    edit: impl Fn(Option<StoredJob>) -> Result<Job>,
) -> Result<Job> {
    for _ in 0..CONFLICTS_MAX {
        let before = find_job(ports, key).await?;
        let version = before.as_ref().map(|before| before.version);
        let was = before.as_ref().and_then(|before| before.job.clone().ok());
        let job = edit(before)?;
        if ports.jobs.put(&job, version).await? {
            update_due_entries(ports, was.as_ref(), &job, now).await?;
            return Ok(job);
        }
    }
    Err(Error::Conflict(format!("job {key}")))
}

/// Puts the entry of a job's next firing, and takes out the one of its former schedule. Should this be cut off, the
/// sweep puts the entry, and the scheduler drops the former one.
async fn update_due_entries(ports: &Ports, was: Option<&Job>, job: &Job, now: Timestamp) -> Result<()> {
    let schedule = schedule_of(job).map_err(|message| Error::BadJob { key: job.key(), message })?;
    if let Some(entry) = next_due_entry(job, &schedule, now) {
        ports.due.put(&[entry]).await?;
    }
    if let Some(was) = was.filter(|was| was.timing() != job.timing())
        && let Ok(former) = schedule_of(was)
        && let Some(entry) = next_due_entry(was, &former, now)
    {
        ports.due.remove(&[entry]).await?;
    }
    Ok(())
}

async fn find_job(ports: &Ports, key: &JobKey) -> Result<Option<StoredJob>> {
    Ok(ports.jobs.get(std::slice::from_ref(key)).await?.into_iter().next())
}

fn readable_job(key: &JobKey, stored: Option<StoredJob>) -> Result<Job> {
    let stored = stored.ok_or_else(|| Error::NoSuchJob(key.clone()))?;
    stored.job.map_err(|message| Error::BadJob { key: key.clone(), message })
}
