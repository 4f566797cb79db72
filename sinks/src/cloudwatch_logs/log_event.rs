//! Writes the message of a log event: one JSON object with the line's names at top level, so that Logs Insights finds
//! `run_id`, or the text alone. Written directly into the request's body, where a message is a JSON string.

use domain::run::Outcome;

use crate::bracket_records::{self, COMMAND_BYTES_MAX};
use crate::cloudwatch_logs::message_limit::MessageLimit;
use crate::cloudwatch_logs::options::{CloudwatchFormat, CloudwatchLogsConfig};
use crate::feed::{FinishedRecord, RunHeader};
use crate::json::{close, escape, escape_valid, number_member, text_member};
use crate::record::{MAX_LINE_BYTES_MIN, Piece, Record};
use crate::stamp;

/// Replaces an empty line with `format = "text"`: the service rejects an empty message.
const EMPTY_TEXT: &[u8] = b" ";
/// Bytes of a line's object beside its constant members and the text.
const MEMBERS_BYTES_MAX: usize = 160;
/// A byte of a line takes at most 6 bytes in its message: a control character as `\u001b`.
const ESCAPED_BYTES_MAX: usize = 6;
/// Pieces that a text is cut into when escaping makes its message too long. Chosen: more than 6, the largest growth.
const PIECES_MAX: u64 = 8;

/// The constant parts of a run's messages.
pub(super) struct EventEncoder {
    format: CloudwatchFormat,
    /// `{"run_id":"..","group":"..","job":"..","attempt":1,"host":"..",`
    head: Vec<u8>,
    /// The same, escaped as the content of a JSON string.
    head_escaped: Vec<u8>,
    /// The members of `run.started` only.
    started: Vec<u8>,
    started_text: String,
    /// ` (run 20261123T075000Z-3f9a1c0e7b2d, attempt 1)`
    run_text: String,
    emf_namespace: Option<String>,
    max_line: usize,
    limit: MessageLimit,
}

impl EventEncoder {
    /// `max_line` is the longest message in bytes.
    pub(super) fn new(
        config: &CloudwatchLogsConfig,
        max_line: Option<usize>,
        limit: MessageLimit,
        header: &RunHeader,
    ) -> EventEncoder {
        let mut head = b"{".to_vec();
        text_member("run_id", header.run_id.as_str(), &mut head);
        text_member("group", &header.group, &mut head);
        text_member("job", &header.job, &mut head);
        number_member("attempt", header.attempt, &mut head);
        text_member("host", &header.host, &mut head);
        let mut head_escaped = Vec::with_capacity(head.len() * 2);
        escape_valid(&head, &mut head_escaped);
        let mut started = Vec::with_capacity(256);
        text_member("event", bracket_records::STARTED, &mut started);
        text_member("nominal", &header.nominal.to_string(), &mut started);
        text_member("trigger", bracket_records::trigger_name(header.trigger), &mut started);
        text_member("runner", &header.runner, &mut started);
        if let Some(pid) = header.pid {
            number_member("pid", pid, &mut started);
        }
        text_member("command", &bracket_records::shortened(&header.command, COMMAND_BYTES_MAX), &mut started);
        EventEncoder {
            format: config.format,
            head,
            head_escaped,
            started,
            started_text: bracket_records::started_text(header),
            run_text: format!(" (run {}, attempt {})", header.run_id, header.attempt),
            emf_namespace: config.emf_namespace.clone(),
            max_line: max_line.unwrap_or(usize::MAX),
            limit,
        }
    }

    /// Longest text of a line in bytes.
    pub(super) fn text_bytes_max(&self) -> usize {
        let taken = match self.format {
            CloudwatchFormat::Json => self.head.len() + MEMBERS_BYTES_MAX,
            CloudwatchFormat::Text => 0,
        };
        self.max_line.min(self.limit.bytes()).saturating_sub(taken).max(MAX_LINE_BYTES_MIN / 2)
    }

    /// Passes on the piece, cut into more pieces when escaping makes its message too long. Their numbers depend on the
    /// piece alone.
    pub(super) fn pieces<'r>(&self, piece: &Piece<'r>, mut take: impl FnMut(Piece<'r>)) {
        let longest = self.text_bytes_max();
        if longest * ESCAPED_BYTES_MAX <= self.limit.bytes() {
            return take(*piece);
        }
        let first = piece.part.saturating_sub(1).saturating_mul(PIECES_MAX) + 1;
        if piece.text.len() * ESCAPED_BYTES_MAX <= longest || self.text_bytes(piece.text) <= longest {
            let part = if piece.part == 0 { 0 } else { first };
            return take(Piece { part, ..*piece });
        }
        let mut rest = piece.text;
        let mut part = first;
        loop {
            let (now, later) = rest.split_at(crate::record::cut(rest, longest / ESCAPED_BYTES_MAX));
            let last = later.is_empty();
            take(Piece { text: now, part, part_last: last && piece.part_last, ..*piece });
            if last {
                return;
            }
            part += 1;
            rest = later;
        }
    }

    /// Bytes of the text in its message.
    fn text_bytes(&self, text: &[u8]) -> usize {
        match self.format {
            CloudwatchFormat::Json => {
                let mut escaped = Vec::with_capacity(text.len() * 2);
                escape(text, &mut escaped);
                escaped.len()
            }
            CloudwatchFormat::Text => readable_bytes(text),
        }
    }

