//! Reads a run's lines back, with FilterLogEvents. Called by `sexton logs`; the sink itself never reads.
//!
//! One stream may hold many runs, and delivery is at least once: events are chosen by the run's name and attempt, and each
//! number is given once.

use domain::line::Stream;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::Client;
use super::create::to_bytes;
use super::options::CloudwatchLogsConfig;
use super::{group_name, stream_name};
use crate::bracket_records::{FINISHED, GAP, STARTED};
use crate::feed::RunHeader;

/// Lines are stamped by the host's clock, the ledger's instants by others'.
const EARLIER: SignedDuration = SignedDuration::from_mins(10);

/// Group and stream of a run's lines.
pub fn log_stream_of(config: &CloudwatchLogsConfig, header: &RunHeader) -> (String, String) {
    (group_name(&config.group.fill(header)), stream_name(&config.stream.fill(header)))
}

/// Which lines.
#[derive(Clone, Debug)]
pub struct AttemptFilter {
    group: String,
    stream: String,
    run_id: String,
    attempt: u32,
    since: Timestamp,
}

impl AttemptFilter {
    /// One attempt of a run.
    pub fn new(config: &CloudwatchLogsConfig, header: &RunHeader) -> AttemptFilter {
        let (group, stream) = log_stream_of(config, header);
        let since = header.started_at.checked_sub(EARLIER).unwrap_or(header.started_at);
        AttemptFilter { group, stream, run_id: header.run_id.to_string(), attempt: header.attempt, since }
    }
}

/// A line, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub at_ms: i64,
    pub stream: Stream,
    pub begins_line: bool,
    pub ends_line: bool,
    pub text: String,
}

/// An event of ours, as the sink writes it in JSON.
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
    message: String,
}

/// Gives the events page by page; asked again at the end, it looks for new ones.
pub struct Reader {
    client: Client,
    wanted: AttemptFilter,
    next_token: Option<String>,
    /// Number and part of the last event that was given.
    returned: (u64, u64),
    since_ms: i64,
    has_ended: bool,
}

impl Reader {
    /// # Errors
    /// One sentence: there is no region, or the TLS settings cannot be used.
    pub async fn new(config: &CloudwatchLogsConfig, wanted: AttemptFilter) -> Result<Reader, String> {
        let client = Client::new(&config.access, Timestamp::now).await.map_err(|error| error.message)?;
        let since_ms = wanted.since.as_millisecond();
        Ok(Reader { client, wanted, next_token: None, returned: (0, 0), since_ms, has_ended: false })
    }

    /// Whether the record `run.finished` was seen: nothing comes after it.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether there is another page now.
    pub fn has_more(&self) -> bool {
        self.next_token.is_some()
    }

    /// The next page; it may be empty with more to come.
    ///
    /// # Errors
    /// One sentence: what the service said.
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
            .map_err(|error| format!("CloudWatch Logs answered FilterLogEvents with what is not JSON: {error}"))?;
        let mut found = Vec::new();
        for event in answer["events"].as_array().into_iter().flatten() {
            let at_ms = event["timestamp"].as_i64().unwrap_or(self.since_ms);
            let read = serde_json::from_str::<Message>(event["message"].as_str().unwrap_or_default());
            // Somebody else's words may name the run as well.
            let Ok(message) = read else { continue };
            if message.run_id == self.wanted.run_id && message.attempt == self.wanted.attempt {
                found.push((at_ms, message));
            }
        }
        // The service sorts by time; within a millisecond the numbers tell.
        found.sort_by_key(|(at_ms, message)| (*at_ms, message.seq, message.part));
        self.next_token = answer["nextToken"].as_str().map(str::to_owned);
        Ok(found.into_iter().filter_map(|(at_ms, message)| self.take(at_ms, message)).collect())
    }

    fn take(&mut self, at_ms: i64, message: Message) -> Option<Event> {
        match message.event.as_deref() {
            Some(STARTED) => return None,
            Some(FINISHED) => {
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
            // New lines are looked for from here on; those of this very millisecond were given.
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
