//! The repository keeps the rules that ARCHITECTURE.md states: who may depend on whom, which paths it names, how long a
//! file may be, and what no source may contain. Each rule is a function from text to faults, shown to find one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use testbed::repository;

/// A file longer than this does two things.
const LINES_MAX: usize = 600;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 7] = ["utils", "util", "common", "helpers", "helper", "misc", "imp"];

/// Which of our crates each of our crates may use, outside tests. `sexton` is where all of them come together.
const MAY_USE: [(&str, &[&str]); 13] = [
    ("domain", &[]),
    ("rules", &["domain"]),
    ("sinks", &["domain"]),
    ("runner", &["domain", "rules", "sinks"]),
    ("services", &["domain", "rules"]),
    ("backends/embedded", &["domain"]),
    ("backends/aws", &["domain"]),
    ("backends/contract", &["domain", "rules", "services"]),
    ("console", &["domain", "rules", "services"]),
    ("lambdas", &["domain", "rules", "services", "aws", "console"]),
    ("sexton", &["domain", "rules", "sinks", "runner", "services", "embedded", "aws", "console"]),
    ("testbed", &[]),
    ("benchmarks", &["testbed", "domain", "rules", "services", "aws"]),
];

/// Which folders may name a dependency, in any section of their Cargo.toml. A name ending in `*` is a prefix.
const ONLY_IN: [(&str, &[&str]); 7] = [
    ("rusqlite", &["backends/embedded"]),
    ("aws-config", &["backends/aws", "lambdas", "sinks"]),
    ("aws-credential-types", &["backends/aws", "lambdas", "sinks"]),
    ("aws-sigv4", &["backends/aws", "sinks"]),
    ("aws-types", &["backends/aws", "lambdas", "sinks"]),
    ("aws-sdk-*", &["backends/aws", "lambdas", "sinks"]),
    ("aws-smithy-*", &["backends/aws", "lambdas", "sinks"]),
];

/// What these crates must do without, so that they stay pure: time and input are arguments.
const PURE: [&str; 3] = ["domain", "rules", "services"];
const RUNTIMES: [&str; 4] = ["tokio", "rustix", "reqwest", "axum"];
const CLOCKS: [&str; 4] = ["Timestamp::now(", "Zoned::now(", "SystemTime::now(", "Instant::now("];

/// A Cargo.toml: the names in each section of dependencies.
struct Manifest {
    folder: String,
    uses: Vec<String>,
    uses_in_tests: Vec<String>,
}

/// A file by its path from the root of the repository.
struct Source {
    path: String,
    text: String,
}

#[test]
fn crates_depend_on_each_other_one_way_only() {
    let manifests: Vec<Manifest> =
        members().iter().map(|folder| manifest(folder, &read(&format!("{folder}/Cargo.toml")))).collect();
    assert!(manifests.len() >= 9, "the members of the workspace were not found");
    none(manifests.iter().flat_map(dependency_faults));
}

#[test]
fn the_rule_of_dependencies_finds_faults() {
    let faults = |folder: &str, text: &str| dependency_faults(&manifest(folder, text));
    assert_eq!(faults("services", "[dependencies]\nrules.workspace = true").len(), 0);
    assert_eq!(faults("services", "[dependencies]\nrunner.workspace = true").len(), 1);
    assert_eq!(faults("services", "[dev-dependencies]\nrunner = { path = \"../runner\" }").len(), 1);
    assert_eq!(faults("services", "[dev-dependencies]\nembedded.workspace = true\ntokio.workspace = true").len(), 0);
    assert_eq!(faults("services", "[dependencies]\ntokio = \"1\"").len(), 1);
    assert_eq!(faults("runner", "[dependencies.services]\nworkspace = true").len(), 1);
    assert_eq!(faults("runner", "[target.'cfg(unix)'.dependencies]\nservices.workspace = true").len(), 1);
    assert_eq!(faults("sexton", "[dependencies]\nrusqlite.workspace = true").len(), 1);
    assert_eq!(faults("sexton", "[dependencies]\naws-config = \"1\"").len(), 1);
    assert_eq!(faults("backends/embedded", "[dependencies]\nrusqlite.workspace = true").len(), 0);
    assert_eq!(faults("cellar", "").len(), 1);
}

