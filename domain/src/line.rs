//! The records of a spool, in the log format of Kubernetes (CRI), so that `tail`, `grep`, Fluent Bit and Vector can
//! read a spool.
//!
//! ```text
//! 2026-11-23T07:50:00.123456789Z stdout F text
//! 2026-11-23T07:50:00.123456789Z stderr P:1 first part of a line longer than LINE_BYTES_MAX
//! 2026-11-23T07:50:00.123456789Z stderr F:2 its last part
//! 2026-11-23T07:50:00.123456789Z stdout F:noeol the output ended without a newline
//! 2026-11-23T07:50:00.123456789Z stderr F:gap 12 lines, 900 bytes dropped (seq 7-18): no space left on device
//! ```
//!
//! The `seq` of a record is not written; it follows from the record's place. The keeper writes records. Readers walk
//! over [`Block`]s of them without copying lines.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A longer line is written in parts. One part with its envelope fits into an event of CloudWatch Logs (PutLogEvents:
/// 1 MiB less 26 bytes).
pub const LINE_BYTES_MAX: usize = 1_000_000;

/// Bytes of a time stamp, like `2026-11-23T07:50:00.123456789Z`.
pub const STAMP_BYTES: usize = 30;

/// Stamp, space, stream, space.
const TAG_AT: usize = STAMP_BYTES + 1 + 6 + 1;

/// One of the two output streams of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// As in records and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// How a record relates to the line that the job wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Number of the part, from 1; 0: the record is a whole line.
    pub part: u32,
    /// Whether no further part follows.
    pub last: bool,
    /// Whether the job ended the line with a newline. Only the last record of a stream can lack it, and the last one
    /// before the end of the run's process.
    pub newline: bool,
    /// Whether the record replaces dropped lines; then its text has their number and the cause.
    pub gap: bool,
}

impl Tag {
    /// A whole line: `F`.
    pub const WHOLE: Tag = Tag { part: 0, last: true, newline: true, gap: false };
    /// A gap: `F:gap`.
    pub const GAP: Tag = Tag { gap: true, ..Tag::WHOLE };

    /// Appends the text of the tag, without spaces.
    pub fn write(self, out: &mut Vec<u8>) {
        out.push(if self.last { b'F' } else { b'P' });
        if self.part > 0 {
            out.push(b':');
            out.extend_from_slice(self.part.to_string().as_bytes());
        }
        if self.gap {
            out.extend_from_slice(b":gap");
        }
        if self.last && !self.newline {
            out.extend_from_slice(b":noeol");
        }
    }

    fn parse(text: &[u8]) -> Tag {
        if text == b"F" {
            return Tag::WHOLE;
        }
        let mut tag = Tag { part: 0, last: text.first() != Some(&b'P'), newline: true, gap: false };
        for word in text.split(|byte| *byte == b':').skip(1) {
            match word {
                b"gap" => tag.gap = true,
                // Without meaning on a part that others follow.
                b"noeol" => tag.newline = !tag.last,
                digits => {
                    tag.part = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0)
                }
            }
        }
        // Other writers of this format write `P` without a number.
        if !tag.last && tag.part == 0 {
            tag.part = 1;
        }
        tag
    }
}

/// One record, borrowed from its block.
#[derive(Clone, Copy, Debug)]
pub struct Line<'b> {
    /// Number of the record, from 1.
    pub seq: u64,
    /// Time of capture: RFC 3339, UTC, nine fraction digits, [`STAMP_BYTES`] ASCII bytes.
    pub stamp: &'b [u8],
    /// The stream that the job wrote to.
    pub stream: Stream,
    /// Whole line, part or gap.
    pub tag: Tag,
    /// The job's bytes without the newline, in any encoding.
    pub text: &'b [u8],
}

impl Line<'_> {
    /// The instant of capture; the epoch for a damaged record.
    pub fn at(&self) -> Timestamp {
        std::str::from_utf8(self.stamp).ok().and_then(|text| text.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

/// The dropped lines that a gap record replaces. Its text is stored and sent, and read back by `sexton logs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Records dropped, of both streams.
    pub lines: u64,
    /// Bytes of their text.
    pub bytes: u64,
    /// `seq` of the first dropped record, which is also that of the gap record.
    pub first_seq: u64,
    /// `seq` of the last dropped record.
    pub last_seq: u64,
}

impl Gap {
    /// Writes the text of a gap record: `12 lines, 900 bytes dropped (seq 7-18): REASON`.
    pub fn write(&self, reason: &str) -> String {
        let Gap { lines, bytes, first_seq, last_seq } = self;
        format!("{lines} lines, {bytes} bytes dropped (seq {first_seq}-{last_seq}): {reason}")
    }

    /// Parses the text of a gap record. None when the text has another form.
    pub fn parse(text: &[u8]) -> Option<Gap> {
        let (lines, rest) = std::str::from_utf8(text).ok()?.split_once(" lines, ")?;
        let (bytes, rest) = rest.split_once(" bytes dropped (seq ")?;
        let (first_seq, rest) = rest.split_once('-')?;
        let (last_seq, _) = rest.split_once("): ")?;
        let number = |text: &str| text.parse().ok();
        Some(Gap {
            lines: number(lines)?,
            bytes: number(bytes)?,
            first_seq: number(first_seq)?,
            last_seq: number(last_seq)?,
        })
    }
}

/// Appends the head of a record: all bytes before its text.
pub fn write_head(stamp: &[u8; STAMP_BYTES], stream: Stream, tag: Tag, out: &mut Vec<u8>) {
    out.extend_from_slice(stamp);
    out.push(b' ');
    out.extend_from_slice(stream.name().as_bytes());
    out.push(b' ');
    tag.write(out);
    out.push(b' ');
}

/// The stamp of an instant; all digits are 0 for a year without four digits.
pub fn stamp(at: Timestamp) -> [u8; STAMP_BYTES] {
    let mut stamp = *b"0000-00-00T00:00:00.000000000Z";
    let text = format!("{at:.9}");
    if text.len() == STAMP_BYTES {
        stamp.copy_from_slice(text.as_bytes());
    }
    stamp
}

/// Reads one record without its newline. A record that is not in the format becomes a line of stdout with all its bytes
/// and the epoch as its time: no bytes of a spool are ever left out.
pub fn parse(record: &[u8], seq: u64) -> Line<'_> {
    let damaged =
        Line { seq, stamp: b"1970-01-01T00:00:00.000000000Z", stream: Stream::Stdout, tag: Tag::WHOLE, text: record };
    if record.len() < TAG_AT + 2 || record[STAMP_BYTES] != b' ' || record[TAG_AT - 1] != b' ' {
        return damaged;
    }
    let stream = match &record[STAMP_BYTES + 1..TAG_AT - 1] {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return damaged,
    };
    let rest = &record[TAG_AT..];
    let tag_bytes = if rest[1] == b' ' { 1 } else { memchr::memchr(b' ', rest).unwrap_or(0) };
    if tag_bytes == 0 || tag_bytes > 24 {
        return damaged;
    }
    let tag = Tag::parse(&rest[..tag_bytes]);
    Line { seq, stamp: &record[..STAMP_BYTES], stream, tag, text: &rest[tag_bytes + 1..] }
}

