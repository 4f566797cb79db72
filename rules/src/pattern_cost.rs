//! Finds patterns whose automaton grows without useful bound, like `[ab]*a[ab]{16}c`: each combination of the last 16
//! letters is a state. In a shared automaton, such a pattern would slow every rule of the set. Called when rules are
//! compiled and when a pack of the user is read. Pure: the same pattern always gives the same answer.

use std::collections::HashSet;

use regex_automata::hybrid::dfa::DFA;
use regex_automata::nfa::thompson;
use regex_automata::util::start;
use regex_automata::{Anchored, MatchKind};
use regex_syntax::hir::{Class, Hir, HirKind};

/// Repetitions from which on a pattern is tried. Chosen: 2^6 states are few.
const REPEATS_MIN: u32 = 6;

/// Bytes that are tried for each repeated class.
const STEPS: usize = 2_048;

/// States visited in [`STEPS`] from which on a pattern is slow. Chosen: the built-in packs visit less than a third, and
/// a pattern with 2^10 states visits more.
const STATES_MAX: usize = 400;

/// Bytes of the states. Chosen: [`STATES_MAX`] large ones.
const CACHE_BYTES_MAX: usize = 8 << 20;

/// Classes that are tried. Chosen, not measured.
const CLASSES_MAX: usize = 8;

/// Whether the pattern visits too many states on text of its own repeated characters.
pub(crate) fn has_too_many_states(hir: &Hir) -> bool {
    let mut classes = Vec::new();
    if !repeats_often(hir) {
        return false;
    }
    collect_classes(hir, &mut classes);
    classes.truncate(CLASSES_MAX);
    !classes.is_empty() && visited_states(hir, &classes).is_none_or(|states| states > STATES_MAX)
}

/// Whether a part with more than one text is repeated a large, but limited number of times, or written out as often.
fn repeats_often(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => false,
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(repetition.min).max(repetition.min);
            let is_literal = matches!(repetition.sub.kind(), HirKind::Literal(_));
            (times >= REPEATS_MIN && !is_literal) || repeats_often(&repetition.sub)
        }
        HirKind::Capture(capture) => repeats_often(&capture.sub),
        HirKind::Alternation(parts) => parts.iter().any(repeats_often),
        HirKind::Concat(parts) => {
            let classes = parts.iter().filter(|part| matches!(part.kind(), HirKind::Class(_))).count();
            classes >= REPEATS_MIN as usize || parts.iter().any(repeats_often)
        }
    }
}

/// The byte ranges of all classes in the pattern, each set once.
fn collect_classes(hir: &Hir, classes: &mut Vec<Vec<(u8, u8)>>) {
    match hir.kind() {
        HirKind::Empty | HirKind::Literal(_) | HirKind::Look(_) => {}
        HirKind::Class(class) => {
            let ranges: Vec<(u8, u8)> = match class {
                Class::Bytes(class) => class.iter().map(|range| (range.start(), range.end())).collect(),
                Class::Unicode(class) => class
                    .iter()
                    .filter(|range| range.start().is_ascii())
                    .map(|range| (range.start() as u8, u8::try_from(range.end()).unwrap_or(0x7f).min(0x7f)))
                    .collect(),
            };
            if !ranges.is_empty() && !classes.contains(&ranges) {
                classes.push(ranges);
            }
        }
        HirKind::Repetition(repetition) => collect_classes(&repetition.sub, classes),
        HirKind::Capture(capture) => collect_classes(&capture.sub, classes),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            parts.iter().for_each(|part| collect_classes(part, classes));
        }
    }
}

/// The largest number of states that text of one class visits; none when they do not fit into the cache.
fn visited_states(hir: &Hir, classes: &[Vec<(u8, u8)>]) -> Option<usize> {
    let config = thompson::Config::new().utf8(false).which_captures(thompson::WhichCaptures::None);
    let nfa = thompson::Compiler::new().configure(config).build_from_hir(hir).ok()?;
    let config =
        DFA::config().match_kind(MatchKind::All).cache_capacity(CACHE_BYTES_MAX).skip_cache_capacity_check(true);
    let dfa = DFA::builder().configure(config).build_from_nfa(nfa).ok()?;
    let mut most = 0;
    for class in classes {
        let bytes = distinguished_bytes(&dfa, class);
        let mut cache = dfa.create_cache();
        let mut state = dfa.start_state(&mut cache, &start::Config::new().anchored(Anchored::No)).ok()?;
        let (mut seen, mut random) = (HashSet::from([state]), 0x9e37_79b9_7f4a_7c15_u64);
        for _ in 0..STEPS {
            // Xorshift (Marsaglia): any sequence without a short period does.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let byte = bytes[(random >> 33) as usize % bytes.len()];
            state = dfa.next_state(&mut cache, state, byte).ok()?;
            if cache.clear_count() > 0 {
                return None;
            }
            seen.insert(state);
        }
        most = most.max(seen.len());
    }
    Some(most)
}

/// One byte of the class for each kind of byte that the pattern distinguishes; never empty.
fn distinguished_bytes(dfa: &DFA, class: &[(u8, u8)]) -> Vec<u8> {
    let mut seen = HashSet::new();
    let classes = dfa.byte_classes();
    let all = class.iter().flat_map(|(first, last)| *first..=*last);
    all.filter(|byte| seen.insert(classes.get(*byte))).collect()
}

#[cfg(test)]
mod tests {
    use crate::packs::Packs;
    use crate::pattern::Pattern;

    fn is_slow(pattern: &str) -> bool {
        Pattern::compile(pattern).expect("a pattern").is_slow()
    }

    #[test]
    fn patterns_with_a_state_for_each_combination_of_letters_are_slow() {
        for pattern in [
            "[ab]*a[ab]{16}c",
            "(?:x|y)*x(?:x|y){20}z",
            "a[ab]{12}c",
            "a.{16}b",
            r"\w*e\w{14}z",
            r"[01]+1[01]{11}x",
            "a[ab][ab][ab][ab][ab][ab][ab][ab][ab][ab][ab][ab]c",
            "(?:a[ab]{15}c|error)",
        ] {
            assert!(is_slow(pattern), "{pattern}");
        }
    }

    #[test]
    fn usual_patterns_are_not_slow() {
        for pattern in [
            "error",
            r"^\d{4}-\d{2}-\d{2} \d{8}",
            r"\b[0-9a-f]{40}\b",
            r"\w{90}x",
            r"^[^\s:]+: (?:line )?\d+: .*failed",
            r"[A-Z]{3,12}-\d{1,10}",
            "a{200}",
            r"(?:[a-z]+\.){10}[a-z]+",
            r"start[^,]{0,40}end,",
            r"ORA-\d{5}",
            r"\S{100}",
        ] {
            assert!(!is_slow(pattern), "{pattern}");
        }
        let packs = Packs::builtin();
        for rule in packs.iter().flat_map(|pack| &pack.rules) {
            let patterns = [Some(&rule.pattern), rule.unless.as_ref(), rule.cleared_by.as_ref()];
            for pattern in patterns.into_iter().flatten() {
                assert!(!pattern.is_slow(), "{}", rule.id);
            }
        }
    }
}
