//! Counts, over all output of one attempt, what each rule found. Fed block by block, in the order of the spool.
//!
//! The runner keeps one per attempt and stores its [`MatcherState`] beside its cursor, so that a restart neither
//! forgets a match nor counts one twice. A line longer than the spool's limit arrives in parts and is matched part by
//! part: a match that a cut goes through is not seen, and each part that matches counts.

use std::cmp::Reverse;
use std::sync::Arc;

use domain::line::{Block, Line, Stream};
use domain::run::{RuleHit, Severity};
use serde::{Deserialize, Serialize};

use crate::pack::{Expectation, Pack, Rule, StreamChoice};
use crate::rule_set::RuleSet;

/// Bytes of a matching line that are kept. Ours; enough to recognise it in an alert, while [`HITS_MAX`] of them still
/// fit one SQS message (1 MiB since August 2025, 256 KiB before).
pub const FIRST_LINE_BYTES_MAX: usize = 1_024;

/// Of these, how many may stand before the match when a line is cut. Ours.
const BEFORE_MATCH_BYTES: usize = 256;

/// Rules that one report names; the worst and earliest first. Ours; see [`FIRST_LINE_BYTES_MAX`].
pub const HITS_MAX: usize = 64;

/// Marks where a kept line was cut.
const CUT: &str = "…";

/// The rules of a set and what they have found so far.
pub struct Matcher {
    rules: Arc<RuleSet>,
    /// By the number of the rule.
    tallies: Vec<Tally>,
    next_seq: u64,
    unseen_lines: u64,
    streams: Streams,
    /// The state that it goes on from came from other rules.
    rules_changed: bool,
}

/// Whether `stream` of a rule is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streams {
    AsRecorded,
    /// The lines come from a file that does not tell.
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    count: u64,
    first_seq: u64,
    first_line: String,
}

/// What a matcher knows, to be stored. Small: only rules that found something are in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatcherState {
    /// [`RuleSet::digest`] of the rules that found this.
    pub digest: String,
    /// Number of the first line that has not been seen; 0 when none has.
    pub next_seq: u64,
    /// Lines that were never handed over.
    #[serde(default)]
    pub unseen_lines: u64,
    pub found: Vec<MatchCount>,
}

/// What one rule has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatchCount {
    pub pack: String,
    pub rule: String,
    pub count: u64,
    pub first_seq: u64,
    pub first_line: String,
}

impl Matcher {
    pub fn new(rules: Arc<RuleSet>) -> Matcher {
        let tallies = vec![Tally::default(); rules.len()];
        Matcher { rules, tallies, next_seq: 1, unseen_lines: 0, streams: Streams::AsRecorded, rules_changed: false }
    }

    /// Goes on from a stored state. Rules may have changed meanwhile: what was found is kept for the rules that still
    /// exist, and a `require` rule whose line may have passed before is not held against the run.
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

    /// Matches every line of the block. Lines seen before are passed over, so a block may come again.
    pub fn feed(&mut self, block: &Block) {
        self.feed_each(block, |_, _, _| ());
    }

    /// As [`Matcher::feed`], and shows every match as it is found.
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

    /// What is to be stored beside the cursor.
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

    /// The rules that speak against the run, for its report: patterns that matched often enough, and required ones that
    /// did not. Ask when all output is through. At most [`HITS_MAX`], `fail` first, then by line;
    /// [`Matcher::hits_left_out`] counts the rest.
    pub fn hits(&self) -> Vec<RuleHit> {
        // Stable, and packs later in the list are the more particular ones: theirs come first on the same line.
        let names: Vec<&str> = self.rules.packs().collect();
        let mut hits: Vec<RuleHit> =
            self.rules_with_hits().map(|(pack, rule, tally)| hit_of(pack, rule, tally)).collect();
        hits.sort_by_cached_key(|hit| (worst_first(hit), Reverse(names.iter().position(|name| *name == hit.pack))));
        hits.truncate(HITS_MAX);
        hits
    }

    /// Rules that speak against the run and do not stand in [`Matcher::hits`].
    pub fn hits_left_out(&self) -> usize {
        self.rules_with_hits().count().saturating_sub(HITS_MAX)
    }

    /// Lines that were never handed over, because they had left the spool.
    pub fn unseen_lines(&self) -> u64 {
        self.unseen_lines
    }

    /// Whether the state that it went on from came from other rules: earlier lines were matched by those.
    pub fn rules_changed(&self) -> bool {
        self.rules_changed
    }

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

/// Orders hits: `fail` before `warn`, then by line, what is missing last.
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
            Expectation::Match if rule.explain.is_empty() => format!("No line matches {}.", rule.pattern.text()),
            _ => rule.explain.clone(),
        },
    }
}

/// The line as it is kept: whole, or the part around the match when it is long.
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

/// The start of the UTF-8 character in which `at` lies; `at` itself when the bytes are no UTF-8.
fn character_start(text: &[u8], at: usize) -> usize {
    let is_start = |at: &usize| text.get(*at).is_none_or(|byte| byte & 0xC0 != 0x80);
    (at.saturating_sub(3)..=at).rev().find(is_start).unwrap_or(at)
}
