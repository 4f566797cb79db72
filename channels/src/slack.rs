//! Sends alerts to Slack's incoming webhooks, as blocks.
//!
//! Limits: <https://docs.slack.dev/reference/block-kit/blocks/> (50 blocks per message; header 150 characters; text of
//! a section 3000; 10 fields of 2000). Slack refuses a message beyond them, so longer texts are cut and marked.

use std::fmt;
use std::time::Duration;

use domain::alert::{Alert, AlertKind};
use domain::document::Section;
use domain::ports::PortResult;
use domain::units::format_lines;
use serde_json::{Value, json};

use crate::{alert_text, http};

const HEADER_CHARS_MAX: usize = 150;
const TEXT_CHARS_MAX: usize = 3000;
const FIELDS_MAX: usize = 10;

/// Sections with the text of a digest; a message has at most 50 blocks.
const DIGEST_SECTIONS_MAX: usize = 10;

/// Bytes of the text of a digest. Each section can end with most of a job's name unused.
pub(crate) const DIGEST_BYTES_MAX: usize = DIGEST_SECTIONS_MAX * (TEXT_CHARS_MAX - 200);

const FIELD_CHARS_MAX: usize = 2000;

/// The keys `url` and `timeout`.
pub struct Options {
    url: String,
    timeout: Duration,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("slack")
    }
}

impl Options {
    pub(crate) fn read(section: &mut Section) -> Option<Options> {
        let url = crate::read_url(section);
        let timeout = section.duration("timeout").unwrap_or(http::TIMEOUT_DEFAULT);
        Some(Options { url: url?, timeout })
    }
}

pub(crate) struct Slack {
    receiver: http::Receiver,
}

impl Slack {
    pub(crate) fn new(options: Options) -> Result<Slack, String> {
        Ok(Slack { receiver: http::Receiver::new(&options.url, options.timeout)? })
    }

    pub(crate) async fn send(&self, alert: &Alert) -> PortResult<()> {
        http::send_request(self.receiver.post()?.json(&blocks(alert))).await
    }

    pub(crate) async fn probe(&self) -> PortResult<&'static str> {
        self.receiver.probe().await
    }
}

/// Header, reason, fields, excerpt in a code block, links.
fn blocks(alert: &Alert) -> Value {
    let headline = alert_text::headline(alert);
    let title: String = format!("{} {headline}", severity_emoji(alert)).chars().take(HEADER_CHARS_MAX).collect();
    let mut blocks = vec![json!({ "type": "header", "text": { "type": "plain_text", "text": title, "emoji": true } })];
    let reason = escape(&alert_text::reason(alert));
    match alert.kind {
        AlertKind::Digest => blocks.extend(split_list(&reason).into_iter().map(section)),
        _ if reason.is_empty() => {}
        _ => blocks.push(section(truncate(&reason, TEXT_CHARS_MAX))),
    }
    let fields: Vec<Value> = alert_text::facts(alert)
        .into_iter()
        .take(FIELDS_MAX)
        .map(|(name, value)| markdown(truncate(&format!("*{name}*\n{}", escape(&value)), FIELD_CHARS_MAX)))
        .collect();
    if !fields.is_empty() {
        blocks.push(json!({ "type": "section", "fields": fields }));
    }
    if !alert.excerpt.is_empty() {
        blocks.push(section(code_block(&alert_text::excerpt(&alert.excerpt))));
    }
    let more = alert_text::see_more(alert).join("\n");
    if !more.is_empty() {
        blocks.push(json!({ "type": "context", "elements": [markdown(truncate(&escape(&more), TEXT_CHARS_MAX))] }));
    }
    // `text` is what notifications show.
    json!({ "text": truncate(&escape(&headline), TEXT_CHARS_MAX), "blocks": blocks })
}

/// Splits the text of a digest after its commas into texts for sections.
fn split_list(mut text: &str) -> Vec<String> {
    let mut texts = Vec::new();
    while text.chars().count() > TEXT_CHARS_MAX && texts.len() + 1 < DIGEST_SECTIONS_MAX {
        let end = text.char_indices().nth(TEXT_CHARS_MAX).map_or(text.len(), |(end, _)| end);
        let end = text[..end].rfind(", ").map_or(end, |comma| comma + 2);
        texts.push(text[..end].trim_end().to_owned());
        text = &text[end..];
    }
    if !text.is_empty() {
        texts.push(truncate(text, TEXT_CHARS_MAX));
    }
    texts
}

fn severity_emoji(alert: &Alert) -> &'static str {
    match alert.kind.severity() {
        "info" => ":white_check_mark:",
        "warning" => ":warning:",
        _ => ":x:",
    }
}

fn section(text: String) -> Value {
    json!({ "type": "section", "text": markdown(text) })
}

fn markdown(text: String) -> Value {
    json!({ "type": "mrkdwn", "text": text })
}

/// Escapes the three control characters of Slack's markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Cuts a text to `chars_max` characters, never inside an escape.
fn truncate(text: &str, chars_max: usize) -> String {
    const MARK: &str = " [cut]";
    if text.chars().count() <= chars_max {
        return text.to_owned();
    }
    let mut kept: String = text.chars().take(chars_max - MARK.len()).collect();
    if let Some(start) = kept.rfind('&')
        && !kept[start..].contains(';')
    {
        kept.truncate(start);
    }
    kept + MARK
}

