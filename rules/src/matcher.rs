//! Counts the matches of each rule over all output of one attempt. The runner feeds it blocks in the order of the
//! spool.
//!
//! The runner stores the [`MatcherState`] with its cursor, so a restart neither loses a match nor counts one twice. A
//! line longer than a record is matched part by part: each matching part counts, and a match across a cut is not found.

use std::cmp::Reverse;
use std::sync::Arc;

use domain::line::{Block, Line, Stream};
use domain::run::{RuleHit, Severity};
use serde::{Deserialize, Serialize};

use crate::pack::{Expectation, Pack, Rule, StreamChoice};
use crate::rule_set::RuleSet;

/// Bytes that a hit keeps of its first matching line. Chosen: enough to recognise it in an alert, and [`HITS_MAX`] of
/// them fit into one SQS message (1 MiB since August 2025, 256 KiB before).
pub const FIRST_LINE_BYTES_MAX: usize = 1_024;

/// Bytes before the match that are kept when a line is cut. Chosen, not measured.
const BEFORE_MATCH_BYTES: usize = 256;

/// Rules in one report. Chosen with [`FIRST_LINE_BYTES_MAX`].
pub const HITS_MAX: usize = 64;

/// Bytes that a cut line can be shorter than [`FIRST_LINE_BYTES_MAX`]: two marks, and a character that did not fit.
const CUT_SLACK_BYTES: usize = 16;

/// Marks where a kept line was cut.
const CUT: &str = "…";

/// The rules of a set with their matches so far.
pub struct Matcher {
    rules: Arc<RuleSet>,
    /// By the number of the rule.
    tallies: Vec<Tally>,
    next_seq: u64,
    unseen_lines: u64,
    streams: Streams,
    /// The resumed state came from other rules.
    rules_changed: bool,
}

/// Whether the `stream` of a rule has an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streams {
    AsRecorded,
    /// The lines come from a plain file, without streams.
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    count: u64,
    first_seq: u64,
    first_line: String,
}

/// The stored state of a matcher, as JSON. Small: it has only rules with matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatcherState {
    /// [`RuleSet::digest`] of the rules.
    pub digest: String,
    /// `seq` of the next line to match; 0 in the state of a new matcher.
    pub next_seq: u64,
    /// Lines that left the spool before they were matched.
    #[serde(default)]
    pub unseen_lines: u64,
    /// One entry for each rule with matches.
    pub found: Vec<MatchCount>,
}

/// The matches of one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatchCount {
    /// Name of the rule's pack.
    pub pack: String,
    /// Id of the rule.
    pub rule: String,
    /// Matching lines.
    pub count: u64,
    /// `seq` of the first one.
    pub first_seq: u64,
    /// Its text, cut to [`FIRST_LINE_BYTES_MAX`].
    pub first_line: String,
}

impl Matcher {
    /// A matcher for the output of one attempt, from its first line on.
    pub fn new(rules: Arc<RuleSet>) -> Matcher {
        let tallies = vec![Tally::default(); rules.len()];
        Matcher { rules, tallies, next_seq: 1, unseen_lines: 0, streams: Streams::AsRecorded, rules_changed: false }
    }

    /// Resumes from a stored state. If the rules have changed since, matches of rules that still exist are kept, and no
    /// `require` rule is a hit: its line may have been in the output before.
    pub fn resume(rules: Arc<RuleSet>, state: MatcherState) -> Matcher {
        let mut matcher = Matcher::new(rules);
        matcher.next_seq = state.next_seq.max(1);
        matcher.unseen_lines = state.unseen_lines;
        matcher.rules_changed = state.next_seq > 1 && state.digest != matcher.rules.digest();
        for found in state.found {
            let same = |(pack, rule): (&Pack, &Rule)| pack.name == found.pack && rule.id == found.rule;
            let number = matcher.rules.rules().position(same);
            if let Some(tally) = number.and_then(|number| matcher.tallies.get_mut(number)) {
                *tally = Tally { count: found.count, first_seq: found.first_seq, first_line: found.first_line };
            }
        }
        matcher
    }

    pub(crate) fn with_streams(self, streams: Streams) -> Matcher {
        Matcher { streams, ..self }
    }

    /// Matches every line of the block. Lines that were matched before are skipped, so feeding a block twice is
    /// harmless.
    pub fn feed(&mut self, block: &Block) {
        self.feed_each(block, |_, _, _| ());
    }

