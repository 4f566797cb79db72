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
[[rule]]
id = "here"
pattern = '(?:^|b)a+'
unless_here = 'a[bc]|^aa'
[[rule]]
id = "cleared"
pattern = 'c+ ?a'
cleared_by = '^b'
[[rule]]
id = "pair"
pattern = '^a'
then = 'b ?c|^b'
within = 2
[[rule]]
id = "pair.cleared"
pattern = 'bb'
then = '^c.*b'
within = 3
cleared_by = 'aaa'
[[rule]]
id = "few"
pattern = '^c'
at_most = 2
[[rule]]
id = "slow"
pattern = '^?a[ab]{10}|b[ab]{12}c'
unless = 'ab$'
"#;

/// Heads of lines, with the places behind them where a message begins.
const HEADS: [(&str, &[usize]); 5] = [
    ("", &[]),
    ("[ab] ", &[5]),
    ("07:50:00 ", &[9]),
    ("2026-11-23 07:50:00 [a] ", &[20, 24]),
    ("Nov 23 07:50:00 web1 backup[7]: ", &[16, 32]),
];

/// A colour code, which no pattern sees.
const CODE: &[u8] = b"\x1b[1;31m";

#[derive(Clone, Debug)]
struct Text {
    stream: Stream,
    /// Index in [`HEADS`].
    head: usize,
    body: Vec<u8>,
    /// Where the code is in head and body.
    code: Option<usize>,
}

impl Text {
    /// As patterns see it.
    fn plain(&self) -> Vec<u8> {
        [HEADS[self.head].0.as_bytes(), &self.body].concat()
    }

    fn printed(&self) -> Vec<u8> {
        let mut printed = self.plain();
        if let Some(at) = self.code {
            let at = at % (printed.len() + 1);
            printed.splice(at..at, CODE.iter().copied());
        }
        printed
    }

    /// The matches of a pattern, by the plain crate `regex`: on the whole line, and at the begin of each message up to
    /// the next carriage return.
    fn matches(&self, pattern: &Plain) -> Vec<std::ops::Range<usize>> {
        let line = self.plain();
        let mut found: Vec<_> = pattern.anywhere.find_iter(&line).map(|found| found.range()).collect();
        for begin in HEADS[self.head].1 {
            let end = line.iter().position(|byte| *byte == b'\r').unwrap_or(line.len());
            if let Some(at) = pattern.at_begin.find(&line[*begin..end]) {
                found.push(begin + at.start()..begin + at.end());
            }
        }
        found
    }
}

/// A pattern compiled by the plain crate `regex`.
struct Plain {
    anywhere: regex::bytes::Regex,
    at_begin: regex::bytes::Regex,
}

impl Plain {
    fn new(pattern: &rules::pattern::Pattern) -> Plain {
        let unicode = *pattern.mode() != Mode::Ascii;
        let build = |text: &str| {
            let mut builder = regex::bytes::RegexBuilder::new(text);
            builder.unicode(unicode).multi_line(true).crlf(true).build().expect("a regex")
        };
        Plain { anywhere: build(pattern.text()), at_begin: build(&format!("\\A(?:{})", pattern.text())) }
    }
}

fn texts() -> impl Strategy<Value = Vec<Text>> {
    let byte = prop_oneof![8 => prop::sample::select(b"abcAB ".to_vec()), 1 => Just(b'\r'), 1 => any::<u8>()];
    let body = prop::collection::vec(byte, 0..14).prop_map(|mut text| {
        // Of no line is the begin a head by chance.
        text.retain(|byte| {
            !matches!(byte, b'\n' | 0x1b | b'[' | b'<' | b'>' | b'+' | b'{' | b'(' | b'@' | b'|' | b':' | b'-')
        });
        text.retain(|byte| !byte.is_ascii_digit() && !matches!(byte, b'M' | b'm'));
        text
    });
    let stream = prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)];
    let text = (stream, 0..HEADS.len(), body, prop::option::of(0usize..40));
    // A blank behind a head begins one more message.
    let is_plain = |body: &[u8]| !body.first().is_some_and(u8::is_ascii_whitespace);
    let text = text.prop_map(move |(stream, head, body, code)| Text {
        stream,
        head: if is_plain(&body) { head } else { 0 },
        body,
        code,
    });
    prop::collection::vec(text, 0..40)
}

