//! The automata of one rule set. A large pack has one of its own, which all sets with this pack share: it would cost
//! each of them megabytes and 20 ms. The other packs of a set have one together, because each automaton reads every
//! line.

use std::collections::HashMap;
use std::sync::Arc;

use regex_automata::PatternSet;
use regex_automata::util::pool::PoolGuard;

use crate::automaton::{Automaton, MakeScratch, Scratch};
use crate::line_text::LineText;
use crate::pattern::Pattern;

/// Patterns from which a pack has an automaton of its own. Chosen: of the built-in packs only `default`, which nearly
/// every job has.
const OWN_FROM: usize = 30;

/// The automata of large packs, by the name of the pack.
pub(crate) type SharedAutomata = HashMap<String, Arc<Automaton>>;

/// A pattern of a rule set, with the name of its pack.
pub(crate) type PackPattern<'p> = (&'p str, &'p Arc<Pattern>);

/// All patterns of a rule set, by number.
pub(crate) struct Automata {
    parts: Vec<Part>,
    patterns: usize,
}

struct Part {
    automaton: Arc<Automaton>,
    /// The number in the rule set, by the number in the automaton.
    numbers: Vec<usize>,
}

/// Memory of one scan.
pub(crate) struct SetScratch<'a> {
    parts: Vec<PoolGuard<'a, Scratch, MakeScratch>>,
    found: PatternSet,
}

impl Automata {
    /// Compiles the patterns; those of large packs at most once for all sets.
    ///
    /// # Errors
    /// Why the patterns cannot be compiled together.
    pub(crate) fn compile(patterns: &[PackPattern<'_>], shared: &mut SharedAutomata) -> Result<Automata, String> {
        let mut by_pack: Vec<(&str, Vec<usize>)> = Vec::new();
        for (number, (pack, _)) in patterns.iter().enumerate() {
            match by_pack.iter_mut().find(|(name, _)| name == pack) {
                Some((_, numbers)) => numbers.push(number),
                None => by_pack.push((pack, vec![number])),
            }
        }
        let compile = |numbers: &[usize]| {
            let patterns: Vec<_> = numbers.iter().map(|number| Arc::clone(patterns[*number].1)).collect();
            Automaton::compile(&patterns).map(Arc::new)
        };
        let mut parts = Vec::new();
        let (large, small): (Vec<_>, Vec<_>) = by_pack.into_iter().partition(|(_, numbers)| numbers.len() >= OWN_FROM);
        for (pack, numbers) in large {
            let automaton = match shared.get(pack) {
                Some(automaton) => Arc::clone(automaton),
                None => {
                    let automaton = compile(&numbers)?;
                    shared.insert(pack.to_owned(), Arc::clone(&automaton));
                    automaton
                }
            };
            parts.push(Part { automaton, numbers });
        }
        let mut numbers: Vec<usize> = small.into_iter().flat_map(|(_, numbers)| numbers).collect();
        numbers.sort_unstable();
        if !numbers.is_empty() {
            parts.push(Part { automaton: compile(&numbers)?, numbers });
        }
        Ok(Automata { parts, patterns: patterns.len() })
    }

    /// Whether the pattern with this number is in no automaton ([`Automaton::is_alone`]).
    pub(crate) fn is_alone(&self, number: usize) -> bool {
        let is_alone = |part: &Part| part.numbers.binary_search(&number).is_ok_and(|own| part.automaton.is_alone(own));
        self.parts.iter().any(is_alone)
    }

    /// Memory for searches; its parts are returned for reuse when it is dropped.
    pub(crate) fn scratch(&self) -> SetScratch<'_> {
        let parts = self.parts.iter().map(|part| part.automaton.scratch()).collect();
        SetScratch { parts, found: PatternSet::new(self.patterns) }
    }

    /// The numbers of the patterns that match the line; none when there is no such pattern. `budget`: as in
    /// [`Automaton::search`].
    pub(crate) fn search<'s>(
        &self,
        scratch: &'s mut SetScratch<'_>,
        line: &LineText<'_>,
        budget: &mut u64,
    ) -> Option<&'s PatternSet> {
        scratch.found.clear();
        for (part, own) in self.parts.iter().zip(&mut scratch.parts) {
            let Some(found) = part.automaton.search(own, line, budget) else { continue };
            for number in found.iter() {
                if let Ok(number) = regex_automata::PatternID::new(part.numbers[number.as_usize()]) {
                    scratch.found.insert(number);
                }
            }
        }
        (!scratch.found.is_empty()).then_some(&scratch.found)
    }
}
