//! The text of an alert: headline, subject, facts, body. Used by every channel that sends text. Pure.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{Alert, AlertKind};
use crate::local_time;
use crate::run::ExcerptLine;
use crate::units::format_lines;

/// Characters of a subject. SNS rejects longer ones (Publish: "less than 100 characters") and any that are not ASCII.
pub const SUBJECT_CHARS_MAX: usize = 99;

/// Lines of the excerpt in a message. Chosen: one screen; `sexton logs` shows the rest.
const EXCERPT_LINES_MAX: usize = 40;

/// A longer line of the excerpt is cut. Chosen, not measured.
const EXCERPT_LINE_CHARS_MAX: usize = 500;

/// The alert in a few words: `db/nightly-dump failed on web-3`.
pub fn headline(alert: &Alert) -> String {
    let who = match (alert.group.as_str(), alert.job.as_str()) {
        ("", "") => String::new(),
        (group, "") => format!("group {group} "),
        (group, job) => format!("{group}/{job} "),
    };
    let host = alert.host.as_deref().map_or_else(String::new, |host| format!(" on {host}"));
    match alert.kind {
        AlertKind::Digest if alert.group.is_empty() => format!("{} alerts", alert.count),
        AlertKind::Digest => format!("{} alerts of group {}", alert.count, alert.group),
        AlertKind::SchedulerSilent => "the scheduler is silent".to_owned(),
        AlertKind::BadJob if alert.group == SYSTEM_GROUP => format!("{who}needs attention{host}"),
        AlertKind::Quiet if alert.job.is_empty() => format!("{who}has no live runner"),
        kind => format!("{who}{}{host}", verb(kind)),
    }
}

/// The group of Sexton's own jobs, like `sexton/file.crontab`.
const SYSTEM_GROUP: &str = "sexton";

fn verb(kind: AlertKind) -> &'static str {
    match kind {
        AlertKind::Failed => "failed",
        AlertKind::FalseSuccess => "only claimed to succeed",
        AlertKind::TimedOut => "ran too long and was stopped",
        AlertKind::Missed => "did not start",
        AlertKind::Lost => "was lost",
        AlertKind::Quiet => "prints nothing",
        AlertKind::Recovered => "recovered",
        AlertKind::Flapping => "keeps failing and recovering",
        AlertKind::SchedulerSilent => "is silent",
        AlertKind::BadJob => "has an invalid definition",
        AlertKind::Stuck => "is stuck",
        AlertKind::Digest => "alerts",
    }
}

/// The reason, with local times.
pub fn reason(alert: &Alert) -> String {
    local_time::localize(&alert.reason).into_owned()
}

/// The subject of a mail: one line of ASCII, at most [`SUBJECT_CHARS_MAX`] characters.
pub fn subject(alert: &Alert) -> String {
    let text = format!("[sexton] {}: {}", headline(alert), reason(alert));
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

/// The text of a mail: headline, reason, facts, excerpt, and commands for more.
pub fn body(alert: &Alert) -> String {
    let mut text = format!("{}\n{}\n\n", headline(alert), reason(alert));
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

/// The fields of the alert as pairs of label and value, the most important first.
pub fn facts(alert: &Alert) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if !alert.job.is_empty() {
        facts.push(("Job", format!("{}/{}", alert.group, alert.job)));
    } else if !alert.group.is_empty() {
        facts.push(("Group", alert.group.clone()));
    }
    facts.extend(alert.host.clone().map(|host| ("Host", host)));
    facts.extend(alert.nominal.map(|at| ("Due at", local_time::format(at))));
    facts.extend(
        alert.since.map(|since| {
            (if alert.kind == AlertKind::Recovered { "Failed" } else { "Since" }, since_text(alert, since))
        }),
    );
    facts.extend(alert.exit_code.map(|code| ("Exit code", code.to_string())));
    facts.extend(alert.rule.clone().map(|rule| ("Rule", rule)));
    facts.extend(alert.run_id.as_ref().map(|run_id| ("Run", run_id.to_string())));
    facts
}

fn since_text(alert: &Alert, since: Timestamp) -> String {
    match (alert.kind, alert.count) {
        (AlertKind::Digest | AlertKind::Flapping | AlertKind::Quiet, _) => local_time::format(since),
        (AlertKind::Recovered, _) => format!("since {}", local_time::format(since)),
        (AlertKind::Stuck, count) => format!("{}, {count} firings in a row", local_time::format(since)),
        (_, count) if count > 1 => format!("{}, {count} failed runs in a row", local_time::format(since)),
        _ => local_time::format(since),
    }
}

/// Commands and addresses that show more of the run or the job.
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

/// The last lines of an excerpt, cut to their limits, with notes on what was cut.
pub fn excerpt(lines: &[ExcerptLine]) -> Vec<String> {
    let skipped = lines.len().saturating_sub(EXCERPT_LINES_MAX);
    let mut shown = Vec::with_capacity(lines.len() - skipped + 1);
    if skipped > 0 {
        shown.push(format!("... {} before these ...", format_lines(skipped as u64)));
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
