//! The due index: one partition per minute and shard. Entries are not deleted but expire, because a delete costs as
//! much as a write; a tick skips processed entries by the time at which they were written.
//!
//! The number of shards can change at any time. New entries are then spread over the new number. For 48 h, the shards
//! of the old number are read too: by then the sweep has rewritten the entry of every job.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use domain::job::JobKey;
use domain::ports::{Due, DueIndex, PortResult};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Backend;
use crate::dynamo::{Query, run_parallel};
use crate::item::{Item, n, s, sortable_instant, text_at};
use crate::tables::EXPIRES;

const DUE: &str = "due";

/// Shards of a new installation. Chosen: 2000 firings at once, for two reads per minute of the index.
pub const SHARDS_DEFAULT: u32 = 2;

/// Largest number of shards. Chosen: over 100,000 firings at once.
pub const SHARDS_MAX: u32 = 128;

/// How long the shards of the old number are read after a change. Chosen: the sweep rewrites all entries every 15 min,
/// and may be down for a day.
const OLD_SHARDS_READ_FOR: SignedDuration = SignedDuration::from_hours(48);

/// How long this process uses a number of shards before it reads it again. Chosen: one read every 30 s costs little.
const SHARDS_CACHED_FOR: Duration = Duration::from_secs(30);

/// An entry expires this long after its instant. Chosen: seven times the range that a first tick reads (a day).
const ENTRY_RETENTION: SignedDuration = SignedDuration::from_hours(7 * 24);

const SHARDS_SETTING: &str = "due_shards";

/// The number of shards, stored in the setting `due_shards`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Shards {
    /// Number of shards over which new entries are spread.
    pub now: u32,
    /// Largest number over which older entries may be spread.
    pub before: u32,
    /// Until then the shards of `before` are read as well.
    pub before_until: Option<Timestamp>,
}

impl Shards {
    /// Number of shards to read.
    fn count_to_read(&self, at: Timestamp) -> u32 {
        match self.before_until {
            Some(until) if at < until => self.now.max(self.before),
            _ => self.now,
        }
    }

    /// Returns the setting with another number from `at` on.
    fn with_count(&self, wanted: u32, at: Timestamp) -> Shards {
        let until = at.checked_add(OLD_SHARDS_READ_FOR).unwrap_or(Timestamp::MAX);
        Shards { now: wanted, before: self.count_to_read(at), before_until: Some(until) }
    }
}

/// The number of shards, as this process last read it.
#[derive(Debug)]
pub(crate) struct ShardCache {
    known: Mutex<(Shards, Option<std::time::Instant>)>,
}

impl ShardCache {
    pub(crate) fn new() -> ShardCache {
        let first = Shards { now: SHARDS_DEFAULT, before: SHARDS_DEFAULT, before_until: None };
        ShardCache { known: Mutex::new((first, None)) }
    }

    fn get(&self) -> Shards {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0.clone()
    }

    fn set(&self, shards: Shards) {
        *self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
            (shards, Some(std::time::Instant::now()));
    }

    fn is_fresh(&self) -> bool {
        let known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        known.1.is_some_and(|at| at.elapsed() < SHARDS_CACHED_FOR)
    }
}

#[async_trait]
impl DueIndex for Backend {
    fn shards(&self) -> u32 {
        self.shards.get().count_to_read(Timestamp::now())
    }

    async fn put(&self, entries: &[Due]) -> PortResult<()> {
        self.refresh_shards().await?;
        let shards = self.shards.get().now;
        let written = sortable_instant(Timestamp::now());
        let mut items: Vec<(String, Item)> =
            entries.iter().map(|entry| (entry_sort_key(entry), entry_to_item(entry, shards, &written))).collect();
        // DynamoDB refuses a batch that names an item twice.
        items.sort_by(|a, b| a.0.cmp(&b.0));
        items.dedup_by(|a, b| a.0 == b.0);
        self.dynamo.batch_put(DUE, items.into_iter().map(|(_, item)| item).collect()).await
    }

    async fn list(&self, shard: u32, from: Timestamp, until: Timestamp, most: usize) -> PortResult<Vec<Due>> {
        self.list_entries(shard, Start { at: from, job: None }, until, None, most).await
    }

