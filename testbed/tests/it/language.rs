//! No comment, string, help text or document uses a word that language.md refuses in bold, and no prose is too wide.

mod text;

use crate::tidy::{Source, documents, none, sources};
use text::{Kind, Piece, pieces};

/// Words and phrases that are refused, and what to write. Found across line ends, because prose is wrapped. A phrase
/// that begins with a capital is found in this spelling only.
const REFUSED: &[(&str, &str)] = &[
    ("whom", "who"),
    ("anew", "again"),
    ("amid", "during"),
    ("seldom", "rarely"),
    ("lest", "in case"),
    ("of late", "recently"),
    ("nobody", "the actor, as in: no runner"),
    ("somebody", "the actor, as in: another process"),
    ("anybody", "the actor, as in: any caller"),
    ("whoever", "the actor"),
    ("whatever", "the actor or the thing"),
    ("whichever", "the actor or the thing"),
    ("Ours .", "`Chosen: ...` with the reason, or the source"),
    ("so often", "the number"),
    ("so long", "the number"),
    ("so many", "the number"),
    ("told", "alerted, logged, reported"),
    ("to tell", "to alert, to log, to report"),
    ("mend", "fix"),
    ("mends", "fixes"),
    ("mended", "fixed"),
    ("for good", "permanently"),
    ("to be had", "available"),
    ("all the same", "anyway"),
    ("at hand", "available"),
    ("is looked at", "is polled, is checked, is read"),
    ("looks at", "polls, checks, reads"),
    ("a look", "a poll, a check, a read"),
    ("comes again", "is redelivered"),
    ("made again", "is retried"),
    ("tried again", "is retried"),
    ("stands", "is at; represents, matches; is independent"),
    ("what becomes of", "the result of"),
    ("what is to be made of", "how to classify"),
    ("is worth", "the policy for"),
    ("slept through", "missed while down"),
    ("lives", "is alive; the last heartbeat"),
    ("shows life", "is alive; the last heartbeat"),
    ("is gone", "exited, was deleted"),
    ("lets in", "admits"),
    ("gives way", "is replaced"),
    ("takes up", "resumes"),
    ("takes in", "reads"),
    ("takes along", "includes"),
    ("begun", "started"),
];

/// Identifiers that are refused, and what to write.
const REFUSED_NAMES: [(&str, &str); 1] = [("says", "`message`; `reason` of a run or an alert")];

/// Lines that may keep a refused word: each is a part of the line, with the reason.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("\"nobody", "the name of a Unix user"),
    ("what `sexton check` looks at", "CloudFormation replaces a managed policy when its description changes"),
    ("told.started", "the name of a file in a run directory"),
    ("told.finished", "the name of a file in a run directory"),
    ("\"told\"", "a label of SEXTON_CRASH_AT; the name of a stored field"),
    ("rename = \"says\"", "the name of a stored field"),
    ("\"nobody", "the name of a user that every Linux machine has"),
    ("\"told:\"", "the start of stored ids"),
];

/// Comments and prose are at most this wide.
const COLUMNS_MAX: usize = 120;

/// This file: it has every refused word.
const ITSELF: &str = "testbed/tests/it/language.rs";

#[test]
fn no_text_uses_a_refused_word() {
    none(texts().iter().flat_map(word_faults));
}

#[test]
fn no_comment_or_prose_is_too_wide() {
    none(texts().iter().flat_map(width_faults));
}

