//! Builds the published message of an alert. Pure.

use std::collections::BTreeSet;

use domain::alert::digest::{DigestEntry, digest_text};
use domain::alert::{Alert, AlertKind, wording};
use domain::ports::{PortError, PortResult};
use domain::run::ExcerptLine;
use serde_json::{Value, json};

/// Bytes of a whole message with its attributes (SNS API reference, Publish).
pub const MESSAGE_BYTES_MAX: usize = 262_144;

/// Bytes of a digest's text for programs. Chosen: it is in the message twice, and the names of the jobs a third time,
/// as an attribute; a quarter is left for the texts for people.
pub(super) const DIGEST_NAMES_BYTES_MAX: usize = 64 << 10;

/// Bytes of a digest's text for mails and other texts for people. Chosen: two screens.
const DIGEST_TEXT_BYTES_MAX: usize = 8 << 10;

/// Bytes of a digest's text in a chat message. A section of a Slack message holds 3,000 characters.
const DIGEST_CHAT_BYTES_MAX: usize = 2500;

/// Bytes of output lines in a chat message. Chosen: fits on a screen.
const CHAT_EXCERPT_BYTES_MAX: usize = 1500;

/// Bytes of the reason in a message that would be too long. Chosen, not measured.
const REASON_BYTES_MAX: usize = 4000;

/// An attribute of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attribute {
    pub(super) name: &'static str,
    /// `String` or `String.Array`.
    pub(super) data_type: &'static str,
    pub(super) value: String,
}

/// Attributes for the filter policies of subscriptions: texts, and in a digest lists of all values. Empty values are
/// left out, because SNS refuses them.
pub(super) fn attributes(alert: &Alert) -> Vec<Attribute> {
    if !alert.digest.is_empty() {
        let list = |name, value_of: fn(&DigestEntry) -> &str| {
            let values: BTreeSet<&str> = alert.digest.iter().map(value_of).filter(|value| !value.is_empty()).collect();
            let value = Value::from_iter(values).to_string();
            (value != "[]").then_some(Attribute { name, data_type: "String.Array", value })
        };
        let all = [
            list("kind", |entry| entry.kind.name()),
            list("group", |entry| &entry.group),
            list("job", |entry| &entry.job),
            list("severity", |entry| entry.kind.severity()),
        ];
        return all.into_iter().flatten().collect();
    }
    let all = [
        ("kind", alert.kind.name()),
        ("group", &alert.group),
        ("job", &alert.job),
        ("severity", alert.kind.severity()),
    ];
    let present = all.into_iter().filter(|(_, value)| !value.is_empty());
    present.map(|(name, value)| Attribute { name, data_type: "String", value: value.to_owned() }).collect()
}

fn attribute_bytes(alert: &Alert) -> usize {
    let bytes = |attribute: Attribute| attribute.name.len() + attribute.data_type.len() + attribute.value.len();
    attributes(alert).into_iter().map(bytes).sum()
}

/// Builds the message for `MessageStructure=json`. Also returns the alert, shortened to fit into the message.
///
/// # Errors
/// Returns an error if the shortened alert is still too long.
pub(super) fn build_message(prefix: &str, alert: &Alert) -> PortResult<(Alert, String)> {
    let mut alert = alert.clone();
    let whole = alert.excerpt.len();
    loop {
        let text = message_json(prefix, &alert)?;
        if text.len() + attribute_bytes(&alert) <= MESSAGE_BYTES_MAX {
            return Ok((alert, text));
        }
        if !alert.excerpt.is_empty() {
            // The last lines are kept, because they usually show the cause.
            let kept = alert.excerpt.len() / 2;
            alert.excerpt.drain(..alert.excerpt.len() - kept);
            if let Some(first) = alert.excerpt.first_mut() {
                let ExcerptLine { seq, stream, .. } = *first;
                let text = format!("... {} lines before these do not fit into the message ...", whole - kept + 1);
                *first = ExcerptLine { seq, stream, text };
            }
        } else if alert.reason.len() > REASON_BYTES_MAX {
            let end = alert.reason.floor_char_boundary(REASON_BYTES_MAX);
            alert.reason = format!("{}... (cut)", &alert.reason[..end]);
        } else {
            return Err(PortError::Permanent(format!(
                "an alert of {} bytes does not fit into a message of SNS, which has at most {MESSAGE_BYTES_MAX}",
                text.len()
            )));
        }
    }
}

