use domain::line::{Stream, Tag};
use proptest::prelude::*;
use rules::pattern::Mode;
use rules::{Matcher, Packs, RuleSet};

use crate::{block, names, rules_of, tagged_block};

const OWN: &str = r#"
[[rule]]
id = "start"
pattern = '^ab'
unless = 'c$'
[[rule]]
id = "end"
pattern = 'b$'
stream = "stderr"
[[rule]]
id = "gap"
pattern = 'a.*b.*a'
at_least = 2
[[rule]]
id = "cut"
pattern = 'abb.*a'
unless = 'c$'
[[rule]]
id = "cut.either"
pattern = '^(?:[^\s]+bca|aab.{4,}c)'
at_least = 3
[[rule]]
id = "word"
pattern = '\ba\b'
severity = "warn"
[[rule]]
id = "nocase"
pattern = '(?i)[É]|AB[^c]{0,3}b'
[[rule]]
id = "empty"
pattern = '^$'
[[rule]]
id = "wanted"
require = 'cab'
[[rule]]
id = "wanted.often"
require = 'ca'
stream = "stdout"
at_least = 3
"#;

type Text = (Stream, Vec<u8>);

fn texts() -> impl Strategy<Value = Vec<Text>> {
    let byte = prop_oneof![8 => prop::sample::select(b"abcAB ".to_vec()), 1 => Just(b'\r'), 1 => any::<u8>()];
    let text = prop::collection::vec(byte, 0..14).prop_map(|mut text| {
        text.retain(|byte| *byte != b'\n');
        text
    });
    let stream = prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)];
    prop::collection::vec((stream, text), 0..40)
}

/// Feeds the lines cut into blocks at `cuts`; with `restarts`, through a stored state between any two blocks.
fn fed(rules: &std::sync::Arc<RuleSet>, lines: &[Text], cuts: &[usize], restarts: bool) -> Matcher {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (lines.len() + 1)).chain([0, lines.len()]).collect();
    at.sort_unstable();
    let mut matcher = Matcher::new(rules.clone());
    for pair in at.windows(2) {
        let part: Vec<_> = lines[pair[0]..pair[1]].iter().map(|(stream, text)| (*stream, text.as_slice())).collect();
        matcher.feed(&block(pair[0] as u64 + 1, &part));
        if restarts {
            let stored = serde_json::to_string(&matcher.state()).expect("JSON");
            matcher = Matcher::resume(rules.clone(), serde_json::from_str(&stored).expect("as written"));
        }
    }
    matcher
}

/// The expected matches of each rule: its own regex on each line, without the automaton.
fn naive(rules: &RuleSet, lines: &[Text]) -> Vec<(String, u64, u64)> {
    let mut all = Vec::new();
    for (_, rule) in rules.rules() {
        let unicode = *rule.pattern.mode() != Mode::Ascii;
        let build = |text: &str| {
            let mut builder = regex::bytes::RegexBuilder::new(text);
            builder.unicode(unicode).multi_line(true).crlf(true).build().expect("a regex")
        };
        let pattern = build(rule.pattern.text());
        let unless = rule.unless.as_ref().map(|unless| build(unless.text()));
        let stream = match rule.id.as_str() {
            "end" => Some(Stream::Stderr),
            "wanted.often" => Some(Stream::Stdout),
            _ => None,
        };
        let mut matching = lines.iter().enumerate().filter(|(_, (on, text))| {
            stream.is_none_or(|stream| stream == *on)
                && pattern.is_match(text)
                && !unless.as_ref().is_some_and(|unless| unless.is_match(text))
        });
        if let Some((first, _)) = matching.next() {
            all.push((rule.id.clone(), 1 + matching.count() as u64, first as u64 + 1));
        }
    }
    all
}

