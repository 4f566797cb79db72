//! `rules list` and `rules test`: lists rule packs, and judges some output with rules. Needs no server.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use domain::run::{Outcome as RunOutcome, Severity};
use rules::pack::Expectation;
use rules::{Pack, Packs, RuleSet, TestMatch, test_run};
use serde_json::json;

use crate::configuration::load_packs;
use crate::failure::{FAILED, Failure, Outcome, SUCCESS, print_error_line};
use crate::known_names::replaced_packs;
use crate::print::Printer;
use crate::text_table::{Column, Table};

/// Bytes of the programs of a pack in the table of packs.
const PROGRAMS_WIDTH: usize = 48;

/// At most this much of a matching line is printed.
const MATCH_CHARS_MAX: usize = 400;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the available rule packs
    List(ListArguments),
    /// Test rules on a file or standard input, taken as the whole output of a run with exit code 0
    Test(TestArguments),
}

#[derive(Debug, Args)]
struct ListArguments {
    /// Rule pack or directory of rule packs; can be repeated
    #[arg(long, value_name = "PATH")]
    rules: Vec<PathBuf>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct TestArguments {
    /// Rule pack or directory of rule packs; can be repeated
    #[arg(long, value_name = "PATH")]
    rules: Vec<PathBuf>,
    /// Use only this rule pack; can be repeated [default: the packs of --rules, else `default`]
    #[arg(long, value_name = "NAME")]
    pack: Vec<String>,
    /// File with the output [default: standard input]
    file: Option<PathBuf>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> Outcome {
    match arguments.command {
        Command::List(arguments) => list(arguments),
        Command::Test(arguments) => test(arguments),
    }
}

/// The columns of the list of packs.
const COLUMNS: &[Column] = &[
    Column::whole("pack"),
    Column::whole("rules"),
    Column::text("for"),
    Column::extra("file", 1),
    Column::text("description"),
];

fn list(arguments: ListArguments) -> Outcome {
    let packs = load_packs(&arguments.rules)?;
    let mut out = Printer::new();
    let mut table = Table::new(COLUMNS);
    for pack in packs.iter() {
        if arguments.json {
            let rules: Vec<&str> = pack.rules.iter().map(|rule| rule.id.as_str()).collect();
            out.print_json(&json!({
                "pack": pack.name, "description": pack.description, "file": pack.file,
                "suggest": pack.suggest.as_deref().unwrap_or_default(), "for": jobs_of(pack), "rules": rules,
            }))?;
        } else {
            let rules = pack.rules.len().to_string();
            let row = [pack.name.clone(), rules, shorten(&jobs_of(pack)), pack.file.clone(), pack.description.clone()];
            table.add_row(row.to_vec());
        }
    }
    if !arguments.json {
        out.print_table(&table)?;
    }
    out.finish()?;
    replaced_packs(&packs).iter().for_each(|note| print_error_line(note));
    Ok(SUCCESS)
}

/// The jobs with `auto` that the pack applies to.
fn jobs_of(pack: &Pack) -> String {
    match &pack.suggest {
        None => "every job".to_owned(),
        Some(globs) if globs.is_empty() => "jobs that name it".to_owned(),
        Some(globs) => globs.join(" "),
    }
}

/// As many of the words as fit into [`PROGRAMS_WIDTH`], and the number of the others; `--json` prints all.
fn shorten(programs: &str) -> String {
    let words: Vec<&str> = programs.split(' ').collect();
    let mut shown = String::new();
    for (index, word) in words.iter().enumerate() {
        if index > 0 && shown.len() + word.len() >= PROGRAMS_WIDTH {
            return format!("{shown}, {} more", words.len() - index);
        }
        let space = if index > 0 { " " } else { "" };
        shown.extend([space, word]);
    }
    shown
}

fn test(arguments: TestArguments) -> Outcome {
    let packs = load_packs(&arguments.rules)?;
    let faults = packs.check_examples();
    if faults.has_faults() {
        return Err(faults.into());
    }
    let names = select_packs(&arguments, &packs);
    let rules = RuleSet::compile(&packs, &names).map_err(|error| Failure::usage(error.to_string()))?;
    let (reader, source): (Box<dyn Read>, String) = match &arguments.file {
        Some(path) if path.as_os_str() != "-" => {
            let file =
                File::open(path).map_err(|why| Failure::usage(format!("cannot read {}: {why}", path.display())))?;
            (Box::new(file), path.display().to_string())
        }
        _ => (Box::new(io::stdin().lock()), "standard input".to_owned()),
    };
    let mut out = Printer::new();
    let mut printed: Result<(), Failure> = Ok(());
    let summary = test_run(&rules, reader, |found| {
        if printed.is_ok() {
            printed = show_match(&mut out, arguments.json, &found);
        }
    })
    .map_err(|why| Failure::failed(format!("cannot read {source}: {why}")))?;
    printed?;
    let verdict = &summary.verdict;
    if arguments.json {
        out.print_json(&json!({
            "verdict": verdict.outcome, "reason": verdict.reason, "lines": summary.lines, "bytes": summary.bytes,
            "packs": names,
        }))?;
    } else {
        out.print_line(&format!("verdict for exit 0: {}: {}", verdict.outcome.name(), verdict.reason))?;
    }
    out.finish()?;
    Ok(if verdict.outcome == RunOutcome::Succeeded { SUCCESS } else { FAILED })
}

fn show_match(out: &mut Printer, json: bool, found: &TestMatch<'_>) -> Result<(), Failure> {
    let text: String = String::from_utf8_lossy(found.text).chars().take(MATCH_CHARS_MAX).collect();
    let is_required = found.expectation == Expectation::Match;
    // A required line is none that fails the run, and neither is one of too few.
    let is_hit = found.count >= found.at_least && found.at_most.is_none_or(|most| found.count <= most);
    let severity = (!is_required && !found.clears && is_hit).then_some(found.severity);
    if json {
        return out.print_json(&json!({
            "line": found.line, "rule": found.rule, "pack": found.pack, "severity": severity, "required": is_required,
            "count": found.count, "at_least": found.at_least, "at_most": found.at_most, "clears": found.clears, "text": text,
        }));
    }
    let count = match found.at_most {
        _ if found.clears => String::new(),
        Some(most) if found.count > most => format!("{} (at most {most}) ", found.count),
        _ if found.count < found.at_least || (is_required && found.at_least > 1) => {
            format!("{} of {} ", found.count, found.at_least)
        }
        _ => String::new(),
    };
    let effect = match severity {
        Some(Severity::Fail) => "fail ",
        Some(Severity::Warn) => "warn ",
        None if found.clears => "cleared ",
        None if is_required => "required ",
        None => "",
    };
    let shown: String = text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    out.print_line(&format!("{}: {effect}{count}{}: {shown}", found.line, found.rule))
}

/// The named packs; otherwise those of `--rules`; otherwise the default of jobs.
fn select_packs(arguments: &TestArguments, packs: &Packs) -> Vec<String> {
    if !arguments.pack.is_empty() {
        return arguments.pack.clone();
    }
    let given: Vec<String> =
        packs.iter().filter(|pack| pack.file != rules::packs::BUILT_IN).map(|pack| pack.name.clone()).collect();
    if given.is_empty() { vec!["default".to_owned()] } else { given }
}
