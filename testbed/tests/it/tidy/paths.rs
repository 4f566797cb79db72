//! The paths and tests that documents name exist, and each crate and each page is named by a document.

use std::fs;

use testbed::repository;

use super::{Source, documents, members, none, read, sources};

#[test]
fn every_path_of_the_architecture_exists() {
    let paths = paths_named(&read("ARCHITECTURE.md"));
    assert!(paths.len() >= 10, "fewer than 10 paths were found in ARCHITECTURE.md: {paths:?}");
    none(missing_paths("ARCHITECTURE.md", paths));
}

#[test]
fn every_path_of_the_contributors_guide_exists() {
    let guide = "CONTRIBUTING.md";
    if repository().join(guide).exists() {
        none(missing_paths(guide, paths_named(&read(guide))));
    }
}

#[test]
fn every_test_that_the_guarantees_name_exists() {
    let named = tests_named(&read("docs/guarantees.md"));
    assert!(named.len() >= 50, "fewer than 50 tests were found in docs/guarantees.md: {named:?}");
    let exists = |path: &str, name: &str| {
        let text = fs::read_to_string(repository().join(path)).unwrap_or_default();
        text.contains(&format!("fn {name}("))
    };
    none(
        named
            .into_iter()
            .filter(|(path, name)| !exists(path, name))
            .map(|(path, name)| format!("docs/guarantees.md names {path}::{name}, which does not exist")),
    );
}

#[test]
fn every_test_that_the_test_runner_names_exists() {
    let named = names_in_filters(&read(".config/nextest.toml"));
    assert!(!named.is_empty(), "no test was found in .config/nextest.toml");
    let sources = sources();
    let exists = |name: &String| sources.iter().any(|source| source.text.contains(&format!("fn {name}(")));
    none(
        named
            .into_iter()
            .filter(|name| !exists(name))
            .map(|name| format!(".config/nextest.toml names the test {name}, which does not exist")),
    );
}

#[test]
fn tests_that_may_run_for_minutes_have_the_name_that_the_test_runner_knows() {
    none(sources().iter().filter_map(fuzz_name_fault));
}

#[test]
fn a_test_of_mutations_without_its_name_is_a_fault() {
    let fault =
        |path: &str, text: &str| fuzz_name_fault(&Source { path: path.to_owned(), text: text.to_owned() }).is_some();
    assert!(!fault("sinks/tests/it/any_text.rs", "fn a() { try_inputs(target) }"));
    assert!(!fault("sinks/src/config.rs", "fn any_text_is_read() { try_inputs(target) }"));
    assert!(fault("sinks/src/config.rs", "fn text_is_read() { try_inputs(target) }"));
    assert_eq!(names_in_filters("filter = 'test(a_b) | test(/\\bany_/)'"), ["a_b"]);
}

#[test]
fn every_crate_and_every_page_has_a_row() {
    let crates = members().into_iter();
    let pages = documents().into_iter().map(|page| page.path).filter(|path| is_page(path));
    let contents = fs::read_to_string(repository().join("docs/README.md")).unwrap_or_default();
    none(missing_rows(&read("ARCHITECTURE.md"), &contents, crates.chain(pages).collect()));
}

#[test]
fn a_crate_or_page_without_a_row_is_a_fault() {
    let missing = |path: &str| {
        let architecture = "see `docs/b.md`\n```\nsinks/    lines\nbackends/aws/    ports\n```\n";
        missing_rows(architecture, "- [Alerts](alerts.md): channels", vec![path.to_owned()]).count()
    };
    for path in ["sinks", "backends/aws", "docs/alerts.md", "docs/b.md"] {
        assert_eq!(missing(path), 0, "{path}");
    }
    for path in ["rules", "backends", "docs/a.md", "docs/lerts.md"] {
        assert_eq!(missing(path), 1, "{path}");
    }
}

#[test]
fn a_path_that_does_not_exist_is_a_fault() {
    let paths = ["testbed/src/wait.rs", "testbed/src/wai*", "testbed/src/no_such_file.rs"].map(str::to_owned);
    assert_eq!(missing_paths("X.md", paths.into()).count(), 2);
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

fn missing_paths(document: &str, paths: Vec<String>) -> impl Iterator<Item = String> {
    let exists = |path: &str| repository().join(path.trim_end_matches('*')).exists();
    paths
        .into_iter()
        .filter(move |path| !exists(path))
        .map(move |path| format!("{document} names {path}, which does not exist"))
}

fn is_page(path: &str) -> bool {
    path.starts_with("docs/") && path.ends_with(".md") && path != "docs/README.md"
}

/// Crates have a line in a tree of ARCHITECTURE.md; pages are named there or linked from docs/README.md.
fn missing_rows(architecture: &str, contents: &str, paths: Vec<String>) -> impl Iterator<Item = String> {
    let named = paths_named(architecture);
    let has_row = |path: &String| match path.strip_prefix("docs/") {
        Some(page) => named.contains(path) || contents.contains(&format!("]({page}")),
        None => named.contains(&format!("{path}/")),
    };
    let missing: Vec<String> = paths.into_iter().filter(|path| !has_row(path)).collect();
    missing.into_iter().map(|path| format!("{path} has no row in ARCHITECTURE.md or docs/README.md"))
}

/// Each `test(NAME)` of nextest's filters; a regular expression has no name.
fn names_in_filters(text: &str) -> Vec<String> {
    let names = text.split("test(").skip(1).filter_map(|rest| rest.split(')').next());
    names.filter(|name| !name.starts_with('/')).map(str::to_owned).collect()
}

/// `.config/nextest.toml` gives more time to tests that are called `any_...` or are in such a module.
fn fuzz_name_fault(source: &Source) -> Option<String> {
    let path = &source.path;
    let is_known = path.contains("/any_") || source.text.contains("fn any_") || path.starts_with("testbed/");
    (source.text.contains("try_inputs(") && !is_known)
        .then(|| format!("{path}: a test of mutations is called any_..., so that .config/nextest.toml finds it"))
}

/// Each `FILE::FUNCTION` in backticks.
fn tests_named(text: &str) -> Vec<(String, String)> {
    let quoted = text.split('`').skip(1).step_by(2);
    let parts = quoted.filter_map(|quoted| quoted.split_once("::"));
    parts.filter(|(path, _)| path.ends_with(".rs")).map(|(path, name)| (path.to_owned(), name.to_owned())).collect()
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
