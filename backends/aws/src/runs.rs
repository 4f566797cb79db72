//! The runs. A run of usual size costs two write units when it is created (the item and its entry in the index by job),
//! and one for each change of state.

mod listing;

use std::collections::BTreeSet;

use async_trait::async_trait;
use domain::ledger::Ledger;
use domain::ports::{Cursor, Page, PortError, PortResult, RunQuery, RunStore, RunWrite, Stored, WriteResult};
use domain::run::{Run, RunKey};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::Backend;
use crate::alerts::{StepParts, without_stored};
use crate::buckets::Bucket;
use crate::dynamo::{ItemWriteResult, TransactionPart, TransactionResult, run_parallel};
use crate::item::{Item, n, number_at, s, sortable_instant, text_at, to_item, to_json};
use crate::tables::{EXPIRES, JOB_KEY};

pub(crate) const RUNS: &str = "runs";

/// Runs read at once while counting. Chosen, not measured.
const COUNT_PAGE_RUNS: usize = 1000;

/// Numbers that are left out if they are 0, so that a usual run fits into one write unit of 1 KiB.
const ZERO_OMITTED: [&str; 6] =
    ["stdout_lines", "stderr_lines", "stdout_bytes", "stderr_bytes", "last_seq", "dropped_lines"];

/// Lists that are left out if they are empty.
const EMPTY_OMITTED: [&str; 2] = ["leaked", "rules"];

#[async_trait]
impl RunStore for Backend {
    async fn get(&self, runs: &[RunKey]) -> PortResult<Vec<Stored<Run>>> {
        let wanted: BTreeSet<&RunKey> = runs.iter().collect();
        let keys = wanted.into_iter().map(item_key).collect::<PortResult<Vec<_>>>()?;
        let items = self.dynamo.batch_get(RUNS, keys).await?;
        self.parse_runs(items).await
    }

    async fn write(&self, writes: &[RunWrite]) -> PortResult<Vec<WriteResult>> {
        let created = |write: &&RunWrite| write.expected.is_none();
        let bucket = |write: &RunWrite| Bucket::of(&write.run.run_key());
        let known = writes.iter().filter(created).map(bucket).collect::<PortResult<BTreeSet<_>>>()?;
        let open = writes.iter().filter(created).filter(|write| write.run.is_open());
        let open = open.map(bucket).collect::<PortResult<BTreeSet<_>>>()?;
        self.add_known_buckets(&known).await?;
        self.open_buckets(&open).await?;
        let this = self.clone();
        let write = move |write: RunWrite| {
            let this = this.clone();
            async move {
                match this.write_one(&write).await {
                    // Other runs of the call may be stored.
                    Err(PortError::Retry(error)) => Ok(WriteResult::Retry(error)),
                    written => written,
                }
            }
        };
        let written = run_parallel(writes.to_vec(), write).await;
        // Another process may have closed a bucket before its first run was stored.
        self.open_buckets(&open).await?;
        written
    }

    async fn list(&self, query: &RunQuery, after: Option<&Cursor>, most: usize) -> PortResult<Page<Stored<Run>>> {
        self.list_runs(query, after, most).await
    }

    async fn count(&self, query: &RunQuery) -> PortResult<Ledger> {
        let (mut ledger, mut after) = (Ledger::default(), None);
        loop {
            let page = self.list_runs(query, after.as_ref(), COUNT_PAGE_RUNS).await?;
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
        let keys = wanted.into_iter().map(item_key).collect::<PortResult<Vec<_>>>()?;
        self.dynamo.batch_delete(RUNS, keys).await
    }
}

impl Backend {
    async fn write_one(&self, write: &RunWrite) -> PortResult<WriteResult> {
        let item = run_to_item(&write.run, write.expected.unwrap_or(0) + 1, self.retention)?;
        if let Err(reason) = self.dynamo.check_item_size(RUNS, &item) {
            return Ok(WriteResult::Never(reason));
        }
        let (condition, values) = match write.expected {
            None => ("attribute_not_exists(#run_id)", vec![]),
            Some(version) => ("#version = :version", vec![(":version", n(version))]),
        };
        let stop = self.stop_request_update(&write.run).await?;
        let mut step = StepParts::new(write.alert.as_ref(), self.retention)?;
        if stop.is_none() && step.is_empty() {
            return match self.dynamo.put(RUNS, item, condition, values).await? {
                ItemWriteResult::Done(_) => Ok(WriteResult::Done),
                ItemWriteResult::Refused(old) => self.conflict(old).await,
            };
        }
        loop {
            let run = TransactionPart::Put {
                table: RUNS,
                item: item.clone(),
                condition: condition.to_owned(),
                values: values.clone(),
            };
            let parts: Vec<TransactionPart> = [run].into_iter().chain(stop.clone()).chain(step.parts()).collect();
            let before = 1 + usize::from(stop.is_some());
            let mut refused = match self.dynamo.transact(parts).await? {
                TransactionResult::Done => return Ok(WriteResult::Done),
                TransactionResult::Refused(refused) => refused,
            };
            let step_reasons = refused.split_off(before.min(refused.len()));
            if step.state_is_refused(&step_reasons) {
                return Ok(WriteResult::AlertConflict);
            }
            if let Some(Some(old)) = refused.into_iter().next() {
                return self.conflict(old).await;
            }
            // Transitions that are already stored stay unchanged.
            step = without_stored(step, &step_reasons)?;
        }
    }