fn message_json(prefix: &str, alert: &Alert) -> PortResult<String> {
    let text = wording::body(&shortened(alert, DIGEST_TEXT_BYTES_MAX));
    let program = serde_json::to_string(alert)
        .map_err(|error| PortError::Permanent(format!("an alert cannot be written as json: {error}")))?;
    let structured = json!({
        "default": text,
        "email": text,
        "https": chat_json(prefix, &shortened(alert, DIGEST_CHAT_BYTES_MAX)).to_string(),
        "sqs": program,
        "lambda": program,
    });
    Ok(structured.to_string())
}

/// The alert with a text for people: of a digest, as many jobs as it can show, and the number of the others.
fn shortened(alert: &Alert, bytes_max: usize) -> Alert {
    match alert.digest.is_empty() {
        true => alert.clone(),
        false => Alert { reason: digest_text(&alert.digest, bytes_max), ..alert.clone() },
    }
}

/// The schema of Amazon Q Developer in chat applications, which ignores messages in any other form
/// (<https://docs.aws.amazon.com/chatbot/latest/adminguide/custom-notifs.html>).
fn chat_json(prefix: &str, alert: &Alert) -> Value {
    let thread: Vec<&str> = [prefix, &alert.group, &alert.job].into_iter().filter(|part| !part.is_empty()).collect();
    let keywords: Vec<&str> =
        [alert.group.as_str(), alert.kind.severity()].into_iter().filter(|word| !word.is_empty()).collect();
    let context: serde_json::Map<String, Value> =
        wording::facts(alert).into_iter().map(|(name, value)| (name.to_owned(), Value::String(value))).collect();
    json!({
        "version": "1.0",
        "source": "custom",
        "content": {
            "textType": "client-markdown",
            "title": format!("{} {}", emoji(alert.kind), escape_markdown(&wording::headline(alert))),
            "description": description(alert),
            "nextSteps": wording::see_more(alert),
            "keywords": keywords,
        },
        "metadata": {
            "threadId": thread.join("/"),
            "summary": wording::subject(alert),
            "eventType": alert.kind.name(),
            "additionalContext": context,
        },
    })
}

fn emoji(kind: AlertKind) -> &'static str {
    match kind.severity() {
        "critical" => ":rotating_light:",
        "error" => ":x:",
        "warning" => ":warning:",
        _ => ":white_check_mark:",
    }
}

fn description(alert: &Alert) -> String {
    let mut text = format!("*{}*", escape_markdown(&alert.reason));
    if alert.excerpt.is_empty() {
        return text;
    }
    let (mut lines, mut bytes) = (Vec::new(), 0);
    let all = wording::excerpt(&alert.excerpt);
    for line in all.iter().rev() {
        let line = escape_markdown(&line.replace("```", "'''"));
        bytes += line.len() + 1;
        if bytes > CHAT_EXCERPT_BYTES_MAX {
            lines.push(format!("... {} lines before these ...", all.len() - lines.len()));
            break;
        }
        lines.push(line);
    }
    lines.reverse();
    text.push_str(&format!("\n```\n{}\n```", lines.join("\n")));
    text
}

