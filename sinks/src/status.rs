//! How a sink is doing, as numbers people can see, and the events that become alerts.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use domain::run::RunId;
use jiff::Timestamp;
use serde::Serialize;

use crate::error::{Class, SinkError};

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
    /// Not yet known to be delivered.
    pub lag_lines: u64,
    pub lag_bytes: u64,
    /// Age of the oldest undelivered line.
    pub lag_seconds: f64,
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
    /// Refused for good by the other side.
    pub refused_records: u64,
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
    pub class: Class,
    pub since: Timestamp,
    pub error: String,
}

/// Kept by the engine's task, read by whoever asks.
#[derive(Debug, Default)]
pub struct Health {
    pub stopped: bool,
    pub failing: Option<Failing>,
    pub last_error: Option<(String, Timestamp)>,
    pub delivered_lines: u64,
    pub dropped_lines: u64,
    pub dropped_bytes: u64,
    pub refused_records: u64,
    samples: VecDeque<(Instant, u64)>,
}

#[derive(Clone, Copy, Debug)]
pub struct Failing {
    pub class: Class,
    pub since: Timestamp,
    /// An event said so.
    pub told: bool,
}

impl Health {
    pub fn state(&self) -> SinkState {
        match self.failing {
            _ if self.stopped => SinkState::Stopped,
            None => SinkState::Working,
            Some(Failing { class: Class::Misconfigured, .. }) => SinkState::Misconfigured,
            Some(_) => SinkState::Retrying,
        }
    }

    pub fn note_error(&mut self, error: &SinkError, at: Timestamp) {
        self.last_error = Some((error.says.clone(), at));
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
