//! Partitions of the runs table: a bucket holds the runs of one group in ten minutes, by nominal time. `settings` lists
//! the *known* buckets (an item per day and group, for history) and the *open* ones, which may hold runs without an
//! end. Listing open runs reads only open buckets, so no index of open runs has to be written with every run.
//!
//! A writer opens a bucket before it stores a run there, and checks afterwards that the bucket is still open. A bucket
//! is closed in two passes. The first pass marks it. The second pass removes it from the list if all its runs have
//! ended since then and no writer has opened it again. A run stored in between is found by the second pass, or its
//! writer finds the mark and opens the bucket again.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use domain::ports::{PortError, PortResult};
use domain::run::{RunId, RunKey};
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

use crate::Backend;
use crate::dynamo::{ItemUpdate, Query};
use crate::item::{Item, n, number_at, s, text_at};
use crate::settings::{SETTINGS, key};
use crate::tables::EXPIRES;

const KNOWN_KIND: &str = "runs_of_day";
const OPEN_KIND: &str = "runs_open";
const OPEN_NAME: &str = "all";

/// Characters of a run id, such as `20261123T075000Z-...`, up to the tens of minutes.
const TENS_LENGTH: usize = 12;
/// Characters of a run id up to the day.
const DAY_LENGTH: usize = 8;

/// A day's item expires this long after its runs. Chosen: DynamoDB deletes expired items late, within days.
const KNOWN_EXTRA_RETENTION: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Known buckets that this process remembers. Chosen: a day has 144 buckets per group, so this is a day of 138 groups.
const CACHED_BUCKETS_MAX: usize = 20_000;

/// Ten minutes of a group. Ordered by time, then group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Bucket {
    /// Start of the ids of its runs, such as `20261123T075`.
    pub tens: String,
    pub group: String,
}

impl Bucket {
    /// Returns an error if the run id is invalid.
    pub(crate) fn of(run: &RunKey) -> PortResult<Bucket> {
        if !RunId::is_valid(run.run_id.as_str()) {
            return Err(PortError::Permanent(format!("`{}` is not a run id", run.run_id)));
        }
        Ok(Bucket { tens: run.run_id.as_str()[..TENS_LENGTH].to_owned(), group: run.group.clone() })
    }

    /// Partition key of its runs. It begins with `GROUP#`, so a role can be limited to the runs of its group.
    pub(crate) fn partition(&self) -> String {
        format!("{}#{}", self.group, self.tens)
    }

    fn parse(partition: &str) -> Option<Bucket> {
        let (group, tens) = partition.split_once('#')?;
        Some(Bucket { tens: tens.to_owned(), group: group.to_owned() })
    }

    fn day(&self) -> String {
        format!("{}#{}", &self.tens[..DAY_LENGTH.min(self.tens.len())], self.group)
    }

    /// Whether no further scheduled run belongs into it.
    pub(crate) fn is_over(&self, now: Timestamp) -> bool {
        // One minute more, for a late scheduler.
        let before = now.checked_sub(SignedDuration::from_mins(1)).unwrap_or(now);
        self.tens.as_str() < &before.strftime("%Y%m%dT%H%M").to_string()[..TENS_LENGTH]
    }
}

/// The open buckets, with the version at which they were read.
#[derive(Debug, Default)]
pub(crate) struct OpenBuckets {
    pub open: BTreeSet<Bucket>,
    pub closing: BTreeSet<Bucket>,
    version: u64,
}

impl OpenBuckets {
    fn is_open(&self, bucket: &Bucket) -> bool {
        self.open.contains(bucket) && !self.closing.contains(bucket)
    }
}

/// Buckets that this process has already added to the known ones.
#[derive(Debug, Default)]
pub(crate) struct KnownBuckets {
    known: Mutex<HashSet<Bucket>>,
}

