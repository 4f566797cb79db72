//! `apply`: makes the stored jobs equal to those of a file, and returns the differences.

use std::collections::BTreeMap;

use domain::crontab::FormerNames;
use domain::job::{Job, JobKey};
use domain::ports::{JobWrite, Ports, StoredJob};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::jobs::{anchor_of, change_job, check_job, due_entries, remove_from_file, store_job};
use super::take_over::TakeOver;
use crate::Result;
use crate::removed_jobs::{self, RemovedJob};
use crate::sweep::PAGE_MAX;

/// Jobs written by one call of the store. Chosen: a transaction of them takes tens of milliseconds, so no firing, claim
/// or heartbeat waits for it noticeably.
const BATCH_JOBS: usize = 500;

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

/// Called with the number of jobs that were processed.
pub type Progress<'p> = &'p (dyn Fn(usize) + Sync);

/// Stores the jobs of a file. All jobs are checked before the first is stored. When the call is interrupted, the next
/// one completes it.
///
/// # Errors
/// Returns [`crate::Error::BadJob`] for the first invalid job, or the port's error.
pub async fn apply_file(
    ports: &Ports,
    file: &AppliedFile<'_>,
    options: ApplyOptions,
    now: Timestamp,
) -> Result<Difference> {
    apply_with_progress(ports, file, options, now, &|_| {}).await
}

/// As [`apply_file`]; reports the progress.
///
/// # Errors
/// As [`apply_file`].
pub async fn apply_with_progress(
    ports: &Ports,
    file: &AppliedFile<'_>,
    options: ApplyOptions,
    now: Timestamp,
    progress: Progress<'_>,
) -> Result<Difference> {
    for job in file.jobs {
        check_job(job)?;
    }
    let before = list_all_jobs(ports).await?;
    let mut difference = Difference::default();
    let wanted: BTreeMap<JobKey, &Job> = file.jobs.iter().map(|job| (job.key(), job)).collect();
    let is_own = |source: Option<&str>| source.is_none_or(|source| !file.other_sources.iter().any(|own| own == source));
    let take_over = TakeOver::find(&wanted, file.former_names, &before, is_own);
    if !options.dry_run {
        take_over.copy_alert_states(ports).await?;
    }
    let new_keys = wanted.keys().filter(|key| !before.contains_key(key));
    let removed = removed_jobs::find(ports, new_keys).await?;
    let mut writer = BatchWriter {
        ports,
        source: file.source,
        now,
        removed: &removed,
        take_over: &take_over,
        wanted: &wanted,
        waiting: Vec::new(),
    };
    for (processed, (key, job)) in wanted.iter().enumerate() {
        if processed % BATCH_JOBS == 0 {
            progress(processed);
        }
        let stored = before.get(key);
        let stored_job = stored.and_then(|stored| stored.job.as_ref().ok());
        if stored_job.is_some_and(|stored_job| merge_stored(Some(stored_job), job, file.source, now) == *stored_job) {
            difference.unchanged.push(key.clone());
            continue;
        }
        match (stored, take_over.former(key)) {
            (None, Some(former)) => difference.renamed.push((former.key(), key.clone())),
            (None, None) => difference.added.push(key.clone()),
            (Some(_), _) => difference.changed.push(key.clone()),
        }
        if stored_job.is_some_and(|stored_job| !file.owns(stored_job)) {
            difference.taken_over.push(key.clone());
        }
        if !options.dry_run {
            writer.write(key, job, stored).await?;
        }
    }
    writer.flush().await?;
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

/// Writes jobs in batches.
struct BatchWriter<'w> {
    ports: &'w Ports,
    source: &'w str,
    now: Timestamp,
    removed: &'w BTreeMap<JobKey, RemovedJob>,
    take_over: &'w TakeOver,
    wanted: &'w BTreeMap<JobKey, &'w Job>,
    waiting: Vec<JobWrite>,
}

impl BatchWriter<'_> {
    async fn write(&mut self, key: &JobKey, job: &Job, stored: Option<&StoredJob>) -> Result<()> {
        let was = stored.and_then(|stored| stored.job.as_ref().ok());
        let definition = self.definition(key, job, was);
        // The due entry of a renamed job follows from that of its former name.
        let is_renamed = stored.is_none() && self.take_over.former(key).is_some();
        let (entry, former_entry) = if is_renamed { (None, None) } else { due_entries(was, &definition, self.now)? };
        let expected = stored.map(|stored| stored.version);
        self.waiting.push(JobWrite { job: definition, expected, entry, former_entry });
        if self.waiting.len() < BATCH_JOBS { Ok(()) } else { self.flush().await }
    }

    /// Writes the batch. A job that another writer changed since is read and written again.
    async fn flush(&mut self) -> Result<()> {
        let writes = std::mem::take(&mut self.waiting);
        if writes.is_empty() {
            return Ok(());
        }
        let keys: Vec<JobKey> = writes.iter().map(|write| write.job.key()).collect();
        let written = self.ports.jobs.put_all(writes).await?;
        for key in keys.iter().zip(written).filter(|(_, is_written)| !is_written).map(|(key, _)| key) {
            let Some(job) = self.wanted.get(key) else { continue };
            let edit = |before: Option<StoredJob>| {
                let before = before.and_then(|before| before.job.ok());
                Ok(self.definition(key, job, before.as_ref()))
            };
            match self.take_over.former(key) {
                Some(_) => drop(store_job(self.ports, key, edit).await?),
                None => drop(change_job(self.ports, key, self.now, edit).await?),
            }
        }
        Ok(())
    }

    /// What is stored: the job of the file, with the fields that Sexton added to the stored one, to the one that was
    /// removed from the file before, or to the one with the former name.
    fn definition(&self, key: &JobKey, job: &Job, stored: Option<&Job>) -> Job {
        let restored = match stored {
            Some(_) => None,
            None => self.removed.get(key).map(|removed| removed.restore(job)),
        };
        let before = stored.or(restored.as_ref()).or(self.take_over.former(key));
        merge_stored(before, job, self.source, self.now)
    }
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
fn merge_stored(stored_job: Option<&Job>, job: &Job, source: &str, now: Timestamp) -> Job {
    Job {
        source: Some(source.to_owned()),
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