    async fn list_from(
        &self,
        shard: u32,
        from: Timestamp,
        job: &JobKey,
        until: Timestamp,
        most: usize,
    ) -> PortResult<Vec<Due>> {
        self.list_entries(shard, Start { at: from, job: Some(job.clone()) }, until, None, most).await
    }

    async fn list_late(
        &self,
        shard: u32,
        from: Timestamp,
        until: Timestamp,
        written_since: Timestamp,
        most: usize,
    ) -> PortResult<Vec<Due>> {
        self.list_entries(shard, Start { at: from, job: None }, until, Some(written_since), most).await
    }

    /// Does nothing: entries expire.
    async fn remove(&self, _entries: &[Due]) -> PortResult<()> {
        Ok(())
    }
}

impl Backend {
    /// Reads the number of shards if it was read more than [`SHARDS_CACHED_FOR`] ago.
    pub(crate) async fn refresh_shards(&self) -> PortResult<()> {
        if !self.shards.is_fresh() {
            let (shards, _) = self.read_shards().await?;
            self.shards.set(shards);
        }
        Ok(())
    }

    async fn read_shards(&self) -> PortResult<(Shards, Option<u64>)> {
        let stored = domain::ports::Settings::read(self, SHARDS_SETTING).await?;
        let version = stored.as_ref().map(|stored| stored.version);
        let shards = stored.and_then(|stored| serde_json::from_value(stored.record).ok());
        Ok((shards.filter(|shards: &Shards| shards.now > 0).unwrap_or_else(|| ShardCache::new().get()), version))
    }

    /// Sets the number of shards for all processes, from `at` on.
    pub(crate) async fn change_shards(&self, wanted: u32, at: Timestamp) -> PortResult<()> {
        loop {
            let (shards, version) = self.read_shards().await?;
            if version.is_some() && shards.now == wanted {
                self.shards.set(shards);
                return Ok(());
            }
            let changed = shards.with_count(wanted, at);
            let value = serde_json::to_value(&changed).unwrap_or_default();
            if domain::ports::Settings::write(self, SHARDS_SETTING, &value, version).await? {
                self.shards.set(changed);
                return Ok(());
            }
        }
    }

    async fn list_entries(
        &self,
        shard: u32,
        from: Start,
        until: Timestamp,
        written_since: Option<Timestamp>,
        most: usize,
    ) -> PortResult<Vec<Due>> {
        if shard == 0 {
            self.refresh_shards().await?;
        }
        let mut found: Vec<Due> = Vec::new();
        let minutes: Vec<i64> = (minute_of(from.at)..=minute_of(until)).collect();
        for batch in minutes.chunks(crate::dynamo::PARALLEL_CALLS_MAX) {
            let (backend, from) = (self.clone(), from.clone());
            let read = move |minute: i64| {
                let (backend, from) = (backend.clone(), from.clone());
                async move { backend.list_minute(shard, minute, &from, until, written_since, most).await }
            };
            found.extend(run_parallel(batch.to_vec(), read).await?.into_iter().flatten());
            if found.len() >= most {
                break;
            }
        }
        found.sort_by_cached_key(entry_sort_key);
        found.truncate(most);
        Ok(found)
    }

    /// Reads the entries of one partition, earliest first.
    async fn list_minute(
        &self,
        shard: u32,
        minute: i64,
        from: &Start,
        until: Timestamp,
        written_since: Option<Timestamp>,
        most: usize,
    ) -> PortResult<Vec<Due>> {
        let mut query = Query {
            condition: "#slot = :slot AND #entry BETWEEN :from AND :until".to_owned(),
            values: vec![
                (":slot", s(slot_of(minute, shard))),
                (":from", s(from.sort_key())),
                // `$` sorts after `#`, so this includes all entries of the instant.
                (":until", s(format!("{}$", sortable_instant(until)))),
            ],
            consistent: true,
            limit: Some(most),
            ..Query::default()
        };
        if let Some(written_since) = written_since {
            query.filter = "#written >= :written".to_owned();
            query.values.push((":written", s(sortable_instant(written_since))));
        }
        let mut found = Vec::new();
        loop {
            let page = self.dynamo.query(DUE, query.clone()).await?;
            found.extend(page.items.iter().filter_map(entry_from_item));
            if page.next.is_none() || found.len() >= most {
                return Ok(found);
            }
            query.start = page.next;
        }
    }
}

