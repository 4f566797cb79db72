//! Where runs are: a bucket is a group and ten minutes, by the nominal instant in a run's name.
//!
//! Two records in `settings` say which buckets there are. *Known* ones, an item for each day and group, are listed for
//! history. *Open* ones may hold runs that have not ended; they are what `overdue` looks through, so that no index of
//! open runs has to be written with every run.
//!
//! A bucket is opened before a run is put into it, and looked at again afterwards. It is closed in two passes: marked,
//! then, if all its runs are found ended *after* that and nobody has opened it since, taken away. A run that comes
//! between is seen by the second pass, or sees the mark and opens the bucket again.

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

/// Of a run's name `20261123T075000Z-...`: up to the tens of minutes.
const TENS_LENGTH: usize = 12;
const DAY_LENGTH: usize = 8;

/// A day's item outlives its runs.
const KNOWN_EXTRA_RETENTION: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Buckets that this process remembers to have made known. Ours: a day of a hundred groups.
const CACHED_BUCKETS_MAX: usize = 20_000;

/// Ten minutes of a group. Ordered as its runs are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket {
    /// `20261123T075`: what the names of its runs begin with.
    pub tens: String,
    pub group: String,
}

impl Bucket {
    /// # Errors
    /// That the run has no proper name.
    pub fn of(run: &RunKey) -> PortResult<Bucket> {
        if !RunId::is_valid(run.run_id.as_str()) {
            return Err(PortError::Permanent(format!("`{}` is not the name of a run", run.run_id)));
        }
        Ok(Bucket { tens: run.run_id.as_str()[..TENS_LENGTH].to_owned(), group: run.group.clone() })
    }

    /// The partition of its runs: a role may be let at all that begins with `GROUP#`.
    pub fn partition(&self) -> String {
        format!("{}#{}", self.group, self.tens)
    }

    fn parse(partition: &str) -> Option<Bucket> {
        let (group, tens) = partition.split_once('#')?;
        Some(Bucket { tens: tens.to_owned(), group: group.to_owned() })
    }

    fn day(&self) -> String {
        format!("{}#{}", &self.tens[..DAY_LENGTH.min(self.tens.len())], self.group)
    }

    /// Whether no scheduled run will come into it any more.
    pub fn is_over(&self, now: Timestamp) -> bool {
        // A minute of grace for a scheduler that is late.
        let before = now.checked_sub(SignedDuration::from_mins(1)).unwrap_or(now);
        self.tens.as_str() < &before.strftime("%Y%m%dT%H%M").to_string()[..TENS_LENGTH]
    }
}

/// The open buckets as they were read.
#[derive(Debug, Default)]
pub struct OpenBuckets {
    pub open: BTreeSet<Bucket>,
    pub closing: BTreeSet<Bucket>,
    version: u64,
}

impl OpenBuckets {
    fn is_open(&self, bucket: &Bucket) -> bool {
        self.open.contains(bucket) && !self.closing.contains(bucket)
    }
}

/// What this process has made known already.
#[derive(Debug, Default)]
pub struct KnownBuckets {
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

    /// Makes buckets known to those who list history.
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

    /// Opens those that are not open. Done before runs are put into them, and again afterwards.
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

    /// Takes a step towards closing buckets that were all found without open runs since `stored` was read.
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
            // Refused when anybody opened one meanwhile; the next pass looks again.
            condition: "#version = :version".to_owned(),
            values: vec![(":buckets", buckets), (":one", n(1)), (":version", n(stored.version))],
            return_item: false,
        };
        self.dynamo.update(SETTINGS, key(OPEN_KIND, OPEN_NAME), update).await?;
        Ok(())
    }

    /// Known buckets whose names lie in `from..=until`, newest first, some days at a time: those of whole days, and
    /// where to go on.
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
            // A day that the page ends within is not whole yet.
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
