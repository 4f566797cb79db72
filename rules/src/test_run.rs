//! Tries rules on plain text, for `sexton rules test`: every match with its line, and the verdict for exit 0.
//!
//! The text passes the same matcher as the output of a run, as records of one stream. A rule for one stream applies to
//! every line, because plain text has no streams. Memory is bounded: one block and one line of at most
//! [`LINE_BYTES_MAX`].

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use domain::line::{Block, LINE_BYTES_MAX, Position, STAMP_BYTES, Stream, Tag, write_head};
use domain::run::Severity;

use crate::judge::{ExitFacts, Limits, Verdict, judge};
use crate::matcher::{Matcher, Streams};
use crate::pack::Expectation;
use crate::rule_set::RuleSet;

/// Bytes of one read, and about the bytes of one block: as in the runner.
const READ_BYTES: usize = 64 << 10;

/// The text has no times.
const NO_STAMP: &[u8; STAMP_BYTES] = b"1970-01-01T00:00:00.000000000Z";

/// A rule that matches a line.
#[derive(Clone, Copy, Debug)]
pub struct TestMatch<'l> {
    /// Number of the line, from 1.
    pub line: u64,
    /// Name of the rule's pack.
    pub pack: &'l str,
    /// Id of the rule.
    pub rule: &'l str,
    /// Whether matching lines are the hit, or required.
    pub expectation: Expectation,
    /// Matching lines of the rule up to this one.
    pub count: u64,
    /// Matching lines from which on the rule is a hit, or satisfied.
    pub at_least: u64,
    /// The effect of a hit.
    pub severity: Severity,
    /// The line without its newline; a part of it when it is longer than [`LINE_BYTES_MAX`].
    pub text: &'l [u8],
}

/// The result of [`test_run`].
#[derive(Clone, Debug)]
pub struct TestSummary {
    /// Lines read.
    pub lines: u64,
    /// Bytes read.
    pub bytes: u64,
    /// As if the text were all output of a run with exit code 0.
    pub verdict: Verdict,
}

/// Applies the rules to all text of `reader`, and calls `matched` with each match, in the order of the lines.
///
/// # Errors
/// The reader's error.
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

/// Splits the text into blocks for the matcher.
struct Records {
    matcher: Matcher,
    /// The unfinished line.
    open: Vec<u8>,
    /// Records not yet matched.
    block: Vec<u8>,
    /// `seq` of the block's first record, and the number of its records.
    first_seq: u64,
    records: u64,
    /// Number of the line of the block's first record.
    first_line: u64,
    /// Finished lines.
    lines: u64,
    bytes: u64,
    /// The first matching line of each rule, for the verdict.
    first_lines: BTreeMap<(String, String), u64>,
    /// Matching lines of each rule.
    counts: BTreeMap<(String, String), u64>,
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
            counts: BTreeMap::new(),
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

    /// A part that does not end its line gets a block of its own, so all records of any other block are one line each.
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
        let counts = &mut self.counts;
        self.matcher.feed_each(&block, |record, pack, rule| {
            let line = first_line + (record.seq - first_seq);
            first_lines.entry((pack.name.clone(), rule.id.clone())).or_insert(line);
            let count = counts.entry((pack.name.clone(), rule.id.clone())).or_default();
            *count += 1;
            matched(TestMatch {
                line,
                pack: &pack.name,
                rule: &rule.id,
                expectation: rule.expectation,
                count: *count,
                at_least: rule.at_least,
                severity: rule.severity,
                text: record.text,
            });
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
