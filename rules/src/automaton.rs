//! Finds, in one pass over a line, which of its patterns match it. All output of all jobs passes here, so its
//! work per line is the cost of the rules.
//!
//! One lazy DFA has all patterns; of a pattern with a gap it has one piece (`wide_gap.rs`), and the rule's own regex
//! decides on the lines that have it. States are built when the input needs them, in a cache with a limit: setting up
//! is cheap, and memory is bounded for any patterns. The caches belong to the rule set and are reused from job to job.
//!
//! A pattern with too many states (`pattern_cost.rs`) is not in the DFA: its own regex reads each line, with a budget,
//! so that it slows no other rule.
//!
//! A match that needs `^` at the begin of a message starts there. So the whole line is searched once, and each message
//! only for matches that start at its begin, which nearly always fails after a few bytes.

use std::sync::Arc;

use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::pool::{Pool, PoolGuard};
use regex_automata::{MatchKind, PatternID, PatternSet};
use regex_syntax::hir::Hir;

use crate::line_text::LineText;
use crate::pattern::Pattern;
use crate::pattern_cost::has_too_many_states;
use crate::wide_gap;

/// Bytes of one cache of states. Chosen: 1,000 rules on real logs need 1.2 MB. A full cache is cleared and filled
/// again.
const CACHE_BYTES_MAX: usize = 8 << 20;

/// Bytes of the compiled patterns of one set together. Chosen: 1,000 realistic rules take about 2 MB.
const COMPILED_BYTES_MAX: usize = 32 << 20;

/// Makes the memory of a search.
pub(crate) type MakeScratch =
    Box<dyn Fn() -> Scratch + Send + Sync + std::panic::UnwindSafe + std::panic::RefUnwindSafe>;

/// All patterns of a rule set.
pub(crate) struct Automaton {
    dfa: DFA,
    /// The patterns' own regexes, by number.
    own: Vec<Own>,
    /// The patterns that are not in the DFA.
    alone: Vec<usize>,
    scratch: Pool<Scratch, MakeScratch>,
}

/// A pattern's own regex.
struct Own {
    pattern: Arc<Pattern>,
    /// The automaton has only a piece of the pattern, so the regex decides.
    must_confirm: bool,
}

/// Memory of one scan. Reused by later scans, with its states.
pub(crate) struct Scratch {
    cache: Cache,
    /// Patterns whose piece is on the line.
    candidates: PatternSet,
    /// Patterns that match the line.
    found: PatternSet,
}

impl Automaton {
    /// Compiles all patterns into one automaton.
    ///
    /// # Errors
    /// Why the patterns cannot be compiled together.
    pub(crate) fn compile(patterns: &[Arc<Pattern>]) -> Result<Automaton, String> {
        let mut parsed = Vec::with_capacity(patterns.len());
        let mut own = Vec::with_capacity(patterns.len());
        let mut alone = Vec::new();
        for (number, pattern) in patterns.iter().enumerate() {
            let piece = wide_gap::longest_piece(pattern.hir());
            own.push(Own { pattern: Arc::clone(pattern), must_confirm: piece.is_some() });
            let shared = piece.unwrap_or_else(|| pattern.hir().clone());
            if has_too_many_states(&shared) {
                alone.push(number);
                parsed.push(Hir::fail());
            } else {
                parsed.push(shared);
            }
        }
        let nfa = thompson::Compiler::new()
            .configure(
                thompson::Config::new()
                    .utf8(false)
                    .which_captures(thompson::WhichCaptures::None)
                    .nfa_size_limit(Some(COMPILED_BYTES_MAX)),
            )
            .build_many_from_hir(&parsed)
            .map_err(|error| error.to_string())?;
        let config = DFA::config()
            .match_kind(MatchKind::All)
            .prefilter(None)
            .cache_capacity(CACHE_BYTES_MAX)
            .skip_cache_capacity_check(true);
        let dfa = DFA::builder().configure(config).build_from_nfa(nfa).map_err(|error| error.to_string())?;
        let lent = dfa.clone();
        let make: MakeScratch = Box::new(move || Scratch {
            cache: lent.create_cache(),
            candidates: PatternSet::new(lent.pattern_len()),
            found: PatternSet::new(lent.pattern_len()),
        });
        Ok(Automaton { dfa, own, alone, scratch: Pool::new(make) })
    }

    /// Whether the pattern with this number is not in the DFA.
    pub(crate) fn is_alone(&self, number: usize) -> bool {
        self.alone.contains(&number)
    }

    /// Memory for searches; returned for reuse when it is dropped.
    pub(crate) fn scratch(&self) -> PoolGuard<'_, Scratch, MakeScratch> {
        self.scratch.get()
    }

    /// The numbers of the patterns that match the line; none when there is no such pattern. `budget`: bytes that
    /// patterns outside of the DFA may still read; without enough of it, they are not searched.
    pub(crate) fn search<'s>(
        &self,
        scratch: &'s mut Scratch,
        line: &LineText<'_>,
        budget: &mut u64,
    ) -> Option<&'s PatternSet> {
        let cost = (line.text.len() as u64 + 1) * self.alone.len() as u64;
        let reads_alone = cost > 0 && *budget > 0;
        if reads_alone {
            *budget = budget.saturating_sub(cost);
        }
        let inputs = || std::iter::once(line.whole()).chain(line.at_messages().map(|(_, input)| input));
        let mut is_candidate = |input: regex_automata::Input<'_>| {
            !matches!(self.dfa.try_search_fwd(&mut scratch.cache, &input.earliest(true)), Ok(None))
        };
        let has_candidates = inputs().any(&mut is_candidate);
        if !has_candidates && !reads_alone {
            return None;
        }
        scratch.candidates.clear();
        let mut gave_up = false;
        for input in inputs().filter(|_| has_candidates) {
            let searched = self.dfa.try_which_overlapping_matches(&mut scratch.cache, &input, &mut scratch.candidates);
            // The DFA is configured to never give up. If it does, the patterns' own regexes decide on this line.
            gave_up |= searched.is_err();
        }
        scratch.found.clear();
        for (number, own) in self.own.iter().enumerate() {
            let Ok(number) = PatternID::new(number) else { break };
            let candidate = gave_up || scratch.candidates.contains(number);
            if self.is_alone(number.as_usize()) {
                if reads_alone && own.pattern.is_match(line) {
                    scratch.found.insert(number);
                }
            } else if candidate && ((!own.must_confirm && !gave_up) || own.pattern.is_match(line)) {
                scratch.found.insert(number);
            }
        }
        (!scratch.found.is_empty()).then_some(&scratch.found)
    }
}
