//! Reads the lines of a run from CloudWatch Logs with FilterLogEvents. Called by `sexton logs`; the sink itself never
//! reads.
//!
//! One stream may contain many runs, and delivery is at least once: events are selected by run id and attempt, and each
//! seq is returned once.

use std::sync::Arc;

use domain::line::Stream;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::Client;
use super::create::to_bytes;
use super::options::CloudwatchLogsConfig;
use super::{group_name, stream_name};
use crate::bracket_records::{FINISHED, GAP, OUTPUT_ENDED, STARTED};
use crate::feed::RunHeader;

/// Events are read from this long before the start: lines have the host's clock, the start may have another. Chosen:
/// far above a usual difference of clocks.
const EARLIER: SignedDuration = SignedDuration::from_mins(10);

/// Group and stream of a run's lines.
pub fn log_stream_of(config: &CloudwatchLogsConfig, header: &RunHeader) -> (String, String) {
    (group_name(&config.group.fill(header)), stream_name(&config.stream.fill(header)))
}

/// Selects the events of one attempt.
#[derive(Clone, Debug)]
pub struct AttemptFilter {
    group: String,
    stream: String,
    run_id: String,
    attempt: u32,
    since: Timestamp,
}

impl AttemptFilter {
    /// Selects one attempt of a run.
    pub fn new(config: &CloudwatchLogsConfig, header: &RunHeader) -> AttemptFilter {
        let (group, stream) = log_stream_of(config, header);
        let since = header.started_at.checked_sub(EARLIER).unwrap_or(header.started_at);
        AttemptFilter { group, stream, run_id: header.run_id.to_string(), attempt: header.attempt, since }
    }
}

/// A line, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Time of the event in ms since 1970.
    pub at_ms: i64,
    /// Stream that the line was printed to.
    pub stream: Stream,
    /// Whether the line starts with this text.
    pub begins_line: bool,
    /// Whether the line ends with this text.
    pub ends_line: bool,
    /// Text without a newline.
    pub text: String,
}

/// An event's message, as the sink writes it in JSON.
#[derive(Debug, Deserialize)]
struct Message {
    run_id: String,
    attempt: u32,
    #[serde(default)]
    seq: u64,
    stream: Option<Stream>,
    #[serde(default)]
    part: u64,
    part_last: Option<bool>,
    event: Option<String>,
    #[serde(default)]
    output_open: bool,
    #[serde(default)]
    message: String,
}

/// Returns the events page by page. After the last page, the next call reads new events.
pub struct Reader {
    client: Client,
    wanted: AttemptFilter,
    next_token: Option<String>,
    /// Seq and part of the last returned event.
    returned: (u64, u64),
    since_ms: i64,
    has_ended: bool,
}

impl Reader {
    /// Opens a client; makes no call yet.
    ///
    /// # Errors
    /// One sentence: there is no region, or the TLS settings are not usable.
    pub async fn new(config: &CloudwatchLogsConfig, wanted: AttemptFilter) -> Result<Reader, String> {
        let client =
            Client::new(&config.access, Timestamp::now, Arc::default()).await.map_err(|error| error.message)?;
        let since_ms = wanted.since.as_millisecond();
        Ok(Reader { client, wanted, next_token: None, returned: (0, 0), since_ms, has_ended: false })
    }

    /// Whether the last bracket record was read: no event follows it.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether another page is available now.
    pub fn has_more(&self) -> bool {
        self.next_token.is_some()
    }

    /// The next page; it may be empty although more pages follow.
    ///
    /// # Errors
    /// One sentence: the service's error.
    pub async fn next(&mut self) -> Result<Vec<Event>, String> {
        let mut request = json!({
            "logGroupName": self.wanted.group,
            "logStreamNames": [self.wanted.stream],
            "startTime": self.since_ms,
            "filterPattern": format!("\"{}\"", self.wanted.run_id),
        });
        if let Some(token) = &self.next_token {
            request["nextToken"] = json!(token);
        }
        let answer =
            self.client.call("FilterLogEvents", to_bytes(&request)).await.map_err(|failure| failure.error.message)?;
        let answer: Value = serde_json::from_slice(&answer)
            .map_err(|error| format!("CloudWatch Logs answered FilterLogEvents with invalid JSON: {error}"))?;
        let mut found = Vec::new();
        for event in answer["events"].as_array().into_iter().flatten() {
            let at_ms = event["timestamp"].as_i64().unwrap_or(self.since_ms);
            let read = serde_json::from_str::<Message>(event["message"].as_str().unwrap_or_default());
            // Another program's event may contain the run id, too.
            let Ok(message) = read else { continue };
            if message.run_id == self.wanted.run_id && message.attempt == self.wanted.attempt {
                found.push((at_ms, message));
            }
        }
        // The service sorts by time; seq and part sort within a millisecond.
        found.sort_by_key(|(at_ms, message)| (*at_ms, message.seq, message.part));
        self.next_token = answer["nextToken"].as_str().map(str::to_owned);
        Ok(found.into_iter().filter_map(|(at_ms, message)| self.take(at_ms, message)).collect())
    }

    fn take(&mut self, at_ms: i64, message: Message) -> Option<Event> {
        match message.event.as_deref() {
            Some(STARTED) => return None,
            Some(FINISHED) => {
                self.has_ended |= !message.output_open;
                return None;
            }
            Some(OUTPUT_ENDED) => {
                self.has_ended = true;
                return None;
            }
            Some(GAP) if message.seq == 0 => {
                let text = format!("[sexton: {}]", message.message);
                return Some(Event { at_ms, stream: Stream::Stdout, begins_line: true, ends_line: true, text });
            }
            _ => {}
        }
        let place = (message.seq, message.part);
        if place <= self.returned {
            return None;
        }
        self.returned = place;
        if !self.has_more() {
            // The next read begins here; events of this millisecond that were returned are skipped.
            self.since_ms = self.since_ms.max(at_ms);
        }
        Some(Event {
            at_ms,
            stream: message.stream.unwrap_or(Stream::Stdout),
            begins_line: message.part <= 1,
            ends_line: message.part_last.unwrap_or(true),
            text: message.message,
        })
    }
}
