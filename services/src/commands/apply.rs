//! `apply`: makes the stored jobs equal to those of a file, and returns the differences.

use std::collections::BTreeMap;

use domain::job::{Job, JobKey};
use domain::ports::{Ports, StoredJob};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::jobs::{anchor_of, change_job, check_job, remove_from_file};
use crate::sweep::PAGE_MAX;
use crate::{Result, removed_jobs};

/// What [`apply`] may change.
#[derive(Clone, Copy, Debug, Default)]
pub struct ApplyOptions {
    /// Deletes jobs that came from this file before and are no longer in it.
    pub prune: bool,
    /// Changes nothing; only returns the differences.
    pub dry_run: bool,
}

/// What applying a file changes. Each list is sorted by group and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Not stored until now.
    pub added: Vec<JobKey>,
    /// Stored with another definition until now.
    pub changed: Vec<JobKey>,
    /// Stored with the same definition.
    pub unchanged: Vec<JobKey>,
    /// No longer in the file, and deleted (with `prune`).
    pub removed: Vec<JobKey>,
    /// No longer in the file, and kept because `prune` was not given.
    pub kept: Vec<JobKey>,
    /// Came from another file, or from none, until now. They are among `changed` too.
    pub taken_over: Vec<JobKey>,
}

/// Stores the jobs of `source` (a file name, the same in each call). All jobs are checked before the first is stored.
///
/// # Errors
/// Returns [`crate::Error::BadJob`] for the first invalid job, or the port's error.
pub async fn apply(
    ports: &Ports,
    source: &str,
    jobs: &[Job],
    options: ApplyOptions,
    now: Timestamp,
) -> Result<Difference> {
    for job in jobs {
        check_job(job)?;
    }
    let before = list_all_jobs(ports).await?;
    let mut difference = Difference::default();
    let mut wanted: BTreeMap<JobKey, Job> = BTreeMap::new();
    for job in jobs {
        wanted.insert(job.key(), Job { source: Some(source.to_owned()), ..job.clone() });
    }
    let new_keys = wanted.keys().filter(|key| !before.contains_key(key));
    let removed = removed_jobs::find(ports, new_keys).await?;
    for (key, job) in &wanted {
        let stored = before.get(key);
        let stored_job = stored.and_then(|stored| stored.job.as_ref().ok());
        if stored_job.is_some_and(|stored_job| merge_stored(Some(stored_job), job, now) == *stored_job) {
            difference.unchanged.push(key.clone());
            continue;
        }
        match stored {
            None => difference.added.push(key.clone()),
            Some(_) => difference.changed.push(key.clone()),
        }
        if stored_job.is_some_and(|stored_job| stored_job.source != job.source) {
            difference.taken_over.push(key.clone());
        }
        if !options.dry_run {
            change_job(ports, key, now, |before| {
                let stored_job = before.and_then(|before| before.job.ok());
                let stored_job = stored_job.or_else(|| removed.get(key).map(|removed| removed.restore(job)));
                Ok(merge_stored(stored_job.as_ref(), job, now))
            })
            .await?;
        }
    }
    if !options.dry_run {
        removed_jobs::complete_return(ports, &removed, now).await?;
    }
    let mut pruned = Vec::new();
    for (key, stored) in &before {
        let of_source = stored.job.as_ref().is_ok_and(|job| job.source.as_deref() == Some(source));
        if !of_source || wanted.contains_key(key) {
            continue;
        }
        match options.prune {
            false => difference.kept.push(key.clone()),
            true => {
                difference.removed.push(key.clone());
                pruned.push(stored);
            }
        }
    }
    if !options.dry_run {
        remove_from_file(ports, &pruned, now).await?;
    }
    Ok(difference)
}

/// The job as the file defines it, with the fields that Sexton added to the stored one.
fn merge_stored(stored_job: Option<&Job>, job: &Job, now: Timestamp) -> Job {
    Job {
        anchor: anchor_of(stored_job, job, now),
        paused: stored_job.and_then(|stored_job| stored_job.paused.clone()),
        ..job.clone()
    }
}

async fn list_all_jobs(ports: &Ports) -> Result<BTreeMap<JobKey, StoredJob>> {
    let (mut all, mut after) = (BTreeMap::new(), None);
    loop {
        let page = ports.jobs.list(None, after.as_ref(), PAGE_MAX).await?;
        all.extend(page.records.into_iter().map(|stored| (stored.key.clone(), stored)));
        after = page.next;
        if after.is_none() {
            return Ok(all);
        }
    }
}
