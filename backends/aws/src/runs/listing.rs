//! Lists runs, newest first: runs of a job through the index by job, open runs through the open buckets, all others
//! through the known buckets.

use std::collections::BTreeSet;

use domain::ports::{Cursor, Page, PortResult, RunFilter, RunQuery, Stored};
use domain::run::{Run, RunKey};
use jiff::Timestamp;

use super::{RUNS, item_key};
use crate::Backend;
use crate::buckets::Bucket;
use crate::dynamo::{Query, run_parallel};
use crate::item::{Item, s, text_at};
use crate::tables::{JOB_KEY, RUNS_BY_JOB};

/// Keys of one read of the index; each run is then read by its key. Chosen: two batches of BatchGetItem.
const INDEX_KEYS_MAX: usize = 200;

/// Run ids of a listing: from `from` on, up to but without `before`.
#[derive(Clone, Debug)]
struct Bounds {
    from: String,
    before: String,
}

impl Bounds {
    fn new(query: &RunQuery, after: Option<&Cursor>) -> Bounds {
        let from = query.since.map_or_else(|| "0".to_owned(), first_run_id_at);
        let until = query.until.map_or_else(|| "9".to_owned(), first_run_id_at);
        let before = after.map_or(until.clone(), |after| until.min(after.0.clone()));
        Bounds { from, before }
    }

    fn contain(&self, name: &str) -> bool {
        *name >= *self.from && *name < *self.before
    }

    /// Whether every run of the bucket is within the bounds.
    fn contain_bucket(&self, bucket: &Bucket) -> bool {
        self.from <= bucket.tens && self.before > format!("{}~", bucket.tens)
    }
}

/// Returns a text that sorts before the ids of all runs of this instant, rounded up to a second, and after those of
/// earlier runs.
fn first_run_id_at(at: Timestamp) -> String {
    let second = at.as_second() + i64::from(at.subsec_nanosecond() > 0);
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX).strftime("%Y%m%dT%H%M%SZ").to_string()
}

impl Backend {
    pub(super) async fn list_runs(
        &self,
        query: &RunQuery,
        after: Option<&Cursor>,
        most: usize,
    ) -> PortResult<Page<Stored<Run>>> {
        let bounds = Bounds::new(query, after);
        if bounds.from >= bounds.before {
            return Ok(Page { records: Vec::new(), next: None });
        }
        let records = match (&query.run_id, &query.group, &query.job) {
            (Some(_), ..) => self.read_by_id(query, &bounds).await?,
            (None, Some(group), Some(job)) => {
                self.list_of_job(query, &domain::job::JobKey::new(group, job), bounds, most).await?
            }
            (None, ..) if query.filter == RunFilter::Open => self.list_open(query, &bounds, most).await?,
            (None, ..) => self.list_of_known_buckets(query, &bounds, most).await?,
        };
        let next = records.last().filter(|_| records.len() >= most).map(|last| Cursor(last.record.run_id.0.clone()));
        Ok(Page { records, next })
    }

    /// Reads the run of an id, strongly consistent: from each group that had runs at that time.
    async fn read_by_id(&self, query: &RunQuery, bounds: &Bounds) -> PortResult<Vec<Stored<Run>>> {
        let Some(run_id) = query.run_id.clone().filter(|run_id| bounds.contain(run_id.as_str())) else {
            return Ok(Vec::new());
        };
        let tens = Bucket::of(&RunKey::new("", run_id.clone()))?.tens;
        let (buckets, _) = self.read_known_buckets(&tens, &tens, None).await?;
        let groups: BTreeSet<String> = buckets.into_iter().map(|bucket| bucket.group).collect();
        let keys = groups.into_iter().map(|group| item_key(&RunKey::new(group, run_id.clone())));
        let items = self.dynamo.batch_get(RUNS, keys.collect::<PortResult<_>>()?).await?;
        let mut runs = self.parse_runs(items).await?;
        runs.retain(|stored| matches(query, &stored.record));
        Ok(runs)
    }

    /// Lists runs of one job. The index holds only keys, so each run is then read by its key.
    async fn list_of_job(
        &self,
        query: &RunQuery,
        key: &domain::job::JobKey,
        mut bounds: Bounds,
        most: usize,
    ) -> PortResult<Vec<Stored<Run>>> {
        if query.filter == RunFilter::Open {
            // Open runs are only in open buckets.
            let stored = self.read_open_buckets().await?;
            let Some(oldest) = stored.open.into_iter().find(|bucket| bucket.group == key.group) else {
                return Ok(Vec::new());
            };
            bounds.from = bounds.from.max(oldest.tens);
        }
        let mut names = Query {
            index: Some(RUNS_BY_JOB),
            condition: format!("#{JOB_KEY} = :job AND #run_id BETWEEN :from AND :before"),
            values: vec![(":job", s(key.to_string())), (":from", s(&bounds.from)), (":before", s(&bounds.before))],
            newest_first: true,
            limit: Some(most.clamp(1, INDEX_KEYS_MAX)),
            ..Query::default()
        };
        let mut records: Vec<Stored<Run>> = Vec::new();
        loop {
            let found = self.dynamo.query(RUNS, names.clone()).await?;
            let keys =
                found.items.iter().filter_map(|item| text_at(item, "run_id")).filter(|name| bounds.contain(name));
            let keys = keys.map(|name| item_key(&RunKey::new(&key.group, domain::run::RunId(name.to_owned()))));
            let items = self.dynamo.batch_get(RUNS, keys.collect::<PortResult<_>>()?).await?;
            let mut runs = self.parse_runs(items).await?;
            runs.retain(|stored| matches(query, &stored.record));
            runs.sort_by(newest_first);
            records.extend(runs);
            if records.len() >= most || found.next.is_none() {
                records.truncate(most);
                return Ok(records);
            }
            names.start = found.next;
        }
    }

