//! Reads the sinks file: every fault of it in one pass. Opens no connection.

use std::time::Duration;

use domain::document::{Document, Section};
use domain::fault::{Fault, Faults};
use domain::line::Stream;

use crate::cloudwatch_logs::{self, CloudwatchLogsConfig};
use crate::file::{self, FileConfig};
pub use crate::filter::Filter;
use crate::foreign_names;
use crate::gelf::{self, GelfConfig};
use crate::record::MAX_LINE_BYTES_MIN;
use crate::stdout::{self, StdoutConfig};
use crate::syslog::{self, SyslogConfig};

/// Waits before a retry, by default: doubled from the first to the last. Chosen: an outage of seconds costs seconds; a
/// long one costs two calls a minute.
const RETRY_INITIAL: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Default of `retry.max_age`: CloudWatch Logs rejects events older than 14 days (API reference, PutLogEvents).
const RETRY_MAX_AGE: Duration = Duration::from_secs(14 * 86_400);
/// Limits of `retry.initial` and `retry.max`. Chosen: below 1 ms a retry is a busy loop, and a sink that does not retry
/// for a week loses lines by `max_age`.
const RETRY_MIN: Duration = Duration::from_millis(1);
const RETRY_LIMIT: Duration = Duration::from_secs(7 * 86_400);
/// Limits of `retry.max_age`. Chosen: less drops every line, and more than 10 years is no limit.
const MAX_AGE_MIN: Duration = Duration::from_secs(1);
const MAX_AGE_MAX: Duration = Duration::from_secs(3650 * 86_400);
/// Default of `alert_after`. Chosen: a receiver restarts in less.
const ALERT_AFTER: Duration = Duration::from_secs(300);
/// Largest `alert_after`. Chosen: later is never.
const ALERT_AFTER_MAX: Duration = Duration::from_secs(365 * 86_400);
/// Largest `batch.timeout`. Chosen: a line that waits longer is missed by its readers.
const BATCH_TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// Default bytes of a batch: the write of this size cost the kernel least per byte when measured.
const BATCH_BYTES: usize = 64 * 1024;
/// Default records of a batch. Chosen: the default bytes are reached first.
const BATCH_EVENTS: usize = 10_000;
/// Largest `batch.max_bytes`. Chosen: above it a batch costs memory and no fewer calls.
const BATCH_BYTES_MAX: u64 = 16 << 20;

/// One sink of the sinks file.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkConfig {
    /// Name of its section.
    pub name: String,
    /// Its `type` and the options of that type.
    pub kind: SinkKind,
    /// The runs and streams that it gets.
    pub when: Filter,
    /// Whether terminal control sequences are removed.
    pub strip_ansi: bool,
    /// Limits of a batch.
    pub batch: BatchConfig,
    /// Retries and the age limit.
    pub retry: RetryConfig,
    /// Bytes of the longest record: for syslog the whole message, for the others the text. Absent: the default of the
    /// kind.
    pub max_line: Option<usize>,
    /// A run starts only while this sink is reachable.
    pub required: bool,
    /// The output that a new sink gets.
    pub start: StartFrom,
    /// A sink that lags or fails for longer raises an alert.
    pub alert_after: Duration,
}

impl SinkConfig {
    /// Whether delivery goes on unchanged when `other` replaces this configuration: `required` and `start` concern only
    /// the runner.
    pub fn delivers_as(&self, other: &SinkConfig) -> bool {
        *self == SinkConfig { required: self.required, start: self.start, ..other.clone() }
    }
}

/// The output that a sink gets when it first appears. Later it has no effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartFrom {
    /// Every run that has not ended, from its first line, and all later runs.
    #[default]
    Now,
    /// The kept output of ended runs too.
    Kept,
}

/// The type of a sink, with its options.
#[derive(Clone, Debug, PartialEq)]
pub enum SinkKind {
    /// Files on this machine.
    File(FileConfig),
    /// Standard output of this process.
    Stdout(StdoutConfig),
    /// Syslog over UDP, TCP, TLS or a local socket.
    Syslog(SyslogConfig),
    /// GELF over UDP, TCP, TLS or HTTP.
    Gelf(GelfConfig),
    /// Amazon CloudWatch Logs.
    CloudwatchLogs(Box<CloudwatchLogsConfig>),
}

impl SinkKind {
    /// The value of `type` in the sinks file.
    pub const fn name(&self) -> &'static str {
        match self {
            SinkKind::File(_) => "file",
            SinkKind::Stdout(_) => "stdout",
            SinkKind::Syslog(_) => "syslog",
            SinkKind::Gelf(_) => "gelf",
            SinkKind::CloudwatchLogs(_) => "cloudwatch_logs",
        }
    }
}

/// A batch is sent when it reaches any of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchConfig {
    /// Records.
    pub max_events: usize,
    /// Encoded bytes.
    pub max_bytes: usize,
    /// How long a batch that is not full waits for more lines.
    pub timeout: Duration,
}

/// Exponential backoff with full jitter, and the age limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryConfig {
    /// Longest wait before the first retry; doubled for each further one.
    pub initial: Duration,
    /// Longest wait before any retry.
    pub max: Duration,
    /// Lines captured longer ago are dropped, counted and marked by a gap. No other setting drops a line.
    pub max_age: Duration,
}

#[derive(Clone, Copy)]
enum Kind {
    File,
    Stdout,
    Syslog,
    Gelf,
    CloudwatchLogs,
}

const KINDS: [(&str, Kind); 5] = [
    ("file", Kind::File),
    ("stdout", Kind::Stdout),
    ("syslog", Kind::Syslog),
    ("gelf", Kind::Gelf),
    ("cloudwatch_logs", Kind::CloudwatchLogs),
];

