//! What the services keep: jobs, the due index, runs, alerts, settings. Shaped so that a key-value store with
//! conditional writes can keep it: no port asks for more than one item to change at once, but for [`RunWrite`] with
//! its [`AlertStep`], which is one small transaction.
//!
//! Versions count the writes of one record, from 1. A conditional write names the version it was made from.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Heartbeat, PortResult};
use crate::alert::{Alert, JobState, Transition};
use crate::job::{Job, JobKey};
use crate::ledger::Ledger;
use crate::run::{Outcome, Run, RunId, RunKey};

/// A record and how often it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<T> {
    pub record: T,
    pub version: u64,
}

/// Records, and where the next page begins; `None`: there are no more. A page may be shorter than asked for.
#[derive(Clone, Debug)]
pub struct Page<T> {
    pub records: Vec<T>,
    pub next: Option<Cursor>,
}

/// Where a page begins: opaque, of the adapter that gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub String);

/// A job as it is stored. What cannot be read (somebody edited it by hand) is one sentence, and is in nobody's way.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredJob {
    pub key: JobKey,
    pub job: Result<Job, String>,
    pub version: u64,
}

/// The jobs.
#[async_trait]
pub trait JobStore: Send + Sync {
    /// The jobs of these keys that exist, in no promised order. Reads what was written before.
    async fn get(&self, keys: &[JobKey]) -> PortResult<Vec<StoredJob>>;
    /// Writes a job if its version still is `expected` (`None`: if there is no such job). `false`: somebody else was
    /// first; nothing changed.
    async fn put(&self, job: &Job, expected: Option<u64>) -> PortResult<bool>;
    /// Idempotent.
    async fn remove(&self, key: &JobKey) -> PortResult<()>;
    /// Jobs of one group or all, by group and name.
    async fn list(&self, group: Option<&str>, after: Option<&Cursor>, most: usize) -> PortResult<Page<StoredJob>>;
}

/// One job's next firing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Due {
    pub at: Timestamp,
    pub key: JobKey,
    /// What the firing was computed from ([`Job::timing`]); an entry of an edited job no longer agrees and is dropped.
    pub timing: String,
}

/// What fires when, by shard and instant. An entry stands until the scheduler has dealt with it, however late.
#[async_trait]
pub trait DueIndex: Send + Sync {
    /// Shards, numbered from 0. A job is always in the same one.
    fn shards(&self) -> u32;
    /// Adds entries; one that exists already stays as it is.
    async fn put(&self, entries: &[Due]) -> PortResult<()>;
    /// Up to `most` entries of a shard with `from <= at <= until`, earliest first.
    async fn list(&self, shard: u32, from: Timestamp, until: Timestamp, most: usize) -> PortResult<Vec<Due>>;
    /// The same where all that was written before `written_since` is dealt with: an adapter that keeps removed entries
    /// leaves those out that were written earlier (by its own clock); one that forgets them need not look.
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
    /// Idempotent. Where a delete costs as much as a write, an adapter may keep the entry until it expires: the
    /// scheduler reads an entry twice without harm, and looks back with [`DueIndex::list_late`].
    async fn remove(&self, entries: &[Due]) -> PortResult<()>;
}

/// What is to become of a run, in one atomic step.
#[derive(Clone, Debug)]
pub struct RunWrite {
    pub run: Run,
    /// The version that the run was read with; `None`: it must not exist yet.
    pub expected: Option<u64>,
    /// Changes with the run or not at all.
    pub alert: Option<AlertStep>,
}

/// What came of a [`RunWrite`].
#[derive(Clone, Debug, PartialEq)]
pub enum WriteResult {
    Done,
    /// Somebody else was first; this is what the run is now (`None`: it was removed).
    Conflict(Option<Box<Stored<Run>>>),
    /// The job's alert state is not the one that the step was made from.
    AlertConflict,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunFilter {
    #[default]
    All,
    /// Not ended.
    Open,
    Ended(Outcome),
}

/// Which runs; all bounds together. `since <= nominal < until`, compared by whole seconds: fractions are cut off runs'
/// nominal instants and rounded up in bounds.
#[derive(Clone, Debug, Default)]
pub struct RunQuery {
    pub group: Option<String>,
    /// Only together with `group`.
    pub job: Option<String>,
    /// Only the run of this name.
    pub run_id: Option<RunId>,
    pub filter: RunFilter,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

impl RunQuery {
    pub fn open() -> RunQuery {
        RunQuery { filter: RunFilter::Open, ..RunQuery::default() }
    }

