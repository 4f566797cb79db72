//! What real programs printed while they failed, and while all was well, is judged as a run with `rules = ["auto"]`.
//!
//! The outputs are made by `testbed/setup/provoke`. Those below `held` were set aside before any pattern was written.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use domain::job::Command;
use domain::line::Stream;
use domain::run::{RuleHit, Severity};
use rules::{Matcher, Packs, RuleSet, choose_packs};

use crate::names;

/// Of 100 false successes, at least this number is found.
const FOUND_PERCENT_MIN: usize = 95;

/// One stored output.
struct Output {
    /// `failing/git`, `healthy/held/shell`.
    file: String,
    command: String,
    lines: Vec<(Stream, Vec<u8>)>,
}

impl Output {
    fn shell_command(&self) -> Command {
        Command::Shell(self.command.trim_start_matches("@root ").to_owned())
    }
}

/// All outputs below `tests/outputs/KIND`. Standard error comes first: the stored streams do not know their order.
fn outputs(kind: &str) -> Vec<Output> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outputs").join(kind);
    let mut found = Vec::new();
    for (folder, name) in [(root.clone(), kind.to_owned()), (root.join("held"), format!("{kind}/held"))] {
        for entry in fs::read_dir(&folder).expect("the outputs are there") {
            let path = entry.expect("an entry").path();
            if !path.is_file() {
                continue;
            }
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).expect("the outputs are UTF-8");
            for record in text.split("\n\n== ") {
                found.push(output(format!("{name}/{stem}"), record.trim_start_matches("== ")));
            }
        }
    }
    // Outputs with the same packs follow each other, so that few sets are compiled.
    let (packs, auto) = (Packs::builtin(), names(&["auto"]));
    found.sort_by_cached_key(|output| choose_packs(&packs, &auto, &output.shell_command()).names);
    found
}

/// Reads a record: the command, `-- ` and the program, then each line behind the number of its stream.
fn output(file: String, record: &str) -> Output {
    let (command, rest) = record.split_once("\n-- ").unwrap_or_else(|| panic!("{file}: no program: {record}"));
    let mut lines = Vec::new();
    for line in rest.trim_end_matches('\n').split('\n').skip(1) {
        let stream = if line.starts_with("2 ") { Stream::Stderr } else { Stream::Stdout };
        lines.push((stream, line.get(2..).unwrap_or_default().as_bytes().to_vec()));
    }
    lines.sort_by_key(|(stream, _)| *stream != Stream::Stderr);
    Output { file, command: command.to_owned(), lines }
}

/// The hits that make a run of this output a false success.
fn failing_hits(packs: &Packs, wanted: &[String], output: &Output) -> Vec<RuleHit> {
    let chosen = choose_packs(packs, wanted, &output.shell_command());
    let rules: Arc<RuleSet> = RuleSet::compile_for(packs, &chosen).expect("the packs compile");
    let mut matcher = Matcher::new(rules);
    let lines: Vec<(Stream, &[u8])> = output.lines.iter().map(|(stream, line)| (*stream, line.as_slice())).collect();
    matcher.feed(&crate::block(1, &lines));
    let mut hits = matcher.hits();
    hits.retain(|hit| hit.severity == Severity::Fail);
    hits
}

#[test]
fn at_least_95_of_100_provoked_failures_are_found() {
    let (packs, auto) = (Packs::builtin(), names(&["auto"]));
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let (mut totals, mut missed) = ([(0, 0); 2], String::new());
    for output in outputs("failing") {
        let found = !failing_hits(&packs, &auto, &output).is_empty();
        let is_held = output.file.contains("/held/");
        for count in [counts.entry(output.file.clone()).or_default(), &mut totals[usize::from(is_held)]] {
            *count = (count.0 + usize::from(found), count.1 + 1);
        }
        if !found && !is_held {
            missed.push_str(&format!("{}: {}\n", output.file, output.command));
        }
    }
    println!("found: {totals:?}\n{counts:#?}\n{missed}");
    for (found, all) in totals {
        assert!(all >= 300, "outputs are missing: {all}");
        assert!(found * 100 >= all * FOUND_PERCENT_MIN, "{totals:?}\n{missed}");
    }
}

#[test]
fn no_healthy_output_is_a_false_success() {
    let packs = Packs::builtin();
    let every: Vec<String> = packs.names().map(str::to_owned).collect();
    let outputs = outputs("healthy");
    assert!(outputs.len() >= 300, "outputs are missing: {}", outputs.len());
    let mut alarms = String::new();
    for output in &outputs {
        for (choice, wanted) in [("auto", &names(&["auto"])), ("all packs", &every)] {
            for hit in failing_hits(&packs, wanted, output) {
                let line = &hit.first_line;
                alarms.push_str(&format!("{} ({choice}): {}: {}: {line}\n", output.file, output.command, hit.rule));
            }
        }
    }
    assert!(alarms.is_empty(), "\n{alarms}");
}
