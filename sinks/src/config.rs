//! The sinks file. Every fault in it is found in one reading.

use std::time::Duration;

use domain::document::{Document, Section};
use domain::fault::{Fault, Faults};
use domain::line::Stream;

use crate::cloudwatch_logs::{self, CloudwatchLogsConfig};
use crate::file::{self, FileConfig};
use crate::filter::Filter;
use crate::gelf::{self, GelfConfig};
use crate::record::MAX_LINE_BYTES_MIN;
use crate::stdout::{self, StdoutConfig};
use crate::syslog::{self, SyslogConfig};

/// Waits between attempts, where the file says nothing.
const RETRY_INITIAL: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// As long as CloudWatch Logs takes old events: older ones would be refused there too.
const RETRY_MAX_AGE: Duration = Duration::from_secs(14 * 86_400);
/// A sink that fails for so long is worth an alert.
const ALERT_AFTER: Duration = Duration::from_secs(300);
/// Bytes that are encoded before they are sent: one write of the size that is cheapest for the kernel.
const BATCH_BYTES: usize = 64 * 1024;
const BATCH_EVENTS: usize = 10_000;
/// A larger batch would only be memory.
const BATCH_BYTES_MAX: u64 = 16 << 20;

#[derive(Clone, Debug, PartialEq)]
pub struct SinkConfig {
    pub name: String,
    pub kind: SinkKind,
    pub when: Filter,
    pub strip_ansi: bool,
    pub batch: BatchConfig,
    pub retry: RetryConfig,
    /// Bytes of the longest record; absent: what suits the kind. For syslog the whole message, else the text.
    pub max_line: Option<usize>,
    /// A run may only start while this sink is reachable.
    pub required: bool,
    pub alert_after: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum SinkKind {
    File(FileConfig),
    Stdout(StdoutConfig),
    Syslog(SyslogConfig),
    Gelf(GelfConfig),
    CloudwatchLogs(Box<CloudwatchLogsConfig>),
}

impl SinkKind {
    /// As the file writes it.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchConfig {
    pub max_events: usize,
    pub max_bytes: usize,
    /// How long a batch that is not full waits for more.
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryConfig {
    pub initial: Duration,
    pub max: Duration,
    /// Lines captured longer ago are dropped, counted and told. Nothing else ever drops a line.
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

/// The sinks file; see [`SinksFile::parse`].
pub struct SinksFile;

impl SinksFile {
    /// Reads the text; `file` is only named in faults. The sinks are to be used only when no fault refuses the file.
    pub fn parse(file: &str, text: &str) -> (Vec<SinkConfig>, Faults) {
        let (document, mut root) = match Document::parse(file, text) {
            Ok(parsed) => parsed,
            Err(faults) => return (Vec::new(), faults),
        };
        let sections = root.named_sections("sink");
        let mut sinks = Vec::with_capacity(sections.len());
        for (name, section) in sections {
            sinks.extend(read_sink(&document, name, section));
        }
        root.finish();
        (sinks, document.faults())
    }
}

fn read_sink(document: &Document, name: String, mut section: Section) -> Option<SinkConfig> {
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') || name.is_empty() {
        let message = "not a name for a sink; write letters, digits, _ and -";
        document.push(Fault::new(document.file(), section.line(), &*name, message));
    }
    let type_known = section.line_of("type") != section.line();
    if !type_known {
        let message = format!("sink `{name}` has no `type`; write type = \"syslog\" or another of {}", kind_names());
        section.fault(section.line(), "", message);
    }
    let kind = section.choice("type", &KINDS);
    let when = read_when(&mut section);
    let strip_ansi = section.flag("strip_ansi").unwrap_or(false);
    let batch = read_batch(&mut section, kind);
    let retry = read_retry(&mut section);
    let max_line_line = section.line_of("max_line");
    let max_line = section.size("max_line");
    if let Some(bytes) = max_line
        && !(MAX_LINE_BYTES_MIN as u64..=domain::line::LINE_BYTES_MAX as u64).contains(&bytes)
    {
        let message =
            format!("`max_line` is out of range; write {MAX_LINE_BYTES_MIN} to {}", domain::line::LINE_BYTES_MAX);
        section.fault(max_line_line, bytes.to_string(), message);
    }
    let required = section.flag("required").unwrap_or(false);
    let alert_after = section.duration("alert_after").unwrap_or(ALERT_AFTER);
    let kind = match kind? {
        Kind::File => file::read(&mut section).map(SinkKind::File),
        Kind::Stdout => stdout::read(&mut section).map(SinkKind::Stdout),
        Kind::Syslog => syslog::read(&mut section).map(SinkKind::Syslog),
        Kind::Gelf => gelf::read(&mut section).map(SinkKind::Gelf),
        Kind::CloudwatchLogs => cloudwatch_logs::read(&mut section).map(Box::new).map(SinkKind::CloudwatchLogs),
    };
    section.finish();
    let max_line = max_line.map(|bytes| bytes as usize);
    Some(SinkConfig { name, kind: kind?, when, strip_ansi, batch, retry, max_line, required, alert_after })
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
    when.finish();
    Filter { groups, jobs, streams }
}

fn read_batch(section: &mut Section, kind: Option<Kind>) -> BatchConfig {
    let default = match kind {
        Some(Kind::CloudwatchLogs) => cloudwatch_logs::BATCH,
        _ => BatchConfig { max_events: BATCH_EVENTS, max_bytes: BATCH_BYTES, timeout: Duration::ZERO },
    };
    let Some(mut batch) = section.section("batch") else { return default };
    let max_events = batch.integer("max_events", 1..=1_000_000);
    let line = batch.line_of("max_bytes");
    let max_bytes = batch.size("max_bytes");
    if let Some(bytes) = max_bytes
        && !(1..=BATCH_BYTES_MAX).contains(&bytes)
    {
        batch.fault(line, bytes.to_string(), "`max_bytes` is out of range; write 1 to 16MiB");
    }
    let timeout = batch.duration("timeout");
    batch.finish();
    BatchConfig {
        max_events: max_events.map_or(default.max_events, |events| events as usize),
        max_bytes: max_bytes.map_or(default.max_bytes, |bytes| bytes as usize),
        timeout: timeout.unwrap_or(default.timeout),
    }
}

fn read_retry(section: &mut Section) -> RetryConfig {
    let default = RetryConfig { initial: RETRY_INITIAL, max: RETRY_MAX, max_age: RETRY_MAX_AGE };
    let Some(mut retry) = section.section("retry") else { return default };
    let line = retry.line_of("initial");
    let (initial, max) = (retry.duration("initial"), retry.duration("max"));
    let read = RetryConfig {
        initial: initial.unwrap_or(default.initial),
        max: max.unwrap_or(default.max),
        max_age: retry.duration("max_age").unwrap_or(default.max_age),
    };
    if read.initial.is_zero() || read.initial > read.max {
        let shown = domain::units::format_duration(read.initial);
        retry.fault(line, shown, "`initial` must be more than 0s and not more than `max`");
    }
    retry.finish();
    read
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
