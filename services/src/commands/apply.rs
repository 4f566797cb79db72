//! `apply`: makes the stored jobs equal to those of a file, and returns the differences.

use std::collections::BTreeMap;

use domain::crontab::FormerNames;
use domain::job::{Job, JobKey};
use domain::ports::{Ports, StoredJob};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::jobs::{anchor_of, change_job, check_job, remove_from_file, store_job};
use super::take_over::TakeOver;
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
    /// Stored with another name until now: the old and the new one.
    pub renamed: Vec<(JobKey, JobKey)>,
}

/// A file with jobs.
#[derive(Clone, Copy, Debug)]
pub struct AppliedFile<'f> {
    /// Name of the file, the same in each call.
    pub source: &'f str,
    /// All jobs of the file.
    pub jobs: &'f [Job],
    /// Former names of its jobs. A stored job with such a name is renamed.
    pub former_names: &'f FormerNames,
    /// Names under which earlier builds stored jobs of this file.
    pub former_sources: &'f [String],
    /// Names of other files whose jobs are not taken over under a former name.
    pub other_sources: &'f [String],
}

/// Stores the jobs of `source` (a file name, the same in each call), as [`apply_file`].
///
/// # Errors
/// As [`apply_file`].
pub async fn apply(
    ports: &Ports,
    source: &str,
    jobs: &[Job],
    options: ApplyOptions,
    now: Timestamp,
) -> Result<Difference> {
    let former_names = FormerNames::new();
    let file = AppliedFile { source, jobs, former_names: &former_names, former_sources: &[], other_sources: &[] };
    apply_file(ports, &file, options, now).await
}

/// Stores the jobs of a file. All jobs are checked before the first is stored.
///
/// # Errors
/// Returns [`crate::Error::BadJob`] for the first invalid job, or the port's error.
pub async fn apply_file(
    ports: &Ports,
    file: &AppliedFile<'_>,
    options: ApplyOptions,
    now: Timestamp,
) -> Result<Difference> {
    for job in file.jobs {
        check_job(job)?;
    }
    let before = list_all_jobs(ports).await?;
    let mut difference = Difference::default();
    let mut wanted: BTreeMap<JobKey, Job> = BTreeMap::new();
    for job in file.jobs {
        wanted.insert(job.key(), Job { source: Some(file.source.to_owned()), ..job.clone() });
    }
    let is_own = |source: Option<&str>| source.is_none_or(|source| !file.other_sources.iter().any(|own| own == source));
    let take_over = TakeOver::find(&wanted, file.former_names, &before, is_own);
    if !options.dry_run {
        take_over.copy_alert_states(ports).await?;
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
        let former = take_over.former(key);
        match (stored, former) {
            (None, Some(former)) => difference.renamed.push((former.key(), key.clone())),
            (None, None) => difference.added.push(key.clone()),
            (Some(_), _) => difference.changed.push(key.clone()),
        }
        if stored_job.is_some_and(|stored_job| !file.owns(stored_job)) {
            difference.taken_over.push(key.clone());
        }
        if !options.dry_run {
            let edit = |before: Option<StoredJob>| {
                let stored_job = before.and_then(|before| before.job.ok());
                let stored_job = stored_job.or_else(|| removed.get(key).map(|removed| removed.restore(job)));
                Ok(merge_stored(stored_job.as_ref().or(former), job, now))
            };
            match former {
                Some(_) if stored.is_none() => drop(store_job(ports, key, edit).await?),
                _ => drop(change_job(ports, key, now, edit).await?),
            }
        }
    }
    if !options.dry_run {
        removed_jobs::complete_return(ports, &removed, now).await?;
        take_over.complete(ports, now).await?;
    }
    let mut pruned = Vec::new();
    for (key, stored) in &before {
        let of_source = stored.job.as_ref().is_ok_and(|job| file.owns(job));
        if !of_source || wanted.contains_key(key) || take_over.replaces(key) {
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

impl AppliedFile<'_> {
    /// Whether the stored job came from this file.
    fn owns(&self, job: &Job) -> bool {
        job.source
            .as_deref()
            .is_some_and(|source| source == self.source || self.former_sources.iter().any(|former| former == source))
    }
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
