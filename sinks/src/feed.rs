//! Where a sink's lines come from: one [`Feed`] per run and sink. The runner implements it over a run's spool; tests
//! implement it over blocks in memory. The engine pulls, and tells how far the sink has them.

use std::io;
use std::sync::Arc;

use domain::line::{Block, Position};
use domain::run::{Outcome, RunId, Trigger};
use jiff::Timestamp;

/// What every line of a run carries. Made once per run and attempt, shared by all sinks.
#[derive(Clone, Debug, PartialEq)]
pub struct RunHeader {
    pub run_id: RunId,
    pub group: String,
    pub job: String,
    /// From 1.
    pub attempt: u32,
    pub host: String,
    /// The runner's name.
    pub runner: String,
    /// The job's process; absent when it could not be started.
    pub pid: Option<u32>,
    /// The instant the schedule named.
    pub nominal: Timestamp,
    pub trigger: Trigger,
    /// As executed, for people.
    pub command: String,
    pub started_at: Timestamp,
}

/// How the run ended, as its runner saw it: the record `run.finished`.
#[derive(Clone, Debug, PartialEq)]
pub struct FinishedRecord {
    pub outcome: Outcome,
    /// One sentence.
    pub reason: String,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub duration_ms: u64,
    pub stdout_lines: u64,
    pub stderr_lines: u64,
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    /// `seq` of the last record of the spool; 0 when the run printed nothing.
    pub last_seq: u64,
    pub dropped_lines: u64,
    pub finished_at: Timestamp,
}

/// One step of a run's story, always in this order: `Started`, any number of `Lines`, `Finished`.
#[derive(Clone, Debug)]
pub enum Item {
    Started,
    Lines(Block),
    Finished(FinishedRecord),
}

#[derive(Clone, Debug)]
pub enum Next {
    /// `end` is the position just behind the item: what [`Feed::commit`] is given once it is delivered.
    Item { item: Item, end: Position },
    /// Nothing new for now; the runner calls `wake` when that changes.
    Pending,
    /// `run.finished` has been read: nothing will ever follow.
    Done,
}

/// What of a run is still undelivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    pub lines: u64,
    pub bytes: u64,
    /// Capture time of the oldest undelivered line, where there is one.
    pub oldest: Option<Timestamp>,
}

/// One run's spool as one sink reads it. Reads are short and local: the engine calls them from its own task.
///
/// A feed has two places: where it reads, in memory, and its durable cursor, which only `commit` moves.
pub trait Feed: Send {
    fn header(&self) -> &Arc<RunHeader>;

    /// The next item after the place of reading, which moves behind it. A block is whole records, at most `bytes_max`
    /// unless one record alone is longer.
    ///
    /// # Errors
    /// When the spool cannot be read; the place stays, and the engine tries again later.
    fn read(&mut self, bytes_max: usize) -> io::Result<Next>;

    /// The next read begins at the durable cursor.
    fn rewind(&mut self);

    /// Moves the durable cursor to `position`, the `end` of an item read since the last rewind (or the end of a record
    /// inside a block). Never moves it back. Idempotent.
    ///
    /// # Errors
    /// When it cannot be stored; the cursor stays, and the engine tries again later.
    fn commit(&mut self, position: Position) -> io::Result<()>;

    /// What is undelivered, counted from the durable cursor or from `position`, whichever is further.
    fn lag(&self, position: Position) -> Lag;
}
