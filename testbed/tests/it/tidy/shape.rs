//! How long a file may be, and which names it may have.

use std::collections::BTreeMap;

use super::{Source, none, sources};

/// A file longer than this does two things.
const LINES_MAX: usize = 500;

/// Names that do not describe the content.
const EMPTY_NAMES: [&str; 7] = ["utils", "util", "common", "helpers", "helper", "misc", "imp"];

/// Names that several files have, each time for the same thing.
const SHARED_NAMES: &[(&[&str], &str)] = &[
    (&["main", "lib"], "the names that Cargo gives"),
    (
        &["alerts", "claims", "due", "jobs", "notifier", "orders", "reports", "runs", "settings"],
        "a port, its adapter in each backend, its contract tests, and what serves it to users",
    ),
    (&["api", "collector", "pruner", "scheduler"], "a service, its Lambda, and the main of that"),
    (&["check", "exec", "logs"], "a subcommand, and the part of a crate that it calls"),
    (&["gelf", "syslog"], "a sink, and the receiver of its tests"),
    (&["error", "fault", "options"], "the errors, faults or options of what the folder is"),
    (&["client", "feed", "http", "job_files", "runner", "secrets", "signals"], "one thing, seen from two crates"),
    (&["line", "meter", "world"], "of what the folder is: a line of it, its costs, the world of its tests"),
];

#[test]
fn a_file_name_has_one_meaning() {
    let sources = sources();
    let paths = sources.iter().map(|source| source.path.as_str());
    none(name_faults(paths));
}

#[test]
fn every_shared_name_is_shared() {
    let sources = sources();
    let files = files_by_name(sources.iter().map(|source| source.path.as_str()));
    let names = SHARED_NAMES.iter().flat_map(|(names, _)| names.iter());
    let unshared = names.filter(|name| !files.contains_key(*name));
    none(unshared.map(|name| format!("{name} is in SHARED_NAMES, and fewer than two files have it")));
}

#[test]
fn the_rule_of_names_finds_faults() {
    let faults = |paths: &[&str]| name_faults(paths.iter().copied()).count();
    assert_eq!(faults(&["runner/src/gate.rs", "services/src/gate.rs"]), 1);
    assert_eq!(faults(&["runner/src/gate.rs", "services/src/overlap.rs"]), 0);
    assert_eq!(faults(&["runner/src/gate.rs", "runner/tests/it/gate.rs"]), 0);
    assert_eq!(faults(&["backends/aws/src/runs.rs", "backends/embedded/src/runs.rs"]), 0);
}

#[test]
fn sources_are_short_and_named_for_their_content() {
    none(sources().iter().flat_map(shape_faults));
}

#[test]
fn the_rules_of_shape_find_faults() {
    let faults = |path: &str, text: &str| shape_faults(&Source { path: path.to_owned(), text: text.to_owned() }).len();
    assert_eq!(faults("sinks/src/gelf.rs", &"x\n".repeat(LINES_MAX)), 0);
    assert_eq!(faults("sinks/src/gelf.rs", &"x\n".repeat(LINES_MAX + 1)), 1);
    assert_eq!(faults("sinks/src/utils.rs", ""), 1);
    assert_eq!(faults("sinks/src/common/x.rs", ""), 1);
    assert_eq!(faults("sinks/src/x/mod.rs", "mod a;\npub use a::A;\n"), 0);
    assert_eq!(faults("sinks/src/x/mod.rs", "mod a;\npub fn a() {}\n"), 1);
}

fn shape_faults(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    let path = &source.path;
    let lines = source.text.lines().count();
    if lines > LINES_MAX {
        faults.push(format!("{path} has {lines} lines, at most {LINES_MAX} are allowed: split it by duty"));
    }
    let name = |part: &str| part.strip_suffix(".rs").unwrap_or(part).to_owned();
    if let Some(part) = path.split('/').map(name).find(|part| EMPTY_NAMES.contains(&part.as_str())) {
        faults.push(format!("{path}: the name {part} does not describe the content"));
    }
    if path.ends_with("/mod.rs") && source.text.contains("fn ") {
        faults.push(format!("{path} contains a function: mod.rs only declares modules"));
    }
    faults
}

/// The names that several files have. Tests are left out: they are named for what they test.
fn files_by_name<'p>(paths: impl Iterator<Item = &'p str>) -> BTreeMap<&'p str, Vec<&'p str>> {
    let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for path in paths.filter(|path| !path.contains("/tests/")) {
        let name = path.rsplit('/').next().and_then(|name| name.strip_suffix(".rs")).unwrap_or(path);
        files.entry(name).or_default().push(path);
    }
    files.retain(|_, paths| paths.len() > 1);
    files
}

fn name_faults<'p>(paths: impl Iterator<Item = &'p str>) -> impl Iterator<Item = String> {
    let is_shared = |name: &str| SHARED_NAMES.iter().any(|(names, _)| names.contains(&name));
    let files = files_by_name(paths).into_iter().filter(move |(name, _)| !is_shared(name));
    files.map(|(_, paths)| format!("{} have one name: call each for its meaning", paths.join(", ")))
}
