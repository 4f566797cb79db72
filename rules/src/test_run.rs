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
    /// Whether the line cancels the earlier matches of the rule, by its `cleared_by`.
    pub clears: bool,
    /// Matching lines of the rule up to this one.
    pub count: u64,
    /// Matching lines from which on the rule is a hit, or satisfied.
    pub at_least: u64,
    /// Matching lines up to which the rule is a hit, or satisfied.
    pub at_most: Option<u64>,
    /// The effect of a hit.
    pub severity: Severity,
    /// The line without its newline and without colour codes; a long line is cut around the match.
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
    /// The unfinished line, or its last part.
    open: Vec<u8>,
    /// Parts of the unfinished line that were matched.
    parts: u32,
    /// Records not yet matched.
    block: Vec<u8>,
    /// `seq` of the block's first record, and the number of its records.
    first_seq: u64,
    records: u64,
    /// By `seq`: where records are more than lines, from this record on, the number of those that do not end a line.
    surplus: BTreeMap<u64, u64>,
    /// Finished lines.
    lines: u64,
    bytes: u64,
    /// Matching lines of each rule.
    counts: BTreeMap<(String, String), u64>,
}

impl Records {
    fn new(rules: &Arc<RuleSet>) -> Records {
        Records {
            matcher: Matcher::new(Arc::clone(rules)).with_streams(Streams::Unknown),
            open: Vec::new(),
            parts: 0,
            block: Vec::new(),
            first_seq: 1,
            records: 0,
            surplus: BTreeMap::new(),
            lines: 0,
            bytes: 0,
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

    fn end_record(&mut self, ends_line: bool, matched: &mut impl FnMut(TestMatch<'_>)) {
        if self.block.len() >= READ_BYTES {
            self.flush(matched);
        }
        let part = if self.parts == 0 && ends_line { 0 } else { self.parts + 1 };
        write_head(NO_STAMP, Stream::Stdout, Tag { part, last: ends_line, ..Tag::WHOLE }, &mut self.block);
        self.block.append(&mut self.open);
        self.block.push(b'\n');
        self.records += 1;
        if ends_line {
            self.lines += 1;
            self.parts = 0;
        } else {
            self.parts += 1;
            let next_seq = self.first_seq + self.records;
            let surplus = self.surplus.last_key_value().map_or(0, |(_, surplus)| *surplus) + 1;
            self.surplus.insert(next_seq, surplus);
        }
    }

    fn flush(&mut self, matched: &mut impl FnMut(TestMatch<'_>)) {
        let block = Block { first_seq: self.first_seq, bytes: self.block.as_slice().into(), end: Position::START };
        let (counts, surplus) = (&mut self.counts, &self.surplus);
        self.matcher.feed_each(&block, |pack, rule, effect| {
            let count = counts.entry((pack.name.clone(), rule.id.clone())).or_default();
            *count = if effect.clears { 0 } else { *count + 1 };
            matched(TestMatch {
                line: line_of(effect.seq, surplus),
                pack: &pack.name,
                rule: &rule.id,
                expectation: rule.expectation,
                clears: effect.clears,
                count: *count,
                at_least: rule.at_least,
                at_most: rule.at_most,
                severity: rule.severity,
                text: (effect.text)().as_bytes(),
            });
        });
        self.block.clear();
        self.first_seq += std::mem::take(&mut self.records);
    }

    fn finish(mut self, matched: &mut impl FnMut(TestMatch<'_>)) -> TestSummary {
        if !self.open.is_empty() || self.parts > 0 {
            self.end_record(true, matched);
        }
        self.flush(matched);
        let mut hits = self.matcher.hits();
        for hit in hits.iter_mut().filter(|hit| hit.first_seq > 0) {
            hit.first_seq = line_of(hit.first_seq, &self.surplus);
        }
        let verdict = judge(&ExitFacts::exited(0, Duration::ZERO), &Limits::DEFAULT, &hits);
        TestSummary { lines: self.lines, bytes: self.bytes, verdict }
    }
}

/// The number of the line to which the record belongs.
fn line_of(seq: u64, surplus: &BTreeMap<u64, u64>) -> u64 {
    seq - surplus.range(..=seq).next_back().map_or(0, |(_, surplus)| *surplus)
}
