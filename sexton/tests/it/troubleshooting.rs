//! Every message that docs/troubleshooting.md quotes exists in the sources, so that a reader who searches for it finds
//! it. A quoted message is a line `> `...``; `…` is a part that varies.

use std::fs;
use std::path::{Path, PathBuf};

/// The string literals of Rust code, with `…` for each placeholder of a format.
fn literals(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut characters = code.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            // A character literal may be a quote.
            '\'' if characters.peek() == Some(&'"') => _ = characters.next(),
            '"' => found.push(literal(&mut characters)),
            _ => {}
        }
    }
    found
}

/// The rest of a literal whose opening quote was read.
fn literal(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut text = String::new();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' if characters.peek() == Some(&'\n') => {
                while characters.peek().is_some_and(|next| next.is_whitespace()) {
                    characters.next();
                }
            }
            '\\' => text.extend(characters.next()),
            '{' => {
                characters.by_ref().find(|next| *next == '}');
                text.push('…');
            }
            _ => text.push(character),
        }
    }
    text
}

/// Whether all fixed parts of a quoted message occur in the literal, in this order.
fn quotes(message: &str, literal: &str) -> bool {
    let parts: Vec<&str> = message.split('…').filter(|part| !part.trim().is_empty()).collect();
    let mut rest = literal;
    !parts.is_empty()
        && parts.iter().all(|part| match rest.find(part.trim()) {
            Some(at) => {
                rest = &rest[at + part.trim().len()..];
                true
            }
            None => false,
        })
}

fn quoted_messages(page: &str) -> Vec<&str> {
    let quoted = page.lines().filter_map(|line| line.trim_start().strip_prefix("> `"));
    quoted.filter_map(|rest| rest.strip_suffix('`')).collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        match path.is_dir() {
            true if name != "target" && name != "tests" && !name.to_string_lossy().starts_with('.') => {
                sources(&path, found);
            }
            false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
            _ => {}
        }
    }
}

#[test]
fn every_message_of_the_troubleshooting_page_exists() {
    let root = testbed::repository();
    let page = fs::read_to_string(root.join("docs/troubleshooting.md")).expect("docs/troubleshooting.md");
    let mut paths = Vec::new();
    sources(root, &mut paths);
    let all: Vec<String> =
        paths.iter().flat_map(|path| literals(&fs::read_to_string(path).expect("a source"))).collect();
    let messages = quoted_messages(&page);
    assert!(messages.len() >= 20, "the page quotes messages: {messages:?}");
    let missing: Vec<&&str> =
        messages.iter().filter(|message| !all.iter().any(|literal| quotes(message, literal))).collect();
    assert!(missing.is_empty(), "quoted in docs/troubleshooting.md, and in no source: {missing:#?}");
}

#[test]
fn a_message_is_found_only_where_its_fixed_parts_are_in_order() {
    let code = r#"let c = '"'; fail(format!("sink `{name}` lags {span}; \
                   {lines} waiting")); x("other");"#;
    let all = literals(code);
    assert_eq!(all, ["sink `…` lags …; … waiting", "other"]);
    assert!(quotes("sink … lags …", &all[0]));
    assert!(!quotes("lags … sink", &all[0]));
    assert!(!quotes("sink … lost", &all[0]));
    assert!(!quotes("…", &all[0]));
    assert_eq!(quoted_messages("text\n  > `a … b`\n> plain\n"), ["a … b"]);
}
