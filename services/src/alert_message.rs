//! Builds an alert from its transition and its run. Pure.

use std::collections::BTreeMap;

use domain::alert::digest::{DigestEntry, digest_text};
use domain::alert::{Alert, AlertKind, Transition};
use domain::run::{ExcerptLine, Run, Severity};

/// Lines shown before and after a rule's match. Chosen, not measured.
const CONTEXT_LINES: usize = 5;

/// Lines shown when no rule matched: the last ones. Chosen, not measured.
const LAST_LINES: usize = 20;

/// Bytes of all lines shown. A section of a Slack message holds 3,000 characters.
const EXCERPT_BYTES_MAX: usize = 2_500;

/// Links shown in alerts: link name to a URL, in which `{run_id}`, `{group}`, `{job}` and `{attempt}` are replaced by
/// the values of the run.
#[derive(Clone, Debug, Default)]
pub struct Links(pub BTreeMap<String, String>);

impl Links {
    fn fill(&self, transition: &Transition, run: Option<&Run>) -> BTreeMap<String, String> {
        let run_id = transition.run_id.as_ref().map_or("", |run_id| run_id.as_str());
        let attempt = run.map_or(1, |run| run.attempt).to_string();
        let values =
            [("{run_id}", run_id), ("{group}", &transition.group), ("{job}", &transition.job), ("{attempt}", &attempt)];
        let filled = |template: &String| {
            values.iter().fold(template.clone(), |text, (name, value)| text.replace(name, &percent_encode(value)))
        };
        // Without a run, a link to one is useless.
        let usable = |template: &&String| !(run_id.is_empty() && template.contains("{run_id}"));
        self.0
            .iter()
            .filter(|(_, template)| usable(template))
            .map(|(name, template)| (name.clone(), filled(template)))
            .collect()
    }
}

/// Percent-encodes a text as a part of a URL (RFC 3986, 2.3).
fn percent_encode(text: &str) -> String {
    let mut url = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => url.push(char::from(byte)),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url
}

/// The alert about one transition. `run`: as it is stored now; `None` when it was deleted, and the alert then holds
/// only what its transition holds.
pub fn build_alert(transition: &Transition, run: Option<&Run>, links: &Links) -> Alert {
    let rule = run
        .filter(|_| transition.kind == AlertKind::FalseSuccess)
        .and_then(|run| run.rules.iter().find(|hit| hit.severity == Severity::Fail));
    let about_output = !matches!(transition.kind, AlertKind::Recovered | AlertKind::Missed);
    let excerpt = match (run, rule) {
        (Some(run), Some(hit)) if hit.first_seq > 0 => {
            lines_around(&run.excerpt, hit.first_seq, hit.first_line.as_str())
        }
        (Some(run), _) if about_output => last_lines(&run.excerpt),
        _ => Vec::new(),
    };
    Alert {
        kind: transition.kind,
        group: transition.group.clone(),
        job: transition.job.clone(),
        run_id: transition.run_id.clone(),
        nominal: transition.nominal,
        outcome: transition.outcome,
        reason: transition.reason.clone(),
        exit_code: run.and_then(|run| run.exit_code),
        host: run.and_then(|run| run.host.clone()),
        since: transition.since,
        count: transition.count,
        excerpt,
        rule: rule.map(|hit| hit.rule.clone()),
        links: links.fill(transition, run),
        digest: Vec::new(),
    }
}

/// The lines around a match. An excerpt is head and tail; a match in neither is shown without its neighbours.
fn lines_around(excerpt: &[ExcerptLine], seq: u64, first_line: &str) -> Vec<ExcerptLine> {
    match excerpt.iter().position(|line| line.seq == seq) {
        Some(index) => {
            let from = index.saturating_sub(CONTEXT_LINES);
            let until = (index + CONTEXT_LINES + 1).min(excerpt.len());
            cut_lines(excerpt[from..until].iter())
        }
        None => {
            let stream = domain::line::Stream::Stdout;
            vec![ExcerptLine { seq, stream, text: cut_text(first_line, EXCERPT_BYTES_MAX).to_owned() }]
        }
    }
}

fn last_lines(excerpt: &[ExcerptLine]) -> Vec<ExcerptLine> {
    let mut bytes = 0;
    let fitting = |line: &&ExcerptLine| {
        bytes += line.text.len();
        bytes <= EXCERPT_BYTES_MAX
    };
    let mut lines: Vec<ExcerptLine> = excerpt.iter().rev().take(LAST_LINES).take_while(fitting).cloned().collect();
    lines.reverse();
    match (lines.is_empty(), excerpt.last()) {
        (true, Some(line)) => cut_lines(std::iter::once(line)),
        _ => lines,
    }
}

fn cut_lines<'l>(lines: impl Iterator<Item = &'l ExcerptLine>) -> Vec<ExcerptLine> {
    let mut room = EXCERPT_BYTES_MAX;
    let mut kept = Vec::new();
    for line in lines {
        let text = cut_text(&line.text, room);
        room -= text.len();
        kept.push(ExcerptLine { text: text.to_owned(), ..line.clone() });
    }
    kept
}

fn cut_text(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// One alert for many transitions. Names every job by the kind of its alert, as far as `bytes_max` allows; the others
/// are counted.
pub fn build_digest(transitions: &[&Transition], links: &Links, bytes_max: usize) -> Alert {
    let group = transitions.first().map(|transition| transition.group.clone()).unwrap_or_default();
    let digest: Vec<DigestEntry> = transitions.iter().map(|transition| DigestEntry::from(*transition)).collect();
    let one_group = transitions.iter().all(|transition| transition.group == group);
    let no_run =
        Transition::new(String::new(), AlertKind::Digest, &domain::job::JobKey::new("", ""), "", jiff::Timestamp::MIN);
    Alert {
        kind: AlertKind::Digest,
        group: if one_group { group } else { String::new() },
        job: String::new(),
        run_id: None,
        nominal: None,
        outcome: None,
        reason: digest_text(&digest, bytes_max),
        exit_code: None,
        host: None,
        since: transitions.iter().filter_map(|transition| transition.since).min(),
        count: transitions.len() as u32,
        excerpt: Vec::new(),
        rule: None,
        links: links.fill(&no_run, None),
        digest,
    }
}
