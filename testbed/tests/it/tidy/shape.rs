//! How long a file may be, and which names it may have.

use super::{Source, none, sources};

/// A file longer than this does two things.
const LINES_MAX: usize = 600;

/// Names that do not describe the content.
const EMPTY_NAMES: [&str; 7] = ["utils", "util", "common", "helpers", "helper", "misc", "imp"];

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
