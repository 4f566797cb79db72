//! Computes due entries again when the tzdata changed: with new rules a firing may be earlier than its stored entry.
//! What lies in the past is treated as missed while down. Called by a tick before it reads the due index.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::job::{Job, JobKey};
use domain::ports::{Due, Ports, RunQuery};
use domain::run::RunId;
use domain::zones::{self, zone_named};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Tick;
use super::due_scan::CHUNK_MAX;
use crate::Result;
use crate::new_runs::{next_due_entry, saturating_sub, schedule_of};
use crate::settings;
use crate::sweep::PAGE_MAX;

/// The setting with the digests of the zones in use.
pub(crate) const ZONES: &str = "zones";

/// How far before the last tick a firing is computed again. Chosen: more than any zone can move, which is 26 hours from
/// one side of the date line to the other.
const MOVE_MAX: Duration = Duration::from_secs(26 * 3600);

/// Runs read to find the job's last scheduled one. Chosen: between two firings there are rarely more manual starts.
const RUNS_READ_MAX: usize = 20;

/// `zones`: the data of the zones that jobs use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ZoneDigests {
    /// The tzdata that the digests are from; empty before the first tick.
    pub(crate) tzdata: String,
    /// [`zones::digest`] by name.
    pub(crate) zones: BTreeMap<String, String>,
}

/// Digests of zones, each computed once.
#[derive(Default)]
struct DigestCache(BTreeMap<String, String>);

impl DigestCache {
    /// `None` for UTC, which has no data, and for an unknown zone, whose job is alerted elsewhere.
    fn digest(&mut self, name: &str) -> Option<&str> {
        if name != "UTC" && !self.0.contains_key(name) {
            self.0.insert(name.to_owned(), zones::digest(&zone_named(name).ok()?));
        }
        self.0.get(name).map(String::as_str)
    }
}

/// Adds zones that jobs use since the last change of the tzdata. Called by the sweep, with all jobs' zones.
pub(crate) async fn record_zones<'z>(ports: &Ports, in_use: impl Iterator<Item = &'z str>) -> Result<()> {
    let mut known = settings::read::<ZoneDigests>(ports, ZONES).await?;
    // Otherwise the next tick computes all of them.
    if known.value.tzdata != zones::release().identity() {
        return Ok(());
    }
    let mut cache = DigestCache::default();
    let before = known.value.zones.len();
    for name in in_use {
        if !known.value.zones.contains_key(name)
            && let Some(digest) = cache.digest(name)
        {
            known.value.zones.insert(name.to_owned(), digest.to_owned());
        }
    }
    if known.value.zones.len() > before {
        // A conflict is ignored: the next sweep repeats it.
        known.write(ports).await?;
    }
    Ok(())
}

impl Tick<'_> {
    /// Computes the due entries of all jobs whose zone data changed, and fires those in the past.
    pub(super) async fn follow_zone_changes(&mut self, tzdata: &str) -> Result<()> {
        let ports = self.ports;
        let mut known = settings::read::<ZoneDigests>(ports, ZONES).await?;
        let (mut cache, mut after) = (DigestCache::default(), None);
        // At the first tick there is nothing to compare with; the sweep records the zones.
        while !known.value.tzdata.is_empty() {
            let page = ports.jobs.list(None, after.as_ref(), PAGE_MAX).await?;
            let mut entries = Vec::new();
            for job in page.records.iter().filter_map(|stored| stored.job.as_ref().ok()) {
                let Some(digest) = cache.digest(&job.zone) else { continue };
                // A zone without a digest is in use since the last sweep.
                if known.value.zones.get(&job.zone).map(String::as_str) != Some(digest) {
                    entries.extend(self.moved_entry(job).await?);
                }
            }
            self.put_and_fire(entries).await?;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        known.value = ZoneDigests { tzdata: tzdata.to_owned(), zones: cache.0 };
        known.write(ports).await?;
        Ok(())
    }

    /// The first firing that no tick has processed, by the new rules.
    async fn moved_entry(&self, job: &Job) -> Result<Option<Due>> {
        let Ok(schedule) = schedule_of(job) else { return Ok(None) };
        let now = self.context.now;
        let earliest = self.context.ticked_at.map(|ticked_at| saturating_sub(ticked_at, MOVE_MAX));
        let from = [earliest, job.anchor].into_iter().flatten().max().unwrap_or(now).min(now);
        let entry = next_due_entry(job, &schedule, from);
        if entry.as_ref().is_none_or(|entry| entry.at > now) {
            return Ok(entry);
        }
        let last = last_scheduled(self.ports, &job.key()).await?.unwrap_or(from);
        Ok(next_due_entry(job, &schedule, from.max(last).min(now)))
    }

    async fn put_and_fire(&mut self, entries: Vec<Due>) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        tracing::info!(jobs = entries.len(), "zone data changed; due entries were computed again");
        // Those in the past are stored too: if firing them fails, the next tick finds them.
        self.ports.due.put(&entries).await?;
        let late: Vec<Due> = entries.into_iter().filter(|entry| entry.at <= self.context.now).collect();
        self.put_late_before = Some(Timestamp::MAX);
        for chunk in late.chunks(CHUNK_MAX) {
            self.fire_entries(chunk.to_vec()).await?;
        }
        self.put_late_before = None;
        for entry in std::mem::take(&mut self.left) {
            self.progress.leave_all(entry.at);
        }
        Ok(())
    }
}

/// The nominal time of the job's latest run that its schedule started, held, skipped or missed.
async fn last_scheduled(ports: &Ports, key: &JobKey) -> Result<Option<Timestamp>> {
    let page = ports.runs.list(&RunQuery::of_job(key), None, RUNS_READ_MAX).await?;
    let nominals = page.records.iter().map(|stored| (&stored.record.run_id, stored.record.nominal));
    Ok(nominals.filter(|(run_id, nominal)| **run_id == RunId::scheduled(key, *nominal)).map(|(_, at)| at).max())
}
