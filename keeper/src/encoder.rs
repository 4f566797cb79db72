//! Turns the bytes of the job's pipes into spool records. Pure: the caller passes the time.
//!
//! One reused buffer and no allocation per line. The head of a record is built once per read.

use domain::line::{LINE_BYTES_MAX, STAMP_BYTES, Stream, Tag, stamp, write_head};
use jiff::Timestamp;

use domain::run::OutputCounts;

/// The bytes before the text of a whole line: `2026-11-23T07:50:00.123456789Z stdout F `.
const HEAD_BYTES: usize = STAMP_BYTES + 10;

/// A line whose end was not read yet.
#[derive(Default)]
struct OpenLine {
    text: Vec<u8>,
    /// Parts of the line that are already written.
    parts: u32,
}

/// The stamp of the last read, and the second that it was formatted for.
struct StampCache {
    second: i64,
    stamp: [u8; STAMP_BYTES],
}

pub(crate) struct Encoder {
    stamp_cache: StampCache,
    stdout: OpenLine,
    stderr: OpenLine,
    /// Records ready to be written.
    pub out: Vec<u8>,
    /// Number of records in `out`.
    pub out_records: u64,
    pub counts: OutputCounts,
}

impl Default for Encoder {
    fn default() -> Encoder {
        Encoder {
            stamp_cache: StampCache { second: i64::MIN, stamp: stamp(Timestamp::UNIX_EPOCH) },
            stdout: OpenLine::default(),
            stderr: OpenLine::default(),
            out: Vec::new(),
            out_records: 0,
            counts: OutputCounts::default(),
        }
    }
}

impl Encoder {
    /// Sets the time of the bytes pushed next: seconds and nanoseconds since the epoch.
    pub(crate) fn set_time(&mut self, second: i64, nanosecond: u32) {
        if second != self.stamp_cache.second {
            self.stamp_cache =
                StampCache { second, stamp: stamp(Timestamp::new(second, 0).unwrap_or(Timestamp::UNIX_EPOCH)) };
        }
        let mut rest = nanosecond;
        for digit in self.stamp_cache.stamp[20..29].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }

    /// The current stamp.
    pub(crate) fn stamp(&self) -> &[u8; STAMP_BYTES] {
        &self.stamp_cache.stamp
    }

    /// Encodes bytes as they came from the pipe.
    pub(crate) fn push(&mut self, stream: Stream, bytes: &[u8]) {
        match stream {
            Stream::Stdout => self.counts.stdout_bytes += bytes.len() as u64,
            Stream::Stderr => self.counts.stderr_bytes += bytes.len() as u64,
        }
        let rest = match self.has_open_line(stream) {
            true => match memchr::memchr(b'\n', bytes) {
                Some(end) => {
                    self.extend_line(stream, &bytes[..end]);
                    self.end_line(stream, true);
                    &bytes[end + 1..]
                }
                None => return self.extend_line(stream, bytes),
            },
            false => bytes,
        };
        let mut head = [b' '; HEAD_BYTES];
        head[..STAMP_BYTES].copy_from_slice(&self.stamp_cache.stamp);
        head[STAMP_BYTES + 1..STAMP_BYTES + 7].copy_from_slice(stream.name().as_bytes());
        head[HEAD_BYTES - 2] = b'F';
        let mut begin = 0;
        let mut lines = 0;
        for end in memchr::memchr_iter(b'\n', rest) {
            self.out.reserve(HEAD_BYTES + end + 1 - begin);
            self.out.extend_from_slice(&head);
            self.out.extend_from_slice(&rest[begin..=end]);
            begin = end + 1;
            lines += 1;
        }
        self.out_records += lines;
        self.count_lines(stream, lines);
        if begin < rest.len() {
            self.extend_line(stream, &rest[begin..]);
        }
    }

    /// Ends a stream. A last line without a newline is a line, too.
    pub(crate) fn end_stream(&mut self, stream: Stream) {
        if self.has_open_line(stream) {
            self.end_line(stream, false);
        }
    }

    fn has_open_line(&self, stream: Stream) -> bool {
        let open_line = self.open_line(stream);
        !open_line.text.is_empty() || open_line.parts > 0
    }

    fn open_line(&self, stream: Stream) -> &OpenLine {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }

    fn open_line_and_out(&mut self, stream: Stream) -> (&mut OpenLine, &mut Vec<u8>) {
        match stream {
            Stream::Stdout => (&mut self.stdout, &mut self.out),
            Stream::Stderr => (&mut self.stderr, &mut self.out),
        }
    }

    fn count_lines(&mut self, stream: Stream, lines: u64) {
        match stream {
            Stream::Stdout => self.counts.stdout_lines += lines,
            Stream::Stderr => self.counts.stderr_lines += lines,
        }
    }

    /// Extends the open line. Text longer than a record is written as a part.
    fn extend_line(&mut self, stream: Stream, bytes: &[u8]) {
        let stamp = self.stamp_cache.stamp;
        let (open_line, out) = self.open_line_and_out(stream);
        open_line.text.extend_from_slice(bytes);
        let mut written = 0;
        while open_line.text.len() > LINE_BYTES_MAX {
            let cut = character_boundary(&open_line.text, LINE_BYTES_MAX);
            open_line.parts = open_line.parts.saturating_add(1);
            write_head(&stamp, stream, Tag { part: open_line.parts, last: false, newline: true, gap: false }, out);
            out.extend_from_slice(&open_line.text[..cut]);
            out.push(b'\n');
            open_line.text.drain(..cut);
            written += 1;
        }
        self.out_records += written;
    }