    /// As [`Matcher::feed`]; calls `seen` with every match.
    pub(crate) fn feed_each(&mut self, block: &Block, mut seen: impl FnMut(&Line<'_>, &Pack, &Rule)) {
        self.unseen_lines += block.first_seq.saturating_sub(self.next_seq);
        let rules = Arc::clone(&self.rules);
        let end_seq = match rules.automaton() {
            None => block.first_seq + memchr::memchr_iter(b'\n', &block.bytes).count() as u64,
            Some(automaton) => automaton.scan(block, self.next_seq, |line, found| {
                for number in found.iter().map(|number| number.as_usize()) {
                    let Some((pack, rule)) = rules.rule(number) else { continue };
                    if self.is_counted(rule, line) {
                        self.count(number, rule, line);
                        seen(line, pack, rule);
                    }
                }
            }),
        };
        self.next_seq = self.next_seq.max(end_seq);
    }

    fn is_counted(&self, rule: &Rule, line: &Line<'_>) -> bool {
        let stream = match (self.streams, rule.stream) {
            (Streams::Unknown, _) | (_, StreamChoice::Any) => true,
            (_, StreamChoice::Stdout) => line.stream == Stream::Stdout,
            (_, StreamChoice::Stderr) => line.stream == Stream::Stderr,
        };
        stream && !rule.is_excluded(line.text)
    }

    fn count(&mut self, number: usize, rule: &Rule, line: &Line<'_>) {
        let Some(tally) = self.tallies.get_mut(number) else { return };
        if tally.count == 0 {
            tally.first_seq = line.seq;
            tally.first_line = shortened_line(line.text, rule);
        }
        tally.count += 1;
    }

    /// The state to store with the cursor.
    pub fn state(&self) -> MatcherState {
        let found = self.rules.rules().zip(&self.tallies).filter(|(_, tally)| tally.count > 0);
        MatcherState {
            digest: self.rules.digest().to_owned(),
            next_seq: self.next_seq,
            unseen_lines: self.unseen_lines,
            found: found
                .map(|((pack, rule), tally)| MatchCount {
                    pack: pack.name.clone(),
                    rule: rule.id.clone(),
                    count: tally.count,
                    first_seq: tally.first_seq,
                    first_line: tally.first_line.clone(),
                })
                .collect(),
        }
    }

    /// The hits, for the report: `pattern` rules with at least `at_least` matches, and `require` rules with fewer. Call
    /// it after all output. At most [`HITS_MAX`], `fail` first, then by line; [`Matcher::hits_left_out`] counts the
    /// rest.
    pub fn hits(&self) -> Vec<RuleHit> {
        // On the same line, hits of later packs come first: these are more specific.
        let names: Vec<&str> = self.rules.packs().collect();
        let mut hits: Vec<RuleHit> =
            self.rules_with_hits().map(|(pack, rule, tally)| hit_of(pack, rule, tally)).collect();
        hits.sort_by_cached_key(|hit| (worst_first(hit), Reverse(names.iter().position(|name| *name == hit.pack))));
        hits.truncate(HITS_MAX);
        hits
    }

    /// Number of hits beyond [`HITS_MAX`].
    pub fn hits_left_out(&self) -> usize {
        self.rules_with_hits().count().saturating_sub(HITS_MAX)
    }

    /// Lines that left the spool before they were matched.
    pub fn unseen_lines(&self) -> u64 {
        self.unseen_lines
    }

    /// Whether the resumed state came from other rules, so that earlier lines were matched by those.
    pub fn rules_changed(&self) -> bool {
        self.rules_changed
    }

    /// The rules that it applies.
    pub fn rules(&self) -> &Arc<RuleSet> {
        &self.rules
    }

    fn rules_with_hits(&self) -> impl Iterator<Item = (&Pack, &Rule, &Tally)> {
        self.rules.rules().zip(&self.tallies).filter_map(|((pack, rule), tally)| {
            let is_hit = match rule.expectation {
                Expectation::NoMatch => tally.count >= rule.at_least,
                Expectation::Match => tally.count < rule.at_least && !self.rules_changed,
            };
            is_hit.then_some((pack, rule, tally))
        })
    }
}

/// Orders hits: `fail` before `warn`, then by line; missing lines last.
pub(crate) fn worst_first(hit: &RuleHit) -> (bool, u64) {
    (hit.severity != Severity::Fail, hit.first_seq.wrapping_sub(1))
}

fn hit_of(pack: &Pack, rule: &Rule, tally: &Tally) -> RuleHit {
    RuleHit {
        rule: rule.id.clone(),
        pack: pack.name.clone(),
        severity: rule.severity,
        count: tally.count,
        first_seq: tally.first_seq,
        first_line: tally.first_line.clone(),
        explain: match rule.expectation {
            Expectation::Match if rule.explain.is_empty() => {
                let lines = if tally.count == 0 { "No line matches" } else { "Too few lines match" };
                format!("{lines} {}.", rule.pattern.text())
            }
            _ => rule.explain.clone(),
        },
        required: (rule.expectation == Expectation::Match).then_some(rule.at_least),
    }
}

/// Whether a text that a report keeps of a line may not be the whole line as it was printed.
pub(crate) fn is_altered(text: &str) -> bool {
    let is_cut = text.ends_with(CUT) && text.len() >= FIRST_LINE_BYTES_MAX - CUT_SLACK_BYTES;
    is_cut || text.contains(char::REPLACEMENT_CHARACTER)
}

/// The text that a hit keeps: the whole line, or the part around the match when it is long.
fn shortened_line(text: &[u8], rule: &Rule) -> String {
    let shown = String::from_utf8_lossy(text);
    if shown.len() <= FIRST_LINE_BYTES_MAX {
        return shown.into_owned();
    }
    let room = FIRST_LINE_BYTES_MAX - 2 * CUT.len();
    let begin = match rule.pattern.find(text) {
        Some(found) if found.end > room => found.start.saturating_sub(BEFORE_MATCH_BYTES).min(text.len() - room),
        _ => 0,
    };
    let begin = character_start(text, begin);
    let end = (begin + room).min(text.len());
    let mut line = String::from_utf8_lossy(&text[begin..character_start(text, end)]).into_owned();
    line.truncate(line.floor_char_boundary(room));
    if begin > 0 {
        line.insert_str(0, CUT);
    }
    line.push_str(CUT);
    line
}

/// The start of the UTF-8 character at `at`; `at` itself when the bytes are not UTF-8.
fn character_start(text: &[u8], at: usize) -> usize {
    let is_start = |at: &usize| text.get(*at).is_none_or(|byte| byte & 0xC0 != 0x80);
    (at.saturating_sub(3)..=at).rev().find(is_start).unwrap_or(at)
}
