use std::io::Read;

use domain::line::LINE_BYTES_MAX;
use domain::run::Outcome;
use rules::{TestSummary, test_run};

use crate::rules_of;

const OWN: &str =
    "[[rule]]\nid = \"x\"\npattern = '^x'\nstream = \"stderr\"\n[[rule]]\nid = \"end\"\npattern = 'end$'\n";

/// Returns at most `most` bytes per read.
struct Dribble<'t>(&'t [u8], usize);

impl Read for Dribble<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let most = self.1.min(into.len());
        (&mut self.0).take(most as u64).read(into)
    }
}

fn tried(text: &[u8], most: usize) -> (Vec<(u64, String)>, TestSummary) {
    let mut matches = Vec::new();
    let summary =
        test_run(&rules_of(OWN), Dribble(text, most), |found| matches.push((found.line, found.rule.to_owned())));
    (matches, summary.expect("reading memory"))
}

#[test]
fn every_match_is_shown_with_its_line_for_any_size_of_reads() {
    let text = b"x one\nfine\n\nx at the end\nno newline end";
    let expected = [(1, "x"), (4, "x"), (4, "end"), (5, "end")].map(|(line, rule)| (line, rule.to_owned()));
    for most in [1, 3, 7, 100_000] {
        let (matches, summary) = tried(text, most);
        assert_eq!(matches, expected, "{most}");
        assert_eq!((summary.lines, summary.bytes), (5, text.len() as u64));
        assert_eq!(summary.verdict.outcome, Outcome::FalseSuccess);
        assert!(
            summary.verdict.reason.starts_with("exit code 0, but line 1 and 1 more match x "),
            "{}",
            summary.verdict.reason
        );
    }
    assert_eq!(tried(b"", 10).1.verdict.outcome, Outcome::Succeeded);
}

#[test]
fn lines_after_a_cut_line_keep_their_numbers() {
    let long = vec![b'-'; 2 * LINE_BYTES_MAX + 5];
    let exact = vec![b'-'; LINE_BYTES_MAX];
    let text = [b"x\n".as_slice(), &long, b"end\n", &exact, b"\nx last\n"].concat();
    let (matches, summary) = tried(&text, 100_000);
    assert_eq!(matches, [(1, "x"), (2, "end"), (4, "x")].map(|(line, rule)| (line, rule.to_owned())));
    assert_eq!(summary.lines, 4);
}

#[test]
fn many_lines_are_matched_block_by_block() {
    let text: String = (1..=20_000).map(|line| if line % 1_000 == 0 { "x\n" } else { "nothing here\n" }).collect();
    let (matches, _) = tried(text.as_bytes(), 65_536);
    let lines: Vec<u64> = matches.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, (1..=20).map(|thousand| thousand * 1_000).collect::<Vec<u64>>());
}
