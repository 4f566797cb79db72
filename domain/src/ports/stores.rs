//! Ports of the services' stores: jobs, due index, runs, alerts, settings. A key-value store with conditional writes
//! can implement them: each call changes one item, except [`RunWrite`] with its [`AlertStep`], a small transaction.
//!
//! A version counts the writes of one record, from 1. A conditional write names the version that it was made from.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Heartbeat, PortResult};
use crate::alert::{Alert, JobState, Transition};
use crate::job::{Job, JobKey};
use crate::ledger::Ledger;
use crate::run::{Outcome, Run, RunId, RunKey};

/// A record with its version.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<T> {
    /// The record as it was read.
    pub record: T,
    /// Writes so far.
    pub version: u64,
}

/// One page of a list. It may have fewer records than requested.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// In the order that the call promises.
    pub records: Vec<T>,
    /// Start of the next page; `None` after the last.
    pub next: Option<Cursor>,
}

/// The start of a page. Opaque; valid only for the adapter that returned it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub String);

/// A job as it is stored. An unreadable record (edited by hand) is an error of this job alone.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredJob {
    /// Readable also when the job is not.
    pub key: JobKey,
    /// The job, or one sentence why its record is unreadable.
    pub job: Result<Job, String>,
    /// Writes so far; 0 for a record that was written by hand.
    pub version: u64,
}

/// A job to write, with the changes of the due index that follow from it.
#[derive(Clone, Debug)]
pub struct JobWrite {
    /// The new definition.
    pub job: Job,
    /// The version that the job was read with; `None`: the job must not exist.
    pub expected: Option<u64>,
    /// The due entry of its next firing.
    pub entry: Option<Due>,
    /// The due entry of its former schedule, to be removed.
    pub former_entry: Option<Due>,
}

/// The store of jobs.
#[async_trait]
pub trait JobStore: Send + Sync {
    /// Returns the jobs of these keys that exist, in any order. Reads its own writes.
    async fn get(&self, keys: &[JobKey]) -> PortResult<Vec<StoredJob>>;
    /// Writes a job if its version is still `expected` (`None`: if there is no such job). `false`: a conflict; nothing
    /// changed.
    async fn put(&self, job: &Job, expected: Option<u64>) -> PortResult<bool>;
    /// Writes each job as [`JobStore::put`] does, and then its due entries; results are in the order of `writes`. An
    /// adapter with transactions writes all of them in one.
    async fn put_all(&self, writes: Vec<JobWrite>) -> PortResult<Vec<bool>>;
    /// Deletes jobs. Idempotent. An adapter with transactions deletes all of them in one.
    async fn remove(&self, keys: &[JobKey]) -> PortResult<()>;
    /// Returns jobs of one group (`None`: all groups), by group and name.
    async fn list(&self, group: Option<&str>, after: Option<&Cursor>, most: usize) -> PortResult<Page<StoredJob>>;
}

/// A due entry: "this job fires at this instant".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Due {
    /// Nominal time of the firing.
    pub at: Timestamp,
    /// The job.
    pub key: JobKey,
    /// [`Job::timing`] of the job that the entry was computed from. After an edit of the job they differ, and the
    /// scheduler drops the entry.
    pub timing: String,
}

/// The due index, by shard and instant. An entry stays until the scheduler has fired it, at any later time.
#[async_trait]
pub trait DueIndex: Send + Sync {
    /// The number of shards; they are numbered from 0. All entries of a job are in the same shard.
    fn shards(&self) -> u32;
    /// Adds entries; an existing entry is left unchanged.
    async fn put(&self, entries: &[Due]) -> PortResult<()>;
    /// Returns up to `most` entries of a shard with `from <= at <= until`, earliest first. Those of one instant are in
    /// an order by their jobs that is the adapter's own and never changes.
    async fn list(&self, shard: u32, from: Timestamp, until: Timestamp, most: usize) -> PortResult<Vec<Due>>;
    /// As [`DueIndex::list`], from the entries of job `job` at the instant `from` on, in the adapter's order.
    async fn list_from(
        &self,
        shard: u32,
        from: Timestamp,
        job: &JobKey,
        until: Timestamp,
        most: usize,
    ) -> PortResult<Vec<Due>>;
    /// As [`DueIndex::list`], for a caller that has fired all entries written before `written_since`. An adapter that
    /// keeps removed entries leaves out those written earlier (by its own clock); any other may ignore the instant.
    async fn list_late(
        &self,
        shard: u32,
        from: Timestamp,
        until: Timestamp,
        _written_since: Timestamp,
        most: usize,
    ) -> PortResult<Vec<Due>> {
        self.list(shard, from, until, most).await
    }
    /// Removes entries. Idempotent. An adapter for which a delete costs as much as a write may keep the entry until it
    /// expires: reading an entry twice is harmless, and the scheduler looks back with [`DueIndex::list_late`].
    async fn remove(&self, entries: &[Due]) -> PortResult<()>;
}