/// The sinks file (TOML).
pub struct SinksFile;

impl SinksFile {
    /// Reads the text; `file` is only named in faults. Returns the sinks without a fault, and all faults and warnings.
    pub fn parse(file: &str, text: &str) -> (Vec<SinkConfig>, Faults) {
        let (document, mut root) = match Document::parse(file, text) {
            Ok(parsed) => parsed,
            Err(faults) => return (Vec::new(), faults),
        };
        let sections = root.named_sections("sink");
        let mut sinks = Vec::with_capacity(sections.len());
        for (name, section) in sections {
            let faults_before = document.fault_count();
            let sink = read_sink(&document, name, section);
            sinks.extend(sink.filter(|_| document.fault_count() == faults_before));
        }
        root.reject_unknown_keys();
        (sinks, document.faults())
    }
}

fn read_sink(document: &Document, name: String, mut section: Section) -> Option<SinkConfig> {
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') || name.is_empty() {
        let message = "not a sink name; write letters, digits, _ and -";
        document.push(Fault::new(document.file(), section.line(), &*name, message));
    }
    let type_known = section.line_of("type") != section.line();
    if !type_known {
        let message = format!("sink `{name}` has no `type`; write type = \"syslog\" or another of {}", kind_names());
        section.fault(section.line(), "", message);
    }
    let kind = section.choice_by_meaning("type", &KINDS, foreign_names::kind);
    let when = read_when(&mut section);
    let strip_ansi = section.flag("strip_ansi").unwrap_or(false);
    let batch = read_batch(&mut section, kind);
    let retry = read_retry(&mut section);
    let max_line = section.size_in("max_line", MAX_LINE_BYTES_MIN as u64..=domain::line::LINE_BYTES_MAX as u64);
    let required = section.flag("required").unwrap_or(false);
    let start = section.choice("start", &[("now", StartFrom::Now), ("kept", StartFrom::Kept)]).unwrap_or_default();
    let alert_after = section.duration_in("alert_after", Duration::ZERO..=ALERT_AFTER_MAX, "").unwrap_or(ALERT_AFTER);
    let kind = match kind? {
        Kind::File => file::read(&mut section).map(SinkKind::File),
        Kind::Stdout => stdout::read(&mut section).map(SinkKind::Stdout),
        Kind::Syslog => syslog::read(&mut section).map(SinkKind::Syslog),
        Kind::Gelf => gelf::read(&mut section).map(SinkKind::Gelf),
        Kind::CloudwatchLogs => cloudwatch_logs::read(&mut section).map(Box::new).map(SinkKind::CloudwatchLogs),
    };
    section.reject_unknown_keys_by_meaning(foreign_names::key);
    let max_line = max_line.map(|bytes| bytes as usize);
    Some(SinkConfig { name, kind: kind?, when, strip_ansi, batch, retry, max_line, required, start, alert_after })
}

fn kind_names() -> String {
    KINDS.map(|(name, _)| name).join(", ")
}

fn read_when(section: &mut Section) -> Filter {
    let Some(mut when) = section.section("when") else { return Filter::default() };
    let groups = when.texts("groups").unwrap_or_default();
    let jobs = when.texts("jobs").unwrap_or_default();
    let line = when.line_of("streams");
    let mut streams = Vec::new();
    for name in when.texts("streams").unwrap_or_default() {
        match name.as_str() {
            "stdout" => streams.push(Stream::Stdout),
            "stderr" => streams.push(Stream::Stderr),
            _ => when.fault(line, name, "not a stream; write stdout or stderr"),
        }
    }
    when.reject_unknown_keys();
    Filter { groups, jobs, streams }
}

fn read_batch(section: &mut Section, kind: Option<Kind>) -> BatchConfig {
    let default = match kind {
        Some(Kind::CloudwatchLogs) => cloudwatch_logs::BATCH,
        _ => BatchConfig { max_events: BATCH_EVENTS, max_bytes: BATCH_BYTES, timeout: Duration::ZERO },
    };
    let Some(mut batch) = section.section("batch") else { return default };
    let max_events = batch.integer("max_events", 1..=1_000_000);
    let max_bytes = batch.size_in("max_bytes", 1..=BATCH_BYTES_MAX);
    let timeout = batch.duration_in("timeout", Duration::ZERO..=BATCH_TIMEOUT_MAX, "");
    batch.reject_unknown_keys();
    BatchConfig {
        max_events: max_events.map_or(default.max_events, |events| events as usize),
        max_bytes: max_bytes.map_or(default.max_bytes, |bytes| bytes as usize),
        timeout: timeout.unwrap_or(default.timeout),
    }
}

fn read_retry(section: &mut Section) -> RetryConfig {
    let default = RetryConfig { initial: RETRY_INITIAL, max: RETRY_MAX, max_age: RETRY_MAX_AGE };
    let Some(mut retry) = section.section("retry") else { return default };
    // Of the two, a key that is absent has its default, which then limits the other one.
    let (initial_max, hint) = match retry.has_unread("max") {
        true => (RETRY_LIMIT, ""),
        false => (default.max, ", or set `max` too"),
    };
    let initial = retry.duration_in("initial", RETRY_MIN..=initial_max, hint).unwrap_or(default.initial);
    let hint = if initial > RETRY_MIN { ", or set a shorter `initial`" } else { "" };
    let read = RetryConfig {
        initial,
        max: retry.duration_in("max", initial..=RETRY_LIMIT, hint).unwrap_or(default.max),
        max_age: retry.duration_in("max_age", MAX_AGE_MIN..=MAX_AGE_MAX, "").unwrap_or(default.max_age),
    };
    retry.reject_unknown_keys();
    read
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