/// A part of one spool: whole records of one segment, each with its newline.
#[derive(Clone, Debug)]
pub struct Block {
    /// `seq` of the first record.
    pub first_seq: u64,
    /// The records.
    pub bytes: Arc<[u8]>,
    /// The position behind the last record: the cursor of a reader that has delivered the block.
    pub end: Position,
}

impl Block {
    /// The records, one after the other.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let mut rest: &[u8] = &self.bytes;
        let mut seq = self.first_seq;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let line = parse(&rest[..end], seq);
            rest = rest.get(end + 1..).unwrap_or_default();
            seq += 1;
            Some(line)
        })
    }
}

/// The place of a reader in one spool. Stored on disk as its cursor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// `seq` of the next record; 1 at the start.
    pub seq: u64,
    /// `seq` of the first record of the segment that has, or will have, the next record.
    pub segment: u64,
    /// Byte offset in that segment.
    pub offset: u64,
    /// The bracket records that the reader has passed.
    pub stage: Stage,
}

/// The bracket records that a reader has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// None: `run.started` is next.
    #[default]
    Before,
    /// `run.started`: lines follow.
    Lines,
    /// `run.finished`: late lines and `run.output_ended` follow.
    Late,
    /// The last one: `run.finished`, or `run.output_ended` where the output ended later. Nothing follows.
    Done,
}

impl Position {
    /// Before `run.started`.
    pub const START: Position = Position { seq: 1, segment: 1, offset: 0, stage: Stage::Before };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(tag: Tag, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_head(&stamp("2026-11-23T07:50:00.123456789Z".parse().expect("instant")), Stream::Stderr, tag, &mut out);
        out.extend_from_slice(text);
        out
    }

    #[test]
    fn a_gap_has_one_text_and_is_read_from_it() {
        let gap = Gap { lines: 12, bytes: 900, first_seq: 7, last_seq: 18 };
        let text = gap.write("no space left (at all): 1-2");
        assert_eq!(text, "12 lines, 900 bytes dropped (seq 7-18): no space left (at all): 1-2");
        assert_eq!(Gap::parse(text.as_bytes()), Some(gap));
        for text in
            ["", "3 lines dropped", "x lines, 9 bytes dropped (seq 7-18): full", "1 lines, 9 bytes dropped (seq 7"]
        {
            assert_eq!(Gap::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let tags = [
            (Tag::WHOLE, "F"),
            (Tag { part: 3, last: false, newline: true, gap: false }, "P:3"),
            (Tag { part: 4, last: true, newline: true, gap: false }, "F:4"),
            (Tag { part: 0, last: true, newline: false, gap: false }, "F:noeol"),
            (Tag { part: 9, last: true, newline: false, gap: false }, "F:9:noeol"),
            (Tag::GAP, "F:gap"),
        ];
        for (tag, text) in tags {
            for content in [&b""[..], b" leading", b"\xff\x00 bytes", b"F F F"] {
                let record = record(tag, content);
                assert!(
                    record.starts_with(format!("2026-11-23T07:50:00.123456789Z stderr {text} ").as_bytes()),
                    "{text}"
                );
                let line = parse(&record, 7);
                assert_eq!((line.seq, line.stream, line.tag, line.text), (7, Stream::Stderr, tag, content), "{text}");
                assert_eq!(line.at().to_string(), "2026-11-23T07:50:00.123456789Z");
            }
        }
    }

    #[test]
    fn a_damaged_record_keeps_all_its_bytes() {
        for record in [
            &b""[..],
            b"x",
            b"2026-11-23T07:50:00.123456789Z",
            b"2026-11-23T07:50:00.123456789Z stdbla F x",
            b"2026-11-23T07:50:00.123456789Z stdout Fxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        ] {
            assert_eq!(parse(record, 1).text, record);
        }
    }
}
