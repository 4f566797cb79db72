//! Refuses patterns that no line can match, with the reason. Called when a pack of the user is read; a search over the
//! states of the pattern, with a limit, so that no pattern makes it slow.

use std::collections::HashSet;

use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::start;
use regex_automata::{Anchored, MatchKind};
use regex_syntax::hir::{Class, Hir, HirKind};

/// States after which a pattern counts as one that can match. Chosen: patterns that cannot have few.
const STATES_MAX: usize = 2_000;

/// Bytes of those states.
const CACHE_BYTES_MAX: usize = 4 << 20;

/// Checks a parsed pattern.
///
/// # Errors
/// Why no line matches it, as a clause that follows the name of the rule.
pub(crate) fn check(hir: &Hir) -> Result<(), String> {
    if has_line_feed(hir) {
        return Err("has a line feed, and a pattern is compared with one line at a time; write the next line's \
                    pattern in `then`, with `within = 1`"
            .to_owned());
    }
    if can_match(hir) == Some(false) {
        return Err("can never match: no line meets all its parts; remove the part that contradicts the others, like \
                    a `^` behind text"
            .to_owned());
    }
    Ok(())
}

/// Whether a match has to contain a line feed, or may do so only by its name: `\n`, not `[^x]` or `\s`.
fn has_line_feed(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Literal(literal) => literal.0.contains(&b'\n'),
        HirKind::Class(Class::Bytes(class)) => {
            class.ranges().iter().all(|range| (range.start(), range.end()) == (10, 10)) && !class.ranges().is_empty()
        }
        HirKind::Empty | HirKind::Class(_) | HirKind::Look(_) => false,
        HirKind::Repetition(repetition) => has_line_feed(&repetition.sub),
        HirKind::Capture(capture) => has_line_feed(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().any(has_line_feed),
    }
}

/// Whether any line can match; none when the pattern has too many states to know.
fn can_match(hir: &Hir) -> Option<bool> {
    let config = thompson::Config::new().utf8(false).which_captures(thompson::WhichCaptures::None);
    let nfa = thompson::Compiler::new().configure(config).build_from_hir(hir).ok()?;
    let config =
        DFA::config().match_kind(MatchKind::All).cache_capacity(CACHE_BYTES_MAX).skip_cache_capacity_check(true);
    let dfa = DFA::builder().configure(config).build_from_nfa(nfa).ok()?;
    let mut cache = dfa.create_cache();
    let mut open: Vec<LazyStateID> = Vec::new();
    let mut known: HashSet<LazyStateID> = HashSet::new();
    // A match starts at the begin of the line, behind a carriage return, or behind a byte of a word or of none.
    for behind in [None, Some(b'\r'), Some(b'a'), Some(b' ')] {
        let config = start::Config::new().anchored(Anchored::Yes).look_behind(behind);
        open.push(dfa.start_state(&mut cache, &config).ok()?);
    }
    known.extend(&open);
    let bytes = representatives(&dfa);
    let mut next = 0;
    while let Some(state) = open.get(next).copied() {
        next += 1;
        if known.len() > STATES_MAX || cache.clear_count() > 0 {
            return None;
        }
        if reaches_match(&dfa, &mut cache, state, &bytes, |successor| {
            if known.insert(successor) {
                open.push(successor);
            }
        })? {
            return Some(true);
        }
    }
    Some(false)
}

/// Visits the successors of a state; returns whether one of them is a match.
fn reaches_match(
    dfa: &DFA,
    cache: &mut Cache,
    state: LazyStateID,
    bytes: &[u8],
    mut visit: impl FnMut(LazyStateID),
) -> Option<bool> {
    if state.is_dead() {
        return Some(false);
    }
    if dfa.next_eoi_state(cache, state).ok()?.is_match() {
        return Some(true);
    }
    for byte in bytes {
        let successor = dfa.next_state(cache, state, *byte).ok()?;
        if successor.is_match() {
            return Some(true);
        }
        // A state tagged as a start state is the same state.
        visit(successor);
    }
    Some(false)
}

/// One byte of each class that the pattern tells apart, without the line feed, which no line has.
fn representatives(dfa: &DFA) -> Vec<u8> {
    let mut seen = HashSet::new();
    let classes = dfa.byte_classes();
    (0..=u8::MAX).filter(|byte| *byte != b'\n').filter(|byte| seen.insert(classes.get(*byte))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Pattern;

    fn refusal(pattern: &str) -> Option<String> {
        Pattern::compile(pattern).err()
    }

    #[test]
    fn a_pattern_with_a_line_feed_is_refused() {
        for pattern in ["a\\nb", "a\nb", "a\\x0Ab", "(?:a|b\\n)", "a[\\n]b", "a(?:\\n)?", "\\r\\n"] {
            let why = refusal(pattern).unwrap_or_else(|| panic!("{pattern:?} is accepted"));
            assert!(why.contains("has a line feed"), "{pattern:?}: {why}");
        }
        for pattern in ["[^\\n]+x", "a\\sb", "a[\\s\\S]b", "a\\rb", "a[\\r\\n]b", "[^x]y"] {
            assert_eq!(refusal(pattern), None, "{pattern:?}");
        }
    }

    #[test]
    fn a_pattern_that_can_never_match_is_refused() {
        for pattern in
            ["a^b", "a$b", "[^\\s\\S]", "x[a&&b]", "\\Bx\\b\\w", "a\\b\\w", "x\\A", "\\zx", "(?:a^|b\\Bc\\b\\w)d"]
        {
            let why = refusal(pattern).unwrap_or_else(|| panic!("{pattern:?} is accepted"));
            assert!(why.starts_with("can never match"), "{pattern:?}: {why}");
        }
        for pattern in
            ["^a", "a$", "a\\r^b", "a$\\rb", "\\bx\\b", "\\Bx", "^$", "x|a^b", "[ab]*a[ab]{16}c", "a{200}", "\\w{90}x"]
        {
            assert_eq!(refusal(pattern), None, "{pattern:?}");
        }
    }

    #[test]
    fn a_pattern_with_too_many_states_counts_as_one_that_can_match() {
        let mut parser = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build();
        let hir = parser.parse("(?:[ab]*a[ab]{40}c)\\A").expect("a pattern");
        assert_ne!(can_match(&hir), Some(true));
    }
}
