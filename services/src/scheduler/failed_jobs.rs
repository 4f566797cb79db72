//! Jobs whose firings a port refuses permanently: they stop no other job, and a fault of the store ends no run.

use std::collections::BTreeMap;

use domain::alert::Occurrence;
use domain::job::{Job, JobKey};
use domain::ports::{AlertStep, Due, PortError, StoredJob, WriteResult};
use domain::run::{Outcome, Run};

use super::Tick;
use crate::alerts::bad_job_transition;
use crate::new_runs::{next_due_entry, schedule_of};
use crate::run_end::write_with_alerts;
use crate::{Error, Result};

impl Tick<'_> {
    /// Fires a chunk. When a port refuses it permanently, fires each job alone, so that one job stops no other.
    pub(super) async fn fire_entries(&mut self, entries: Vec<Due>) -> Result<()> {
        let by_job = by_job(entries);
        let keys: Vec<JobKey> = by_job.keys().cloned().collect();
        let jobs: BTreeMap<JobKey, StoredJob> =
            self.ports.jobs.get(&keys).await?.into_iter().map(|stored| (stored.key.clone(), stored)).collect();
        match self.fire_until_no_conflict(&by_job, &jobs).await {
            Err(Error::Port(PortError::Permanent(_)) | Error::Unstorable(_) | Error::Conflict(_))
                if by_job.len() > 1 => {}
            Err(Error::Conflict(conflict)) => {
                self.leave_conflicted(&by_job, &conflict);
                return Ok(());
            }
            Err(Error::Unstorable(reason)) => return self.drop_failed_job(&by_job, &jobs, &reason).await,
            Err(Error::Port(PortError::Permanent(reason))) => return self.record_failed_jobs(&by_job, &reason).await,
            other => return other,
        }
        let (all, mut unstorable) = (by_job.len(), 0);
        let mut failed: Vec<(BTreeMap<JobKey, Vec<Due>>, String)> = Vec::new();
        for (key, entries) in by_job {
            let single = BTreeMap::from([(key, entries)]);
            match self.fire_until_no_conflict(&single, &jobs).await {
                Err(Error::Port(PortError::Permanent(reason))) => failed.push((single, reason)),
                Err(Error::Conflict(conflict)) => self.leave_conflicted(&single, &conflict),
                Err(Error::Unstorable(reason)) => {
                    unstorable += 1;
                    self.drop_failed_job(&single, &jobs, &reason).await?;
                }
                other => other?,
            }
        }
        let is_of_all = failed.len() + unstorable == all;
        for (single, reason) in failed {
            match is_of_all {
                // The fault is not of the jobs: a table that refuses this process loses no firing.
                true => self.record_failed_jobs(&single, &reason).await?,
                false => self.drop_failed_job(&single, &jobs, &reason).await?,
            }
        }
        Ok(())
    }

    /// Alerts about a job whose firings can never be stored, and goes on with its next firing.
    async fn drop_failed_job(
        &mut self,
        single: &BTreeMap<JobKey, Vec<Due>>,
        jobs: &BTreeMap<JobKey, StoredJob>,
        reason: &str,
    ) -> Result<()> {
        for (key, entries) in single {
            tracing::error!(job = %key, error = reason, "cannot record the firings of a job; going on with its next one");
            self.summary.failed += 1;
            self.alert_bad_job(key, reason).await?;
            let job = jobs.get(key).and_then(|stored| stored.job.as_ref().ok());
            let next = job.and_then(|job| next_due_entry(job, &schedule_of(job).ok()?, self.context.now));
            if let Some(next) = next {
                match self.ports.due.put(&[next]).await {
                    Err(PortError::Permanent(error)) => {
                        tracing::error!(job = %key, error, "cannot store the next firing of a job; the sweep retries");
                    }
                    stored => stored?,
                }
            }
            self.ports.due.remove(entries).await?;
        }
        Ok(())
    }

    async fn record_failed_jobs(&mut self, by_job: &BTreeMap<JobKey, Vec<Due>>, reason: &str) -> Result<()> {
        for (key, entries) in by_job {
            tracing::error!(job = %key, error = reason, "cannot record the firings of a job; retrying");
            self.summary.failed += 1;
            self.alert_bad_job(key, reason).await?;
            self.left.extend(entries.iter().cloned());
        }
        Ok(())
    }

    pub(super) async fn alert_bad_job(&mut self, key: &JobKey, reason: &str) -> Result<()> {
        self.summary.bad_jobs += 1;
        let transitions = vec![bad_job_transition(key, reason, self.context.now)];
        self.ports.alerts.raise(&AlertStep { state: None, transitions }).await?;
        Ok(())
    }

    /// Other processes changed the jobs again and again; the next tick fires them.
    fn leave_conflicted(&mut self, by_job: &BTreeMap<JobKey, Vec<Due>>, conflict: &str) {
        tracing::warn!(conflict, "cannot record the firings of a job now; the next tick retries");
        self.left.extend(by_job.values().flatten().cloned());
    }

    /// Ends a run that the store can never take as `missed` with the reason. When it takes that neither, an alert has
    /// it.
    pub(super) async fn end_unstorable(&mut self, run: &Run, job: &Job, reason: &str) -> Result<()> {
        let now = self.context.now;
        let mut missed = Run::new(run.run_id.clone(), &run.key(), run.nominal, run.trigger, now);
        missed.finish(Outcome::Missed, format!("the run cannot be stored: {reason}"), now);
        let occurrence = Occurrence::Ended(Outcome::Missed);
        match write_with_alerts(self.ports, Some(job), &missed, None, occurrence, now).await {
            Ok(written) => {
                self.summary.missed += u32::from(written == WriteResult::Done);
                Ok(())
            }
            Err(Error::Unstorable(_)) => {
                tracing::error!(job = %run.key(), error = reason, "cannot record a firing; going on with the next one");
                self.summary.failed += 1;
                self.alert_bad_job(&run.key(), reason).await
            }
            Err(error) => Err(error),
        }
    }
}

fn by_job(entries: Vec<Due>) -> BTreeMap<JobKey, Vec<Due>> {
    let mut by_job: BTreeMap<JobKey, Vec<Due>> = BTreeMap::new();
    for entry in entries {
        by_job.entry(entry.key.clone()).or_default().push(entry);
    }
    by_job
}
