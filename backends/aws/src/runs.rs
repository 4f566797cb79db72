//! The runs. A healthy one costs two write units to put (itself and its entry in the index by job), and one for each move.

mod listing;

use std::collections::BTreeSet;

use async_trait::async_trait;
use domain::ledger::Ledger;
use domain::ports::{Cursor, Page, PortError, PortResult, RunQuery, RunStore, RunWrite, Stored, Written};
use domain::run::{Run, RunKey};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::Backend;
use crate::alerts::{StepParts, without_known};
use crate::buckets::Bucket;
use crate::dynamo::{Changed, Part, Transacted, in_parallel};
use crate::item::{Item, instant, item_of, n, object_of, s, text, whole};
use crate::tables::{EXPIRES, JOB_KEY};

pub const RUNS: &str = "runs";

/// Runs counted together.
const COUNT_PAGE: usize = 1000;

/// Numbers that are left out where they are 0: a healthy run fits into one write unit of 1 KiB.
const COUNTS: [&str; 6] = ["stdout_lines", "stderr_lines", "stdout_bytes", "stderr_bytes", "last_seq", "dropped_lines"];

/// Lists that are left out where they are empty.
const LISTS: [&str; 2] = ["leaked", "rules"];

#[async_trait]
impl RunStore for Backend {
    async fn get(&self, runs: &[RunKey]) -> PortResult<Vec<Stored<Run>>> {
        let wanted: BTreeSet<&RunKey> = runs.iter().collect();
        let keys = wanted.into_iter().map(key_of).collect::<PortResult<Vec<_>>>()?;
        let items = self.dynamo.batch_get(RUNS, keys).await?;
        self.readable(items).await
    }

    async fn write(&self, writes: &[RunWrite]) -> PortResult<Vec<Written>> {
        let created = |write: &&RunWrite| write.expected.is_none();
        let bucket = |write: &RunWrite| Bucket::of(&write.run.run_key());
        let known = writes.iter().filter(created).map(bucket).collect::<PortResult<BTreeSet<_>>>()?;
        let open = writes.iter().filter(created).filter(|write| write.run.is_open());
        let open = open.map(bucket).collect::<PortResult<BTreeSet<_>>>()?;
        self.make_known(&known).await?;
        self.make_open(&open).await?;
        let this = self.clone();
        let write = move |write: RunWrite| {
            let this = this.clone();
            async move { this.write_one(&write).await }
        };
        let written = in_parallel(writes.to_vec(), write).await;
        // Somebody may have closed one before its first run was there to be seen.
        self.make_open(&open).await?;
        written
    }

    async fn list(&self, query: &RunQuery, after: Option<&Cursor>, most: usize) -> PortResult<Page<Stored<Run>>> {
        self.list_runs(query, after, most).await
    }

    async fn count(&self, query: &RunQuery) -> PortResult<Ledger> {
        let (mut ledger, mut after) = (Ledger::default(), None);
        loop {
            let page = self.list_runs(query, after.as_ref(), COUNT_PAGE).await?;
            for stored in &page.records {
                ledger.scheduled += 1;
                match stored.record.outcome {
                    Some(outcome) if !stored.record.is_open() => *ledger.outcomes.entry(outcome).or_default() += 1,
                    _ => ledger.open += 1,
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(ledger);
            }
        }
    }

    async fn remove(&self, runs: &[RunKey]) -> PortResult<()> {
        let wanted: BTreeSet<&RunKey> = runs.iter().collect();
        let keys = wanted.into_iter().map(key_of).collect::<PortResult<Vec<_>>>()?;
        self.dynamo.batch_delete(RUNS, keys).await
    }
}

impl Backend {
    async fn write_one(&self, write: &RunWrite) -> PortResult<Written> {
        let item = item_of_run(&write.run, write.expected.unwrap_or(0) + 1, self.kept)?;
        let (condition, values) = match write.expected {
            None => ("attribute_not_exists(#run_id)", vec![]),
            Some(version) => ("#version = :version", vec![(":version", n(version))]),
        };
        let stop = self.stop_part(&write.run).await?;
        let mut step = StepParts::of(write.alert.as_ref(), self.kept)?;
        if stop.is_none() && step.is_empty() {
            return match self.dynamo.put(RUNS, item, condition, values).await? {
                Changed::Done(_) => Ok(Written::Done),
                Changed::Refused(old) => self.conflict(old).await,
            };
        }
        loop {
            let run =
                Part::Put { table: RUNS, item: item.clone(), condition: condition.to_owned(), values: values.clone() };
            let parts: Vec<Part> = [run].into_iter().chain(stop.clone()).chain(step.parts()).collect();
            let before = 1 + usize::from(stop.is_some());
            let mut refused = match self.dynamo.transact(parts).await? {
                Transacted::Done => return Ok(Written::Done),
                Transacted::Refused(refused) => refused,
            };
            let of_step = refused.split_off(before.min(refused.len()));
            if step.state_is_refused(&of_step) {
                return Ok(Written::AlertConflict);
            }
            if let Some(Some(old)) = refused.into_iter().next() {
                return self.conflict(old).await;
            }
            // Transitions that are there already stay as they are.
            step = without_known(step, &of_step)?;
        }
    }

