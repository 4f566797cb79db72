//! The records that a sink encodes, and the cutting of long lines into pieces.

use domain::line::{LINE_BYTES_MAX, Line, Stream};
use jiff::Timestamp;

use crate::feed::{FinishedRecord, OutputEndedRecord};

/// A cut moves back at most this far to a character boundary: a UTF-8 character has at most 4 bytes.
const BOUNDARY_BYTES_MAX: usize = 3;

/// The smallest `max_line`: every syslog receiver accepts 480 bytes (RFC 5424 section 6.1).
pub(crate) const MAX_LINE_BYTES_MIN: usize = 480;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Record<'r> {
    /// `run.started`
    Started,
    /// A line of the job, or a piece of it.
    Line(Piece<'r>),
    /// Lines that this sink will never get.
    Gap(Gap),
    /// `run.finished`
    Finished(&'r FinishedRecord),
    /// `run.output_ended`
    OutputEnded(&'r OutputEndedRecord),
}

/// Names a record within its run, in refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordId {
    Started,
    Line { seq: u64 },
    Gap { first_seq: u64 },
    Finished,
    OutputEnded,
}

impl Record<'_> {
    pub(crate) fn id(&self) -> RecordId {
        match self {
            Record::Started => RecordId::Started,
            Record::Line(piece) => RecordId::Line { seq: piece.seq },
            Record::Gap(gap) => RecordId::Gap { first_seq: gap.first_seq },
            Record::Finished(_) => RecordId::Finished,
            Record::OutputEnded(_) => RecordId::OutputEnded,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece<'r> {
    pub seq: u64,
    /// RFC 3339 with nanoseconds and `Z`: 30 ASCII bytes.
    pub stamp: &'r [u8],
    pub stream: Stream,
    pub text: &'r [u8],
    /// 0 for a whole line. Otherwise rises within the line; (seq, part) is unique. Numbers may be skipped at the end of
    /// a spool record.
    pub part: u64,
    pub part_last: bool,
    /// The spool's own gap: lines that were dropped before they reached it.
    pub gap: bool,
}

/// Lines that were older than `retry.max_age` when they were to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub first_seq: u64,
    pub last_seq: u64,
    pub lines: u64,
    pub bytes: u64,
    pub at: Timestamp,
}

impl Gap {
    pub(crate) fn text(&self) -> String {
        let Gap { lines, bytes, first_seq, last_seq, .. } = *self;
        domain::line::Gap { lines, bytes, first_seq, last_seq }.write("older than this sink's max_age")
    }
}

/// Cuts a line into pieces of at most `max` bytes, at character boundaries where the text is UTF-8. The joined pieces
/// are the text. A line that fits is one piece with part 0.
///
/// `text` is the line's text after stripping. The numbers depend on the record alone, so they are the same wherever a
/// reader begins.
pub(crate) fn pieces<'r>(line: &Line<'r>, text: &'r [u8], max: usize, mut take: impl FnMut(Piece<'r>)) {
    let tag = line.tag;
    let max = max.max(MAX_LINE_BYTES_MIN / 2);
    let piece = Piece {
        seq: line.seq,
        stamp: line.stamp,
        stream: line.stream,
        text,
        part: u64::from(tag.part),
        part_last: tag.last,
        gap: tag.gap,
    };
    if text.len() <= max && tag.part == 0 {
        take(piece);
        return;
    }
    // Each spool record has as many numbers as it can have pieces.
    let stride = (LINE_BYTES_MAX / (max - BOUNDARY_BYTES_MAX) + 1) as u64;
    let mut part = u64::from(tag.part.max(1) - 1) * stride + 1;
    let mut rest = text;
    loop {
        let (now, later) = rest.split_at(cut(rest, max));
        let last = later.is_empty();
        take(Piece { text: now, part, part_last: last && tag.last, ..piece });
        if last {
            return;
        }
        part += 1;
        rest = later;
    }
}

/// The largest cut of at most `max` bytes that splits no character.
pub(crate) fn cut(text: &[u8], max: usize) -> usize {
    if text.len() <= max {
        return text.len();
    }
    let continues = |at: usize| text[at] & 0xc0 == 0x80;
    let boundary = (max - BOUNDARY_BYTES_MAX..=max).rev().find(|at| !continues(*at));
    boundary.unwrap_or(max)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use domain::line::Tag;

    pub(crate) fn line<'r>(seq: u64, stream: Stream, text: &'r [u8]) -> Line<'r> {
        Line { seq, stamp: b"2026-11-23T07:50:00.123456789Z", stream, tag: Tag::WHOLE, text }
    }

    pub(crate) fn piece<'r>(seq: u64, stream: Stream, text: &'r [u8]) -> Piece<'r> {
        let stamp = b"2026-11-23T07:50:00.123456789Z";
        Piece { seq, stamp, stream, text, part: 0, part_last: true, gap: false }
    }

    fn cut_up(line: &Line<'_>, max: usize) -> Vec<(u64, bool, Vec<u8>)> {
        let mut all = Vec::new();
        pieces(line, line.text, max, |piece| all.push((piece.part, piece.part_last, piece.text.to_vec())));
        all
    }

    #[test]
    fn a_line_that_fits_is_not_cut() {
        assert_eq!(cut_up(&line(1, Stream::Stdout, b""), 480), [(0, true, vec![])]);
        assert_eq!(cut_up(&line(1, Stream::Stdout, &[b'x'; 480]), 480), [(0, true, vec![b'x'; 480])]);
    }

    #[test]
    fn part_numbers_rise_over_cut_parts_of_the_spool() {
        let text = vec![b'x'; LINE_BYTES_MAX];
        let mut before = 0;
        for part in 1..=3 {
            let tag = Tag { part, last: part == 3, newline: true, gap: false };
            let cut = cut_up(&Line { tag, ..line(7, Stream::Stdout, &text) }, 480);
            for (index, (number, last, _)) in cut.iter().enumerate() {
                assert!(*number > before, "{number} after {before}");
                before = *number;
                assert_eq!(*last, part == 3 && index + 1 == cut.len());
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn cutting_reproduces_every_byte(text in "\\PC{0,3000}", max in 480usize..1000) {
            let whole = line(1, Stream::Stdout, text.as_bytes());
            let cut = cut_up(&whole, max);
            let joined: Vec<u8> = cut.iter().flat_map(|(_, _, text)| text.clone()).collect();
            proptest::prop_assert_eq!(&joined, text.as_bytes());
            for (_, _, piece) in &cut {
                proptest::prop_assert!(piece.len() <= max);
                proptest::prop_assert!(std::str::from_utf8(piece).is_ok());
            }
        }

        #[test]
        fn cutting_reproduces_bytes_that_are_not_utf8(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..5000)) {
            let cut = cut_up(&line(1, Stream::Stderr, &text), 480);
            let joined: Vec<u8> = cut.iter().flat_map(|(_, _, text)| text.clone()).collect();
            proptest::prop_assert_eq!(joined, text);
        }
    }
}
