//! The source of a sink's lines: one [`Feed`] per run and sink. The runner implements it over a run's spool, tests over
//! blocks in memory. The engine reads at its own pace and commits what the receiver has.

use std::io;
use std::sync::Arc;

use domain::line::{Block, Position};
use domain::run::{Outcome, RunId, Trigger};
use jiff::Timestamp;

/// The fields that every line of an attempt carries. Built once per attempt, shared by all sinks.
#[derive(Clone, Debug, PartialEq)]
pub struct RunHeader {
    /// The run.
    pub run_id: RunId,
    /// Group of the job.
    pub group: String,
    /// Name of the job.
    pub job: String,
    /// From 1.
    pub attempt: u32,
    /// Host name of the runner.
    pub host: String,
    /// Name of the runner.
    pub runner: String,
    /// Process id of the job; absent when the job could not be started.
    pub pid: Option<u32>,
    /// The instant that the schedule names.
    pub nominal: Timestamp,
    /// Why the run was started.
    pub trigger: Trigger,
    /// The executed command, as text.
    pub command: String,
    /// Start of the attempt.
    pub started_at: Timestamp,
}

/// The end of a run as its runner saw it: the content of the record `run.finished`.
#[derive(Clone, Debug, PartialEq)]
pub struct FinishedRecord {
    /// As the runner judged it.
    pub outcome: Outcome,
    /// One sentence: why the run ended so.
    pub reason: String,
    /// Absent when a signal ended the command, or it was never started.
    pub exit_code: Option<i32>,
    /// Number of the signal that ended the command.
    pub signal: Option<i32>,
    /// From start to end, in milliseconds.
    pub duration_ms: u64,
    /// Lines that the command printed to standard output.
    pub stdout_lines: u64,
    /// Lines that the command printed to standard error.
    pub stderr_lines: u64,
    /// Text bytes of standard output.
    pub stdout_bytes: u64,
    /// Text bytes of standard error.
    pub stderr_bytes: u64,
    /// `seq` of the last record of the spool; 0 when the run printed nothing.
    pub last_seq: u64,
    /// Lines that never reached the spool.
    pub dropped_lines: u64,
    /// End of the attempt.
    pub finished_at: Timestamp,
    /// Another process still has the output open: late lines may follow, and `run.output_ended` does.
    pub output_open: bool,
}

/// The end of an output that stayed open after the end of its run: the content of the record `run.output_ended`. Its
/// counts replace those of `run.finished`.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputEndedRecord {
    /// Empty where the output simply ended; else one sentence.
    pub reason: String,
    /// Lines after `run.finished`.
    pub late_lines: u64,
    /// As in [`FinishedRecord`], late lines included.
    pub stdout_lines: u64,
    /// As in [`FinishedRecord`], late lines included.
    pub stderr_lines: u64,
    /// As in [`FinishedRecord`], late lines included.
    pub stdout_bytes: u64,
    /// As in [`FinishedRecord`], late lines included.
    pub stderr_bytes: u64,
    /// `seq` of the last record of the spool, late ones included; 0 when nothing was printed.
    pub last_seq: u64,
    /// Lines that never reached the spool, late ones included.
    pub dropped_lines: u64,
    /// End of the output.
    pub ended_at: Timestamp,
}

/// One part of an attempt, always in this order: `Started`, any number of `Lines`, `Finished`. Where the output stays
/// open after the run's process, any number of `Lines` and `OutputEnded` follow.
#[derive(Clone, Debug)]
pub enum Item {
    /// The record `run.started`.
    Started,
    /// Whole records of the spool.
    Lines(Block),
    /// The record `run.finished`.
    Finished(FinishedRecord),
    /// The record `run.output_ended`.
    OutputEnded(OutputEndedRecord),
}

/// The result of [`Feed::read`].
#[derive(Clone, Debug)]
pub enum Next {
    /// The next item.
    Item {
        /// Part of the attempt, encoded by the sink.
        item: Item,
        /// Position after the item: the argument of [`Feed::commit`] once the item is confirmed.
        end: Position,
    },
    /// Nothing new at present; the runner calls `wake` when that changes.
    Pending,
    /// The last record of the attempt was read: nothing follows.
    Done,
}

/// The kind of a [`Next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peek {
    /// An item, also where only a read can find out.
    Item,
    /// Nothing new at present.
    Pending,
    /// Nothing follows.
    Done,
}

/// The part of a run that is not delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Lines without `run.started` and `run.finished`.
    pub lines: u64,
    /// Text bytes of these lines.
    pub bytes: u64,
    /// Capture time of the oldest undelivered line.
    pub oldest: Option<Timestamp>,
}

/// One run's spool, read by one sink. Reads are short and local: the engine calls them from its own task.
///
/// A feed has two positions: the one that it reads at, in memory, and the durable cursor, which only `commit` moves.
pub trait Feed: Send {
    /// The header of the attempt.
    fn header(&self) -> &Arc<RunHeader>;

    /// Returns the next item and moves the reading position past it. A block is whole records, at most `bytes_max`
    /// bytes unless a single record is longer.
    ///
    /// # Errors
    /// The spool cannot be read. The position stays, and the engine retries.
    fn read(&mut self, bytes_max: usize) -> io::Result<Next>;

    /// The kind of result that a read would have. Asked before a sink connects, so that it connects only for output.
    fn peek(&self) -> Peek;

    /// The next read begins at the durable cursor.
    fn rewind(&mut self);

    /// Moves the durable cursor to `position`: the `end` of an item read since the last rewind, or the end of a record
    /// inside a block. Never moves it back. Idempotent.
    ///
    /// # Errors
    /// The cursor cannot be stored. It stays, and the engine retries.
    fn commit(&mut self, position: Position) -> io::Result<()>;

    /// The undelivered part, counted from the durable cursor or from `position`, the later of both.
    fn lag(&self, position: Position) -> Lag;
}
