//! The texts and members of the records `run.started`, `run.finished` and `run.output_ended`. Shared by all sinks, so
//! every receiver gets the same.

use domain::run::Trigger;
use domain::units::format_lines;

use crate::feed::{FinishedRecord, OutputEndedRecord, RunHeader};
use crate::json::{number_member, text_member};

pub(crate) const STARTED: &str = "run.started";
pub(crate) const FINISHED: &str = "run.finished";
pub(crate) const OUTPUT_ENDED: &str = "run.output_ended";
pub(crate) const GAP: &str = "gap";

/// Bytes of a command in `run.started`, which has no parts and must fit into any transport. Chosen: half of a syslog
/// message (8192 bytes).
pub(crate) const COMMAND_BYTES_MAX: usize = 4096;

pub(crate) const fn trigger_name(trigger: Trigger) -> &'static str {
    match trigger {
        Trigger::Schedule => "schedule",
        Trigger::Manual => "manual",
        Trigger::Retry => "retry",
        Trigger::CatchUp => "catch_up",
        Trigger::Exec => "exec",
    }
}

/// One line of text: `run started: dump.sh`.
pub(crate) fn started_text(header: &RunHeader) -> String {
    format!("run started: {}", one_line(&shortened(&header.command, COMMAND_BYTES_MAX)))
}

/// One line of text: `run failed after 1.5s: exit code 3 (3 lines)`.
pub(crate) fn finished_text(finished: &FinishedRecord) -> String {
    let FinishedRecord { outcome, duration_ms, reason, stdout_lines, stderr_lines, .. } = finished;
    let after = domain::units::format_duration(std::time::Duration::from_millis(*duration_ms));
    let mut text = format!("run {} after {after}", outcome.name());
    if !reason.is_empty() {
        text.push_str(": ");
        text.push_str(&one_line(&shortened(reason, COMMAND_BYTES_MAX)));
    }
    text.push_str(&format!(" ({}", format_lines(stdout_lines + stderr_lines)));
    if finished.dropped_lines > 0 {
        text.push_str(&format!(", {} dropped", finished.dropped_lines));
    }
    if finished.output_open {
        text.push_str(", more may follow");
    }
    text.push(')');
    text
}

/// One line of text: `run output ended: 2 late lines (5 lines)`.
pub(crate) fn output_ended_text(ended: &OutputEndedRecord) -> String {
    let late = match ended.late_lines {
        1 => "1 late line".to_owned(),
        lines => format!("{lines} late lines"),
    };
    let mut text = format!("run output ended: {late} ({}", format_lines(ended.stdout_lines + ended.stderr_lines));
    if ended.dropped_lines > 0 {
        text.push_str(&format!(", {} dropped", ended.dropped_lines));
    }
    text.push(')');
    if !ended.reason.is_empty() {
        text.push_str("; ");
        text.push_str(&one_line(&shortened(&ended.reason, COMMAND_BYTES_MAX)));
    }
    text
}

/// A receiver would end the frame at a newline.
fn one_line(text: &str) -> String {
    text.replace('\n', "\\n").replace('\r', "\\r").replace('\0', "\\0")
}

/// Appends members, each followed by a comma; every key begins with `prefix`.
pub(crate) fn write_members(pairs: Vec<(&'static str, Value)>, prefix: &str, out: &mut Vec<u8>) {
    for (key, value) in pairs {
        let key = format!("{prefix}{key}");
        match value {
            Value::Text(text) => text_member(&key, &text, out),
            Value::Number(number) => number_member(&key, number, out),
            // Graylog, whose fields have the prefix, drops booleans.
            Value::Flag(flag) if !prefix.is_empty() => text_member(&key, &flag.to_string(), out),
            Value::Flag(flag) => number_member(&key, flag, out),
        }
    }
}

pub(crate) enum Value {
    Text(String),
    Number(i128),
    Flag(bool),
}

/// The members of `run.finished` in the order of writing, without those that are unknown.
pub(crate) fn finished_pairs(finished: &FinishedRecord) -> Vec<(&'static str, Value)> {
    let number = |number: u64| Value::Number(number.into());
    let mut pairs = vec![
        ("outcome", Value::Text(finished.outcome.name().to_owned())),
        ("reason", Value::Text(shortened(&finished.reason, COMMAND_BYTES_MAX))),
    ];
    pairs.extend(finished.exit_code.map(|code| ("exit_code", Value::Number(code.into()))));
    pairs.extend(finished.signal.map(|signal| ("signal", Value::Number(signal.into()))));
    pairs.extend([
        ("duration_ms", number(finished.duration_ms)),
        ("stdout_lines", number(finished.stdout_lines)),
        ("stderr_lines", number(finished.stderr_lines)),
        ("stdout_bytes", number(finished.stdout_bytes)),
        ("stderr_bytes", number(finished.stderr_bytes)),
        ("last_seq", number(finished.last_seq)),
        ("dropped_lines", number(finished.dropped_lines)),
    ]);
    pairs.extend(finished.output_open.then_some(("output_open", Value::Flag(true))));
    pairs
}

/// The members of `run.output_ended` in the order of writing.
pub(crate) fn output_ended_pairs(ended: &OutputEndedRecord) -> Vec<(&'static str, Value)> {
    let number = |number: u64| Value::Number(number.into());
    let reason = (!ended.reason.is_empty()).then(|| Value::Text(shortened(&ended.reason, COMMAND_BYTES_MAX)));
    let mut pairs: Vec<(&'static str, Value)> = reason.map(|reason| ("reason", reason)).into_iter().collect();
    pairs.extend([
        ("late_lines", number(ended.late_lines)),
        ("stdout_lines", number(ended.stdout_lines)),
        ("stderr_lines", number(ended.stderr_lines)),
        ("stdout_bytes", number(ended.stdout_bytes)),
        ("stderr_bytes", number(ended.stderr_bytes)),
        ("last_seq", number(ended.last_seq)),
        ("dropped_lines", number(ended.dropped_lines)),
    ]);
    pairs
}

/// Cuts the text of a bracket, which has no parts, and appends the number of missing bytes.
pub(crate) fn shortened(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let mut end = bytes_max.saturating_sub(32);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}... ({} more bytes)", &text[..end], text.len() - end)
}
