//! Patterns that would slow all rules of a set.

use domain::line::Stream;
use rules::{Matcher, MatcherState};

use crate::{block, packs_with, rules_of};

#[test]
fn a_slow_pattern_is_matched_by_itself_with_a_budget() {
    let own = r#"
[[rule]]
id = "slow"
pattern = '[ab]*a[ab]{16}c'
[[rule]]
id = "slow.wanted"
require = 'a[ab]{18}d'
[[rule]]
id = "fast"
pattern = 'end'
"#;
    let packs = packs_with(own);
    let warnings = packs.warnings().to_string();
    assert_eq!(warnings.matches("has a state for each combination of characters").count(), 2, "{warnings}");
    let rules = rules_of(own);
    let mut matcher = Matcher::new(rules.clone());
    matcher.feed(&block(
        1,
        &[(Stream::Stdout, b"abababababababababac"), (Stream::Stdout, b"07:50:00 aaaaaaaaaaaaaaaaac")],
    ));
    let found = |matcher: &Matcher| -> Vec<(String, u64)> {
        matcher.hits().into_iter().map(|hit| (hit.rule, hit.count)).collect()
    };
    assert_eq!(found(&matcher), [("slow".to_owned(), 2), ("slow.wanted".to_owned(), 0)]);
    // What they have read is stored; when it is spent, other rules go on, and no line counts as missing.
    let state = MatcherState { slow_bytes: rules::matcher::SLOW_BYTES_MAX - 1, ..matcher.state() };
    let mut matcher = Matcher::resume(rules, state);
    let lines: [(Stream, &[u8]); 3] = [
        (Stream::Stdout, b"aaaaaaaaaaaaaaaaac"),
        (Stream::Stdout, b"aaaaaaaaaaaaaaaaac end"),
        (Stream::Stdout, b"aaaaaaaaaaaaaaaaaaad end"),
    ];
    matcher.feed(&block(3, &lines));
    assert_eq!(found(&matcher), [("slow".to_owned(), 3), ("fast".to_owned(), 2)]);
    assert_eq!(matcher.state().slow_bytes, rules::matcher::SLOW_BYTES_MAX);
}
