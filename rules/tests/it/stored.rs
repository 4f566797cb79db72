//! The state of a matcher is stored next to the output and read by later builds, so its JSON never changes. The digest
//! of rules never changes either: runner and collector compare it.

use rules::matcher::{MatchCount, MatcherState};
use rules::{Packs, RuleSet};

#[test]
fn a_stored_matcher_state_keeps_its_json() {
    let found = MatchCount {
        pack: "sql".to_owned(),
        rule: "error-line".to_owned(),
        count: 2,
        first_seq: 9,
        first_line: "ERROR: x".to_owned(),
    };
    let state = MatcherState {
        digest: "0123456789abcdef".to_owned(),
        next_seq: 10,
        unseen_lines: 3,
        found: vec![found],
        ..MatcherState::default()
    };
    testbed::golden(env!("CARGO_MANIFEST_DIR"), "matcher_state", &state);
}

#[test]
fn the_digest_of_the_same_rules_stays_the_same() {
    let text = r#"name = "mine"

[[rule]]
id = "mine.error"
pattern = '^ERROR'
unless = 'ignored'
stream = "stderr"
severity = "warn"
at_least = 2

[[rule]]
id = "mine.done"
require = '^done$'
"#;
    let mut packs = Packs::builtin();
    packs.add("mine.toml", text).unwrap_or_else(|faults| panic!("{faults}"));
    let rules = RuleSet::compile(&packs, &["mine".to_owned()]).expect("compiles");
    assert_eq!(rules.digest(), "60620b2494475a5a");
    assert_eq!(RuleSet::none().digest(), "e3b0c44298fc1c14");
}
