//! Jobs that their file no longer contains. A job that returns keeps pause, anchor and alert state for as long as its
//! runs are kept, and its due entry for [`RETURN_WITHIN`]. `sexton job remove` forgets a job at once.
//!
//! The records are settings: a job that is often removed and returned costs no table. Called by `commands`, the
//! scheduler and the pruner.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::alert::JobState;
use domain::job::{Job, JobKey, Pause};
use domain::ports::{AlertStep, Due, Ports, StateChange, StoredJob};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::commands::BATCH_JOBS;
use crate::error::CONFLICTS_MAX;
use crate::firing_plan::Absence;
use crate::new_runs::{elapsed_since, schedule_of};
use crate::settings::{self, Setting};
use crate::{Error, Result, tick_progress};

/// A job that returns within this time fires as if the scheduler had been down. Chosen: longer than the repair of a
/// file that was overwritten by mistake.
const RETURN_WITHIN: Duration = Duration::from_secs(3600);

/// How long the absence of a job that returned explains its missed firings. Chosen: a tick follows within a minute.
const ABSENCE_KEPT: Duration = Duration::from_secs(86_400);

/// Settings that share the records, by a hash of the job's key. Chosen: DynamoDB stores at most 400 KB in one item,
/// so 64 parts hold about 100,000 jobs.
pub(crate) const PARTS: u32 = 64;

/// What is kept of a job that was removed from its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RemovedJob {
    at: Timestamp,
    schedule: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    anchor: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paused: Option<Pause>,
    /// Its first firing that no tick had processed, with [`Job::timing`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due: Option<(Timestamp, String)>,
    /// The job returned then, and the record only explains its missed firings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    returned_at: Option<Timestamp>,
}

impl RemovedJob {
    /// The job as it was stored before, as far as a returning job keeps it.
    pub(crate) fn restore(&self, job: &Job) -> Job {
        Job { schedule: self.schedule.clone(), anchor: self.anchor, paused: self.paused.clone(), ..job.clone() }
    }
}

/// The records of one part, by `group/name`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct RemovedJobs(BTreeMap<String, RemovedJob>);

pub(crate) fn part_of(key: &JobKey) -> u32 {
    key.to_string().bytes().fold(0_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte))) % PARTS
}

async fn read_part(ports: &Ports, part: u32) -> Result<Setting<RemovedJobs>> {
    settings::read(ports, format!("removed_jobs.{part}")).await
}

/// Changes one part; `edit` returns whether it changed something.
async fn change_part(ports: &Ports, part: u32, edit: impl Fn(&mut RemovedJobs) -> bool) -> Result<bool> {
    for _ in 0..CONFLICTS_MAX {
        let mut setting = read_part(ports, part).await?;
        if !edit(&mut setting.value) {
            return Ok(false);
        }
        if setting.write(ports).await? {
            return Ok(true);
        }
    }
    Err(Error::Conflict(format!("the setting `removed_jobs.{part}`")))
}

/// Stores what the jobs need when they return. Called before they are deleted.
pub(crate) async fn remember(ports: &Ports, jobs: &[StoredJob], now: Timestamp) -> Result<()> {
    let processed_until = match jobs {
        [] => return Ok(()),
        _ => tick_progress::processed_until(ports).await?.map_or(now, |until| until.min(now)),
    };
    let mut parts: BTreeMap<u32, Vec<(String, RemovedJob)>> = BTreeMap::new();
    // Of an unreadable job, nothing can be kept.
    for job in jobs.iter().filter_map(|stored| stored.job.as_ref().ok()) {
        let next = schedule_of(job).ok().filter(|_| job.enabled).and_then(|one| one.next_after(processed_until));
        let record = RemovedJob {
            at: now,
            schedule: job.schedule.clone(),
            anchor: job.anchor,
            paused: job.paused.clone(),
            due: next.map(|firing| (firing.at, job.timing())),
            returned_at: None,
        };
        parts.entry(part_of(&job.key())).or_default().push((job.key().to_string(), record));
    }
    for (part, records) in parts {
        let add = |removed: &mut RemovedJobs| {
            removed.0.extend(records.iter().cloned());
            true
        };
        change_part(ports, part, add).await?;
    }
    Ok(())
}

/// The records of these jobs, for those that were removed and have not returned.
pub(crate) async fn find(
    ports: &Ports,
    keys: impl Iterator<Item = JobKey> + Clone,
) -> Result<BTreeMap<JobKey, RemovedJob>> {
    let parts: BTreeSet<u32> = keys.clone().map(|key| part_of(&key)).collect();
    let mut records = BTreeMap::new();
    for part in parts {
        records.extend(read_part(ports, part).await?.value.0);
    }
    records.retain(|_, record| record.returned_at.is_none());
    if records.is_empty() {
        return Ok(BTreeMap::new());
    }
    Ok(keys.filter_map(|key| Some((key.clone(), records.remove(&key.to_string())?))).collect())
}

