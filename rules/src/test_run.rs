//! Tries rules on plain text, for `sexton rules test`: every match with its line, and the verdict for exit 0.
//!
//! The text goes through the same matcher as the output of a run, as records of one stream; rules for one stream look
//! at every line, because the text does not tell. Memory is bounded by one block and one line of the spool's limit.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use domain::line::{Block, LINE_BYTES_MAX, Position, STAMP_BYTES, Stream, Tag, write_head};
use domain::run::Severity;

use crate::judge::{ExitFacts, Limits, Verdict, judge};
use crate::matcher::{Matcher, Streams};
use crate::rule_set::RuleSet;

/// Bytes read at a time, and about the bytes of a block. As the runner reads.
const READ_BYTES: usize = 64 << 10;

/// The text does not tell when it was printed.
const NO_STAMP: &[u8; STAMP_BYTES] = b"1970-01-01T00:00:00.000000000Z";

/// One rule on one line.
#[derive(Clone, Copy, Debug)]
pub struct TestMatch<'l> {
    /// From 1.
    pub line: u64,
    pub pack: &'l str,
    pub rule: &'l str,
    pub severity: Severity,
    /// The line without its newline; a part of it when it is longer than [`LINE_BYTES_MAX`].
    pub text: &'l [u8],
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct TestSummary {
    pub lines: u64,
    pub bytes: u64,
    /// As if the text were all output of a run with exit code 0.
    pub verdict: Verdict,
}

/// Runs the rules over all that `reader` gives and shows each match to `matched`, in the order of the lines.
///
/// # Errors
/// What the reader says.
pub fn test_run(
    rules: &Arc<RuleSet>,
    mut reader: impl Read,
    mut matched: impl FnMut(TestMatch<'_>),
) -> io::Result<TestSummary> {
    let mut records = Records::new(rules);
    let mut chunk = vec![0; READ_BYTES];
    loop {
        let read = match reader.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        records.take(&chunk[..read], &mut matched);
    }
    Ok(records.finish(&mut matched))
}

/// Makes blocks of the text, and has them matched.
struct Records {
    matcher: Matcher,
    /// The line that has begun.
    open: Vec<u8>,
    /// Records not yet matched.
    block: Vec<u8>,
    /// Number of the block's first record, and how many are in it.
    first_seq: u64,
    records: u64,
    /// The line that the block's first record is of.
    first_line: u64,
    /// Lines that have ended.
    lines: u64,
    bytes: u64,
    /// Where each rule matched first, as the verdict names it.
    first_lines: BTreeMap<(String, String), u64>,
}

impl Records {
    fn new(rules: &Arc<RuleSet>) -> Records {
        Records {
            matcher: Matcher::new(Arc::clone(rules)).with_streams(Streams::Unknown),
            open: Vec::new(),
            block: Vec::new(),
            first_seq: 1,
            records: 0,
            first_line: 1,
            lines: 0,
            bytes: 0,
            first_lines: BTreeMap::new(),
        }
    }

    fn take(&mut self, mut bytes: &[u8], matched: &mut impl FnMut(TestMatch<'_>)) {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let end = memchr::memchr(b'\n', bytes);
            let room = LINE_BYTES_MAX - self.open.len();
            if room == 0 && end != Some(0) {
                self.end_record(false, matched);
                continue;
            }
            let taken = end.unwrap_or(bytes.len()).min(room);
            self.open.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if end == Some(taken) {
                bytes = &bytes[1..];
                self.end_record(true, matched);
            }
        }
    }

    /// A part that does not end its line stands in a block of its own: so the other records of a block are one line
    /// apart.
    fn end_record(&mut self, ends_line: bool, matched: &mut impl FnMut(TestMatch<'_>)) {
        if !ends_line || self.block.len() >= READ_BYTES {
            self.flush(matched);
        }
        if self.block.is_empty() {
            self.first_line = self.lines + 1;
        }
        write_head(NO_STAMP, Stream::Stdout, Tag::WHOLE, &mut self.block);
        self.block.append(&mut self.open);
        self.block.push(b'\n');
        self.records += 1;
        if ends_line {
            self.lines += 1;
        } else {
            self.flush(matched);
        }
    }

    fn flush(&mut self, matched: &mut impl FnMut(TestMatch<'_>)) {
        let block = Block { first_seq: self.first_seq, bytes: self.block.as_slice().into(), end: Position::START };
        let (first_seq, first_line, first_lines) = (self.first_seq, self.first_line, &mut self.first_lines);
        self.matcher.feed_each(&block, |record, pack, rule| {
            let line = first_line + (record.seq - first_seq);
            first_lines.entry((pack.name.clone(), rule.id.clone())).or_insert(line);
            matched(TestMatch { line, pack: &pack.name, rule: &rule.id, severity: rule.severity, text: record.text });
        });
        self.block.clear();
        self.first_seq += std::mem::take(&mut self.records);
    }

    fn finish(mut self, matched: &mut impl FnMut(TestMatch<'_>)) -> TestSummary {
        if !self.open.is_empty() {
            self.end_record(true, matched);
        }
        self.flush(matched);
        let mut hits = self.matcher.hits();
        for hit in &mut hits {
            if let Some(line) = self.first_lines.get(&(hit.pack.clone(), hit.rule.clone())) {
                hit.first_seq = *line;
            }
        }
        let verdict = judge(&ExitFacts::exited(0, Duration::ZERO), &Limits::DEFAULT, &hits);
        TestSummary { lines: self.lines, bytes: self.bytes, verdict }
    }
}
