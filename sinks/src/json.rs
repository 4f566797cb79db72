//! JSON written by hand, because a line may cost only nanoseconds: escapes strings, and writes the records of the sinks
//! `file` and `stdout` with `format = "json"`.

use crate::bracket_records;
use crate::feed::RunHeader;
use crate::record::{Piece, Record};
use crate::stamp;

/// Replaces an invalid UTF-8 sequence: JSON is Unicode (RFC 8259 section 8.1).
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// Bytes checked in one step: the compiler turns it into vector instructions.
const STEP_BYTES: usize = 32;

/// Appends the bytes as the content of a JSON string, without the quotes. Returns the byte length of the unescaped
/// string.
pub(crate) fn escape(bytes: &[u8], out: &mut Vec<u8>) -> usize {
    if is_plain(bytes) {
        out.extend_from_slice(bytes);
        return bytes.len();
    }
    if std::str::from_utf8(bytes).is_ok() {
        escape_valid(bytes, out);
        return bytes.len();
    }
    let mut meant = 0;
    for chunk in bytes.utf8_chunks() {
        escape_valid(chunk.valid().as_bytes(), out);
        meant += chunk.valid().len();
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(REPLACEMENT);
            meant += REPLACEMENT.len();
        }
    }
    meant
}

/// Whether every byte is ASCII that needs no escape, as in nearly every line: then one pass checks UTF-8 and escapes.
fn is_plain(bytes: &[u8]) -> bool {
    let is_plain = |step: &[u8]| !step.iter().fold(false, |any, byte| any | special(*byte) | (*byte >= 0x80));
    let mut steps = bytes.chunks_exact(STEP_BYTES);
    steps.all(is_plain) && is_plain(bytes.rchunks(STEP_BYTES).next().unwrap_or_default())
}

fn special(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

/// [`escape`] for bytes that are UTF-8.
pub(crate) fn escape_valid(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    while let Some(step) = rest.first_chunk::<STEP_BYTES>() {
        if step.iter().fold(false, |any, byte| any | special(*byte)) {
            escape_slowly(step, out);
        } else {
            out.extend_from_slice(step);
        }
        rest = &rest[STEP_BYTES..];
    }
    match rest.iter().fold(false, |any, byte| any | special(*byte)) {
        true => escape_slowly(rest, out),
        false => out.extend_from_slice(rest),
    }
}

fn escape_slowly(bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut copied = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if !special(*byte) {
            continue;
        }
        out.extend_from_slice(&bytes[copied..at]);
        copied = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            low => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(low >> 4)], HEX[usize::from(low & 15)]]);
            }
        }
    }
    out.extend_from_slice(&bytes[copied..]);
}

/// Appends a JSON string.
pub(crate) fn write_text(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    escape(bytes, out);
    out.push(b'"');
}

/// Appends `"key":"text",`. The key must need no escape.
pub(crate) fn text_member(key: &str, text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
    write_text(text.as_bytes(), out);
    out.push(b',');
}

/// Appends `"key":7,`.
pub(crate) fn number_member(key: &str, number: impl std::fmt::Display, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("\"{key}\":{number},").as_bytes());
}

/// The members that all objects of a run share: `"run_id":"..","group":"..","job":"..","attempt":1,"host":"..",`.
pub(crate) struct JsonRun {
    shared: Vec<u8>,
    /// The members of `run.started` only.
    started: Vec<u8>,
    started_at: Vec<u8>,
}

impl JsonRun {
    pub(crate) fn new(header: &RunHeader) -> JsonRun {
        let mut shared = Vec::with_capacity(256);
        text_member("run_id", header.run_id.as_str(), &mut shared);
        text_member("group", &header.group, &mut shared);
        text_member("job", &header.job, &mut shared);
        number_member("attempt", header.attempt, &mut shared);
        text_member("host", &header.host, &mut shared);
        let mut started = Vec::with_capacity(256);
        text_member("nominal", &header.nominal.to_string(), &mut started);
        text_member("trigger", bracket_records::trigger_name(header.trigger), &mut started);
        text_member("runner", &header.runner, &mut started);
        if let Some(pid) = header.pid {
            number_member("pid", pid, &mut started);
        }
        text_member("command", &header.command, &mut started);
        JsonRun { shared, started, started_at: stamp::format(header.started_at).to_vec() }
    }

    /// Appends the record as one object, without a newline.
    pub(crate) fn write(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        match record {
            Record::Line(piece) => self.write_piece(piece, out),
            Record::Started => {
                self.open(&self.started_at, "run.started", out);
                out.extend_from_slice(&self.started);
                close(out);
            }
            Record::Gap(gap) => {
                self.open(&stamp::format(gap.at), "gap", out);
                text_member("message", &gap.text(), out);
                close(out);
            }
            Record::Finished(finished) => {
                self.open(&stamp::format(finished.finished_at), "run.finished", out);
                bracket_records::write_members(bracket_records::finished_pairs(finished), "", out);
                close(out);
            }
            Record::OutputEnded(ended) => {
                self.open(&stamp::format(ended.ended_at), bracket_records::OUTPUT_ENDED, out);
                bracket_records::write_members(bracket_records::output_ended_pairs(ended), "", out);
                close(out);
            }
        }
    }