#[test]
fn every_path_of_the_architecture_exists() {
    let paths = paths_named(&read("ARCHITECTURE.md"));
    assert!(paths.len() >= 10, "hardly a path was found in ARCHITECTURE.md: {paths:?}");
    let exists = |path: &str| repository().join(path.trim_end_matches('*')).exists();
    none(
        paths
            .into_iter()
            .filter(|path| !exists(path))
            .map(|path| format!("ARCHITECTURE.md names {path}, which is not there")),
    );
}

#[test]
fn every_test_that_the_guarantees_name_exists() {
    let named = tests_named(&read("docs/guarantees.md"));
    assert!(named.len() >= 50, "hardly a test was found in docs/guarantees.md: {named:?}");
    let exists = |path: &str, name: &str| {
        let text = fs::read_to_string(repository().join(path)).unwrap_or_default();
        text.contains(&format!("fn {name}("))
    };
    none(
        named
            .into_iter()
            .filter(|(path, name)| !exists(path, name))
            .map(|(path, name)| format!("docs/guarantees.md names {path}::{name}, which is not there")),
    );
}

#[test]
fn tests_are_found_in_backticks() {
    let text = "see `a/b.rs::c_d` `e.rs::f`, and `g.rs` or `h::i`";
    let named = [("a/b.rs", "c_d"), ("e.rs", "f")].map(|(path, name)| (path.to_owned(), name.to_owned()));
    assert_eq!(tests_named(text), named);
}

#[test]
fn paths_are_found_in_trees_and_in_backticks() {
    let text = "see `runner/src/keeper.rs`, `a/b c`, `/etc/x`, `x`, `https://y/z`\n```\nsinks/    where lines go\n  src/x.rs  in it\ndomain ◀ rules/x\n```\n";
    assert_eq!(paths_named(text), ["runner/src/keeper.rs", "sinks/"]);
}

#[test]
fn sources_are_short_and_named_for_what_they_hold() {
    let sources = sources();
    assert!(sources.len() >= 30, "the sources were not found");
    none(sources.iter().flat_map(shape_faults));
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

#[test]
fn nothing_is_left_to_do_and_pure_crates_read_no_clock() {
    none(sources().iter().flat_map(content_faults));
}

#[test]
fn the_rules_of_content_find_faults() {
    let faults =
        |path: &str, text: &str| content_faults(&Source { path: path.to_owned(), text: text.to_owned() }).len();
    assert_eq!(faults("sinks/src/gelf.rs", "fn a() { todo!() }"), 1);
    assert_eq!(faults("sinks/src/gelf.rs", "fn a() { unimplemented!(\"later\") }"), 1);
    assert_eq!(faults("services/src/alerts.rs", "let now = Timestamp::now();"), 1);
    assert_eq!(faults("sexton/src/main.rs", "let now = Timestamp::now();"), 0);
    assert_eq!(faults("sinks/src/gelf.rs", "use aws_sdk_sns::Client;"), 1);
    assert_eq!(faults("sinks/src/tls.rs", "use rustls::crypto::aws_lc_rs;"), 0);
    assert_eq!(faults("sinks/src/cloudwatch.rs", "use aws_sdk_cloudwatchlogs::Client;"), 0);
}

/// Each `FILE::FUNCTION` in backticks.
fn tests_named(text: &str) -> Vec<(String, String)> {
    let quoted = text.split('`').skip(1).step_by(2);
    let parts = quoted.filter_map(|quoted| quoted.split_once("::"));
    parts.filter(|(path, _)| path.ends_with(".rs")).map(|(path, name)| (path.to_owned(), name.to_owned())).collect()
}

fn dependency_faults(manifest: &Manifest) -> Vec<String> {
    let folder = &manifest.folder;
    let mut faults = Vec::new();
    let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| name == folder) else {
        return vec![format!("{folder} is not in MAY_USE: say there what it may depend on")];
    };
    let ours: Vec<&str> = MAY_USE.iter().map(|(name, _)| name.rsplit('/').next().unwrap_or(name)).collect();
    for name in &manifest.uses {
        if ours.contains(&name.as_str()) && !allowed.contains(&name.as_str()) {
            faults.push(format!("{folder}/Cargo.toml: {folder} may not depend on {name}"));
        }
        if PURE.contains(&folder.as_str()) && RUNTIMES.contains(&name.as_str()) {
            faults.push(format!("{folder}/Cargo.toml: {folder} is pure and may not depend on {name}"));
        }
    }
    for name in &manifest.uses_in_tests {
        if matches!((folder.as_str(), name.as_str()), ("runner", "services") | ("services", "runner")) {
            faults.push(format!("{folder}/Cargo.toml: runner and services never use each other, not even in tests"));
        }
    }
    for name in manifest.uses.iter().chain(&manifest.uses_in_tests) {
        for (pattern, folders) in ONLY_IN {
            let matches = pattern.strip_suffix('*').map_or(name == pattern, |prefix| name.starts_with(prefix));
            if matches && !folders.contains(&folder.as_str()) {
                faults.push(format!("{folder}/Cargo.toml: {name} may appear only in {}", folders.join(", ")));
            }
        }
    }
    faults
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
        faults.push(format!("{path}: the name {part} says nothing, call it after what it holds"));
    }
    if path.ends_with("/mod.rs") && source.text.contains("fn ") {
        faults.push(format!("{path} contains a function: mod.rs only declares modules"));
    }
    faults
}

