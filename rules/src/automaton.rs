//! Finds, in one pass over a block, the lines that any rule of a set matches. All output of all jobs passes here, so
//! its work per line is the cost of the rules.
//!
//! One lazy DFA has all patterns; of a pattern with a gap it has one piece (`wide_gap.rs`), and the rule's own regex
//! decides on the lines that have it. States are built when the input needs them, in a cache with a limit: setting up
//! is cheap, and memory is bounded for any patterns. The caches belong to the rule set and are reused from job to job.

use domain::line::{Block, Line};
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::pool::Pool;
use regex_automata::util::syntax;
use regex_automata::{Input, MatchKind, PatternID, PatternSet};

use crate::pattern::Pattern;
use crate::wide_gap;

/// Bytes of one cache of states. Chosen: 1,000 rules on real logs need 1.2 MB. A full cache is cleared and filled
/// again.
const CACHE_BYTES_MAX: usize = 8 << 20;

/// Bytes of the compiled patterns of one set together. Chosen: 1,000 realistic rules take about 2 MB.
const COMPILED_BYTES_MAX: usize = 32 << 20;

type MakeScratch = Box<dyn Fn() -> Scratch + Send + Sync + std::panic::UnwindSafe + std::panic::RefUnwindSafe>;

/// All patterns of a rule set.
pub(crate) struct Automaton {
    dfa: DFA,
    /// The rules' own regexes, by number.
    own: Vec<Own>,
    scratch: Pool<Scratch, MakeScratch>,
}

/// A rule's own regex.
struct Own {
    pattern: Pattern,
    /// The automaton has only a piece of the pattern, so the regex decides.
    must_confirm: bool,
}

/// Memory of one scan. Reused by later scans, with its states.
struct Scratch {
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
    pub(crate) fn compile(patterns: &[&Pattern]) -> Result<Automaton, String> {
        let parse = |pattern: &&Pattern| {
            syntax::parse_with(pattern.text(), &pattern.syntax()).map_err(|error| error.to_string())
        };
        let mut parsed = patterns.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let mut own = Vec::with_capacity(patterns.len());
        for (hir, pattern) in parsed.iter_mut().zip(patterns) {
            let piece = wide_gap::longest_piece(hir);
            own.push(Own { pattern: (*pattern).clone(), must_confirm: piece.is_some() });
            if let Some(piece) = piece {
                *hir = piece;
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
        Ok(Automaton { dfa, own, scratch: Pool::new(make) })
    }

    /// Calls `hit` with each line from `from_seq` on that some pattern matches, and with the numbers of those patterns.
    /// Skips gaps, because their text is not the job's. Returns the `seq` after the block.
    pub(crate) fn scan(&self, block: &Block, from_seq: u64, mut hit: impl FnMut(&Line<'_>, &PatternSet)) -> u64 {
        let mut scratch = self.scratch.get();
        let mut next_seq = block.first_seq;
        for line in block.lines() {
            next_seq = line.seq + 1;
            if line.seq >= from_seq && !line.tag.gap && self.match_line(&mut scratch, line.text) {
                hit(&line, &scratch.found);
            }
        }
        next_seq
    }

    /// Whether any pattern matches; those that do are then in `scratch.found`.
    fn match_line(&self, scratch: &mut Scratch, text: &[u8]) -> bool {
        let input = Input::new(text).earliest(true);
        if let Ok(None) = self.dfa.try_search_fwd(&mut scratch.cache, &input) {
            return false;
        }
        scratch.candidates.clear();
        let searched =
            self.dfa.try_which_overlapping_matches(&mut scratch.cache, &Input::new(text), &mut scratch.candidates);
        // The DFA is configured to never give up. If it does, the rules' own regexes decide on this line.
        let gave_up = searched.is_err();
        scratch.found.clear();
        for (number, own) in self.own.iter().enumerate() {
            let Ok(number) = PatternID::new(number) else { break };
            let candidate = gave_up || scratch.candidates.contains(number);
            if candidate && ((!own.must_confirm && !gave_up) || own.pattern.is_match(text)) {
                scratch.found.insert(number);
            }
        }
        !scratch.found.is_empty()
    }
}