impl Backend {
    pub(crate) async fn read_open_buckets(&self) -> PortResult<OpenBuckets> {
        let Some(item) = self.dynamo.get(SETTINGS, key(OPEN_KIND, OPEN_NAME)).await? else {
            return Ok(OpenBuckets::default());
        };
        let set = |name: &str| match item.get(name) {
            Some(AttributeValue::Ss(texts)) => texts.iter().filter_map(|text| Bucket::parse(text)).collect(),
            _ => BTreeSet::new(),
        };
        Ok(OpenBuckets {
            open: set("open"),
            closing: set("closing"),
            version: number_at(&item, "version").unwrap_or(0),
        })
    }

    /// Adds buckets to the known ones, so that listings of history find them.
    pub(crate) async fn add_known_buckets(&self, buckets: &BTreeSet<Bucket>) -> PortResult<()> {
        let fresh: Vec<Bucket> = {
            let known = self.known_buckets.known.lock().unwrap_or_else(PoisonError::into_inner);
            buckets.iter().filter(|bucket| !known.contains(*bucket)).cloned().collect()
        };
        let mut by_day: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for bucket in &fresh {
            by_day.entry(bucket.day()).or_default().push(bucket.tens[DAY_LENGTH..].to_owned());
        }
        for (day, tens) in by_day {
            let expires = expires_of_day(&day, self.retention);
            let update = ItemUpdate {
                expression: format!("ADD #tens :tens SET #{EXPIRES} = :expires"),
                values: vec![(":tens", AttributeValue::Ss(tens)), (":expires", n(expires))],
                ..ItemUpdate::default()
            };
            self.dynamo.update(SETTINGS, key(KNOWN_KIND, &day), update).await?;
        }
        let mut known = self.known_buckets.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() > CACHED_BUCKETS_MAX {
            known.clear();
        }
        known.extend(fresh);
        Ok(())
    }

    /// Opens the buckets that are not open. Called before runs are stored in them, and again afterwards.
    pub(crate) async fn open_buckets(&self, buckets: &BTreeSet<Bucket>) -> PortResult<()> {
        if buckets.is_empty() {
            return Ok(());
        }
        let stored = self.read_open_buckets().await?;
        let closed: Vec<String> =
            buckets.iter().filter(|bucket| !stored.is_open(bucket)).map(Bucket::partition).collect();
        if closed.is_empty() {
            return Ok(());
        }
        let update = ItemUpdate {
            expression: "ADD #open :closed, #version :one DELETE #closing :closed".to_owned(),
            values: vec![(":closed", AttributeValue::Ss(closed)), (":one", n(1))],
            ..ItemUpdate::default()
        };
        self.dynamo.update(SETTINGS, key(OPEN_KIND, OPEN_NAME), update).await?;
        Ok(())
    }

    /// Marks or removes buckets in which no open run was found after `stored` was read.
    pub(crate) async fn close_buckets(&self, stored: &OpenBuckets, ended: &[Bucket]) -> PortResult<()> {
        let (marked, unmarked): (Vec<&Bucket>, Vec<&Bucket>) =
            ended.iter().partition(|bucket| stored.closing.contains(*bucket));
        let names = |buckets: &[&Bucket]| AttributeValue::Ss(buckets.iter().map(|bucket| bucket.partition()).collect());
        let (expression, buckets) = match (marked.is_empty(), unmarked.is_empty()) {
            (false, _) => ("DELETE #open :buckets, #closing :buckets ADD #version :one", names(&marked)),
            (true, false) => ("ADD #closing :buckets, #version :one", names(&unmarked)),
            (true, true) => return Ok(()),
        };
        let update = ItemUpdate {
            expression: expression.to_owned(),
            // Refused if a writer has opened a bucket since then; the next pass checks again.
            condition: "#version = :version".to_owned(),
            values: vec![(":buckets", buckets), (":one", n(1)), (":version", n(stored.version))],
            return_item: false,
        };
        self.dynamo.update(SETTINGS, key(OPEN_KIND, OPEN_NAME), update).await?;
        Ok(())
    }