/// Escapes the control characters of Slack's markdown (<https://docs.slack.dev/messaging/formatting-message-text>).
fn escape_markdown(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use domain::line::Stream;
    use domain::run::{Outcome, RunId};

    use super::*;

    fn line(seq: u64, text: &str) -> ExcerptLine {
        ExcerptLine { seq, stream: Stream::Stderr, text: text.to_owned() }
    }

    fn failed() -> Alert {
        Alert {
            kind: AlertKind::Failed,
            group: "db".into(),
            job: "dump".into(),
            run_id: Some(RunId("20261123T023000Z-3f9a1c0e7b2d".into())),
            nominal: Some("2026-11-23T02:30:00Z".parse().unwrap()),
            outcome: Some(Outcome::Failed),
            reason: "exit code 2".into(),
            exit_code: Some(2),
            host: Some("web-3".into()),
            since: None,
            count: 1,
            excerpt: vec![line(8, "dumping <users> & ```roles```"), line(9, "no space left")],
            rule: None,
            links: [("console".to_owned(), "https://cron.example.org/runs/1".to_owned())].into(),
            digest: Vec::new(),
        }
    }

    #[test]
    fn mail_gets_text_chat_gets_its_schema_and_programs_get_json() {
        let (_, text) = build_message("sexton", &failed()).unwrap();
        let all: Value = serde_json::from_str(&text).unwrap();
        let names: Vec<&String> = all.as_object().unwrap().keys().collect();
        assert_eq!(names, ["default", "email", "https", "sqs", "lambda"]);
        assert!(all.as_object().unwrap().values().all(Value::is_string), "SNS ignores values that are not strings");
        assert_eq!(all["email"], all["default"]);
        assert_eq!(
            all["email"],
            "db/dump failed on web-3\nexit code 2\n\nJob       db/dump\nHost      web-3\nDue at    2026-11-23T02:30:00Z\nExit code 2\nRun       20261123T023000Z-3f9a1c0e7b2d\n\nThe last lines:\n  dumping <users> & ```roles```\n  no space left\n\nTo see more:\n  sexton show 20261123T023000Z-3f9a1c0e7b2d\n  sexton logs 20261123T023000Z-3f9a1c0e7b2d\n  console: https://cron.example.org/runs/1\n"
        );
        for program in ["sqs", "lambda"] {
            assert_eq!(serde_json::from_str::<Alert>(all[program].as_str().unwrap()).unwrap(), failed());
        }
        let chat: Value = serde_json::from_str(all["https"].as_str().unwrap()).unwrap();
        assert_eq!(
            chat,
            json!({
                "version": "1.0",
                "source": "custom",
                "content": {
                    "textType": "client-markdown",
                    "title": ":x: db/dump failed on web-3",
                    "description": "*exit code 2*\n```\ndumping &lt;users&gt; &amp; '''roles'''\nno space left\n```",
                    "nextSteps": [
                        "sexton show 20261123T023000Z-3f9a1c0e7b2d",
                        "sexton logs 20261123T023000Z-3f9a1c0e7b2d",
                        "console: https://cron.example.org/runs/1"
                    ],
                    "keywords": ["db", "error"],
                },
                "metadata": {
                    "threadId": "sexton/db/dump",
                    "summary": "[sexton] db/dump failed on web-3: exit code 2",
                    "eventType": "failed",
                    "additionalContext": {
                        "Job": "db/dump",
                        "Host": "web-3",
                        "Due at": "2026-11-23T02:30:00Z",
                        "Exit code": "2",
                        "Run": "20261123T023000Z-3f9a1c0e7b2d"
                    },
                },
            })
        );
    }

    #[test]
    fn attributes_for_filter_policies_are_never_empty() {
        let named = |alert: &Alert| {
            let text = |Attribute { name, value, .. }| format!("{name}={value}");
            attributes(alert).into_iter().map(text).collect::<Vec<_>>()
        };
        assert_eq!(named(&failed()), ["kind=failed", "group=db", "job=dump", "severity=error"]);
        let silent = Alert { kind: AlertKind::SchedulerSilent, group: String::new(), job: String::new(), ..failed() };
        assert_eq!(named(&silent), ["kind=scheduler_silent", "severity=critical"]);
    }

    #[test]
    fn a_digest_has_lists_as_attributes_names_all_jobs_for_programs_and_fits() {
        let entry = |number: usize| DigestEntry {
            kind: if number == 0 { AlertKind::Recovered } else { AlertKind::Failed },
            group: "db".to_owned(),
            job: format!("a-job-with-a-rather-long-name-{number:05}"),
        };
        let mut digest: Vec<DigestEntry> = Vec::new();
        let mut bytes = 4096;
        while bytes < DIGEST_NAMES_BYTES_MAX {
            digest.push(entry(digest.len()));
            bytes += entry(0).job.len() + 5;
        }
        let reason = digest_text(&digest, DIGEST_NAMES_BYTES_MAX);
        let alert = Alert {
            kind: AlertKind::Digest,
            job: String::new(),
            excerpt: Vec::new(),
            count: digest.len() as u32,
            reason,
            digest: digest.clone(),
            ..failed()
        };
        let (_, text) = build_message("sexton", &alert).unwrap();
        assert!(text.len() + attribute_bytes(&alert) <= MESSAGE_BYTES_MAX, "{}", text.len());
        let all: Value = serde_json::from_str(&text).unwrap();
        let named = |protocol: &str| {
            let text = all[protocol].as_str().unwrap();
            digest.iter().filter(|entry| text.contains(&entry.job)).count()
        };
        assert_eq!((named("sqs"), named("lambda")), (digest.len(), digest.len()));
        for people in ["email", "default", "https"] {
            assert!((10..digest.len()).contains(&named(people)), "{people}: {}", named(people));
            let rest = format!(" and {} more", digest.len() - 1 - named(people));
            assert!(all[people].as_str().unwrap().contains(&rest), "{people}: {rest}");
        }
        let values: Vec<(&str, &str, Value)> = attributes(&alert)
            .iter()
            .map(|attribute| (attribute.name, attribute.data_type, serde_json::from_str(&attribute.value).unwrap()))
            .collect();
        assert_eq!(values[0], ("kind", "String.Array", json!(["failed", "recovered"])));
        assert_eq!(values[1], ("group", "String.Array", json!(["db"])));
        assert_eq!(values[2].2.as_array().unwrap().len(), digest.len());
        assert_eq!(values[3], ("severity", "String.Array", json!(["error", "info"])));
    }

    #[test]
    fn an_alert_that_is_too_long_for_sns_is_shortened_with_a_mark() {
        let excerpt: Vec<ExcerptLine> = (1..=2000).map(|seq| line(seq, &"é<".repeat(100))).collect();
        let (cut, text) = build_message("sexton", &Alert { excerpt, ..failed() }).unwrap();
        assert!(text.len() + attribute_bytes(&cut) <= MESSAGE_BYTES_MAX, "{}", text.len());
        assert!(cut.excerpt[0].text.contains("lines before these do not fit"), "{}", cut.excerpt[0].text);
        assert_eq!(cut.excerpt.last().unwrap().seq, 2000);
        let (cut, _) = build_message("sexton", &Alert { reason: "é".repeat(200_000), ..failed() }).unwrap();
        assert!(cut.reason.ends_with("... (cut)") && cut.reason.len() < 5000);
        let links = [("console".to_owned(), "x".repeat(300_000))].into();
        assert!(build_message("sexton", &Alert { links, ..failed() }).is_err());
    }

    #[test]
    fn a_chat_message_shows_the_last_lines_within_its_limit() {
        let excerpt: Vec<ExcerptLine> = (1..=40).map(|seq| line(seq, &format!("{seq} {}", "x".repeat(100)))).collect();
        let chat = chat_json("sexton", &Alert { excerpt, ..failed() });
        let description = chat["content"]["description"].as_str().unwrap();
        assert!(description.len() < CHAT_EXCERPT_BYTES_MAX + 100, "{}", description.len());
        assert!(description.contains("\n... 26 lines before these ...\n27 x"), "{description}");
        assert!(description.contains("\n40 x"), "{description}");
    }
}