/// Feeds the lines cut into blocks at `cuts`; with `restarts`, through a stored state between any two blocks.
fn fed(rules: &std::sync::Arc<RuleSet>, lines: &[Text], cuts: &[usize], restarts: bool) -> Matcher {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (lines.len() + 1)).chain([0, lines.len()]).collect();
    at.sort_unstable();
    let mut matcher = Matcher::new(rules.clone());
    for pair in at.windows(2) {
        let part: Vec<_> = lines[pair[0]..pair[1]].iter().map(|line| (line.stream, line.printed())).collect();
        let part: Vec<_> = part.iter().map(|(stream, text)| (*stream, text.as_slice())).collect();
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
    rules.rules().filter_map(|(_, rule)| naive_rule(rule, lines)).collect()
}

fn naive_rule(rule: &rules::Rule, lines: &[Text]) -> Option<(String, u64, u64)> {
    let plain = |pattern: &Option<std::sync::Arc<rules::pattern::Pattern>>| pattern.as_deref().map(Plain::new);
    let pattern = Plain::new(&rule.pattern);
    let (unless, here, cleared_by) = (plain(&rule.unless), plain(&rule.unless_here), plain(&rule.cleared_by));
    let then = rule.then.as_ref().map(|then| (Plain::new(&then.pattern), then.within as usize));
    let matches =
        |line: &Text, pattern: &Option<Plain>| pattern.as_ref().is_some_and(|it| !line.matches(it).is_empty());
    let stream = match rule.id.as_str() {
        "end" => Some(Stream::Stderr),
        "wanted.often" => Some(Stream::Stdout),
        _ => None,
    };
    let counts = |line: &Text| {
        let excluded = here.as_ref().map(|here| line.matches(here)).unwrap_or_default();
        let touches = |one: &std::ops::Range<usize>, other: &std::ops::Range<usize>| {
            one.start < other.end && other.start < one.end
        };
        stream.is_none_or(|stream| stream == line.stream)
            && !matches(line, &unless)
            && line.matches(&pattern).iter().any(|found| !excluded.iter().any(|other| touches(found, other)))
    };
    let is_followed = |number: usize| {
        then.as_ref().is_none_or(|(then, within)| {
            let cleared = |line: &&Text| !matches(line, &cleared_by);
            let following = lines[number + 1..].iter().take_while(cleared);
            let mut next = following.filter(|line| line.stream == lines[number].stream).take(*within);
            next.any(|line| !line.matches(then).is_empty())
        })
    };
    let from = lines.iter().rposition(|line| matches(line, &cleared_by)).unwrap_or(0);
    let counted: Vec<usize> =
        (from..lines.len()).filter(|number| counts(&lines[*number]) && is_followed(*number)).collect();
    let first = counted.first()?;
    Some((rule.id.clone(), counted.len() as u64, *first as u64 + 1))
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

/// The records of one line that the spool cut into these parts.
fn parts<'t>(stream: Stream, texts: &[&'t [u8]]) -> Vec<(Stream, Tag, &'t [u8])> {
    let tag = |part: usize| Tag { part: part as u32, last: part == texts.len(), newline: true, gap: false };
    texts.iter().enumerate().map(|(number, text)| (stream, tag(number + 1), *text)).collect()
}