    fn open(&self, stamp: &[u8], event: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"timestamp\":\"");
        out.extend_from_slice(stamp);
        out.extend_from_slice(b"\",");
        out.extend_from_slice(&self.shared);
        text_member("event", event, out);
    }

    fn write_piece(&self, piece: &Piece<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"timestamp\":\"");
        out.extend_from_slice(piece.stamp);
        out.extend_from_slice(b"\",");
        out.extend_from_slice(&self.shared);
        out.extend_from_slice(b"\"seq\":");
        stamp::write_number(piece.seq, out);
        out.extend_from_slice(b",\"stream\":\"");
        out.extend_from_slice(piece.stream.name().as_bytes());
        out.push(b'"');
        if piece.part > 0 {
            out.extend_from_slice(b",\"part\":");
            stamp::write_number(piece.part, out);
            out.extend_from_slice(if piece.part_last { b",\"part_last\":true" } else { b",\"part_last\":false" });
        }
        if piece.gap {
            out.extend_from_slice(b",\"event\":\"gap\"");
        }
        out.extend_from_slice(b",\"message\":\"");
        escape(piece.text, out);
        out.extend_from_slice(b"\"}");
    }
}

/// Replaces the comma after the last member by the end of the object.
pub(crate) fn close(out: &mut [u8]) {
    if let Some(last) = out.last_mut() {
        *last = b'}';
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::piece;
    use crate::sample_records::{finished, header, output_ended};
    use domain::line::Stream;

    fn check(record: Record<'_>, wanted: &str) {
        let mut out = Vec::new();
        JsonRun::new(&header()).write(&record, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), wanted);
        serde_json::from_slice::<serde_json::Value>(&out).expect("JSON");
    }

    #[test]
    fn every_record_is_one_object_with_the_documented_names() {
        const SHARED: &str =
            r#""run_id":"20261123T075000Z-3f9a1c0e7b2d","group":"db","job":"nightly-dump","attempt":1,"host":"host1","#;
        check(
            Record::Line(piece(7, Stream::Stderr, b"say \"hi\"\t\xff")),
            &format!(
                r#"{{"timestamp":"2026-11-23T07:50:00.123456789Z",{SHARED}"seq":7,"stream":"stderr","message":"say \"hi\"\t{}"}}"#,
                '\u{fffd}'
            ),
        );
        check(
            Record::Line(Piece { part: 2, part_last: true, ..piece(7, Stream::Stdout, b"x") }),
            &format!(
                r#"{{"timestamp":"2026-11-23T07:50:00.123456789Z",{SHARED}"seq":7,"stream":"stdout","part":2,"part_last":true,"message":"x"}}"#
            ),
        );
        check(
            Record::Started,
            &format!(
                r#"{{"timestamp":"2026-11-23T07:50:00.250000000Z",{SHARED}"event":"run.started","nominal":"2026-11-23T07:50:00Z","trigger":"schedule","runner":"runner1","pid":4242,"command":"dump.sh \"all\""}}"#
            ),
        );
        check(
            Record::Finished(&finished()),
            &format!(
                r#"{{"timestamp":"2026-11-23T07:50:01.750000000Z",{SHARED}"event":"run.finished","outcome":"failed","reason":"exit code 3","exit_code":3,"duration_ms":1500,"stdout_lines":2,"stderr_lines":1,"stdout_bytes":20,"stderr_bytes":10,"last_seq":3,"dropped_lines":0}}"#
            ),
        );
        check(
            Record::OutputEnded(&output_ended()),
            &format!(
                r#"{{"timestamp":"2026-11-23T07:50:07.500000000Z",{SHARED}"event":"run.output_ended","late_lines":2,"stdout_lines":4,"stderr_lines":1,"stdout_bytes":40,"stderr_bytes":10,"last_seq":5,"dropped_lines":0}}"#
            ),
        );
    }

    proptest::proptest! {
        #[test]
        fn an_escaped_text_parses_to_itself(text in "(\\PC|[\\x00-\\x1f\"\\\\]){0,200}") {
            let mut out = Vec::new();
            write_text(text.as_bytes(), &mut out);
            proptest::prop_assert_eq!(serde_json::from_slice::<String>(&out).expect("JSON"), text);
        }

        #[test]
        fn invalid_utf8_parses_to_replacement_characters(bytes: Vec<u8>) {
            let mut out = Vec::new();
            write_text(&bytes, &mut out);
            let read = serde_json::from_slice::<String>(&out).expect("JSON");
            proptest::prop_assert_eq!(read, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
