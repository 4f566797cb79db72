//! Finds constructs of bash that other shells read differently (POSIX, Shell Command Language; dash(1)).

use std::collections::BTreeMap;

use crate::shell_text::{Token, piece_length, simple_commands, variable, words};

/// The first construct of bash in a command, as it is named in a warning.
pub(super) fn find(
    command: &str,
    tokens: &[Token<'_>],
    environment: &BTreeMap<String, String>,
) -> Option<&'static str> {
    tokens
        .iter()
        .find_map(|token| of_token(token, environment))
        .or_else(|| simple_commands(tokens).find_map(|command| of_words(&words(command))))
        .or_else(|| command.contains("function ").then(|| of_function(tokens)).flatten())
}

fn of_token(token: &Token<'_>, environment: &BTreeMap<String, String>) -> Option<&'static str> {
    match token {
        Token::Operator("|&") => Some("|&"),
        Token::Operator("((") => Some("(( ))"),
        Token::Redirection { operator: "&>", .. } => Some("&>"),
        Token::Redirection { operator: "&>>", .. } => Some("&>>"),
        Token::Redirection { operator: "<<<", .. } => Some("<<<"),
        Token::Redirection { operator: ">&", target, .. }
            if !target.is_empty() && !target.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') =>
        {
            Some(">& FILE")
        }
        Token::Redirection { target, .. } => of_word(target, environment),
        Token::Word(word) => of_word(word, environment),
        Token::Operator(_) => None,
    }
}

/// Variables that bash sets and other shells do not.
const VARIABLES: [(&str, &str); 7] = [
    ("RANDOM", "$RANDOM"),
    ("HOSTNAME", "$HOSTNAME"),
    ("UID", "$UID"),
    ("EUID", "$EUID"),
    ("SECONDS", "$SECONDS"),
    ("PIPESTATUS", "$PIPESTATUS"),
    ("BASH_SOURCE", "$BASH_SOURCE"),
];

/// Constructs inside of one word.
fn of_word(word: &str, environment: &BTreeMap<String, String>) -> Option<&'static str> {
    if word.starts_with("<(") || word.starts_with(">(") {
        return Some("<( )");
    }
    let assigns = |operator: &str| {
        word.split_once(operator).is_some_and(|(name, _)| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        })
    };
    if assigns("+=") {
        return Some("+=");
    }
    if assigns("=(") {
        return Some("=( )");
    }
    let (mut at, mut in_quotes) = (0, false);
    while let Some(c) = word[at..].chars().next() {
        let rest = &word[at..];
        match c {
            '"' => {
                in_quotes = !in_quotes;
                at += 1;
                continue;
            }
            '\'' if in_quotes => {
                at += 1;
                continue;
            }
            '$' if !in_quotes && rest.starts_with("$'") => return Some("$' '"),
            '$' => {
                if let Some(found) = of_expansion(rest, environment) {
                    return Some(found);
                }
            }
            '{' if !in_quotes => {
                if let Some(found) = brace_expansion(rest) {
                    return Some(found);
                }
            }
            _ => {}
        }
        at += piece_length(rest);
    }
    None
}

/// `$NAME`, `${...}` or `$((...))`.
fn of_expansion(text: &str, environment: &BTreeMap<String, String>) -> Option<&'static str> {
    let unknown = |name: &str| VARIABLES.iter().find(|(known, _)| *known == name && !environment.contains_key(name));
    if let Some(inner) = text.strip_prefix("$((") {
        let end = inner.find("))").unwrap_or(inner.len());
        let mut names = inner[..end].split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        return names.find_map(unknown).map(|(_, shown)| *shown);
    }
    if let Some(inner) = text.strip_prefix("${") {
        if inner.starts_with('!') {
            return Some("${! }");
        }
        let name = variable(text)?;
        let operator = &inner[name.len()..];
        let substring = operator.starts_with(':')
            && operator[1..].starts_with(|c: char| c.is_ascii_digit() || c == ' ' || c == '$');
        let found = match operator.chars().next() {
            Some('/') => Some("${ / }"),
            Some('^') => Some("${ ^ }"),
            Some(',') => Some("${ , }"),
            Some('[') => Some("${ [ ] }"),
            _ if substring => Some("${ :n }"),
            _ => None,
        };
        return found.or_else(|| unknown(name).filter(|_| operator.starts_with('}')).map(|(_, shown)| *shown));
    }
    variable(text).and_then(unknown).map(|(_, shown)| *shown)
}

/// `{a,b}` or `{1..5}`.
fn brace_expansion(text: &str) -> Option<&'static str> {
    let inner = &text[1..];
    let end = inner.find(['}', '{', ' ', '"', '\''])?;
    let plain = inner[end..].starts_with('}').then(|| &inner[..end])?;
    match plain {
        _ if plain.contains(',') => Some("{a,b}"),
        _ if plain.contains("..") => Some("{1..5}"),
        _ => None,
    }
}

fn of_words(words: &[&str]) -> Option<&'static str> {
    match words {
        ["[[", ..] => Some("[["),
        ["[" | "test", arguments @ ..] if arguments.contains(&"==") => Some("== in ["),
        ["[" | "test", arguments @ ..] if arguments.contains(&"=~") => Some("=~ in ["),
        ["source", _, ..] => Some("source"),
        ["pushd" | "popd", ..] => Some("pushd"),
        ["shopt", ..] => Some("shopt"),
        ["declare" | "typeset", ..] => Some("declare"),
        ["let", ..] => Some("let"),
        ["mapfile" | "readarray", ..] => Some("mapfile"),
        ["disown", ..] => Some("disown"),
        ["select", _, "in", ..] => Some("select"),
        ["echo", "-e" | "-ne" | "-en", ..] => Some("echo -e"),
        ["set", arguments @ ..] if arguments.contains(&"pipefail") => Some("pipefail"),
        _ => None,
    }
}

fn of_function(tokens: &[Token<'_>]) -> Option<&'static str> {
    simple_commands(tokens)
        .any(|command| matches!(words(command).as_slice(), ["function", _, ..]))
        .then_some("function")
}
