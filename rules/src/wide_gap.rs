//! Cuts a pattern at its wide gaps, so that many such patterns fit into one lazy DFA.
//!
//! With `rsync: .*failed`, a DFA stays undecided after every `rsync: ` until the end of the line. With dozens of such
//! rules the states multiply, and the time goes into building them (measured with 1,000 rules, 57 of them with a gap:
//! 1 MB/s; cut: hundreds). So the shared automaton gets only the longest piece between two gaps, here `rsync: `, and
//! the rule's own regex decides on the lines that have it.

use regex_syntax::hir::{Class, Hir, HirKind};

/// A class of at least this number of byte values is wide. Chosen: `.`, `\S` and `[^x]` are wide, `\w` and `\d` are
/// not.
const WIDE_VALUES_MIN: u64 = 100;

/// A wide class that may repeat this number of times is a gap. Chosen: fewer repetitions add few states.
const GAP_REPEATS_MIN: u32 = 4;

/// Bytes of the shortest piece that replaces a pattern. Chosen: a shorter piece is on too many lines.
const PIECE_BYTES_MIN: usize = 3;

/// A pattern without gaps that matches every text that `hir` matches; none when `hir` has no gap, or when no piece is
/// long enough.
pub(crate) fn longest_piece(hir: &Hir) -> Option<Hir> {
    if !has_gap(hir) {
        return None;
    }
    let piece = piece_of(hir);
    (piece.properties().minimum_len()? >= PIECE_BYTES_MIN).then_some(piece)
}

fn has_gap(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => false,
        HirKind::Repetition(repetition) => {
            let wide = matches!(repetition.sub.kind(), HirKind::Class(class) if is_wide(class));
            let long = repetition.max.is_none_or(|max| max >= GAP_REPEATS_MIN);
            (wide && long) || has_gap(&repetition.sub)
        }
        HirKind::Capture(capture) => has_gap(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().any(has_gap),
    }
}

fn is_wide(class: &Class) -> bool {
    let values: u64 = match class {
        Class::Bytes(class) => class.iter().map(|range| 1 + u64::from(range.end() - range.start())).sum(),
        Class::Unicode(class) => {
            class.iter().map(|range| 1 + u64::from(u32::from(range.end()) - u32::from(range.start()))).sum()
        }
    };
    values >= WIDE_VALUES_MIN
}

/// A pattern that is part of any match; the empty pattern when there is none.
fn piece_of(hir: &Hir) -> Hir {
    if !has_gap(hir) {
        return hir.clone();
    }
    match hir.kind() {
        HirKind::Capture(capture) => piece_of(&capture.sub),
        HirKind::Alternation(branches) => Hir::alternation(branches.iter().map(piece_of).collect()),
        HirKind::Concat(parts) => {
            let mut pieces: Vec<Hir> = Vec::new();
            for run in parts.chunk_by(|left, right| has_gap(left) == has_gap(right)) {
                match run.first().is_some_and(has_gap) {
                    true => pieces.extend(run.iter().map(piece_of)),
                    false => pieces.push(Hir::concat(run.to_vec())),
                }
            }
            pieces.into_iter().max_by_key(|piece| piece.properties().minimum_len()).unwrap_or_else(Hir::empty)
        }
        HirKind::Repetition(repetition) if repetition.min > 0 => piece_of(&repetition.sub),
        _ => Hir::empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, piece: Option<&str>) {
        let parse = |text: &str| {
            let mut parser = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build();
            parser.parse(text).expect("a pattern")
        };
        assert_eq!(longest_piece(&parse(pattern)), piece.map(parse), "{pattern}");
    }

    #[test]
    fn a_pattern_is_reduced_to_the_longest_piece_that_every_match_has() {
        check("rsync: .*failed", Some("rsync: "));
        check(r"^[^\s:]+: (?:line )?\d+: .*\S: Permission denied$", Some(r"\S: Permission denied$"));
        check("(?:abc.*x|y.*defg)", Some("abc|defg"));
        check("(?:abc.*)+", Some("abc"));
        check("start(?:abc.*)?", Some("start"));
        check("[^x]{0,40}end of it", Some("end of it"));
    }

    #[test]
    fn a_pattern_without_a_gap_or_without_a_long_piece_is_not_cut() {
        check(r"\berror\b", None);
        check(r"\w+: \d+", None);
        check("a[^x]{0,3}b", None);
        check("a.*b", None);
        check("(?:abc.*x|y.*z)", None);
        check(r"\S+", None);
    }
}