/// The last lines that fit, in a code block that no line can close.
fn code_block(lines: &[String]) -> String {
    const FENCE: &str = "```";
    let mut room = TEXT_CHARS_MAX - 2 * (FENCE.len() + 1) - 40;
    let mut kept = Vec::new();
    for line in lines.iter().rev() {
        let line = escape(&line.replace(FENCE, "'''"));
        let length = line.chars().count() + 1;
        if length > room {
            break;
        }
        room -= length;
        kept.push(line);
    }
    let left_out = lines.len() - kept.len();
    if left_out > 0 {
        kept.push(format!("... {} before these ...", format_lines(left_out as u64)));
    }
    kept.reverse();
    format!("{FENCE}\n{}\n{FENCE}", kept.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert_text::tests::{failed_alert, long_alert};
    use crate::http::tests::{next, receiver};

    #[test]
    fn an_alert_is_shown_in_blocks() {
        let expected = json!({
            "text": "db/nightly-dump failed on web-3",
            "blocks": [
                { "type": "header", "text": { "type": "plain_text", "emoji": true,
                    "text": ":x: db/nightly-dump failed on web-3" } },
                { "type": "section", "text": { "type": "mrkdwn", "text": "exit code 2" } },
                { "type": "section", "fields": [
                    { "type": "mrkdwn", "text": "*Job*\ndb/nightly-dump" },
                    { "type": "mrkdwn", "text": "*Host*\nweb-3" },
                    { "type": "mrkdwn", "text": "*Due at*\n2026-11-23T02:30:00Z" },
                    { "type": "mrkdwn", "text": "*Since*\n2026-11-22T02:30:07Z, 2 failed runs in a row" },
                    { "type": "mrkdwn", "text": "*Exit code*\n2" },
                    { "type": "mrkdwn", "text": "*Run*\n20261123T023000Z-3f9a1c0e7b2d" },
                ] },
                { "type": "section", "text": { "type": "mrkdwn",
                    "text": "```\ndumping &lt;users&gt; &amp; roles\npg_dump: error: no space left\n```" } },
                { "type": "context", "elements": [{ "type": "mrkdwn",
                    "text": "sexton show 20261123T023000Z-3f9a1c0e7b2d\nsexton logs 20261123T023000Z-3f9a1c0e7b2d\n\
                             console: https://cron.example.org/runs/1" }] },
            ],
        });
        assert_eq!(blocks(&failed_alert()), expected);
    }

    #[test]
    fn every_text_stays_within_the_limits_however_long_the_alert_is() {
        let message = blocks(&long_alert());
        let texts = |value: &Value| value["text"]["text"].as_str().map(|text| text.chars().count()).unwrap_or(0);
        let blocks = message["blocks"].as_array().expect("blocks");
        assert!(texts(&blocks[0]) <= HEADER_CHARS_MAX);
        assert!(blocks.iter().all(|block| texts(block) <= TEXT_CHARS_MAX), "{message}");
        let excerpt = blocks[3]["text"]["text"].as_str().expect("text");
        assert!(excerpt.starts_with("```\n...") && excerpt.ends_with("\n```"), "{excerpt}");
        assert_eq!(excerpt.matches("```").count(), 2, "{excerpt}");
        assert!(blocks[1]["text"]["text"].as_str().expect("text").ends_with(" [cut]"));
    }

    #[test]
    fn a_digest_of_the_largest_size_is_shown_whole() {
        let jobs: Vec<String> = (0..1000).map(|number| format!("group/job-{number:04}-{}", "x".repeat(60))).collect();
        let mut reason = format!("1000 alerts at once: 1000 failed: {}", jobs.join(", "));
        reason.truncate(DIGEST_BYTES_MAX);
        let message = blocks(&Alert { kind: AlertKind::Digest, reason: reason.clone(), ..failed_alert() });
        let text = |block: &Value| block["text"]["text"].as_str().map(str::to_owned);
        let sections: Vec<String> =
            message["blocks"].as_array().expect("blocks")[1..].iter().filter_map(text).collect();
        assert!(sections.len() <= 12 && sections.iter().all(|text| text.chars().count() <= TEXT_CHARS_MAX));
        assert!(sections.join(" ").starts_with(&reason), "{sections:?}");
    }

    #[test]
    fn a_cut_never_leaves_half_an_escape() {
        let text = escape(&"&".repeat(20));
        for chars_max in 10..text.len() {
            let cut = truncate(&text, chars_max);
            assert!(cut.chars().count() <= chars_max && cut.replace("&amp;", "") == " [cut]", "{chars_max}: {cut}");
        }
    }

    #[tokio::test]
    async fn slack_gets_json_at_its_address() {
        let (address, received) = receiver(&["200 OK"]);
        let options = Options { url: format!("http://{address}/services/T/B/x"), timeout: Duration::from_secs(30) };
        Slack::new(options).expect("good options").send(&failed_alert()).await.expect("delivered");
        let request = next(&received);
        assert!(request.head.starts_with("POST /services/T/B/x HTTP/1.1\r\n"), "{}", request.head);
        assert_eq!(serde_json::from_slice::<Value>(&request.body).expect("JSON"), blocks(&failed_alert()));
    }
}