    /// Returns known buckets whose names are in `from..=until`, newest first, several whole days at a time, and the
    /// start of the next call.
    pub(crate) async fn read_known_buckets(
        &self,
        from: &str,
        until: &str,
        start: Option<Item>,
    ) -> PortResult<(Vec<Bucket>, Option<Item>)> {
        let day = |tens: &str, filler: char| {
            let mut day = tens[..DAY_LENGTH.min(tens.len())].to_owned();
            day.push(filler);
            day
        };
        let query = Query {
            condition: "#kind = :kind AND #name BETWEEN :from AND :until".to_owned(),
            values: vec![(":kind", s(KNOWN_KIND)), (":from", s(day(from, '#'))), (":until", s(day(until, '$')))],
            newest_first: true,
            consistent: true,
            start,
            ..Query::default()
        };
        let mut query = query;
        let mut items = Vec::new();
        loop {
            let page = self.dynamo.query(SETTINGS, query.clone()).await?;
            items.extend(page.items);
            // The last day of a page may be incomplete.
            let days: BTreeSet<&str> = items.iter().filter_map(|item| day_in_name(item)).collect();
            match (page.next, days.len()) {
                (None, _) => return Ok((parse_buckets(&items, from, until), None)),
                (Some(_), 2..) => {
                    let last = days.first().map(|day| (*day).to_owned()).unwrap_or_default();
                    items.retain(|item| day_in_name(item).is_some_and(|day| day != last));
                    let next = items.last().and_then(|item| Some(key(KNOWN_KIND, text_at(item, "name")?)));
                    return Ok((parse_buckets(&items, from, until), next));
                }
                (next, _) => query.start = next,
            }
        }
    }
}

fn day_in_name(item: &Item) -> Option<&str> {
    text_at(item, "name")?.split('#').next()
}

fn parse_buckets(items: &[Item], from: &str, until: &str) -> Vec<Bucket> {
    let mut buckets = Vec::new();
    for item in items {
        let Some((day, group)) = text_at(item, "name").and_then(|name| name.split_once('#')) else { continue };
        let Some(AttributeValue::Ss(tens)) = item.get("tens") else { continue };
        buckets.extend(tens.iter().map(|tens| Bucket { tens: format!("{day}{tens}"), group: group.to_owned() }));
    }
    buckets.retain(|bucket| *bucket.tens >= from[..TENS_LENGTH.min(from.len())] && *bucket.tens <= *until);
    buckets.sort();
    buckets.reverse();
    buckets
}

fn expires_of_day(day: &str, retention: Duration) -> i64 {
    let midnight = Date::strptime("%Y%m%d", &day[..DAY_LENGTH.min(day.len())])
        .and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC))
        .map_or(Timestamp::MAX, |midnight| midnight.timestamp());
    let retention =
        SignedDuration::try_from(retention).unwrap_or(SignedDuration::MAX).saturating_add(KNOWN_EXTRA_RETENTION);
    midnight.checked_add(retention).unwrap_or(Timestamp::MAX).as_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_ten_minutes_of_a_group() {
        let run_id = RunId("20261123T075959Z-3f9a1c0e7b2d".to_owned());
        let bucket = Bucket::of(&RunKey::new("db", run_id)).unwrap();
        assert_eq!((bucket.partition().as_str(), bucket.day().as_str()), ("db#20261123T075", "20261123#db"));
        assert_eq!(Bucket::parse(&bucket.partition()), Some(bucket.clone()));
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert!(!bucket.is_over(at("2026-11-23T08:00:59Z")));
        assert!(bucket.is_over(at("2026-11-23T08:01:00Z")));
        assert!(Bucket::of(&RunKey::new("db", RunId("x".to_owned()))).is_err());
    }

    #[test]
    fn the_item_of_a_day_expires_a_week_after_its_runs() {
        let day = expires_of_day("20261123#db", Duration::from_secs(86_400));
        assert_eq!(Timestamp::from_second(day).unwrap().to_string(), "2026-12-01T00:00:00Z");
    }
}
