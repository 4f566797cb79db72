//! Counts the matches of each rule over all output of one attempt. The runner feeds it blocks in the order of the
//! spool.
//!
//! The runner stores the [`MatcherState`] with its cursor, so a restart neither loses a match nor counts one twice. A
//! line that the spool cut into parts counts as one line (`long_line.rs`).

use std::borrow::Cow;
use std::cmp::Reverse;
use std::sync::Arc;

use domain::line::{Block, Line, Stream, Tag};
use domain::run::{RuleHit, Severity};

use crate::automata::SetScratch;
pub use crate::kept_line::FIRST_LINE_BYTES_MAX;
use crate::kept_line::kept_line;
use crate::line_text::LineReader;
use crate::long_line::{OpenLine, open_line_of, stored_open_line};
pub use crate::matcher_state::{MarkKey, MatchCount, MatcherState, StoredMark, StoredOpenLine, WaitingMatch};
use crate::pack::{Expectation, Pack, Rule};
use crate::rule_set::{PatternUse, RuleSet};

/// Rules in one report. Chosen with [`FIRST_LINE_BYTES_MAX`].
pub const HITS_MAX: usize = 64;

/// Bytes of one run's lines that the slow patterns of a set read, added up over these patterns. Chosen: a few seconds
/// of one core.
pub const SLOW_BYTES_MAX: u64 = 64 << 20;

/// The rules of a set with their matches so far.
pub struct Matcher {
    rules: Arc<RuleSet>,
    /// By the number of the rule.
    tallies: Vec<Tally>,
    waiting: Vec<Waiting>,
    open_lines: Vec<OpenLine>,
    next_seq: u64,
    unseen_lines: u64,
    streams: Streams,
    /// The resumed state came from other rules.
    rules_changed: bool,
    /// Bytes that slow patterns may still read.
    slow_budget: u64,
    reader: LineReader,
}

/// Whether the `stream` of a rule has an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streams {
    AsRecorded,
    /// The lines come from a plain file, without streams.
    Unknown,
}

/// What a line means for a rule.
pub(crate) struct Effect<'l> {
    pub(crate) seq: u64,
    /// Whether it cancels the earlier matches instead of counting.
    pub(crate) clears: bool,
    /// The text of the line, cut around the match.
    pub(crate) text: &'l dyn Fn() -> String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    count: u64,
    first_seq: u64,
    first_line: String,
}

/// A match that waits for the `then` of its rule.
#[derive(Clone, Debug)]
struct Waiting {
    rule: usize,
    stream: Stream,
    left: u32,
    seq: u64,
    line: String,
}

impl Matcher {
    /// A matcher for the output of one attempt, from its first line on.
    pub fn new(rules: Arc<RuleSet>) -> Matcher {
        let tallies = vec![Tally::default(); rules.len()];
        Matcher {
            rules,
            tallies,
            waiting: Vec::new(),
            open_lines: Vec::new(),
            next_seq: 1,
            unseen_lines: 0,
            streams: Streams::AsRecorded,
            rules_changed: false,
            slow_budget: SLOW_BYTES_MAX,
            reader: LineReader::default(),
        }
    }

