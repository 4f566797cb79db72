//! Builds the body of one PutLogEvents within every limit of the call. Pure: no network and no clock.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::cloudwatch_logs::run_state::{EventMark, RunState};
use crate::json::write_text;
use crate::record::RecordId;
use crate::sink::NamedRefusal;
use crate::stamp::Digits;

/// Bytes of all events of a call, with [`EVENT_OVERHEAD_BYTES`] for each (API reference, PutLogEvents).
pub(super) const BATCH_BYTES_MAX: usize = 1_048_576;
pub(super) const EVENT_OVERHEAD_BYTES: usize = 26;
/// Events of a call (API reference, PutLogEvents).
pub(super) const BATCH_EVENTS_MAX: usize = 10_000;
/// The largest message that fits into a call.
pub(super) const MESSAGE_BYTES_MAX: usize = BATCH_BYTES_MAX - EVENT_OVERHEAD_BYTES;
/// First and last event of a call are less than 24 hours apart (API reference, PutLogEvents).
const SPAN_MS_MAX: i64 = 24 * 3_600_000;
/// Capacity of a reused body: a full batch of log lines with their JSON, as measured.
const BODY_BYTES_USUAL: usize = 1_400_000;
/// First capacity of a body: a small batch needs no more. Chosen, not measured.
const BODY_BYTES_FIRST: usize = 4096;

/// A log stream and its group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct LogStream {
    pub group: String,
    pub stream: String,
}

/// Limits of a call; at most the constants above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub events: usize,
    pub bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    ms: i64,
    /// Range of the event in the body, without the comma before the next.
    start: usize,
    end: usize,
    record: RecordId,
    /// Index of its run in the marks of the batch.
    run: usize,
}

/// Events for one stream. An event is appended in two steps: its bytes to [`Batch::body`], then
/// [`Batch::finish_event`].
pub(super) struct Batch {
    pub log_stream: Arc<LogStream>,
    pub body: Vec<u8>,
    entries: Vec<Entry>,
    /// Bytes as the service counts them.
    counted_bytes: usize,
    min_ms: i64,
    max_ms: i64,
    sorted: bool,
    /// For each run in the batch: its position once the batch is accepted.
    pub marks: Vec<(Arc<RunState>, EventMark)>,
    /// The engine's number of the batch that its first record is from.
    pub first_batch: u64,
}

