//! `apply`: makes the stored jobs equal to those of a file, and returns the differences.
//!
//! Reads the stored jobs page by page beside the sorted jobs of the file, and keeps only what differs. Then it reads
//! and writes what differs in batches. So the memory hardly depends on the number of jobs.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Context, Poll};

use domain::job::{Job, JobKey};
use domain::job_list::JobList;
use domain::ports::{JobWrite, Ports, StoredJob};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::jobs::{anchor_of, change_job, check_job, due_entries, remove_from_file, store_job};
use super::take_over::TakeOver;
use crate::Result;
use crate::removed_jobs::{self, RemovedJob};
use crate::sweep::PAGE_MAX;

/// Jobs written or deleted by one call of the store. Chosen: a transaction of them takes tens of milliseconds, so no
/// firing, claim or heartbeat waits for it noticeably.
pub const BATCH_JOBS: usize = 500;

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
    /// The number of jobs that are stored with the same definition.
    pub unchanged: usize,
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
    /// All jobs of the file. A stored job with a former name of one of them is renamed.
    pub jobs: &'f JobList,
    /// Names under which earlier builds stored jobs of this file.
    pub former_sources: &'f [String],
    /// Names of files that this one replaces. Only their jobs, and those of the file itself, are renamed to a job that
    /// differs in its group alone.
    pub replaced_sources: &'f [String],
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
    let file =
        AppliedFile { source, jobs: &jobs.into(), former_sources: &[], replaced_sources: &[], other_sources: &[] };
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
    for (number, job) in file.jobs.iter().enumerate() {
        check_job(&job)?;
        if number % BATCH_JOBS == 0 {
            yield_now().await;
        }
    }
    let compared = Comparison::read(ports, file, now).await?;
    let take_over = TakeOver::find(ports, file, &compared.surplus).await?;
    let removed = removed_jobs::find(ports, compared.added()).await?;
    let mut difference = Difference::default();
    if !options.dry_run {
        take_over.copy_alert_states(ports).await?;
    }
    let writer = BatchWriter { ports, source: file.source, now, removed: &removed, take_over: &take_over };
    for (batch, rows) in compared.rows.chunks(BATCH_JOBS).enumerate() {
        progress(batch * BATCH_JOBS);
        difference.unchanged += rows.iter().filter(|row| row.state == RowState::Unchanged).count();
        if !options.dry_run {
            writer.write(file.jobs, rows).await?;
        }
    }
    if !options.dry_run {
        removed_jobs::complete_return(ports, &removed, now).await?;
        take_over.complete(ports, now).await?;
    }
    difference.added = compared.added().filter(|key| !take_over.has_former(key)).collect();
    difference.renamed = compared.added().filter_map(|key| Some((take_over.former(&key)?.key(), key))).collect();
    difference.changed = compared.keys_in(RowState::Changed).collect();
    difference.taken_over = compared.taken_over;
    let left = compared.surplus.into_iter().filter(|surplus| surplus.is_of_file && !take_over.replaces(&surplus.key));
    let left: Vec<JobKey> = left.map(|surplus| surplus.key).collect();
    match options.prune {
        false => difference.kept = left,
        true => {
            if !options.dry_run {
                remove_from_file(ports, &left, now).await?;
            }
            difference.removed = left;
        }
    }
    Ok(difference)
}

/// Lets other tasks of this thread run.
async fn yield_now() {
    let mut has_yielded = false;
    let yield_once = |context: &mut Context<'_>| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    };
    poll_fn(yield_once).await;
}

/// How the jobs of a file and the stored jobs differ.
struct Comparison<'f> {
    jobs: &'f JobList,
    /// The jobs of the file, by group and name.
    rows: Vec<Row>,
    /// Stored jobs that came from another file, or from none.
    taken_over: Vec<JobKey>,
    /// Stored jobs that are not in the file, by group and name; without those of `other_sources`, unless the file owns
    /// them, too.
    surplus: Vec<SurplusJob>,
}

struct Row {
    /// The index of the job in the file.
    index: u32,
    state: RowState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RowState {
    /// Not stored.
    Added,
    /// Stored with another definition.
    Changed,
    Unchanged,
}

/// A stored job that is not in the file.
pub(super) struct SurplusJob {
    pub(super) key: JobKey,
    /// It came from the file.
    pub(super) is_of_file: bool,
    /// It came from one of `other_sources`, so it is not renamed.
    pub(super) is_of_others: bool,
}

impl<'f> Comparison<'f> {
    /// Reads all stored jobs, page by page.
    async fn read(ports: &Ports, file: &AppliedFile<'f>, now: Timestamp) -> Result<Comparison<'f>> {
        let jobs = file.jobs;
        let rows = jobs.sorted().into_iter().map(|index| Row { index, state: RowState::Added }).collect();
        let mut compared = Comparison { jobs, rows, taken_over: Vec::new(), surplus: Vec::new() };
        let (mut passed, mut after) = (0, None);
        loop {
            let page = ports.jobs.list(None, after.as_ref(), PAGE_MAX).await?;
            for stored in page.records {
                let left = &compared.rows[passed..];
                passed += left.partition_point(|row| jobs.key(row.index as usize) < stored.key);
                match compared.rows.get_mut(passed).filter(|row| jobs.key(row.index as usize) == stored.key) {
                    Some(row) => {
                        row.state = file.state_of(&jobs.job(row.index as usize), &stored, now);
                        if stored.job.is_ok_and(|stored| !file.owns(&stored)) && row.state == RowState::Changed {
                            compared.taken_over.push(stored.key);
                        }
                        passed += 1;
                    }
                    None => compared.surplus.extend(file.surplus(stored)),
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(compared);
            }
        }
    }

    fn keys_in(&self, state: RowState) -> impl Iterator<Item = JobKey> + Clone + '_ {
        self.rows.iter().filter(move |row| row.state == state).map(|row| self.jobs.key(row.index as usize))
    }

    fn added(&self) -> impl Iterator<Item = JobKey> + Clone + '_ {
        self.keys_in(RowState::Added)
    }
}

/// Writes jobs in batches.
struct BatchWriter<'w> {
    ports: &'w Ports,
    source: &'w str,
    now: Timestamp,
    removed: &'w BTreeMap<JobKey, RemovedJob>,
    take_over: &'w TakeOver,
}