/// When these jobs were missing from their file, for those that returned a short time ago.
pub(crate) async fn absences<'k>(
    ports: &Ports,
    keys: impl Iterator<Item = &'k JobKey>,
) -> Result<BTreeMap<JobKey, Absence>> {
    let absence = |record: &RemovedJob| Some(Absence { from: record.at, until: record.returned_at? });
    let mut by_part: BTreeMap<u32, Vec<&JobKey>> = BTreeMap::new();
    for key in keys {
        by_part.entry(part_of(key)).or_default().push(key);
    }
    let mut found = BTreeMap::new();
    for (part, keys) in by_part {
        let records = read_part(ports, part).await?.value.0;
        let of_key = |key: &JobKey| absence(records.get(&key.to_string())?);
        found.extend(keys.into_iter().filter_map(|key| Some((key.clone(), of_key(key)?))));
    }
    Ok(found)
}

/// Puts the due entries of jobs that returned in time and are stored again, and marks all these jobs as returned.
pub(crate) async fn complete_return(
    ports: &Ports,
    returned: &BTreeMap<JobKey, RemovedJob>,
    now: Timestamp,
) -> Result<()> {
    let in_time = |(_, record): &(&JobKey, &RemovedJob)| elapsed_since(record.at, now) <= RETURN_WITHIN;
    let recent: BTreeMap<&JobKey, &RemovedJob> = returned.iter().filter(in_time).collect();
    let mut entries = Vec::new();
    let keys: Vec<JobKey> = recent.keys().map(|key| (*key).clone()).collect();
    let stored = if keys.is_empty() { Vec::new() } else { ports.jobs.get(&keys).await? };
    for job in stored.into_iter().filter_map(|stored| stored.job.ok()) {
        if let Some((at, timing)) = recent.get(&job.key()).and_then(|record| record.due.clone())
            && at <= now
            && timing == job.timing()
        {
            entries.push(Due { at, key: job.key(), timing });
        }
    }
    let mut parts: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for key in returned.keys() {
        parts.entry(part_of(key)).or_default().push(key.to_string());
    }
    // Marked first: the absence is the reason of the firings that the entries make the scheduler find.
    for (part, keys) in parts {
        let mark = |removed: &mut RemovedJobs| {
            for key in &keys {
                if let Some(record) = removed.0.get_mut(key) {
                    record.returned_at = Some(now);
                }
            }
            true
        };
        change_part(ports, part, mark).await?;
    }
    if let Some(first) = entries.iter().map(|entry| entry.at).min() {
        for batch in entries.chunks(BATCH_JOBS) {
            ports.due.put(batch).await?;
        }
        tick_progress::read_again_from(ports, first).await?;
    }
    Ok(())
}

/// Forgets a removed job. Returns whether there was one.
pub(crate) async fn forget(ports: &Ports, key: &JobKey) -> Result<bool> {
    let was_away = find(ports, std::iter::once(key.clone())).await?.contains_key(key);
    let name = key.to_string();
    change_part(ports, part_of(key), |removed| removed.0.remove(&name).is_some()).await?;
    Ok(was_away)
}

/// Sets the alert state of a deleted job to that of a new one.
pub(crate) async fn reset_alert_state(ports: &Ports, key: &JobKey) -> Result<()> {
    for _ in 0..CONFLICTS_MAX {
        let before = ports.alerts.state(key).await?;
        // Kept: the latest start guards runs that are still open.
        let state = JobState { last_started: before.record.last_started.clone(), ..JobState::default() };
        if state == before.record {
            return Ok(());
        }
        let change = StateChange { key: key.clone(), expected: before.version, state };
        if ports.alerts.raise(&AlertStep { state: Some(change), transitions: Vec::new() }).await? {
            return Ok(());
        }
    }
    Err(Error::Conflict(format!("the alert state of {key}")))
}

/// Forgets the jobs of one part that were removed longer than `age_max` ago: their runs are deleted too.
pub(crate) async fn forget_old(ports: &Ports, part: u32, age_max: Duration, now: Timestamp) -> Result<()> {
    let is_old = |record: &RemovedJob| match record.returned_at {
        Some(returned_at) => elapsed_since(returned_at, now) > ABSENCE_KEPT,
        None => elapsed_since(record.at, now) > age_max,
    };
    let records = read_part(ports, part).await?.value.0;
    let gone = records.iter().filter(|(_, record)| is_old(record) && record.returned_at.is_none());
    let keys: Vec<JobKey> = gone.filter_map(|(name, _)| JobKey::parse(name).ok()).collect();
    let stored = if keys.is_empty() { Vec::new() } else { ports.jobs.get(&keys).await? };
    // A job that an operator stored again since has a state of its own.
    for key in keys.iter().filter(|key| !stored.iter().any(|stored| stored.key == **key)) {
        reset_alert_state(ports, key).await?;
    }
    let forget = |removed: &mut RemovedJobs| {
        let before = removed.0.len();
        removed.0.retain(|_, record| !is_old(record));
        removed.0.len() < before
    };
    change_part(ports, part, forget).await?;
    Ok(())
}

/// A value with every field, for the test of the stored format.
#[cfg(test)]
pub(crate) fn sample(at: Timestamp) -> RemovedJobs {
    let paused = Some(Pause::new(at, None, "noise"));
    let record = RemovedJob {
        at,
        schedule: "@every 7m".to_owned(),
        anchor: Some(at),
        paused,
        due: Some((at, "0123456789abcdef".to_owned())),
        returned_at: Some(at),
    };
    RemovedJobs(BTreeMap::from([("db/dump".to_owned(), record)]))
}
