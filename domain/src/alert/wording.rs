//! An alert as text that a person likes to read at three in the morning. Pure: used by every channel that shows text.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{Alert, AlertKind};
use crate::run::ExcerptLine;

/// SNS refuses longer subjects (100 with the terminator), and mail programs cut them; ASCII for the same reason.
pub const SUBJECT_CHARS_MAX: usize = 99;

/// The excerpt of a mail; the whole output is one command away.
const EXCERPT_LINES_MAX: usize = 40;

/// A longer line of the excerpt is cut, and says so.
const EXCERPT_LINE_CHARS_MAX: usize = 500;

/// What is said in a few words: `db/nightly-dump failed on web-3`.
pub fn headline(alert: &Alert) -> String {
    let who = match (alert.group.as_str(), alert.job.as_str()) {
        ("", "") => String::new(),
        (group, "") => format!("group {group} "),
        (group, job) => format!("{group}/{job} "),
    };
    let host = alert.host.as_deref().map_or_else(String::new, |host| format!(" on {host}"));
    match alert.kind {
        AlertKind::Digest => format!("{} alerts", alert.count),
        AlertKind::SchedulerSilent => "the scheduler is silent".to_owned(),
        kind => format!("{who}{}{host}", verb(kind)),
    }
}

fn verb(kind: AlertKind) -> &'static str {
    match kind {
        AlertKind::Failed => "failed",
        AlertKind::FalseSuccess => "only claimed to succeed",
        AlertKind::TimedOut => "ran too long and was stopped",
        AlertKind::Missed => "did not start",
        AlertKind::Lost => "was lost",
        AlertKind::Quiet => "is silent",
        AlertKind::Recovered => "is good again",
        AlertKind::Flapping => "keeps failing and recovering",
        AlertKind::SchedulerSilent => "is silent",
        AlertKind::BadJob => "cannot be scheduled",
        AlertKind::Digest => "alerts",
    }
}

/// ASCII, one line, at most [`SUBJECT_CHARS_MAX`].
pub fn subject(alert: &Alert) -> String {
    let text = format!("[sexton] {}: {}", headline(alert), alert.reason);
    let ascii: String = text
        .chars()
        .map(|c| match c {
            c if c.is_ascii_graphic() || c == ' ' => c,
            c if c.is_whitespace() || c.is_control() => ' ',
            _ => '?',
        })
        .collect();
    if ascii.len() <= SUBJECT_CHARS_MAX {
        return ascii.trim_end().to_owned();
    }
    format!("{}...", ascii[..SUBJECT_CHARS_MAX - 3].trim_end())
}

/// What, where, since, why, the last lines, and how to see more.
pub fn body(alert: &Alert) -> String {
    let mut text = format!("{}\n{}\n\n", headline(alert), alert.reason);
    for (name, value) in facts(alert) {
        let _infallible = writeln!(text, "{name:<10}{value}");
    }
    if !alert.excerpt.is_empty() {
        let lines = excerpt(&alert.excerpt);
        let title = if alert.rule.is_some() { "The lines around the match:" } else { "The last lines:" };
        let _infallible = writeln!(text, "\n{title}");
        for line in lines {
            let _infallible = writeln!(text, "  {line}");
        }
    }
    let more = see_more(alert);
    if !more.is_empty() {
        text.push_str("\nTo see more:\n");
        for line in more {
            let _infallible = writeln!(text, "  {line}");
        }
    }
    text
}

/// The small facts in pairs, in the order in which they are asked for.
pub fn facts(alert: &Alert) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if !alert.job.is_empty() {
        facts.push(("Job", format!("{}/{}", alert.group, alert.job)));
    } else if !alert.group.is_empty() {
        facts.push(("Group", alert.group.clone()));
    }
    facts.extend(alert.host.clone().map(|host| ("Host", host)));
    facts.extend(alert.nominal.map(|at| ("Due at", instant(at))));
    facts.extend(
        alert.since.map(|since| {
            (if alert.kind == AlertKind::Recovered { "Was bad" } else { "Since" }, since_text(alert, since))
        }),
    );
    facts.extend(alert.exit_code.map(|code| ("Exit code", code.to_string())));
    facts.extend(alert.rule.clone().map(|rule| ("Rule", rule)));
    facts.extend(alert.run_id.as_ref().map(|run_id| ("Run", run_id.to_string())));
    facts
}

fn since_text(alert: &Alert, since: Timestamp) -> String {
    match (alert.kind, alert.count) {
        (AlertKind::Recovered, _) => format!("since {}", instant(since)),
        (_, count) if count > 1 => format!("{}, {count} bad runs in a row", instant(since)),
        _ => instant(since),
    }
}

/// To the second, UTC.
fn instant(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Commands and addresses.
pub fn see_more(alert: &Alert) -> Vec<String> {
    let mut more = Vec::new();
    if let Some(run_id) = &alert.run_id {
        more.push(format!("sexton show {run_id}"));
        more.push(format!("sexton logs {run_id}"));
    } else if !alert.job.is_empty() {
        more.push(format!("sexton runs {}/{}", alert.group, alert.job));
    }
    more.extend(alert.links.iter().map(|(name, address)| format!("{name}: {address}")));
    more
}

/// The last lines, each on one line and bounded; what is left out is said.
pub fn excerpt(lines: &[ExcerptLine]) -> Vec<String> {
    let skipped = lines.len().saturating_sub(EXCERPT_LINES_MAX);
    let mut shown = Vec::with_capacity(lines.len() - skipped + 1);
    if skipped > 0 {
        shown.push(format!("... {skipped} lines before these ..."));
    }
    for line in &lines[skipped..] {
        let clean = line.text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c });
        let mut text: String = clean.take(EXCERPT_LINE_CHARS_MAX).collect();
        if line.text.chars().nth(EXCERPT_LINE_CHARS_MAX).is_some() {
            let _infallible = write!(text, "... ({} characters in all)", line.text.chars().count());
        }
        shown.push(text);
    }
    shown
}