    /// The run of a name, when nobody knows its group.
    pub fn by_id(run_id: &RunId) -> RunQuery {
        RunQuery { run_id: Some(run_id.clone()), ..RunQuery::default() }
    }

    pub fn of_job(key: &JobKey) -> RunQuery {
        RunQuery { group: Some(key.group.clone()), job: Some(key.name.clone()), ..RunQuery::default() }
    }
}

/// The runs.
#[async_trait]
pub trait RunStore: Send + Sync {
    /// The runs of these names that exist, in no promised order. Reads what was written before.
    async fn get(&self, runs: &[RunKey]) -> PortResult<Vec<Stored<Run>>>;
    /// Each write is atomic and stands alone; what came of each is told in the order given. An error says nothing about
    /// the writes before it: writing the same again is harmless, as it conflicts.
    async fn write(&self, writes: &[RunWrite]) -> PortResult<Vec<WriteResult>>;
    /// Newest first. A record that cannot be read is left out and set aside ([`Settings::quarantined`]).
    async fn list(&self, query: &RunQuery, after: Option<&Cursor>, most: usize) -> PortResult<Page<Stored<Run>>>;
    /// Counts what the query matches.
    async fn count(&self, query: &RunQuery) -> PortResult<Ledger>;
    /// Idempotent.
    async fn remove(&self, runs: &[RunKey]) -> PortResult<()>;
}

/// A job's alert state moves, and what is worth telling is stored.
#[derive(Clone, Debug, Default)]
pub struct AlertStep {
    pub state: Option<StateChange>,
    /// One whose id exists already stays as it is.
    pub transitions: Vec<Transition>,
}

#[derive(Clone, Debug)]
pub struct StateChange {
    pub key: JobKey,
    /// The version that the state was read with; 0 when there was none.
    pub expected: u64,
    pub state: JobState,
}

/// The alerts on their way to people.
#[async_trait]
pub trait AlertStore: Send + Sync {
    /// The alert states of these jobs, in the order asked for; the default with version 0 where there is none.
    async fn states(&self, keys: &[JobKey]) -> PortResult<Vec<Stored<JobState>>>;
    /// One of them.
    async fn state(&self, key: &JobKey) -> PortResult<Stored<JobState>> {
        let found = self.states(std::slice::from_ref(key)).await?.pop();
        Ok(found.unwrap_or(Stored { record: JobState::default(), version: 0 }))
    }
    /// Takes a step that goes with no run. `false`: the state is another one by now; nothing changed.
    async fn raise(&self, step: &AlertStep) -> PortResult<bool>;
    /// Up to `most` pending transitions that are due at `at`, earliest first, kept from other workers until `until`.
    async fn claim(&self, worker: &str, at: Timestamp, until: Timestamp, most: usize) -> PortResult<Vec<Transition>>;
    /// Stores what became of claimed transitions (fate, tries, the next `not_before`) and gives them back. One that
    /// another worker claimed since stays as it is.
    async fn settle(&self, worker: &str, transitions: &[Transition]) -> PortResult<()>;
    /// All transitions, newest first. Those settled for longer than the adapter's keeping time are gone.
    async fn list(&self, after: Option<&Cursor>, most: usize) -> PortResult<Page<Transition>>;
}

/// A record that could not be read. It stays where it is, and is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// `run`, `report`, `order`, `job`, ...
    pub kind: String,
    pub key: String,
    /// One sentence.
    pub why: String,
    pub at: Timestamp,
}

/// Small things that the services remember, and who is alive.
#[async_trait]
pub trait Settings: Send + Sync {
    /// Reads what was written before.
    async fn read(&self, name: &str) -> PortResult<Option<Stored<serde_json::Value>>>;
    /// Writes if the version still is `expected` (`None`: if there is none). `false`: somebody else was first.
    async fn write(&self, name: &str, value: &serde_json::Value, expected: Option<u64>) -> PortResult<bool>;
    /// The latest beat of every runner.
    async fn heartbeats(&self) -> PortResult<Vec<Heartbeat>>;
    /// Forgets runners that have not beaten since. Idempotent.
    async fn delete_heartbeats(&self, before: Timestamp) -> PortResult<()>;
    /// Records that could not be read, newest first, at most 100.
    async fn quarantined(&self) -> PortResult<Vec<Quarantined>>;
}

/// Where alerts are sent. At least once: a worker that dies between sending and marking sends again.
#[async_trait]
pub trait Notifier: Send + Sync {
    /// Sends to one channel. A permanent error is not tried again.
    async fn notify(&self, channel: &str, alert: &Alert) -> PortResult<()>;
}
