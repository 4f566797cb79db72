//! How a sink is doing, as numbers people can see, and the events that become alerts.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use domain::run::RunId;
use jiff::Timestamp;
use serde::Serialize;

use crate::bracket_records;
use crate::error::{ErrorClass, SinkError};
use crate::record::RecordId;

/// The rate is taken over so long.
const RATE_SPAN: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkState {
    /// Everything that can be sent is sent, or on its way.
    Working,
    /// The last attempt failed; the next one comes by itself.
    Retrying,
    /// A person must mend something; looked at again from time to time.
    Misconfigured,
    Stopped,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SinkStatus {
    pub name: String,
    pub kind: &'static str,
    pub state: SinkState,
    /// Not yet taken by the other side.
    pub lag_lines: u64,
    pub lag_bytes: u64,
    /// Age of the oldest line among them.
    pub lag_seconds: f64,
    /// Taken by the other side, as its kernel says, and still kept here: on a connection without answers that is a matter of
    /// seconds. Sent again when the connection breaks before.
    pub unconfirmed_lines: u64,
    pub unconfirmed_bytes: u64,
    pub rate_lines_per_second: f64,
    pub last_error: Option<String>,
    pub last_error_at: Option<Timestamp>,
    /// Since when it has failed without a break.
    pub failing_since: Option<Timestamp>,
    pub oldest_undelivered_run: Option<RunId>,
    pub delivered_lines: u64,
    /// Older than `retry.max_age` when their turn came.
    pub dropped_lines: u64,
    pub dropped_bytes: u64,
    /// Refused for good by the other side; set aside, still in the spool.
    pub refused_records: u64,
    /// The latest of them, at most [`REFUSED_KEPT_MAX`].
    pub refused: Vec<RefusedRecord>,
    /// A lag older than this is worth an alert.
    pub alert_after_seconds: f64,
}

/// Refused records that a status names. Ours: enough to see what they have in common.
pub const REFUSED_KEPT_MAX: usize = 20;

/// A record that the other side will never take. The run's spool still has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RefusedRecord {
    pub run_id: RunId,
    pub attempt: u32,
    /// `line`, or the event that it is: `run.started`, `run.finished`, `gap`.
    pub record: &'static str,
    /// Of a line; of a gap, its first.
    pub seq: Option<u64>,
    /// Why, as the other side told it.
    #[serde(rename = "says")]
    pub message: String,
    pub at: Timestamp,
}

impl RefusedRecord {
    pub fn new((run_id, attempt): &(RunId, u32), place: RecordId, message: String, at: Timestamp) -> RefusedRecord {
        let (record, seq) = match place {
            RecordId::Started => (bracket_records::STARTED, None),
            RecordId::Line { seq } => ("line", Some(seq)),
            RecordId::Gap { first_seq } => (bracket_records::GAP, Some(first_seq)),
            RecordId::Finished => (bracket_records::FINISHED, None),
        };
        RefusedRecord { run_id: run_id.clone(), attempt: *attempt, record, seq, message, at }
    }

    /// `seq 7 of run 2026…`
    pub fn name(&self) -> String {
        match self.seq {
            Some(seq) => format!("seq {seq} of run {}", self.run_id),
            None => format!("{} of run {}", self.record, self.run_id),
        }
    }

    fn is_same(&self, other: &RefusedRecord) -> bool {
        let key = |refused: &RefusedRecord| (refused.run_id.clone(), refused.attempt, refused.record, refused.seq);
        key(self) == key(other)
    }
}

/// What people should hear of. Sent once per trouble.
#[derive(Clone, Debug, PartialEq)]
pub enum SinkEvent {
    Trouble(SinkTrouble),
    /// The trouble told before is over: something was delivered again.
    Recovered {
        sink: String,
        since: Timestamp,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct SinkTrouble {
    pub sink: String,
    pub class: ErrorClass,
    pub since: Timestamp,
    pub error: String,
}

/// Kept by the engine's task, read by whoever asks.
#[derive(Debug, Default)]
pub struct Health {
    pub stopped: bool,
    pub failing: Option<FailureSpan>,
    pub last_error: Option<(String, Timestamp)>,
    pub delivered_lines: u64,
    pub dropped_lines: u64,
    pub dropped_bytes: u64,
    pub refused_records: u64,
    pub refused: VecDeque<RefusedRecord>,
    samples: VecDeque<(Instant, u64)>,
}

#[derive(Clone, Copy, Debug)]
pub struct FailureSpan {
    pub class: ErrorClass,
    pub since: Timestamp,
    /// An event said so.
    pub event_sent: bool,
}

impl Health {
    pub fn state(&self) -> SinkState {
        match self.failing {
            _ if self.stopped => SinkState::Stopped,
            None => SinkState::Working,
            Some(FailureSpan { class: ErrorClass::Misconfigured, .. }) => SinkState::Misconfigured,
            Some(_) => SinkState::Retrying,
        }
    }

    pub fn note_error(&mut self, error: &SinkError, at: Timestamp) {
        self.last_error = Some((error.message.clone(), at));
    }

    /// Counts and keeps it; `false` when it is known already, because its batch had to be sent again.
    pub fn note_refused(&mut self, record: &RefusedRecord) -> bool {
        if self.refused.iter().any(|known| known.is_same(record)) {
            return false;
        }
        self.refused_records += 1;
        self.refused.push_back(record.clone());
        if self.refused.len() > REFUSED_KEPT_MAX {
            self.refused.pop_front();
        }
        true
    }

    /// Counts delivered lines, and remembers when, for the rate.
    pub fn delivered(&mut self, lines: u64, now: Instant) {
        let due = self.samples.back().is_none_or(|(at, _)| now.duration_since(*at) >= RATE_SPAN / 10);
        if due {
            self.samples.push_back((now, self.delivered_lines));
            if self.samples.len() > 11 {
                self.samples.pop_front();
            }
        }
        self.delivered_lines += lines;
    }

    pub fn rate(&self, now: Instant) -> f64 {
        let from = self.samples.iter().find(|(at, _)| now.duration_since(*at) <= RATE_SPAN);
        from.map_or(0.0, |(at, before)| {
            let seconds = now.duration_since(*at).as_secs_f64().max(1.0);
            (self.delivered_lines - before) as f64 / seconds
        })
    }
}