#[test]
fn a_cut_line_counts_as_one_line_and_a_match_across_the_cut_is_found() {
    let own = r#"
[[rule]]
id = "x"
pattern = 'xy'
[[rule]]
id = "begin"
pattern = '^-|^z'
[[rule]]
id = "end"
pattern = '\.$'
[[rule]]
id = "whole"
pattern = '^\[a\] \.+xy.*z$'
[[rule]]
id = "unless"
pattern = 'xy'
unless = 'z'
[[rule]]
id = "here"
pattern = 'x'
unless_here = 'xy'
[[rule]]
id = "then"
pattern = '^start'
then = 'y-+z'
within = 1
[[rule]]
id = "cleared"
pattern = '^start'
cleared_by = 'y-+z'
"#;
    let dashes = vec![b'-'; 300_000];
    let texts: [&[u8]; 4] = [b"[a] ....x", b"y", &dashes, b"-z"];
    let lines = [
        vec![(Stream::Stdout, Tag::WHOLE, b"start".as_slice())],
        parts(Stream::Stdout, &texts),
        vec![(Stream::Stdout, Tag::WHOLE, b"x".as_slice())],
    ]
    .concat();
    let rules = rules_of(own);
    let mut matcher = Matcher::new(rules.clone());
    matcher.feed(&tagged_block(1, &lines));
    let found = |matcher: &Matcher| -> Vec<(String, u64, u64)> {
        matcher.state().found.into_iter().map(|found| (found.rule, found.count, found.first_seq)).collect()
    };
    // `then` and `cleared_by` are too long for what is kept of the earlier parts.
    // The byte behind a match decides whether it is one, so the first part that has it is named.
    let expected = [("x", 1, 4), ("here", 1, 6), ("cleared", 1, 1)];
    assert_eq!(found(&matcher), expected.map(|(rule, count, seq)| (rule.to_owned(), count, seq)));

    // The same with a line that fits, also when the state is stored between any two records.
    let texts: [&[u8]; 4] = [b"[a] ....x", b"y", b"---", b"-z"];
    let lines = [vec![lines[0]], parts(Stream::Stdout, &texts), vec![lines[5]]].concat();
    let mut matcher = Matcher::new(rules.clone());
    for (seq, line) in (1..).zip(&lines) {
        matcher.feed(&tagged_block(seq, &[*line]));
        let stored = serde_json::to_string(&matcher.state()).expect("JSON");
        matcher = Matcher::resume(rules.clone(), serde_json::from_str(&stored).expect("as written"));
    }
    let expected = [("x", 1, 4), ("whole", 1, 5), ("here", 1, 6), ("then", 1, 1)];
    assert_eq!(found(&matcher), expected.map(|(rule, count, seq)| (rule.to_owned(), count, seq)));
}

#[test]
fn a_cut_line_that_never_ends_counts_at_the_end_of_the_output() {
    let mut matcher =
        Matcher::new(rules_of("[[rule]]\nid = \"x\"\npattern = 'xy$'\n[[rule]]\nid = \"a\"\npattern = 'a'\n"));
    let open = Tag { part: 1, last: false, newline: true, gap: false };
    matcher.feed(&tagged_block(1, &[(Stream::Stdout, open, b"a..xy."), (Stream::Stderr, open, b"a")]));
    assert_eq!(matcher.hits().iter().map(|hit| (hit.rule.as_str(), hit.count)).collect::<Vec<_>>(), [("a", 2)]);
}

#[test]
fn traces_of_a_shell_count_for_no_rule() {
    let rules = rules_of("[[rule]]\nid = \"x\"\npattern = 'failed'\n[[rule]]\nid = \"done\"\nrequire = 'done'\n");
    let mut matcher = Matcher::new(rules);
    let lines: [(Stream, &[u8]); 4] = [
        (Stream::Stderr, b"+ echo failed; echo done"),
        (Stream::Stderr, b"++ grep failed log"),
        (Stream::Stderr, b"echo \"upload failed\" >&2"),
        (Stream::Stderr, b"07:50:00 + false || echo failed"),
    ];
    matcher.feed(&block(1, &lines));
    assert_eq!(matcher.hits().iter().map(|hit| hit.rule.as_str()).collect::<Vec<_>>(), ["done"]);
    matcher.feed(&block(5, &[(Stream::Stderr, b"+ 4 failed"), (Stream::Stdout, b"done")]));
    assert_eq!(matcher.hits().iter().map(|hit| hit.rule.as_str()).collect::<Vec<_>>(), ["x"]);
}

#[test]
fn a_number_of_lines_can_be_limited_from_both_sides() {
    let own = "[[rule]]\nid = \"parts\"\nrequire = 'part'\nat_least = 2\nat_most = 3\n\
               [[rule]]\nid = \"few\"\npattern = 'part'\nat_most = 1\nseverity = \"warn\"\n";
    let hits = |count: usize| {
        let mut matcher = Matcher::new(rules_of(own));
        matcher.feed(&block(1, &vec![(Stream::Stdout, b"a part".as_slice()); count]));
        let hits = matcher.hits();
        let reason =
            rules::judge(&rules::ExitFacts::exited(0, std::time::Duration::ZERO), &rules::Limits::DEFAULT, &hits);
        (hits.into_iter().map(|hit| hit.rule).collect::<Vec<_>>().join(" "), reason.reason)
    };
    assert_eq!(hits(0).0, "parts");
    assert_eq!(hits(1).0, "parts few");
    assert_eq!(hits(2), (String::new(), "exit code 0".to_owned()));
    assert_eq!(hits(3).0, "");
    let reason = "exit code 0, but 4 lines (at most 3 may) match parts: Too many lines match part.";
    assert_eq!(hits(4), ("parts".to_owned(), reason.to_owned()));
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