fn content_faults(source: &Source) -> Vec<String> {
    let Some((folder, below)) = source.path.split_once("/src/") else { return Vec::new() };
    let mut forbidden =
        BTreeMap::from([("todo!", "nothing is left to do"), ("unimplemented!", "nothing is left to do")]);
    if PURE.contains(&folder) {
        forbidden.extend(CLOCKS.map(|clock| (clock, "time is an argument here")));
    }
    if folder == "sinks" && !below.starts_with("cloudwatch") {
        forbidden.extend(
            ["aws_config", "aws_credential_types", "aws_sdk", "aws_sigv4", "aws_smithy", "aws_types"]
                .map(|name| (name, "only the CloudWatch sink speaks to AWS")),
        );
    }
    let path = &source.path;
    let found = forbidden.into_iter().filter(|(word, _)| source.text.contains(word));
    found.map(|(word, reason)| format!("{path} contains {word}: {reason}")).collect()
}

/// The relative paths of a Markdown text: in backticks with a slash, and at the start of a line of a tree.
fn paths_named(text: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block {
            paths.extend(line.split_whitespace().next().filter(|word| line.starts_with(word) && word.ends_with('/')));
        } else {
            paths.extend(line.split('`').skip(1).step_by(2).filter(|code| is_relative_path(code)));
        }
    }
    paths.into_iter().map(str::to_owned).collect()
}

fn is_relative_path(code: &str) -> bool {
    let path_bytes = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-*".contains(&byte);
    code.contains('/') && !code.starts_with('/') && code.bytes().all(path_bytes)
}

fn manifest(folder: &str, text: &str) -> Manifest {
    let table: toml::Table = text.parse().unwrap_or_else(|error| panic!("{folder}/Cargo.toml: {error}"));
    let mut uses = Vec::new();
    let mut uses_in_tests = Vec::new();
    let targets = table.get("target").and_then(toml::Value::as_table);
    let sections = targets.into_iter().flat_map(|targets| targets.values()).filter_map(toml::Value::as_table);
    for section in sections.chain([&table]) {
        uses.extend(names(section, "dependencies"));
        uses.extend(names(section, "build-dependencies"));
        uses_in_tests.extend(names(section, "dev-dependencies"));
    }
    Manifest { folder: folder.to_owned(), uses, uses_in_tests }
}

fn names(section: &toml::Table, key: &str) -> Vec<String> {
    section.get(key).and_then(toml::Value::as_table).map(|table| table.keys().cloned().collect()).unwrap_or_default()
}

fn members() -> Vec<String> {
    let table: toml::Table = read("Cargo.toml").parse().expect("Cargo.toml is TOML");
    let members = table["workspace"]["members"].as_array().expect("the members are a list");
    members.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect()
}

/// Every Rust file of the members.
fn sources() -> Vec<Source> {
    let mut folders: Vec<PathBuf> = members().iter().map(|member| repository().join(member)).collect();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).expect("a folder can be listed").map(|entry| entry.expect("an entry").path())
        {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(Source { path: relative(&path), text: fs::read_to_string(&path).unwrap_or_default() });
            }
        }
    }
    sources
}

fn relative(path: &Path) -> String {
    path.strip_prefix(repository()).unwrap_or(path).display().to_string()
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[track_caller]
fn none(faults: impl Iterator<Item = String>) {
    let faults: Vec<String> = faults.collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