/// One conditional write of a run, atomic with the change of its job's alert state.
#[derive(Clone, Debug)]
pub struct RunWrite {
    /// The new record.
    pub run: Run,
    /// The version that the run was read with; `None`: the run must not exist.
    pub expected: Option<u64>,
    /// Written with the run, or not at all.
    pub alert: Option<AlertStep>,
}

/// The result of a [`RunWrite`].
#[derive(Clone, Debug, PartialEq)]
pub enum WriteResult {
    /// Written.
    Done,
    /// Another writer changed the run before; with the run as it is now (`None`: it was deleted).
    Conflict(Option<Box<Stored<Run>>>),
    /// The job's alert state has another version than the step expects.
    AlertConflict,
    /// Not known to be written; the same write can succeed later. With the error. Other writes of the call are
    /// independent.
    Retry(String),
    /// The store can never take this write, although it takes others: the run is too large. One sentence.
    Never(String),
}

/// Selects runs by their state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunFilter {
    /// Every run.
    #[default]
    All,
    /// Runs without an outcome.
    Open,
    /// Runs with this outcome.
    Ended(Outcome),
}

/// Selects runs; all conditions must hold. Instants are compared by whole seconds: fractions are cut off nominal times
/// and rounded up in bounds.
#[derive(Clone, Debug, Default)]
pub struct RunQuery {
    /// Only runs of this group.
    pub group: Option<String>,
    /// Only runs of this job; needs `group`.
    pub job: Option<String>,
    /// Only the run with this id.
    pub run_id: Option<RunId>,
    /// Only runs in this state.
    pub filter: RunFilter,
    /// Lower bound of the nominal time, included.
    pub since: Option<Timestamp>,
    /// Upper bound of the nominal time, excluded.
    pub until: Option<Timestamp>,
}

impl RunQuery {
    /// All runs without an outcome.
    pub fn open() -> RunQuery {
        RunQuery { filter: RunFilter::Open, ..RunQuery::default() }
    }

    /// The run with this id, for a caller that does not know its group.
    pub fn by_id(run_id: &RunId) -> RunQuery {
        RunQuery { run_id: Some(run_id.clone()), ..RunQuery::default() }
    }

    /// All runs of a job.
    pub fn of_job(key: &JobKey) -> RunQuery {
        RunQuery { group: Some(key.group.clone()), job: Some(key.name.clone()), ..RunQuery::default() }
    }
}

/// The store of runs.
#[async_trait]
pub trait RunStore: Send + Sync {
    /// Returns the runs of these keys that exist, in any order. Reads its own writes.
    async fn get(&self, runs: &[RunKey]) -> PortResult<Vec<Stored<Run>>>;
    /// Writes each run atomically and independently of the others; results are in the order of `writes`. After an error
    /// some of them may be written: repeating the call is harmless, because written ones conflict.
    async fn write(&self, writes: &[RunWrite]) -> PortResult<Vec<WriteResult>>;
    /// Returns runs, newest first. An unreadable record is left out and quarantined ([`Settings::quarantined`]).
    async fn list(&self, query: &RunQuery, after: Option<&Cursor>, most: usize) -> PortResult<Page<Stored<Run>>>;
    /// Counts the runs that match.
    async fn count(&self, query: &RunQuery) -> PortResult<Ledger>;
    /// Deletes runs. Idempotent.
    async fn remove(&self, runs: &[RunKey]) -> PortResult<()>;
}