    async fn conflict(&self, old: Option<Item>) -> PortResult<Written> {
        let stored = match old {
            Some(item) => self.readable(vec![item]).await?.pop().map(Box::new),
            None => None,
        };
        Ok(Written::Conflict(stored))
    }

    /// The runs of items; one that cannot be read is left out and noted.
    pub(crate) async fn readable(&self, items: Vec<Item>) -> PortResult<Vec<Stored<Run>>> {
        let mut runs = Vec::with_capacity(items.len());
        for item in items {
            match run_of(&item) {
                Ok(run) => runs.push(run),
                Err(why) => self.note("run", text(&item, "run_id").unwrap_or("without a name"), &why).await,
            }
        }
        Ok(runs)
    }
}

pub fn key_of(run: &RunKey) -> PortResult<Item> {
    let bucket = Bucket::of(run)?.partition();
    Ok(Item::from([("bucket".to_owned(), s(bucket)), ("run_id".to_owned(), s(run.run_id.as_str()))]))
}

fn item_of_run(run: &Run, version: u64, kept: std::time::Duration) -> PortResult<Item> {
    let mut value = serde_json::to_value(run)
        .map_err(|error| PortError::Permanent(format!("run {} cannot be written as json: {error}", run.run_id)))?;
    if let Value::Object(fields) = &mut value {
        fields.retain(|name, value| {
            let is_zero = COUNTS.contains(&name.as_str()) && value.as_u64() == Some(0);
            let is_empty = LISTS.contains(&name.as_str()) && value.as_array().is_some_and(Vec::is_empty);
            !is_zero && !is_empty
        });
    }
    let mut item = item_of(&value)?;
    item.extend(key_of(&run.run_key())?);
    item.insert(JOB_KEY.to_owned(), s(run.key().to_string()));
    item.insert("version".to_owned(), n(version));
    // Compared by the claim, as a text.
    if let Some(start_by) = run.start_by {
        item.insert("start_by".to_owned(), s(instant(start_by)));
    }
    let kept = SignedDuration::try_from(kept).unwrap_or(SignedDuration::MAX);
    let expires = run.nominal.checked_add(kept).unwrap_or(Timestamp::MAX);
    item.insert(EXPIRES.to_owned(), n(expires.as_second()));
    Ok(item)
}

/// The run of an item, or one sentence why it cannot be read.
pub fn run_of(item: &Item) -> Result<Stored<Run>, String> {
    let mut value = object_of(item)?;
    if let Value::Object(fields) = &mut value {
        for count in COUNTS {
            fields.entry(count).or_insert(Value::from(0));
        }
    }
    let record = serde_json::from_value(value).map_err(|error| format!("the stored run cannot be read: {error}"))?;
    Ok(Stored { record, version: whole(item, "version").unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use domain::job::JobKey;
    use domain::run::{ExcerptLine, JudgedOn, Outcome, RunId, State, Trigger};

    use super::*;
    use crate::item::bytes_of;

    fn finished() -> Run {
        let at: Timestamp = "2026-11-23T07:50:00.123456789Z".parse().unwrap();
        let key = JobKey::new("production-db", "nightly-dump-of-the-main-database");
        let mut run = Run::new(RunId::scheduled(&key, at), &key, at, Trigger::Schedule, at);
        run.state = State::Finished;
        run.outcome = Some(Outcome::Succeeded);
        run.reason = Some("it ended with exit code 0".to_owned());
        run.exit_code = Some(0);
        run.runner = Some("db-3.internal.example.com".to_owned());
        run.host = run.runner.clone();
        (run.claimed_at, run.started_at, run.finished_at, run.start_by) = (Some(at), Some(at), Some(at), Some(at));
        (run.duration_ms, run.cpu_ms, run.max_rss_bytes) = (Some(123_456), Some(2345), Some(123_456_789));
        (run.stdout_lines, run.stdout_bytes, run.last_seq) = (12_345, 1_234_567, 12_345);
        run.judged_on = Some(JudgedOn::All);
        run
    }

    #[test]
    fn a_run_comes_back_from_its_item() {
        let run = finished();
        let stored = run_of(&item_of_run(&run, 4, std::time::Duration::from_secs(86_400)).unwrap()).unwrap();
        assert_eq!(stored, Stored { record: run, version: 4 });
    }

    #[test]
    fn a_healthy_run_fits_into_one_write_unit() {
        let mut run = finished();
        run.excerpt = vec![ExcerptLine { seq: 1, stream: domain::line::Stream::Stdout, text: "ok".repeat(20) }];
        let bytes = bytes_of(&item_of_run(&run, 4, std::time::Duration::from_secs(86_400)).unwrap());
        assert!(bytes <= 1024, "{bytes}");
    }
}