proptest! {
    #[test]
    fn matching_equals_each_rules_own_regex_on_each_line_however_the_input_is_cut(
        lines in texts(),
        cuts in prop::collection::vec(0usize..100, 0..6),
    ) {
        let rules = rules_of(OWN);
        let whole = fed(&rules, &lines, &[], false);
        let found = whole.state().found.into_iter().map(|found| (found.rule, found.count, found.first_seq));
        let found: Vec<_> = found.collect();
        prop_assert_eq!(found, naive(&rules, &lines));
        let cut = fed(&rules, &lines, &cuts, false);
        prop_assert_eq!(cut.state(), whole.state());
        let restarted = fed(&rules, &lines, &cuts, true);
        prop_assert_eq!(restarted.state(), whole.state());
        prop_assert_eq!(restarted.hits(), whole.hits());
    }

    #[test]
    fn the_built_in_packs_find_in_random_bytes_what_their_own_regexes_find(
        lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..8),
        sample in prop::sample::select(samples()),
    ) {
        let packs = Packs::builtin();
        let rules = RuleSet::compile(&packs, &names(&["default", "shell", "python"])).expect("compiles");
        let mut lines: Vec<Vec<u8>> = lines;
        lines.iter_mut().for_each(|line| line.retain(|byte| *byte != b'\n'));
        lines.push(sample.into_bytes());
        let all: Vec<(Stream, &[u8])> = lines.iter().map(|line| (Stream::Stdout, line.as_slice())).collect();
        let mut matcher = Matcher::new(rules.clone());
        matcher.feed(&block(1, &all));
        let found = matcher.state().found.into_iter().map(|found| (found.rule, found.count));
        let found: Vec<(String, u64)> = found.collect();
        let own: Vec<(String, u64)> = rules
            .rules()
            .map(|(_, rule)| (rule.id.clone(), lines.iter().filter(|line| rule.matches(line)).count() as u64))
            .filter(|(_, count)| *count > 0)
            .collect();
        prop_assert_eq!(found, own);
    }
}

fn samples() -> Vec<String> {
    let packs = Packs::builtin();
    packs
        .iter()
        .flat_map(|pack| &pack.rules)
        .flat_map(|rule| rule.matches.iter().chain(&rule.ignores))
        .cloned()
        .collect()
}

#[test]
fn a_missing_required_line_is_a_hit_without_a_line() {
    let rules = rules_of("[[rule]]\nid = \"done\"\nrequire = '^backup complete'\n");
    let mut matcher = Matcher::new(rules);
    matcher.feed(&block(1, &[(Stream::Stdout, b"backup started")]));
    let hits = matcher.hits();
    assert_eq!((hits.len(), hits[0].rule.as_str(), hits[0].count, hits[0].first_seq), (1, "done", 0, 0));
    assert_eq!(hits[0].explain, "No line matches ^backup complete.");
    matcher.feed(&block(2, &[(Stream::Stdout, b"backup complete")]));
    assert!(matcher.hits().is_empty());
}

#[test]
fn records_of_dropped_lines_are_not_matched() {
    let rules = rules_of("[[rule]]\nid = \"full\"\npattern = 'no space'\n");
    let mut matcher = Matcher::new(rules);
    matcher.feed(&tagged_block(1, &[(Stream::Stderr, Tag::GAP, b"12 lines dropped: no space left on device")]));
    assert!(matcher.hits().is_empty());
    matcher.feed(&block(2, &[(Stream::Stderr, b"no space left on device")]));
    assert_eq!(matcher.hits()[0].first_seq, 2);
}

#[test]
fn each_part_of_a_cut_line_is_matched_by_itself() {
    let rules = rules_of("[[rule]]\nid = \"x\"\npattern = 'xy'\n");
    let mut matcher = Matcher::new(rules);
    let (first, last) = (
        Tag { part: 1, last: false, newline: true, gap: false },
        Tag { part: 2, last: true, newline: true, gap: false },
    );
    matcher.feed(&tagged_block(1, &[(Stream::Stdout, first, b"..xy..x"), (Stream::Stdout, last, b"y..xy")]));
    assert_eq!(matcher.hits()[0].count, 2);
}