impl BatchWriter<'_> {
    /// Writes the jobs of one batch that differ from the stored ones. A job that another writer changed since it was
    /// read is read and written again.
    async fn write(&self, jobs: &JobList, rows: &[Row]) -> Result<()> {
        let differing: Vec<Job> = rows
            .iter()
            .filter(|row| row.state != RowState::Unchanged)
            .map(|row| jobs.job(row.index as usize))
            .collect();
        if differing.is_empty() {
            return Ok(());
        }
        let changed = rows.iter().filter(|row| row.state == RowState::Changed);
        let changed: Vec<JobKey> = changed.map(|row| jobs.key(row.index as usize)).collect();
        let stored = if changed.is_empty() { Vec::new() } else { self.ports.jobs.get(&changed).await? };
        let stored: BTreeMap<JobKey, StoredJob> =
            stored.into_iter().map(|stored| (stored.key.clone(), stored)).collect();
        let writes = differing.iter().map(|job| self.plan(job, stored.get(&job.key()))).collect::<Result<Vec<_>>>()?;
        let written = self.ports.jobs.put_all(writes).await?;
        for job in differing.iter().zip(written).filter(|(_, is_written)| !is_written).map(|(job, _)| job) {
            let key = job.key();
            let edit = |before: Option<StoredJob>| {
                let before = before.and_then(|before| before.job.ok());
                Ok(self.definition(&key, job, before.as_ref()))
            };
            match self.take_over.has_former(&key) {
                true => drop(store_job(self.ports, &key, edit).await?),
                false => drop(change_job(self.ports, &key, self.now, edit).await?),
            }
        }
        Ok(())
    }

    fn plan(&self, job: &Job, stored: Option<&StoredJob>) -> Result<JobWrite> {
        let key = job.key();
        let was = stored.and_then(|stored| stored.job.as_ref().ok());
        let definition = self.definition(&key, job, was);
        // The due entry of a renamed job follows from that of its former name.
        let is_renamed = stored.is_none() && self.take_over.has_former(&key);
        let (entry, former_entry) = if is_renamed { (None, None) } else { due_entries(was, &definition, self.now)? };
        Ok(JobWrite { job: definition, expected: stored.map(|stored| stored.version), entry, former_entry })
    }

    /// What is stored: the job of the file, with the fields that Sexton added to the stored one, to the one that was
    /// removed from the file before, or to the one with the former name.
    fn definition(&self, key: &JobKey, job: &Job, stored: Option<&Job>) -> Job {
        let before = match stored {
            Some(_) => None,
            None => self.removed.get(key).map(|removed| removed.restore(job)).or_else(|| self.take_over.former(key)),
        };
        merge_stored(stored.or(before.as_ref()), job, self.source, self.now)
    }
}

impl AppliedFile<'_> {
    /// Whether the stored job came from this file.
    fn owns(&self, job: &Job) -> bool {
        job.source
            .as_deref()
            .is_some_and(|source| source == self.source || self.former_sources.iter().any(|former| former == source))
    }

    /// Whether the stored job may become the job with this key, one of whose former names it has.
    pub(super) fn may_rename(&self, stored: &Job, key: &JobKey) -> bool {
        let is_replaced = |source: &String| Some(source) == stored.source.as_ref();
        stored.name != key.name || self.owns(stored) || self.replaced_sources.iter().any(is_replaced)
    }

    /// A stored job that is not in the file, if it concerns the file.
    fn surplus(&self, stored: StoredJob) -> Option<SurplusJob> {
        let is_of_file = stored.job.as_ref().is_ok_and(|job| self.owns(job));
        let source = stored.job.as_ref().ok().and_then(|job| job.source.as_deref());
        let is_of_others = source.is_some_and(|source| self.other_sources.iter().any(|other| other == source));
        (is_of_file || !is_of_others).then_some(SurplusJob { key: stored.key, is_of_file, is_of_others })
    }

    fn state_of(&self, job: &Job, stored: &StoredJob, now: Timestamp) -> RowState {
        let is_equal =
            stored.job.as_ref().is_ok_and(|stored| merge_stored(Some(stored), job, self.source, now) == *stored);
        if is_equal { RowState::Unchanged } else { RowState::Changed }
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
