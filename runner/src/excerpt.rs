//! The first and last lines of a run's output, for its report. Bounded for any number and length of lines.

use std::collections::VecDeque;

use domain::line::{Block, parse};
use domain::run::{EXCERPT_BYTES_MAX, ExcerptLine};
use serde::{Deserialize, Serialize};

/// Half for the head, half for the tail.
const HALF_BYTES: usize = EXCERPT_BYTES_MAX / 2;

/// Maximum of one line; the rest is cut and marked. Chosen: eight long lines fit each half.
const LINE_BYTES_MAX: usize = 1_024;

/// Cost of a line besides its text, as JSON: `{"seq":123456,"stream":"stdout","text":""},`
const LINE_COST_BYTES: usize = 48;

/// Marks the end of a cut line.
const CUT: &str = "…";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Excerpt {
    head: Vec<ExcerptLine>,
    head_bytes: usize,
    head_full: bool,
    tail: VecDeque<ExcerptLine>,
    tail_bytes: usize,
}

impl Excerpt {
    /// Adds the next block. Reads only lines that can stay in the excerpt, so the cost does not grow with the output.
    pub(crate) fn feed(&mut self, block: &Block) {
        let mut seq = block.first_seq;
        let mut rest: &[u8] = &block.bytes;
        while !self.head_full && !rest.is_empty() {
            let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let line = excerpt_line(&rest[..end], seq);
            if self.head_bytes + cost_bytes(&line) > HALF_BYTES {
                self.head_full = true;
                break;
            }
            self.head_bytes += cost_bytes(&line);
            self.head.push(line);
            rest = rest.get(end + 1..).unwrap_or_default();
            seq += 1;
        }
        self.feed_tail(rest, seq, block.end.seq);
    }

    /// Whether the head is full: following lines can only become part of the tail.
    pub(crate) fn has_head(&self) -> bool {
        self.head_full
    }

    /// Whether this block alone fills the tail, so that the blocks between the head and this one are not needed.
    pub(crate) fn is_superseded_by(&self, block: &Block) -> bool {
        self.head_full && block.end.seq - block.first_seq > (HALF_BYTES / LINE_COST_BYTES) as u64
    }

    fn feed_tail(&mut self, records: &[u8], first_seq: u64, end_seq: u64) {
        let mut newest = Vec::new();
        let mut bytes = 0;
        let mut seq = end_seq;
        let mut rest = records.strip_suffix(b"\n").unwrap_or(records);
        while seq > first_seq && bytes <= HALF_BYTES {
            seq -= 1;
            let begin = memchr::memrchr(b'\n', rest).map_or(0, |newline| newline + 1);
            let line = excerpt_line(&rest[begin..], seq);
            bytes += cost_bytes(&line);
            newest.push(line);
            rest = &rest[..begin.saturating_sub(1)];
        }
        self.tail.extend(newest.into_iter().rev());
        self.tail_bytes += bytes;
        while self.tail_bytes > HALF_BYTES
            && let Some(oldest) = self.tail.pop_front()
        {
            self.tail_bytes -= cost_bytes(&oldest);
        }
    }

    pub(crate) fn lines(&self) -> Vec<ExcerptLine> {
        self.head.iter().chain(&self.tail).cloned().collect()
    }
}

fn cost_bytes(line: &ExcerptLine) -> usize {
    line.text.len() + LINE_COST_BYTES
}

fn excerpt_line(record: &[u8], seq: u64) -> ExcerptLine {
    let line = parse(record, seq);
    let kept = &line.text[..line.text.len().min(LINE_BYTES_MAX)];
    let mut text = String::from_utf8_lossy(kept).into_owned();
    if kept.len() < line.text.len() || text.len() > LINE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(LINE_BYTES_MAX - CUT.len()));
        text.push_str(CUT);
    }
    ExcerptLine { seq, stream: line.stream, text }
}

#[cfg(test)]
mod tests {
    use domain::line::Position;

    use super::*;

    fn block(first_seq: u64, texts: &[String]) -> Block {
        let bytes: String =
            texts.iter().map(|text| format!("2026-11-23T07:50:00.123456789Z stdout F {text}\n")).collect();
        let end = Position { seq: first_seq + texts.len() as u64, ..Position::START };
        Block { first_seq, bytes: bytes.into_bytes().into(), end }
    }

    #[test]
    fn head_and_tail_do_not_depend_on_the_blocks() {
        let texts: Vec<String> = (1..=5_000).map(|number| format!("line {number}")).collect();
        let mut whole = Excerpt::default();
        whole.feed(&block(1, &texts));
        for size in [1, 7, 1_000] {
            let mut pieces = Excerpt::default();
            for (index, piece) in texts.chunks(size).enumerate() {
                pieces.feed(&block((index * size) as u64 + 1, piece));
            }
            assert_eq!(pieces.lines(), whole.lines(), "{size}");
        }
        for size in [1, 171, 172, 1_000] {
            let mut skipping = Excerpt::default();
            let mut earlier = None;
            for (index, piece) in texts.chunks(size).enumerate() {
                let block = block((index * size) as u64 + 1, piece);
                let is_passed = skipping.is_superseded_by(&block);
                earlier.replace(block).iter().filter(|_| !is_passed).for_each(|earlier| skipping.feed(earlier));
            }
            earlier.iter().for_each(|last| skipping.feed(last));
            assert_eq!(skipping.lines(), whole.lines(), "{size}, without blocks that are passed");
        }
        let lines = whole.lines();
        assert!(lines.iter().map(cost_bytes).sum::<usize>() <= EXCERPT_BYTES_MAX);
        assert_eq!((lines[0].seq, lines[0].text.as_str()), (1, "line 1"));
        let last = lines.last().expect("line");
        assert_eq!((last.seq, last.text.as_str()), (5_000, "line 5000"));
        assert!(lines.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    }

    #[test]
    fn short_output_is_complete_and_long_lines_are_cut() {
        let mut excerpt = Excerpt::default();
        excerpt.feed(&block(1, &["a".into(), "ä".repeat(3_000), "\u{fffd}".into()]));
        let lines = excerpt.lines();
        assert_eq!(lines.iter().map(|line| line.seq).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(lines[1].text.len() <= LINE_BYTES_MAX && lines[1].text.ends_with("ä…"));
    }
}