/// A change of a job's alert state, with the transitions that it causes.
#[derive(Clone, Debug, Default)]
pub struct AlertStep {
    /// The new state, where it changes.
    pub state: Option<StateChange>,
    /// New transitions; one whose id exists is left unchanged.
    pub transitions: Vec<Transition>,
}

/// A conditional write of a job's alert state.
#[derive(Clone, Debug)]
pub struct StateChange {
    /// The job.
    pub key: JobKey,
    /// The version that the state was read with; 0 when there was none.
    pub expected: u64,
    /// The new state.
    pub state: JobState,
}

/// The store of alert states and transitions.
#[async_trait]
pub trait AlertStore: Send + Sync {
    /// Returns the alert states of these jobs in the order of `keys`; the default with version 0 where there is none.
    async fn states(&self, keys: &[JobKey]) -> PortResult<Vec<Stored<JobState>>>;
    /// Returns the alert state of one job.
    async fn state(&self, key: &JobKey) -> PortResult<Stored<JobState>> {
        let found = self.states(std::slice::from_ref(key)).await?.pop();
        Ok(found.unwrap_or(Stored { record: JobState::default(), version: 0 }))
    }
    /// Writes a step without a run. `false`: a conflict on the state; nothing changed.
    async fn raise(&self, step: &AlertStep) -> PortResult<bool>;
    /// Claims up to `most` pending transitions that are due at `at`, earliest first, for `worker` until `until`.
    async fn claim(&self, worker: &str, at: Timestamp, until: Timestamp, most: usize) -> PortResult<Vec<Transition>>;
    /// Stores the results of claimed transitions (delivery state, progress, the next `not_before`) and ends their
    /// claims, or extends them until `kept_until`. A transition that another worker has claimed since stays unchanged.
    async fn settle(&self, worker: &str, transitions: &[Transition], kept_until: Option<Timestamp>) -> PortResult<()>;
    /// Returns transitions, newest first. The adapter deletes those that have been settled longer than its retention.
    async fn list(&self, after: Option<&Cursor>, most: usize) -> PortResult<Page<Transition>>;
}

/// An unreadable stored record. It stays where it is; an alert reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// `run`, `report`, `order`, `job`, ...
    pub kind: String,
    /// Key of the record in its table.
    pub key: String,
    /// One sentence: why it is unreadable.
    pub why: String,
    /// When it was found.
    pub at: Timestamp,
}

/// Small records of the services, by name; heartbeats; the list of quarantined records.
#[async_trait]
pub trait Settings: Send + Sync {
    /// Returns a setting. Reads its own writes.
    async fn read(&self, name: &str) -> PortResult<Option<Stored<serde_json::Value>>>;
    /// Writes a setting if its version is still `expected` (`None`: if there is none). `false`: a conflict.
    async fn write(&self, name: &str, value: &serde_json::Value, expected: Option<u64>) -> PortResult<bool>;
    /// Returns the latest heartbeat of each runner.
    async fn heartbeats(&self) -> PortResult<Vec<Heartbeat>>;
    /// Deletes the heartbeats of runners without one since `before`. Idempotent.
    async fn delete_heartbeats(&self, before: Timestamp) -> PortResult<()>;
    /// Returns unreadable records, newest first, at most 100.
    async fn quarantined(&self) -> PortResult<Vec<Quarantined>>;
}

/// Sends alerts, at least once: a worker that dies between sending and settling causes a second message.
#[async_trait]
pub trait Notifier: Send + Sync {
    /// Sends to one channel. A permanent error is not retried.
    async fn notify(&self, channel: &str, alert: &Alert) -> PortResult<()>;
    /// The channels of an alert of `group` that names the channels `named`: those of them that exist; where none is
    /// named or exists, the default ones, so that a wrong name silences no alert. `all`: all channels, where they are
    /// configured.
    async fn route(&self, _group: &str, named: &[String], all: &[String]) -> PortResult<Vec<String>> {
        let existing: Vec<String> = all.iter().filter(|channel| named.contains(channel)).cloned().collect();
        Ok(if existing.is_empty() { all.to_vec() } else { existing })
    }
    /// Bytes of a reason that the channel shows without cutting it. Chosen for channels without a known limit.
    fn reason_bytes_max(&self, _channel: &str) -> usize {
        16 << 10
    }
}