    fn end_line(&mut self, stream: Stream, newline: bool) {
        let stamp = self.stamp_cache.stamp;
        let (open_line, out) = self.open_line_and_out(stream);
        let part = if open_line.parts > 0 { open_line.parts.saturating_add(1) } else { 0 };
        write_head(&stamp, stream, Tag { part, last: true, newline, gap: false }, out);
        out.extend_from_slice(&open_line.text);
        out.push(b'\n');
        open_line.text.clear();
        open_line.parts = 0;
        self.out_records += 1;
        self.count_lines(stream, 1);
    }
}

/// The last index at or before `at` that does not cut a UTF-8 character. Returns `at` itself when the bytes there are
/// not UTF-8.
fn character_boundary(text: &[u8], at: usize) -> usize {
    let is_inner = |place: usize| text.get(place).is_some_and(|byte| byte & 0xC0 == 0x80);
    if !is_inner(at) {
        return at;
    }
    (at.saturating_sub(3)..at).rev().find(|place| !is_inner(*place)).filter(|place| text[*place] >= 0xC0).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use domain::line::{Block, Position};

    use super::*;

    fn lines(encoder: &Encoder) -> Vec<(Stream, Tag, Vec<u8>)> {
        let block = Block { first_seq: 1, bytes: encoder.out.clone().into(), end: Position::START };
        assert_eq!(block.lines().count() as u64, encoder.out_records);
        block.lines().map(|line| (line.stream, line.tag, line.text.to_vec())).collect()
    }

    #[test]
    fn lines_end_at_newlines_for_every_split_of_the_input() {
        let text = b"one\n\ntwo\xff\x00\nlast";
        for step in 1..=text.len() {
            let mut encoder = Encoder::default();
            for piece in text.chunks(step) {
                encoder.push(Stream::Stdout, piece);
            }
            encoder.end_stream(Stream::Stdout);
            let texts: Vec<Vec<u8>> = lines(&encoder).into_iter().map(|line| line.2).collect();
            assert_eq!(texts, [&b"one"[..], b"", b"two\xff\x00", b"last"], "step {step}");
            assert!(!lines(&encoder)[3].1.newline);
            assert_eq!((encoder.counts.stdout_lines, encoder.counts.stdout_bytes), (4, text.len() as u64));
        }
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let mut encoder = Encoder::default();
        let text = "ä".repeat(LINE_BYTES_MAX / 2 * 2 + 1).replacen('ä', "x", 1);
        for piece in text.as_bytes().chunks(65_536) {
            encoder.push(Stream::Stderr, piece);
        }
        encoder.push(Stream::Stderr, b"\n");
        let lines = lines(&encoder);
        assert_eq!(
            lines.iter().map(|line| (line.1.part, line.1.last)).collect::<Vec<_>>(),
            [(1, false), (2, false), (3, true)]
        );
        assert!(lines.iter().all(|line| std::str::from_utf8(&line.2).is_ok()));
        assert_eq!(lines.concat_texts(), text.as_bytes());
        assert_eq!(encoder.counts.stderr_lines, 1);
    }

    trait Texts {
        fn concat_texts(&self) -> Vec<u8>;
    }

    impl Texts for Vec<(Stream, Tag, Vec<u8>)> {
        fn concat_texts(&self) -> Vec<u8> {
            self.iter().flat_map(|line| line.2.iter().copied()).collect()
        }
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_whole() {
        for (extra, parts) in [(0, 1), (1, 2)] {
            let mut encoder = Encoder::default();
            encoder.push(Stream::Stdout, &vec![b'x'; LINE_BYTES_MAX + extra]);
            encoder.push(Stream::Stdout, b"\n");
            assert_eq!(lines(&encoder).len(), parts, "{extra} bytes over the limit");
            assert_eq!(lines(&encoder)[0].1 == Tag::WHOLE, parts == 1);
        }
    }

    #[test]
    fn streams_do_not_mix() {
        let mut encoder = Encoder::default();
        encoder.push(Stream::Stdout, b"out ");
        encoder.push(Stream::Stderr, b"err\n");
        encoder.push(Stream::Stdout, b"put\n");
        let texts: Vec<_> = lines(&encoder).into_iter().map(|line| (line.0, line.2)).collect();
        assert_eq!(texts, [(Stream::Stderr, b"err".to_vec()), (Stream::Stdout, b"out put".to_vec())]);
    }

    #[test]
    fn the_stamp_is_the_instant_given() {
        let mut encoder = Encoder::default();
        for (second, nanosecond, expected) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (1_795_420_200, 123_456_789, "2026-11-23T07:50:00.123456789Z"),
            (1_795_420_200, 7, "2026-11-23T07:50:00.000000007Z"),
        ] {
            encoder.set_time(second, nanosecond);
            assert_eq!(std::str::from_utf8(encoder.stamp()), Ok(expected));
        }
    }
}