impl Batch {
    pub(super) fn new(log_stream: Arc<LogStream>, first_batch: u64) -> Batch {
        Batch {
            body: body_head(&log_stream, BODY_BYTES_FIRST),
            log_stream,
            entries: Vec::new(),
            counted_bytes: 0,
            min_ms: i64::MAX,
            max_ms: i64::MIN,
            sorted: true,
            marks: Vec::new(),
            first_batch,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes as the service counts them.
    pub(super) fn counted_bytes(&self) -> usize {
        self.counted_bytes
    }

    /// Whether another event with this time and message size fits.
    pub(super) fn fits(&self, limits: Limits, ms: i64, message_bytes: usize) -> bool {
        if self.entries.is_empty() {
            return true;
        }
        self.entries.len() < limits.events
            && self.counted_bytes + message_bytes + EVENT_OVERHEAD_BYTES <= limits.bytes
            && self.max_ms.max(ms) - self.min_ms.min(ms) < SPAN_MS_MAX
    }

    /// Returns where the next event starts in the body; append it with [`open_event`] and [`close_event`]. A body that
    /// has outgrown its first capacity moves into a buffer of an earlier batch, which never needs to grow.
    pub(super) fn begin_event(&mut self, spare: &mut Vec<BodyBuffer>) -> usize {
        if (BODY_BYTES_FIRST * 4..BODY_BYTES_USUAL).contains(&self.body.capacity()) {
            let mut buffer = spare.pop().unwrap_or_else(BodyBuffer::new);
            buffer.body.extend_from_slice(&self.body);
            buffer.entries.extend_from_slice(&self.entries);
            (self.body, self.entries) = (buffer.body, buffer.entries);
        }
        if !self.entries.is_empty() {
            self.body.push(b',');
        }
        self.body.len()
    }

    /// Makes the bytes since `start` (from [`Batch::begin_event`]) an event.
    pub(super) fn finish_event(&mut self, start: usize, ms: i64, message_bytes: usize, record: RecordId) {
        self.sorted &= ms >= self.max_ms || self.entries.is_empty();
        self.entries.push(Entry { ms, start, end: self.body.len(), record, run: 0 });
        self.counted_bytes += message_bytes + EVENT_OVERHEAD_BYTES;
        self.min_ms = self.min_ms.min(ms);
        self.max_ms = self.max_ms.max(ms);
    }

    /// Removes and returns the bytes since `start`: the event goes into another batch.
    pub(super) fn remove_event(&mut self, start: usize) -> Vec<u8> {
        let event = self.body.split_off(start);
        if !self.entries.is_empty() {
            self.body.pop();
        }
        event
    }

    /// The last event is of this run.
    pub(super) fn mark(&mut self, run: &Arc<RunState>, mark: EventMark) {
        match self.marks.last_mut() {
            Some((last, at)) if Arc::ptr_eq(last, run) => *at = mark,
            _ => self.marks.push((run.clone(), mark)),
        }
        if let Some(entry) = self.entries.last_mut() {
            entry.run = self.marks.len() - 1;
        }
    }

    /// Completes the body in the order of time; events with the same time keep the order of their arrival.
    pub(super) fn seal(self) -> SealedBatch {
        let Batch { log_stream, mut body, mut entries, sorted, marks, .. } = self;
        if !sorted {
            entries.sort_by_key(|entry| entry.ms);
            (body, entries) = rebuild_body(&log_stream, &body, &entries);
        }
        body.extend_from_slice(b"]}");
        SealedBatch { log_stream, body: Bytes::from(body), entries, marks }
    }
}

/// The memory of a full batch, for reuse. A fresh megabyte from the kernel for each call cost a third of the call's CPU
/// time.
pub(super) struct BodyBuffer {
    body: Vec<u8>,
    entries: Vec<Entry>,
}

impl BodyBuffer {
    fn new() -> BodyBuffer {
        BodyBuffer { body: Vec::with_capacity(BODY_BYTES_USUAL), entries: Vec::with_capacity(BATCH_EVENTS_MAX) }
    }
}

/// The body of a whole call.
pub(super) struct SealedBatch {
    pub log_stream: Arc<LogStream>,
    pub body: Bytes,
    entries: Vec<Entry>,
    pub marks: Vec<(Arc<RunState>, EventMark)>,
}

impl SealedBatch {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of an event in the body.
    pub(super) fn event_bytes(&self, event: usize) -> usize {
        self.entries.get(event).map_or(0, |entry| entry.end - entry.start)
    }

    /// Names an event that the service refused.
    pub(super) fn refusal(&self, event: usize, message: String) -> Option<NamedRefusal> {
        let entry = self.entries.get(event)?;
        let (run, _) = self.marks.get(entry.run)?;
        Some(NamedRefusal { attempt: run.attempt.clone(), record: entry.record, message })
    }

    /// The memory, when it is that of a full batch and has no other reader.
    pub(super) fn into_buffer(self) -> Option<BodyBuffer> {
        let mut body = Vec::from(self.body.try_into_mut().ok()?);
        let mut entries = self.entries;
        body.clear();
        entries.clear();
        (body.capacity() >= BODY_BYTES_USUAL).then_some(BodyBuffer { body, entries })
    }

    /// The body of a call with only these events.
    pub(super) fn part(&self, range: Range<usize>) -> Bytes {
        let (mut body, _) = rebuild_body(&self.log_stream, &self.body, self.entries.get(range).unwrap_or_default());
        body.extend_from_slice(b"]}");
        Bytes::from(body)
    }
}

fn rebuild_body(log_stream: &LogStream, from: &[u8], entries: &[Entry]) -> (Vec<u8>, Vec<Entry>) {
    let bytes = entries.iter().map(|entry| entry.end - entry.start + 1).sum::<usize>();
    let mut body = body_head(log_stream, bytes + 2);
    let mut moved = Vec::with_capacity(entries.len());
    for entry in entries {
        if !moved.is_empty() {
            body.push(b',');
        }
        let start = body.len();
        body.extend_from_slice(from.get(entry.start..entry.end).unwrap_or_default());
        moved.push(Entry { start, end: body.len(), ..*entry });
    }
    (body, moved)
}

fn body_head(log_stream: &LogStream, bytes: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(bytes + log_stream.group.len() + log_stream.stream.len() + 64);
    body.extend_from_slice(b"{\"logGroupName\":");
    write_text(log_stream.group.as_bytes(), &mut body);
    body.extend_from_slice(b",\"logStreamName\":");
    write_text(log_stream.stream.as_bytes(), &mut body);
    body.extend_from_slice(b",\"logEvents\":[");
    body
}

/// Appends an event up to the start of its message. The service knows no time before 1970.
pub(super) fn open_event(ms: i64, digits: &mut Digits, body: &mut Vec<u8>) {
    body.extend_from_slice(b"{\"timestamp\":");
    body.extend_from_slice(digits.text(ms.max(0) as u64));
    body.extend_from_slice(b",\"message\":\"");
}

pub(super) fn close_event(body: &mut Vec<u8>) {
    body.extend_from_slice(b"\"}");
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