#[test]
fn the_rule_of_words_finds_faults() {
    let faults = |path: &str, text: &str| word_faults(&Source { path: path.to_owned(), text: text.to_owned() }).len();
    for text in [
        "// Nobody sees it.",
        "/// An alert is told\nfn a() {}",
        "//! What is\n//! looked at.",
        "let a = \"it is gone\";",
        "let a = \"it is \\\n    gone\";",
        "let a = r#\"it is gone\"#;",
        "/* it is\n gone */",
        "let says = 1;",
        "const A: u8 = 7; // Ours.",
    ] {
        assert_eq!(faults("a/src/b.rs", text), 1, "{text}");
    }
    for text in [
        "let told = nobody(is_gone);",
        "// is it. Gone, all of it",
        "let a = (\"it is\", \"gone\");",
        "let a = \"{told} {told:?}\";",
        "let quote = '\"'; let nobody = '\\'';",
        "let a: &'static str = nobody;",
        "// says who? Their answer is the same as ours.",
        "let path = run.path(\"told.started\");",
        "//! a look-up of `told_at`",
    ] {
        assert_eq!(faults("a/src/b.rs", text), 0, "{text}");
    }
    assert_eq!(faults("a.md", "It is\ngone.\n\nIs\n\ngone\n\n    told\n"), 2);
    assert_eq!(faults("a.toml", "told = 1 # told\n# It is\n# gone\n"), 2);
    assert_eq!(faults("a.yaml", "Description: told\n"), 1);
}

#[test]
fn the_rule_of_width_finds_faults() {
    let faults = |path: &str, text: &str| width_faults(&Source { path: path.to_owned(), text: text.to_owned() }).len();
    let wide = "word ".repeat(30);
    assert_eq!(faults("a.rs", &format!("// {wide}")), 1);
    assert_eq!(faults("a.rs", &format!("fn a() {{}} // {wide}")), 1);
    assert_eq!(faults("a.rs", &format!("let a = \"{wide}\";")), 0);
    assert_eq!(faults("a.md", &wide), 1);
    assert_eq!(faults("a.md", &format!("| {wide} |\n```\n{wide}\n```\n")), 0);
}

/// Every text of the repository but the list above.
fn texts() -> Vec<Source> {
    let all = sources().into_iter().chain(documents());
    all.filter(|text| text.path != ITSELF).collect()
}

fn word_faults(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let excepted = |line: usize| EXCEPTIONS.iter().any(|(part, _)| lines[line].contains(part));
    let mut faults = Vec::new();
    for piece in pieces(source) {
        let words = words(&piece);
        let refused: &[(&str, &str)] = if piece.kind == Kind::Code { &REFUSED_NAMES } else { REFUSED };
        for (phrase, better) in refused {
            let parts: Vec<&str> = phrase.split(' ').collect();
            let is_name = phrase.starts_with(char::is_uppercase);
            let same = |word: &str, part: &str| word == part || !is_name && word.eq_ignore_ascii_case(part);
            let found = words.windows(parts.len()).filter(|words| {
                words.iter().zip(&parts).all(|((_, word), part)| same(word, part)) && !excepted(words[0].0)
            });
            faults.extend(
                found.map(|words| format!("{}:{}: `{phrase}` is refused; write {better}", source.path, words[0].0 + 1)),
            );
        }
    }
    faults
}

/// The words of a piece with their lines. A mark of punctuation is a word, so that no phrase reaches over it.
fn words(piece: &Piece) -> Vec<(usize, String)> {
    let mut words: Vec<(usize, String)> = Vec::new();
    for (line, text) in &piece.lines {
        let mut word = String::new();
        for c in text.chars().chain([' ']) {
            if c.is_alphanumeric() || c == '_' || c == '-' {
                word.push(c);
                continue;
            }
            if !word.is_empty() {
                words.push((*line, std::mem::take(&mut word)));
            }
            if !c.is_whitespace() {
                words.push((*line, c.to_string()));
            }
        }
    }
    words
}

fn width_faults(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut numbers: Vec<usize> = pieces(source)
        .iter()
        .filter(|piece| matches!(piece.kind, Kind::Comment | Kind::Prose))
        .flat_map(|piece| piece.lines.iter().map(|(line, _)| *line))
        .filter(|line| lines[*line].chars().count() > COLUMNS_MAX)
        .collect();
    numbers.dedup();
    let fault = |line: usize| format!("{}:{}: wider than {COLUMNS_MAX} columns", source.path, line + 1);
    numbers.into_iter().map(fault).collect()
}
