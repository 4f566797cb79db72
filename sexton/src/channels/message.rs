//! An alert as text that a person likes to read at three in the morning. Pure: used by every channel that shows text.

use std::fmt::Write as _;

use domain::alert::{Alert, AlertKind};
use domain::run::ExcerptLine;
use jiff::Timestamp;

use crate::output::instant;

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

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use domain::line::Stream;
    use domain::run::{Outcome, RunId};

    use super::*;

    pub fn failed_alert() -> Alert {
        Alert {
            kind: AlertKind::Failed,
            group: "db".into(),
            job: "nightly-dump".into(),
            run_id: Some(RunId("20261123T023000Z-3f9a1c0e7b2d".into())),
            nominal: Some("2026-11-23T02:30:00Z".parse().expect("instant")),
            outcome: Some(Outcome::Failed),
            reason: "exit code 2".into(),
            exit_code: Some(2),
            host: Some("web-3".into()),
            since: Some("2026-11-22T02:30:07Z".parse().expect("instant")),
            count: 2,
            excerpt: vec![
                ExcerptLine { seq: 8, stream: Stream::Stdout, text: "dumping <users> & roles".into() },
                ExcerptLine { seq: 9, stream: Stream::Stderr, text: "pg_dump: error: no space left".into() },
            ],
            rule: None,
            links: BTreeMap::from([("console".to_owned(), "https://cron.example.org/runs/1".to_owned())]),
        }
    }

    pub fn long_alert() -> Alert {
        let line =
            |seq| ExcerptLine { seq, stream: Stream::Stdout, text: format!("```<&> {seq} {}", "é".repeat(2_000)) };
        Alert { reason: "é\nü".repeat(4_000), excerpt: (1..500).map(line).collect(), ..failed_alert() }
    }

    #[test]
    fn a_mail_says_what_where_since_why_and_how_to_see_more() {
        assert_eq!(subject(&failed_alert()), "[sexton] db/nightly-dump failed on web-3: exit code 2");
        assert_eq!(
            body(&failed_alert()),
            "db/nightly-dump failed on web-3
exit code 2

Job       db/nightly-dump
Host      web-3
Due at    2026-11-23T02:30:00Z
Since     2026-11-22T02:30:07Z, 2 bad runs in a row
Exit code 2
Run       20261123T023000Z-3f9a1c0e7b2d

The last lines:
  dumping <users> & roles
  pg_dump: error: no space left

To see more:
  sexton show 20261123T023000Z-3f9a1c0e7b2d
  sexton logs 20261123T023000Z-3f9a1c0e7b2d
  console: https://cron.example.org/runs/1
"
        );
    }

    #[test]
    fn a_subject_is_one_short_line_of_ascii() {
        let subject = subject(&long_alert());
        assert!(subject.len() <= SUBJECT_CHARS_MAX && subject.ends_with("..."), "{subject}");
        assert!(subject.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{subject}");
    }

    #[test]
    fn an_excerpt_says_what_it_leaves_out() {
        let lines = excerpt(&long_alert().excerpt);
        assert_eq!(lines.len(), EXCERPT_LINES_MAX + 1);
        assert_eq!(lines[0], "... 459 lines before these ...");
        assert!(lines[1].ends_with("... (2011 characters in all)"), "{}", lines[1]);
    }

    #[test]
    fn an_alert_without_a_run_still_reads_well() {
        let alert = Alert {
            kind: AlertKind::Quiet,
            job: String::new(),
            run_id: None,
            nominal: None,
            outcome: None,
            exit_code: None,
            host: None,
            since: None,
            excerpt: Vec::new(),
            links: BTreeMap::new(),
            reason: "no runner of the group has shown life for 10m".into(),
            ..failed_alert()
        };
        assert_eq!(body(&alert), "group db is silent\nno runner of the group has shown life for 10m\n\nGroup     db\n");
    }
}