/// Where a listing begins.
#[derive(Clone, Debug)]
struct Start {
    at: Timestamp,
    /// The first job of the instant; all when none.
    job: Option<JobKey>,
}

impl Start {
    fn sort_key(&self) -> String {
        let at = sortable_instant(self.at);
        self.job.as_ref().map_or(at.clone(), |job| format!("{at}#{job}#"))
    }
}

fn minute_of(at: Timestamp) -> i64 {
    at.as_second().div_euclid(60)
}

fn slot_of(minute: i64, shard: u32) -> String {
    let at = Timestamp::from_second(minute * 60).unwrap_or(Timestamp::MAX);
    format!("{}#{shard}", at.strftime("%Y-%m-%dT%H:%MZ"))
}

/// Returns the shard of a job.
fn shard_of(key: &JobKey, shards: u32) -> u32 {
    let digest = Sha256::digest(key.to_string());
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) % shards.max(1)
}

/// `#` separates the parts: it sorts before every character of a name.
fn entry_sort_key(entry: &Due) -> String {
    format!("{}#{}#{}", sortable_instant(entry.at), entry.key, entry.timing)
}

fn entry_to_item(entry: &Due, shards: u32, written: &str) -> Item {
    let expires = entry.at.checked_add(ENTRY_RETENTION).unwrap_or(entry.at).as_second();
    [
        ("slot", s(slot_of(minute_of(entry.at), shard_of(&entry.key, shards)))),
        ("entry", s(entry_sort_key(entry))),
        ("written", s(written)),
        (EXPIRES, n(expires)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// Returns none for an item that this module did not write.
fn entry_from_item(item: &Item) -> Option<Due> {
    let mut parts = text_at(item, "entry")?.splitn(3, '#');
    let at = parts.next()?.parse().ok()?;
    let key = JobKey::parse(parts.next()?).ok()?;
    Some(Due { at, key, timing: parts.next()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(1_795_420_200 + hour * 3600).unwrap()
    }

    #[test]
    fn after_a_change_the_shards_of_both_numbers_are_read_for_two_days() {
        let first = Shards { now: 2, before: 2, before_until: None };
        let more = first.with_count(8, at(0));
        assert_eq!((more.now, more.count_to_read(at(0)), more.count_to_read(at(100))), (8, 8, 8));
        let fewer = more.with_count(3, at(1));
        assert_eq!(
            (fewer.now, fewer.count_to_read(at(1)), fewer.count_to_read(at(48)), fewer.count_to_read(at(50))),
            (3, 8, 8, 3)
        );
        let four = fewer.with_count(4, at(2));
        assert_eq!((four.now, four.count_to_read(at(3)), four.count_to_read(at(51))), (4, 8, 4));
    }

    #[test]
    fn the_stored_number_of_shards_keeps_its_json() {
        let shards = Shards { now: 3, before: 8, before_until: Some(at(48)) };
        let text = r#"{"now":3,"before":8,"before_until":"2026-11-25T07:50:00Z"}"#;
        assert_eq!(serde_json::to_string(&shards).unwrap(), text);
        assert_eq!(serde_json::from_str::<Shards>(text).unwrap(), shards);
    }

    #[test]
    fn an_entry_survives_the_conversion_to_an_item_and_back() {
        let entry = Due { at: at(0), key: JobKey::new("db", "a.b-c_D"), timing: "0a1b".to_owned() };
        assert_eq!(entry_from_item(&entry_to_item(&entry, 4, "w")), Some(entry));
    }

    #[test]
    fn jobs_spread_over_the_shards() {
        let mut counts = [0; 4];
        for number in 0..1000 {
            counts[shard_of(&JobKey::new("db", format!("job-{number}")), 4) as usize] += 1;
        }
        assert!(counts.iter().all(|count| *count > 200), "{counts:?}");
    }
}
