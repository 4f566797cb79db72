//! The health of a sink: the numbers of `sexton sinks` and of `/metrics`, and the events that become alerts.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::run::RunId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::bracket_records;
use crate::error::{ErrorClass, SinkError};
use crate::losses::Losses;
use crate::record::RecordId;
use crate::sink::SetUpFault;
use crate::unanswered::UnansweredCalls;

/// Name of a line among the refused records.
const LINE: &str = "line";
/// Time over which the rate is averaged. Chosen: smooth enough to read, short enough to show a stop.
const RATE_SPAN: Duration = Duration::from_secs(10);

/// Whether a sink delivers, as the API shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkState {
    /// Every available line is sent or being sent.
    Working,
    /// The last attempt failed; the engine retries with backoff.
    Retrying,
    /// The operator must change something; the engine retries every `retry.max`.
    Misconfigured,
    /// Nothing failed, and a call to the server has had no answer for more than 1 s.
    Waiting,
    /// The engine has ended.
    Stopped,
}

/// The numbers of one sink. Serialised as the API's answer; not stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SinkStatus {
    /// Name of its section in the sinks file.
    pub name: String,
    /// Its `type` in the sinks file.
    pub kind: &'static str,
    /// Whether it delivers at present.
    pub state: SinkState,
    /// Lines that the receiver has not accepted.
    pub lag_lines: u64,
    /// Text bytes of these lines.
    pub lag_bytes: u64,
    /// Age in seconds of the oldest of these lines, by its capture time; 0 without any.
    pub lag_seconds: f64,
    /// Lines that the receiver's kernel has accepted, still kept here until they are confirmed (10 s on TCP, TLS and
    /// stream sockets). Sent twice when the connection breaks before that.
    pub unconfirmed_lines: u64,
    /// Text bytes of these lines.
    pub unconfirmed_bytes: u64,
    /// Delivered lines per second, averaged over 10 s.
    pub rate_lines_per_second: f64,
    /// The latest error, also of a failure that is over.
    pub last_error: Option<String>,
    /// When the latest error occurred.
    pub last_error_at: Option<Timestamp>,
    /// Start of the present series of failures.
    pub failing_since: Option<Timestamp>,
    /// Start of the oldest call to the server that has had no answer for more than 1 s; only in the state `waiting`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Timestamp>,
    /// An optional setting of the receiver that could not be applied, like the retention of a log group; lines are
    /// delivered anyway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_up_fault: Option<String>,
    /// The run with the oldest line that the receiver has not accepted.
    pub oldest_undelivered_run: Option<RunId>,
    /// Lines confirmed since the engine was started, without refused ones.
    pub delivered_lines: u64,
    /// Lines older than `retry.max_age` when they were to be sent. Counted when the gap in their place is confirmed;
    /// until then they are among the unconfirmed lines.
    pub dropped_lines: u64,
    /// Text bytes of these lines.
    pub dropped_bytes: u64,
    /// Records that the receiver permanently refused; skipped here, still in the spool.
    pub refused_records: u64,
    /// The latest of them, at most [`REFUSED_KEPT_MAX`](crate::losses::REFUSED_KEPT_MAX).
    pub refused: Vec<RefusedRecord>,
    /// Start of the counting of dropped lines and refused records; absent where no runner stores them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counted_since: Option<Timestamp>,
    /// `alert_after` of the sinks file: a lag older than this raises an alert.
    pub alert_after_seconds: f64,
}

/// A record that the receiver will never accept. The run's spool still has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RefusedRecord {
    /// The run of the record.
    pub run_id: RunId,
    /// The run's attempt, from 1.
    pub attempt: u32,
    /// `line`, or the event's name: `run.started`, `run.finished`, `run.output_ended`, `gap`.
    pub record: Cow<'static, str>,
    /// The line's number; of a gap, its first line.
    pub seq: Option<u64>,
    /// The receiver's reason.
    pub message: String,
    /// When the refusal was noticed.
    pub at: Timestamp,
}

impl RefusedRecord {
    pub(crate) fn new((run_id, attempt): &(RunId, u32), id: RecordId, message: String, at: Timestamp) -> RefusedRecord {
        let (record, seq) = match id {
            RecordId::Started => (bracket_records::STARTED, None),
            RecordId::Line { seq } => (LINE, Some(seq)),
            RecordId::Gap { first_seq } => (bracket_records::GAP, Some(first_seq)),
            RecordId::Finished => (bracket_records::FINISHED, None),
            RecordId::OutputEnded => (bracket_records::OUTPUT_ENDED, None),
        };
        RefusedRecord { run_id: run_id.clone(), attempt: *attempt, record: record.into(), seq, message, at }
    }

    /// Names the record in messages: `seq 7 of run 2026…`.
    pub fn name(&self) -> String {
        match self.seq {
            Some(seq) => format!("seq {seq} of run {}", self.run_id),
            None => format!("{} of run {}", self.record, self.run_id),
        }
    }