    async fn conflict(&self, old: Option<Item>) -> PortResult<WriteResult> {
        let stored = match old {
            Some(item) => self.parse_runs(vec![item]).await?.pop().map(Box::new),
            None => None,
        };
        Ok(WriteResult::Conflict(stored))
    }

    /// Reads runs from items. Unreadable ones are left out and quarantined.
    pub(crate) async fn parse_runs(&self, items: Vec<Item>) -> PortResult<Vec<Stored<Run>>> {
        let mut runs = Vec::with_capacity(items.len());
        for item in items {
            match run_from_item(&item) {
                Ok(run) => runs.push(run),
                Err(why) => self.quarantine("run", text_at(&item, "run_id").unwrap_or("without a name"), &why).await,
            }
        }
        Ok(runs)
    }
}

pub(crate) fn item_key(run: &RunKey) -> PortResult<Item> {
    let bucket = Bucket::of(run)?.partition();
    Ok(Item::from([("bucket".to_owned(), s(bucket)), ("run_id".to_owned(), s(run.run_id.as_str()))]))
}

fn run_to_item(run: &Run, version: u64, retention: std::time::Duration) -> PortResult<Item> {
    let mut value = serde_json::to_value(run)
        .map_err(|error| PortError::Permanent(format!("run {} cannot be written as json: {error}", run.run_id)))?;
    if let Value::Object(fields) = &mut value {
        fields.retain(|name, value| {
            let is_zero = ZERO_OMITTED.contains(&name.as_str()) && value.as_u64() == Some(0);
            let is_empty = EMPTY_OMITTED.contains(&name.as_str()) && value.as_array().is_some_and(Vec::is_empty);
            !is_zero && !is_empty
        });
    }
    let mut item = to_item(&value)?;
    item.extend(item_key(&run.run_key())?);
    item.insert(JOB_KEY.to_owned(), s(run.key().to_string()));
    item.insert("version".to_owned(), n(version));
    // As a text, so that the condition of a claim can compare it.
    if let Some(start_by) = run.start_by {
        item.insert("start_by".to_owned(), s(sortable_instant(start_by)));
    }
    let retention = SignedDuration::try_from(retention).unwrap_or(SignedDuration::MAX);
    let expires = run.nominal.checked_add(retention).unwrap_or(Timestamp::MAX);
    item.insert(EXPIRES.to_owned(), n(expires.as_second()));
    Ok(item)
}

/// Reads a run, or returns one sentence why the item is unreadable.
pub(crate) fn run_from_item(item: &Item) -> Result<Stored<Run>, String> {
    let mut value = to_json(item)?;
    if let Value::Object(fields) = &mut value {
        for count in ZERO_OMITTED {
            fields.entry(count).or_insert(Value::from(0));
        }
    }
    let record = serde_json::from_value(value).map_err(|error| format!("the stored run is unreadable: {error}"))?;
    Ok(Stored { record, version: number_at(item, "version").unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use domain::job::JobKey;
    use domain::run::{ExcerptLine, JudgedOn, Outcome, RunId, State, Trigger};

    use super::*;
    use crate::item::item_bytes;

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
        run.packs = ["coreutils", "default", "postgres", "shell"].map(str::to_owned).to_vec();
        run
    }

    #[test]
    fn a_run_survives_the_conversion_to_an_item_and_back() {
        let run = finished();
        let stored = run_from_item(&run_to_item(&run, 4, std::time::Duration::from_secs(86_400)).unwrap()).unwrap();
        assert_eq!(stored, Stored { record: run, version: 4 });
    }

    #[test]
    fn a_usual_run_fits_into_one_write_unit() {
        let mut run = finished();
        run.excerpt = vec![ExcerptLine { seq: 1, stream: domain::line::Stream::Stdout, text: "ok".repeat(20) }];
        let bytes = item_bytes(&run_to_item(&run, 4, std::time::Duration::from_secs(86_400)).unwrap());
        assert!(bytes <= 1024, "{bytes}");
    }
}