    /// Lists open runs, and marks or removes open buckets that have none.
    async fn list_open(&self, query: &RunQuery, bounds: &Bounds, most: usize) -> PortResult<Vec<Stored<Run>>> {
        let stored = self.read_open_buckets().await?;
        let wanted = |bucket: &&Bucket| query.group.as_ref().is_none_or(|group| *group == bucket.group);
        let buckets: Vec<Bucket> = stored.open.iter().rev().filter(wanted).cloned().collect();
        let (now, mut records, mut ended) = (Timestamp::now(), Vec::new(), Vec::new());
        for same_tens in buckets.chunk_by(|a, b| a.tens == b.tens) {
            let found = self.read_buckets(query, bounds, same_tens, usize::MAX).await?;
            for (bucket, found) in same_tens.iter().zip(found) {
                if found.is_empty() && bounds.contain_bucket(bucket) && bucket.is_over(now) {
                    ended.push(bucket.clone());
                }
                records.extend(found);
            }
            if records.len() >= most {
                break;
            }
        }
        self.close_buckets(&stored, &ended).await?;
        let mut runs = self.parse_runs(records).await?;
        runs.sort_by(newest_first);
        runs.truncate(most);
        Ok(runs)
    }

    async fn list_of_known_buckets(
        &self,
        query: &RunQuery,
        bounds: &Bounds,
        most: usize,
    ) -> PortResult<Vec<Stored<Run>>> {
        let (mut records, mut start): (Vec<Stored<Run>>, Option<Item>) = (Vec::new(), None);
        loop {
            let (mut buckets, next) = self.read_known_buckets(&bounds.from, &bounds.before, start).await?;
            buckets.retain(|bucket| query.group.as_ref().is_none_or(|group| *group == bucket.group));
            for same_tens in buckets.chunk_by(|a, b| a.tens == b.tens) {
                let left = most - records.len();
                let found = self.read_buckets(query, bounds, same_tens, left).await?;
                let mut runs = self.parse_runs(found.into_iter().flatten().collect()).await?;
                runs.sort_by(newest_first);
                runs.truncate(left);
                records.extend(runs);
                if records.len() >= most {
                    return Ok(records);
                }
            }
            if next.is_none() {
                return Ok(records);
            }
            start = next;
        }
    }

    /// Reads up to `most` matching items of each bucket, newest first.
    async fn read_buckets(
        &self,
        query: &RunQuery,
        bounds: &Bounds,
        buckets: &[Bucket],
        most: usize,
    ) -> PortResult<Vec<Vec<Item>>> {
        let (this, which, bounds) = (self.clone(), query.filter, bounds.clone());
        let read = move |bucket: Bucket| {
            let (this, bounds) = (this.clone(), bounds.clone());
            async move { this.read_bucket(which, &bounds, &bucket, most).await }
        };
        run_parallel(buckets.to_vec(), read).await
    }

    async fn read_bucket(
        &self,
        which: RunFilter,
        bounds: &Bounds,
        bucket: &Bucket,
        most: usize,
    ) -> PortResult<Vec<Item>> {
        let (filter, value) = match which {
            RunFilter::All => ("", None),
            RunFilter::Open => ("#state <> :state", Some((":state", s("finished")))),
            RunFilter::Ended(outcome) => ("#outcome = :outcome", Some((":outcome", s(outcome.name())))),
        };
        let mut values =
            vec![(":bucket", s(bucket.partition())), (":from", s(&bounds.from)), (":before", s(&bounds.before))];
        values.extend(value);
        let mut query = Query {
            condition: "#bucket = :bucket AND #run_id BETWEEN :from AND :before".to_owned(),
            filter: filter.to_owned(),
            values,
            newest_first: true,
            // While a bucket still gets runs, the cheaper read is enough: the next one finds a run that this one
            // missed. Before a bucket is closed, no run may be missed.
            consistent: which != RunFilter::Open || bucket.is_over(Timestamp::now()),
            limit: (which == RunFilter::All && most < usize::MAX).then_some(most.saturating_add(1)),
            ..Query::default()
        };
        let mut items: Vec<Item> = Vec::new();
        loop {
            let found = self.dynamo.query(RUNS, query.clone()).await?;
            items.extend(
                found.items.into_iter().filter(|item| text_at(item, "run_id").is_some_and(|name| bounds.contain(name))),
            );
            if items.len() >= most || found.next.is_none() {
                items.truncate(most);
                return Ok(items);
            }
            query.start = found.next;
        }
    }
}

fn newest_first(a: &Stored<Run>, b: &Stored<Run>) -> std::cmp::Ordering {
    b.record.run_id.cmp(&a.record.run_id)
}

fn matches(query: &RunQuery, run: &Run) -> bool {
    let outcome = match query.filter {
        RunFilter::All => true,
        RunFilter::Open => run.is_open(),
        RunFilter::Ended(outcome) => run.outcome == Some(outcome),
    };
    outcome
        && query.group.as_ref().is_none_or(|group| *group == run.group)
        && query.job.as_ref().is_none_or(|job| *job == run.job)
}