    fn is_line(&self) -> bool {
        self.record == LINE
    }

    pub(crate) fn is_same(&self, other: &RefusedRecord) -> bool {
        (&self.run_id, self.attempt, &self.record, self.seq) == (&other.run_id, other.attempt, &other.record, other.seq)
    }
}

/// What becomes an alert. Sent once per series of failures.
#[derive(Clone, Debug, PartialEq)]
pub enum SinkEvent {
    /// The sink has failed for longer than `alert_after`, is misconfigured, or has lost records permanently.
    Trouble(SinkTrouble),
    /// The sink delivers again, after a `Trouble` that was sent.
    Recovered {
        /// Name of the sink.
        sink: String,
        /// Start of the failure.
        since: Timestamp,
    },
}

/// A failure that the operator should know.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkTrouble {
    /// Name of the sink.
    pub sink: String,
    /// `Permanent`: records are lost. Else nothing is lost and the engine retries.
    pub class: ErrorClass,
    /// Start of the failure.
    pub since: Timestamp,
    /// One sentence without the sink's name.
    pub error: String,
}

/// The counters of a sink: written by the engine's task, read by [`Engine::status`](crate::engine::Engine::status).
#[derive(Debug, Default)]
pub(crate) struct Health {
    pub stopped: bool,
    pub unanswered: Option<Arc<UnansweredCalls>>,
    pub set_up_fault: Option<SetUpFault>,
    pub failing: Option<FailureSpan>,
    pub last_error: Option<(String, Timestamp)>,
    pub delivered_lines: u64,
    pub losses: Losses,
    /// The losses have changed since they were stored.
    pub losses_changed: bool,
    /// Refused lines whose batch is not confirmed yet: they are no delivered lines.
    refused_unconfirmed: u64,
    samples: VecDeque<(Instant, u64)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct FailureSpan {
    pub class: ErrorClass,
    pub since: Timestamp,
    /// An event about this series was sent.
    pub event_sent: bool,
    /// The last attempt found no receiver: nothing was sent.
    pub is_unreachable: bool,
    /// When the engine retries by itself.
    pub retry_at: tokio::time::Instant,
    /// The receiver has accepted something since the last failure.
    pub is_accepting: bool,
}

impl Health {
    /// Continues these counters.
    pub(crate) fn new(losses: Losses) -> Health {
        Health { losses, ..Health::default() }
    }

    /// The state, and the start of the wait for an answer where that is the state.
    pub(crate) fn state(&self) -> (SinkState, Option<Timestamp>) {
        if self.stopped { (SinkState::Stopped, None) } else { self.last_state() }
    }

    /// The state of the engine, also of one that has ended.
    pub(crate) fn last_state(&self) -> (SinkState, Option<Timestamp>) {
        let waiting_since = || self.unanswered.as_ref().filter(|_| !self.stopped)?.since();
        match (self.failing.map(|failing| failing.class), waiting_since) {
            (Some(ErrorClass::Misconfigured), _) => (SinkState::Misconfigured, None),
            (Some(_), _) => (SinkState::Retrying, None),
            (None, waiting_since) => match waiting_since() {
                Some(since) => (SinkState::Waiting, Some(since)),
                None => (SinkState::Working, None),
            },
        }
    }

    pub(crate) fn note_error(&mut self, error: &SinkError, at: Timestamp) {
        self.last_error = Some((error.message.clone(), at));
    }

    /// Counts the record and keeps it. Returns false for a record already counted: its batch was sent twice.
    pub(crate) fn note_refused(&mut self, record: &RefusedRecord) -> bool {
        let is_new = self.losses.note_refused(record);
        self.losses_changed |= is_new;
        self.refused_unconfirmed += u64::from(is_new && record.is_line());
        is_new
    }

    pub(crate) fn note_dropped(&mut self, lines: u64, bytes: u64) {
        self.losses.dropped_lines += lines;
        self.losses.dropped_bytes += bytes;
        self.losses_changed = true;
    }

    /// Counts the delivered ones of the confirmed lines, and samples the time for the rate.
    pub(crate) fn note_confirmed(&mut self, lines: u64, now: Instant) {
        let refused = self.refused_unconfirmed.min(lines);
        self.refused_unconfirmed -= refused;
        let due = self.samples.back().is_none_or(|(at, _)| now.duration_since(*at) >= RATE_SPAN / 10);
        if due {
            self.samples.push_back((now, self.delivered_lines));
            if self.samples.len() > 11 {
                self.samples.pop_front();
            }
        }
        self.delivered_lines += lines - refused;
    }

    pub(crate) fn rate(&self, now: Instant) -> f64 {
        let from = self.samples.iter().find(|(at, _)| now.duration_since(*at) <= RATE_SPAN);
        from.map_or(0.0, |(at, before)| {
            let seconds = now.duration_since(*at).as_secs_f64().max(1.0);
            (self.delivered_lines - before) as f64 / seconds
        })
    }
}