#[test]
fn a_block_fed_twice_counts_once_and_lines_never_fed_are_counted() {
    let rules = rules_of("[[rule]]\nid = \"x\"\npattern = 'x'\n");
    let mut matcher = Matcher::new(rules);
    let lines: [(Stream, &[u8]); 2] = [(Stream::Stdout, b"x"), (Stream::Stdout, b"x")];
    matcher.feed(&block(1, &lines));
    matcher.feed(&block(1, &lines));
    matcher.feed(&block(2, &lines));
    assert_eq!((matcher.hits()[0].count, matcher.unseen_lines()), (3, 0));
    matcher.feed(&block(10, &lines));
    assert_eq!((matcher.hits()[0].count, matcher.unseen_lines()), (5, 6));
}

#[test]
fn a_carriage_return_ends_a_line_as_on_a_screen() {
    let rules = rules_of("[[rule]]\nid = \"x\"\npattern = '^ERROR: \\w+$'\n");
    let mut matcher = Matcher::new(rules);
    matcher.feed(&block(1, &[(Stream::Stdout, b"ERROR: full\r"), (Stream::Stdout, b" 99 %\rERROR: full\r100 %")]));
    assert_eq!(matcher.hits()[0].count, 2);
}

#[test]
fn a_long_matching_line_is_cut_around_its_match() {
    let rules = rules_of("[[rule]]\nid = \"x\"\npattern = 'boom'\n");
    for (before, after) in [(0, 5_000), (900, 900), (3_000, 10), (100_000, 100_000)] {
        let line = format!("{}boom{}", "é".repeat(before), "ü".repeat(after));
        let mut matcher = Matcher::new(rules.clone());
        matcher.feed(&block(1, &[(Stream::Stdout, line.as_bytes())]));
        let kept = &matcher.hits()[0].first_line;
        assert!(
            kept.contains("boom") && kept.len() <= rules::matcher::FIRST_LINE_BYTES_MAX,
            "{before} {after}: {kept}"
        );
        assert!(!kept.contains('\u{fffd}'), "cut inside a character: {kept}");
    }
    let mut matcher = Matcher::new(rules);
    matcher.feed(&block(1, &[(Stream::Stdout, &[b"boom".as_slice(), &[0xff; 2_000]].concat())]));
    assert!(matcher.hits()[0].first_line.len() <= rules::matcher::FIRST_LINE_BYTES_MAX);
}

#[test]
fn matches_survive_new_rules_and_a_new_required_line_is_no_hit_for_earlier_output() {
    let before = rules_of("[[rule]]\nid = \"x\"\npattern = 'x'\n[[rule]]\nid = \"gone\"\npattern = 'y'\n");
    let after = rules_of("[[rule]]\nid = \"new\"\nrequire = 'x'\n[[rule]]\nid = \"x\"\npattern = 'x|z'\n");
    let mut matcher = Matcher::new(before);
    matcher.feed(&block(1, &[(Stream::Stdout, b"x"), (Stream::Stdout, b"y")]));
    let mut matcher = Matcher::resume(after, matcher.state());
    assert!(matcher.rules_changed());
    matcher.feed(&block(3, &[(Stream::Stdout, b"z")]));
    let hits = matcher.hits();
    assert_eq!(hits.iter().map(|hit| (hit.rule.as_str(), hit.count, hit.first_seq)).collect::<Vec<_>>(), [("x", 2, 1)]);
}

#[test]
fn a_report_has_the_worst_and_earliest_hits_and_counts_the_rest() {
    let rules: String = (0..70)
        .map(|n| {
            format!(
                "[[rule]]\nid = \"r{n}\"\npattern = '^{n:02}'\nseverity = \"{}\"\n",
                if n < 10 { "warn" } else { "fail" }
            )
        })
        .collect();
    let mut matcher = Matcher::new(rules_of(&rules));
    let lines: Vec<String> = (0..70).map(|n| format!("{n:02}")).collect();
    let lines: Vec<(Stream, &[u8])> = lines.iter().map(|line| (Stream::Stdout, line.as_bytes())).collect();
    matcher.feed(&block(1, &lines));
    let hits = matcher.hits();
    assert_eq!((hits.len(), hits[0].rule.as_str(), hits[63].rule.as_str()), (64, "r10", "r3"));
    assert_eq!(matcher.hits_left_out(), 6);
}