    /// Appends the message as the content of a JSON string; returns its bytes as the service counts them.
    pub(super) fn write(&self, record: &Record<'_>, scratch: &mut Vec<u8>, body: &mut Vec<u8>) -> usize {
        match (record, self.format) {
            (Record::Line(piece), CloudwatchFormat::Json) => self.write_object(piece, scratch, body),
            (Record::Line(piece), CloudwatchFormat::Text) => {
                let text = if piece.text.is_empty() { EMPTY_TEXT } else { piece.text };
                escape(text, body)
            }
            (record, _) => {
                scratch.clear();
                self.write_bracket(record, scratch);
                escape(scratch, body);
                scratch.len()
            }
        }
    }

    fn write_object(&self, piece: &Piece<'_>, scratch: &mut Vec<u8>, body: &mut Vec<u8>) -> usize {
        let mut digits = [0; stamp::NUMBER_BYTES_MAX];
        let seq = stamp::digits_of(piece.seq, &mut digits);
        body.extend_from_slice(&self.head_escaped);
        body.extend_from_slice(b"\\\"seq\\\":");
        body.extend_from_slice(seq);
        body.extend_from_slice(b",\\\"stream\\\":\\\"");
        let stream = piece.stream.name().as_bytes();
        body.extend_from_slice(stream);
        body.extend_from_slice(b"\\\",");
        let mut bytes = self.head.len() + br#""seq":,"stream":"","#.len() + seq.len() + stream.len();
        if piece.part > 0 || piece.gap {
            scratch.clear();
            if piece.part > 0 {
                number_member("part", piece.part, scratch);
                number_member("part_last", piece.part_last, scratch);
            }
            if piece.gap {
                text_member("event", bracket_records::GAP, scratch);
            }
            bytes += scratch.len();
            escape_valid(scratch, body);
        }
        body.extend_from_slice(b"\\\"message\\\":\\\"");
        scratch.clear();
        escape(piece.text, scratch);
        escape_valid(scratch, body);
        body.extend_from_slice(b"\\\"}");
        bytes + br#""message":""}"#.len() + scratch.len()
    }

    fn write_bracket(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        let json = self.format == CloudwatchFormat::Json;
        match record {
            Record::Started if json => {
                out.extend_from_slice(&self.head);
                out.extend_from_slice(&self.started);
                text_member("message", &self.started_text, out);
                close(out);
            }
            Record::Gap(gap) if json => {
                out.extend_from_slice(&self.head);
                text_member("event", bracket_records::GAP, out);
                text_member("message", &gap.text(), out);
                close(out);
            }
            // Metrics can only be extracted from an object.
            Record::Finished(finished) if json || self.emf_namespace.is_some() => self.write_finished(finished, out),
            Record::Started => out.extend_from_slice(format!("{}{}", self.started_text, self.run_text).as_bytes()),
            Record::Gap(gap) => out.extend_from_slice(gap.text().as_bytes()),
            Record::Finished(finished) => {
                let text = bracket_records::finished_text(finished);
                out.extend_from_slice(format!("{text}{}", self.run_text).as_bytes());
            }
            Record::OutputEnded(ended) if json => {
                out.extend_from_slice(&self.head);
                text_member("event", bracket_records::OUTPUT_ENDED, out);
                bracket_records::write_members(bracket_records::output_ended_pairs(ended), "", out);
                text_member("message", &bracket_records::output_ended_text(ended), out);
                close(out);
            }
            Record::OutputEnded(ended) => {
                let text = bracket_records::output_ended_text(ended);
                out.extend_from_slice(format!("{text}{}", self.run_text).as_bytes());
            }
            Record::Line(piece) => out.extend_from_slice(piece.text),
        }
    }

    fn write_finished(&self, finished: &FinishedRecord, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        text_member("event", bracket_records::FINISHED, out);
        bracket_records::write_members(bracket_records::finished_pairs(finished), "", out);
        if let Some(namespace) = &self.emf_namespace {
            number_member("succeeded", u8::from(finished.outcome == Outcome::Succeeded), out);
            number_member("failed", u8::from(finished.outcome != Outcome::Succeeded), out);
            write_metrics(namespace, finished, out);
        }
        text_member("message", &bracket_records::finished_text(finished), out);
        close(out);
    }
}

/// Appends the member that makes CloudWatch extract metrics from other members (embedded metric format specification).
fn write_metrics(namespace: &str, finished: &FinishedRecord, out: &mut Vec<u8>) {
    let exit_code = finished.exit_code.map(|_| ("exit_code", "None"));
    let always = [
        ("duration_ms", "Milliseconds"),
        ("succeeded", "Count"),
        ("failed", "Count"),
        ("stdout_lines", "Count"),
        ("stderr_lines", "Count"),
        ("dropped_lines", "Count"),
    ];
    out.extend_from_slice(b"\"_aws\":{");
    number_member("Timestamp", finished.finished_at.as_millisecond(), out);
    out.extend_from_slice(b"\"CloudWatchMetrics\":[{");
    text_member("Namespace", namespace, out);
    out.extend_from_slice(b"\"Dimensions\":[[\"group\",\"job\"]],\"Metrics\":[");
    for (name, unit) in always.into_iter().chain(exit_code) {
        out.push(b'{');
        text_member("Name", name, out);
        text_member("Unit", unit, out);
        close(out);
        out.push(b',');
    }
    out.pop();
    out.extend_from_slice(b"]}]},");
}

/// Bytes of a text after each invalid sequence is replaced by U+FFFD.
fn readable_bytes(text: &[u8]) -> usize {
    if std::str::from_utf8(text).is_ok() {
        return text.len();
    }
    let replacement = '\u{fffd}'.len_utf8();
    text.utf8_chunks().map(|chunk| chunk.valid().len() + if chunk.invalid().is_empty() { 0 } else { replacement }).sum()
}

#[cfg(test)]
#[path = "log_event_tests.rs"]
mod tests;
