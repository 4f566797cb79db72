//! Passes pause, alert state and due entries of jobs to their new names. Called by `apply`, for entries of a crontab
//! that have no name: their default name changes with an upgrade of Sexton.
//!
//! A former job is first disabled and deleted last, and each step can be repeated. So the next `apply` completes one
//! that was interrupted, and no instant fires under both names. Runs stay under the old name.

use std::collections::{BTreeMap, BTreeSet};

use domain::alert::JobState;
use domain::job::{Job, JobKey};
use domain::job_list::JobList;
use domain::ports::{AlertStep, Due, Ports, RunQuery, StateChange};
use domain::run::{RunId, RunKey};
use jiff::Timestamp;

use super::apply::{AppliedFile, BATCH_JOBS, SurplusJob};
use super::jobs::change_job;
use crate::new_runs::schedule_of;
use crate::{Result, removed_jobs, tick_progress};

/// Runs read in one call of the store. Chosen, not measured.
const PAGE_MAX: usize = 1000;

/// Stored jobs that jobs of a file replace.
#[derive(Default)]
pub(super) struct TakeOver {
    /// The index of the former job, by the key of the new one.
    indexes: BTreeMap<JobKey, usize>,
    former: JobList,
    /// The keys of the former jobs.
    replaced: BTreeSet<JobKey>,
}

impl TakeOver {
    /// For each job without a name: the stored job with one of its former names. `surplus`: the stored jobs that are
    /// not in the file, by group and name.
    pub(super) async fn find(ports: &Ports, file: &AppliedFile<'_>, surplus: &[SurplusJob]) -> Result<TakeOver> {
        let jobs = file.jobs;
        let mut found = TakeOver::default();
        if surplus.is_empty() {
            return Ok(found);
        }
        let can_be_renamed = |name: &JobKey| {
            let at = surplus.binary_search_by(|surplus| surplus.key.cmp(name));
            at.is_ok_and(|at| !surplus[at].is_of_others)
        };
        let candidates = (0..jobs.len()).filter_map(|index| {
            let names: Vec<JobKey> = jobs.former_names(index).into_iter().filter(&can_be_renamed).collect();
            (!names.is_empty()).then(|| (jobs.key(index), names))
        });
        let candidates: Vec<(JobKey, Vec<JobKey>)> = candidates.collect();
        for batch in candidates.chunks(BATCH_JOBS) {
            let names: Vec<JobKey> = batch.iter().flat_map(|(_, names)| names.iter().cloned()).collect();
            let stored = ports.jobs.get(&names).await?.into_iter().filter_map(|stored| stored.job.ok());
            let stored: BTreeMap<JobKey, Job> = stored.map(|job| (job.key(), job)).collect();
            for (key, names) in batch {
                let Some(former) =
                    names.iter().filter_map(|name| stored.get(name)).find(|job| file.may_rename(job, key))
                else {
                    continue;
                };
                found.indexes.insert(key.clone(), found.former.len());
                found.replaced.insert(former.key());
                found.former.push(former.clone());
            }
        }
        Ok(found)
    }

    /// The stored job that becomes the job with this key.
    pub(super) fn former(&self, key: &JobKey) -> Option<Job> {
        self.indexes.get(key).map(|index| self.former.job(*index))
    }

    /// Whether a stored job becomes the job with this key.
    pub(super) fn has_former(&self, key: &JobKey) -> bool {
        self.indexes.contains_key(key)
    }

    /// Whether a stored job is replaced under another name.
    pub(super) fn replaces(&self, stored: &JobKey) -> bool {
        self.replaced.contains(stored)
    }

    /// Copies the alert states to the new names. Called before the new jobs are stored.
    pub(super) async fn copy_alert_states(&self, ports: &Ports) -> Result<()> {
        if self.indexes.is_empty() {
            return Ok(());
        }
        let keys: Vec<JobKey> = self.indexes.keys().cloned().collect();
        let before = ports.alerts.states(&self.former_keys()).await?;
        let after = ports.alerts.states(&keys).await?;
        for ((key, before), after) in keys.into_iter().zip(before).zip(after) {
            if before.record == JobState::default() || after.record != JobState::default() {
                continue;
            }
            // `last_started` names a run of the former job.
            let state = JobState { last_started: None, ..before.record };
            let state = Some(StateChange { key, expected: after.version, state });
            // A conflict means that a run of the new job has ended, so its state is newer.
            ports.alerts.raise(&AlertStep { state, transitions: Vec::new() }).await?;
        }
        Ok(())
    }

    /// Passes the due entries on and deletes the former jobs. Called after the new jobs are stored. A former job with
    /// open runs stays disabled, because its definition decides how they end; a later `apply` deletes it.
    pub(super) async fn complete(&self, ports: &Ports, now: Timestamp) -> Result<()> {
        if self.indexes.is_empty() {
            return Ok(());
        }
        for former in self.former.iter().filter(|former| former.enabled) {
            let disable = |_| Ok(Job { enabled: false, ..former.clone() });
            change_job(ports, &former.key(), now, disable).await?;
        }
        let processed_until = tick_progress::processed_until(ports).await?.map_or(now, |until| until.min(now));
        let stored = ports.jobs.get(&self.indexes.keys().cloned().collect::<Vec<_>>()).await?;
        let mut entries = Vec::with_capacity(stored.len());
        for job in stored.into_iter().filter_map(|stored| stored.job.ok()) {
            let Some(former) = self.former(&job.key()).filter(|_| job.enabled) else { continue };
            let first = first_due(ports, &job, &former, processed_until, now).await?;
            entries.extend(first.map(|at| Due { at, key: job.key(), timing: job.timing() }));
        }
        for batch in entries.chunks(BATCH_JOBS) {
            ports.due.put(batch).await?;
        }
        let open = keys_of_open_runs(ports).await?;
        for former in self.former_keys().iter().filter(|former| !open.contains(former)) {
            ports.jobs.remove(std::slice::from_ref(former)).await?;
            removed_jobs::reset_alert_state(ports, former).await?;
        }
        Ok(())
    }

    fn former_keys(&self) -> Vec<JobKey> {
        self.indexes.values().map(|index| self.former.key(*index)).collect()
    }
}

/// The first instant at which `job` is due: the first firing of the former job that no tick has processed, also when it
/// is in the past, else the next firing that the former job has not started.
async fn first_due(
    ports: &Ports,
    job: &Job,
    former: &Job,
    processed_until: Timestamp,
    now: Timestamp,
) -> Result<Option<Timestamp>> {
    let (Ok(schedule), Ok(former_schedule)) = (schedule_of(job), schedule_of(former)) else { return Ok(None) };
    let unprocessed = former_schedule.firings(processed_until).map(|firing| firing.at).take_while(|at| *at <= now);
    // After `now`: a scheduler may have fired the former job since.
    let next = schedule.firings(now).map(|firing| firing.at);
    for at in unprocessed.chain(next) {
        let run = RunKey::new(&former.group, RunId::scheduled(&former.key(), at));
        if ports.runs.get(&[run]).await?.is_empty() {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

async fn keys_of_open_runs(ports: &Ports) -> Result<BTreeSet<JobKey>> {
    let (mut keys, mut after) = (BTreeSet::new(), None);
    loop {
        let page = ports.runs.list(&RunQuery::open(), after.as_ref(), PAGE_MAX).await?;
        keys.extend(page.records.iter().map(|stored| stored.record.key()));
        after = page.next;
        if after.is_none() {
            return Ok(keys);
        }
    }
}