    /// Resumes from a stored state. If the rules have changed since, matches of rules that still exist are kept, and no
    /// `require` rule is a hit: its line may have been in the output before.
    pub fn resume(rules: Arc<RuleSet>, state: MatcherState) -> Matcher {
        let mut matcher = Matcher::new(rules);
        matcher.next_seq = state.next_seq.max(1);
        matcher.unseen_lines = state.unseen_lines;
        matcher.slow_budget = SLOW_BYTES_MAX.saturating_sub(state.slow_bytes);
        matcher.rules_changed = state.next_seq > 1 && state.digest != matcher.rules.digest();
        for found in state.found {
            let number = matcher.rules.number_of(&found.pack, &found.rule);
            if let Some(tally) = number.and_then(|number| matcher.tallies.get_mut(number)) {
                *tally = Tally { count: found.count, first_seq: found.first_seq, first_line: found.first_line };
            }
        }
        matcher.waiting = state.waiting.into_iter().filter_map(|stored| waiting_of(&matcher.rules, stored)).collect();
        matcher.open_lines = state.open_lines.into_iter().map(|stored| open_line_of(&matcher.rules, stored)).collect();
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

    /// As [`Matcher::feed`]; calls `seen` with every line that counts for a rule or clears it.
    pub(crate) fn feed_each(&mut self, block: &Block, mut seen: impl FnMut(&Pack, &Rule, Effect<'_>)) {
        self.unseen_lines += block.first_seq.saturating_sub(self.next_seq);
        let rules = Arc::clone(&self.rules);
        let Some(automata) = rules.automata() else {
            let end_seq = block.first_seq + memchr::memchr_iter(b'\n', &block.bytes).count() as u64;
            self.next_seq = self.next_seq.max(end_seq);
            return;
        };
        let mut scratch = automata.scratch();
        let mut reader = std::mem::take(&mut self.reader);
        for line in block.lines() {
            // The text of a gap is not the job's.
            if line.seq >= self.next_seq && !line.tag.gap {
                match line.tag.part {
                    0 => self.take_line(&rules, &mut scratch, &mut reader, &line, &mut seen),
                    _ => self.take_part(&rules, &mut scratch, &mut reader, &line, &mut seen),
                }
            }
            self.next_seq = self.next_seq.max(line.seq + 1);
        }
        self.reader = reader;
    }

    fn take_line(
        &mut self,
        rules: &RuleSet,
        scratch: &mut SetScratch<'_>,
        reader: &mut LineReader,
        line: &Line<'_>,
        seen: &mut impl FnMut(&Pack, &Rule, Effect<'_>),
    ) {
        let text = reader.read(line.text);
        let found = rules.automata().and_then(|automata| automata.search(scratch, &text, &mut self.slow_budget));
        if (found.is_none() && self.waiting.is_empty()) || text.is_trace() {
            return;
        }
        let uses: Vec<PatternUse> = found
            .into_iter()
            .flat_map(|found| found.iter())
            .filter_map(|it| rules.pattern_use(it.as_usize()))
            .collect();
        let clears = uses.iter().filter_map(|it| if let PatternUse::Clears(rule) = it { Some(*rule) } else { None });
        for number in clears {
            let Some((pack, rule)) = rules.rule(number) else { continue };
            if self.clear(number) {
                seen(pack, rule, Effect { seq: line.seq, clears: true, text: &|| kept_line(text.text, None) });
            }
        }
        let is_met = |number: usize| {
            let then = rules.rule(number).and_then(|(_, rule)| rule.then.as_ref());
            then.is_some_and(|then| then.pattern.is_match(&text))
        };
        self.settle(rules, line.stream, is_met, seen);
        let counts = uses.iter().filter_map(|it| if let PatternUse::Counts(rule) = it { Some(*rule) } else { None });
        for number in counts {
            let Some((_, rule)) = rules.rule(number) else { continue };
            if !self.is_on_stream(number, line.stream) || rule.is_excluded(&text) {
                continue;
            }
            if rule.unless_here.is_none() || rule.match_in(&text).is_some() {
                let kept = || kept_line(text.text, rule.match_in(&text));
                self.count(rules, number, line.stream, line.seq, &kept, seen);
            }
        }
    }

    fn take_part(
        &mut self,
        rules: &RuleSet,
        scratch: &mut SetScratch<'_>,
        reader: &mut LineReader,
        line: &Line<'_>,
        seen: &mut impl FnMut(&Pack, &Rule, Effect<'_>),
    ) {
        let place = self.open_lines.iter().position(|open| open.stream == line.stream);
        let earlier = place.map(|place| self.open_lines.swap_remove(place));
        if line.tag.part == 1
            && let Some(unended) = &earlier
        {
            self.end_line(rules, unended, seen);
        }
        let mut open = earlier.filter(|_| line.tag.part > 1).unwrap_or_else(|| OpenLine::new(line.stream));
        open.feed(rules, scratch, reader, line, &self.awaited(line.stream), &mut self.slow_budget);
        match line.tag.last {
            true => self.end_line(rules, &open, seen),
            false => self.open_lines.push(open),
        }
    }

    /// The rules whose `then` the next line of the stream can meet.
    fn awaited(&self, stream: Stream) -> Vec<usize> {
        let waiting = self.waiting.iter().filter(|waiting| waiting.stream == stream);
        let mut awaited: Vec<usize> = waiting.map(|waiting| waiting.rule).collect();
        awaited.dedup();
        awaited
    }

    /// Counts a line that was matched in parts.
    fn end_line(&mut self, rules: &RuleSet, line: &OpenLine, seen: &mut impl FnMut(&Pack, &Rule, Effect<'_>)) {
        if line.is_trace {
            return;
        }
        for ((number, key), (seq, text)) in &line.marks {
            let Some((pack, rule)) = rules.rule(*number) else { continue };
            if *key == MarkKey::ClearedBy && self.clear(*number) {
                seen(pack, rule, Effect { seq: *seq, clears: true, text: &|| text.clone() });
            }
        }
        self.settle(rules, line.stream, |number| line.has(number, MarkKey::Then), seen);
        for ((number, key), (seq, text)) in &line.marks {
            let is_counted = *key == MarkKey::Pattern && !line.has(*number, MarkKey::Unless);
            if is_counted && self.is_on_stream(*number, line.stream) {
                self.count(rules, *number, line.stream, *seq, &|| text.clone(), seen);
            }
        }
    }

    fn is_on_stream(&self, number: usize, stream: Stream) -> bool {
        let known = (self.streams == Streams::AsRecorded).then_some(stream);
        self.rules.streams_of(number).has(known)
    }

    /// Cancels all matches of the rule. Returns whether there were any.
    fn clear(&mut self, number: usize) -> bool {
        let Some(tally) = self.tallies.get_mut(number) else { return false };
        let waiting = self.waiting.len();
        self.waiting.retain(|waiting| waiting.rule != number);
        std::mem::take(tally).count > 0 || self.waiting.len() < waiting
    }

    /// Settles the matches that wait for a line of this stream. `is_met`: whether the line meets the rule's `then`.
    fn settle(
        &mut self,
        rules: &RuleSet,
        stream: Stream,
        is_met: impl Fn(usize) -> bool,
        seen: &mut impl FnMut(&Pack, &Rule, Effect<'_>),
    ) {
        if self.waiting.is_empty() {
            return;
        }
        let mut known: Option<(usize, bool)> = None;
        let mut met = Vec::new();
        self.waiting.retain_mut(|waiting| {
            if waiting.stream != stream {
                return true;
            }
            // Matches of one rule follow each other.
            let is_met = match known {
                Some((rule, is_met)) if rule == waiting.rule => is_met,
                _ => is_met(waiting.rule),
            };
            known = Some((waiting.rule, is_met));
            waiting.left -= 1;
            if is_met {
                met.push(waiting.clone());
            }
            !is_met && waiting.left > 0
        });
        for waiting in met {
            let Some((pack, rule)) = rules.rule(waiting.rule) else { continue };
            let text = || waiting.line.clone();
            self.add(waiting.rule, waiting.seq, &text);
            seen(pack, rule, Effect { seq: waiting.seq, clears: false, text: &text });
        }
    }

    /// Counts a match, now or when the rule's `then` matches.
    fn count(
        &mut self,
        rules: &RuleSet,
        number: usize,
        stream: Stream,
        seq: u64,
        text: &dyn Fn() -> String,
        seen: &mut impl FnMut(&Pack, &Rule, Effect<'_>),
    ) {
        let Some((pack, rule)) = rules.rule(number) else { return };
        match &rule.then {
            Some(then) => {
                let waiting = Waiting { rule: number, stream, left: then.within, seq, line: text() };
                let place = self.waiting.iter().rposition(|other| other.rule == number).map_or(0, |place| place + 1);
                self.waiting.insert(place, waiting);
            }
            None => {
                self.add(number, seq, text);
                seen(pack, rule, Effect { seq, clears: false, text });
            }
        }
    }

    fn add(&mut self, number: usize, seq: u64, text: &dyn Fn() -> String) {
        let Some(tally) = self.tallies.get_mut(number) else { return };
        if tally.count == 0 || seq < tally.first_seq {
            tally.first_seq = seq;
            tally.first_line = text();
        }
        tally.count += 1;
    }

    /// The state to store with the cursor.
    pub fn state(&self) -> MatcherState {
        let found = self.rules.rules().zip(&self.tallies).filter(|(_, tally)| tally.count > 0);
        MatcherState {
            digest: self.rules.digest().to_owned(),
            next_seq: self.next_seq,
            slow_bytes: SLOW_BYTES_MAX - self.slow_budget,
            waiting: self.waiting.iter().filter_map(|waiting| stored_waiting(&self.rules, waiting)).collect(),
            open_lines: self.open_lines.iter().map(|line| stored_open_line(&self.rules, line)).collect(),
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
        let tallies = self.final_tallies();
        let with_hits = self.rules_with_hits(&tallies);
        let mut hits: Vec<RuleHit> = with_hits.map(|(pack, rule, tally)| hit_of(pack, rule, tally)).collect();
        hits.sort_by_cached_key(|hit| (worst_first(hit), Reverse(names.iter().position(|name| *name == hit.pack))));
        hits.truncate(HITS_MAX);
        hits
    }

    /// Number of hits beyond [`HITS_MAX`].
    pub fn hits_left_out(&self) -> usize {
        self.rules_with_hits(&self.final_tallies()).count().saturating_sub(HITS_MAX)
    }

    /// Lines that left the spool before they were matched.
    pub fn unseen_lines(&self) -> u64 {
        self.unseen_lines
    }

    /// Whether the resumed state came from other rules, so that earlier lines were matched by those.
    pub fn rules_changed(&self) -> bool {
        self.rules_changed
    }

    /// Whether the rule with this number has a slow pattern that did not read all lines.
    pub fn has_unread_lines(&self, number: usize) -> bool {
        self.slow_budget == 0 && self.rules.automata().is_some_and(|automata| automata.is_alone(number))
    }

    /// The rules that it applies.
    pub fn rules(&self) -> &Arc<RuleSet> {
        &self.rules
    }

    /// The tallies at the end of the output: a line that has no last part has ended, too.
    fn final_tallies(&self) -> Cow<'_, [Tally]> {
        if self.open_lines.is_empty() {
            return Cow::Borrowed(&self.tallies);
        }
        let mut ended = Matcher { waiting: self.waiting.clone(), ..Matcher::new(Arc::clone(&self.rules)) };
        ended.tallies.clone_from(&self.tallies);
        ended.streams = self.streams;
        let Some(automata) = self.rules.automata() else { return Cow::Owned(ended.tallies) };
        let (mut scratch, mut reader) = (automata.scratch(), LineReader::default());
        for line in &self.open_lines {
            let last = Line {
                seq: self.next_seq.saturating_sub(1),
                stamp: b"",
                stream: line.stream,
                tag: Tag { part: u32::MAX, ..Tag::WHOLE },
                text: b"",
            };
            let mut line = line.clone();
            let awaited = ended.awaited(line.stream);
            line.feed(&self.rules, &mut scratch, &mut reader, &last, &awaited, &mut self.slow_budget.clone());
            ended.end_line(&self.rules, &line, &mut |_, _, _| ());
        }
        Cow::Owned(ended.tallies)
    }

    fn rules_with_hits<'t>(&'t self, tallies: &'t [Tally]) -> impl Iterator<Item = (&'t Pack, &'t Rule, &'t Tally)> {
        self.rules.rules().zip(tallies).enumerate().filter_map(|(number, ((pack, rule), tally))| {
            let is_unknown = rule.expectation == Expectation::Match && self.rules_changed;
            // A required line may be among those that a slow pattern did not read.
            let is_unread = rule.expectation == Expectation::Match && self.has_unread_lines(number);
            let is_unknown = is_unknown || is_unread || !self.rules.streams_of(number).any();
            (rule.is_hit(tally.count) && !is_unknown).then_some((pack, rule, tally))
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
                let lines = match tally.count {
                    0 => "No line matches",
                    count if count < rule.at_least => "Too few lines match",
                    _ => "Too many lines match",
                };
                format!("{lines} {}.", rule.pattern.text())
            }
            _ => rule.explain.clone(),
        },
        required: (rule.expectation == Expectation::Match).then_some(rule.at_least),
        at_most: rule.at_most,
    }
}

fn waiting_of(rules: &RuleSet, stored: WaitingMatch) -> Option<Waiting> {
    let WaitingMatch { pack, rule, stream, left, seq, line } = stored;
    let number = rules.number_of(&pack, &rule)?;
    let within = rules.rule(number)?.1.then.as_ref()?.within;
    Some(Waiting { rule: number, stream, left: left.clamp(1, within), seq, line })
}

fn stored_waiting(rules: &RuleSet, waiting: &Waiting) -> Option<WaitingMatch> {
    let (pack, rule) = rules.rule(waiting.rule)?;
    Some(WaitingMatch {
        pack: pack.name.clone(),
        rule: rule.id.clone(),
        stream: waiting.stream,
        left: waiting.left,
        seq: waiting.seq,
        line: waiting.line.clone(),
    })
}
