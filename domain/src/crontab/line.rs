//! One line of a crontab: nothing, a comment, an assignment, or an entry.

use super::{Format, advice};

pub(super) enum Line<'a> {
    Blank,
    /// Text after the `#`.
    Comment(&'a str),
    Assignment(Assignment),
    Entry(Entry<'a>),
}

pub(super) struct Assignment {
    pub name: String,
    pub value: String,
}

pub(super) struct Entry<'a> {
    /// Fields with one blank between, or the nickname.
    pub schedule: String,
    pub user: Option<&'a str>,
    /// `-n`: cronie mails on failure only.
    pub mail_on_failure: bool,
    /// The command as written, with its `%`.
    pub text: &'a str,
    /// The command for the shell.
    pub command: String,
    pub stdin: Option<String>,
    /// Whether cron does not know the schedule.
    pub extension: bool,
}

const BLANKS: [char; 2] = [' ', '\t'];

/// # Errors
/// One lower-case sentence with the remedy.
pub(super) fn read(text: &str, format: Format) -> Result<Line<'_>, String> {
    let text = text.trim_start_matches(BLANKS);
    if text.trim_end_matches(BLANKS).is_empty() {
        return Ok(Line::Blank);
    }
    if let Some(comment) = text.strip_prefix('#') {
        return Ok(Line::Comment(comment));
    }
    if let Some(assignment) = assignment(text)? {
        return Ok(Line::Assignment(assignment));
    }
    entry(text, format).map(Line::Entry)
}

/// `NAME = VALUE`, split as by cronie's `load_env`: either side may be quoted, and nothing is expanded.
fn assignment(text: &str) -> Result<Option<Assignment>, String> {
    let (name, rest) = match quoted(text) {
        Some(Some((name, rest))) => (name, rest),
        Some(None) => return Ok(None),
        None => match text.find(['=', ' ', '\t']) {
            Some(end) => text.split_at(end),
            None => return Ok(None),
        },
    };
    let Some(value) = rest.trim_start_matches(BLANKS).strip_prefix('=') else { return Ok(None) };
    let value = value.trim_start_matches(BLANKS);
    let value = match quoted(value) {
        Some(Some((inner, rest))) if rest.trim_matches(BLANKS).is_empty() => inner,
        Some(Some((_, rest))) => {
            return Err(format!(
                "`{}` follows the closing quote of the value; put all of the value between the quotes",
                rest.trim_matches(BLANKS)
            ));
        }
        Some(None) => return Err("the value has no closing quote; add it".to_owned()),
        None => value.trim_end_matches(BLANKS),
    };
    Ok(Some(Assignment { name: name.to_owned(), value: value.to_owned() }))
}

/// The inside of a quoted text, and the rest; `Some(None)` without a closing quote.
fn quoted(text: &str) -> Option<Option<(&str, &str)>> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    Some(text[1..].split_once(quote))
}

fn entry(text: &str, format: Format) -> Result<Entry<'_>, String> {
    // Before the minute, `-` asks cronie not to log the entry. It has no meaning here.
    let mut rest = text.strip_prefix('-').unwrap_or(text).trim_start_matches(BLANKS);
    let (schedule, extension) = schedule(&mut rest)?;
    let user = match format {
        Format::User => None,
        Format::System if rest.starts_with('*') => {
            return Err(format!("the user is *, {}", advice::one_star_too_many(&schedule, rest)));
        }
        Format::System => Some(user(&mut rest)?),
    };
    let mail_on_failure = matches!(rest.split(BLANKS).next(), Some("-n"));
    if mail_on_failure {
        word(&mut rest);
    } else if rest.starts_with('-') {
        let option = rest.split(BLANKS).next().unwrap_or(rest);
        return Err(format!("`{option}` before the command is not an option that cron knows; write -n or the command"));
    }
    if rest.is_empty() {
        return Err(match format {
            Format::User => "the command is missing; write it after the schedule".to_owned(),
            Format::System => {
                "the command is missing; this file needs a user between the schedule and the command".to_owned()
            }
        });
    }
    if rest.starts_with('*') {
        return Err(format!("the command starts with *, {}", advice::one_star_too_many(&schedule, rest)));
    }
    let (command, stdin) = split_percent(rest);
    Ok(Entry { schedule, user, mail_on_failure, text: rest, command, stdin, extension })
}

/// Takes the schedule off the line.
fn schedule(rest: &mut &str) -> Result<(String, bool), String> {
    if !rest.starts_with('@') {
        let mut words = Vec::with_capacity(5);
        while words.len() < 5
            && let Some(word) = word(rest)
        {
            words.push(word);
        }
        if words.len() < 5 {
            return Err(format!(
                "neither an assignment nor an entry: found {} words, and an entry has five fields and a command; \
                 write minute, hour, day of month, month, day of week, command",
                words.len()
            ));
        }
        return Ok((words.join(" "), false));
    }
    let nickname = word(rest).unwrap_or_default();
    match nickname {
        "@every" | "@at" => {
            let argument = word(rest).unwrap_or_default();
            Ok((format!("{nickname} {argument}"), true))
        }
        _ => Ok((nickname.to_owned(), nickname == "@manually")),
    }
}

fn user<'a>(rest: &mut &'a str) -> Result<&'a str, String> {
    let name = word(rest).unwrap_or_default();
    if name.is_empty() {
        return Err("the user and the command are missing; write them after the schedule".to_owned());
    }
    if name.contains(['/', '=', '$', '"', '\'', ';', '|', '&']) {
        return Err(format!("`{name}` is not a user; this file needs one between the schedule and the command"));
    }
    Ok(name)
}

/// Takes one word and the blanks after it off the line.
fn word<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let line = *rest;
    let end = line.find(BLANKS).unwrap_or(line.len());
    *rest = line[end..].trim_start_matches(BLANKS);
    (end > 0).then(|| &line[..end])
}

/// As cronie's `src/do_command.c`: the command ends at the first unescaped `%`; each later one is a newline of the
/// standard input. `\%` is a percent sign; any other backslash is kept.
fn split_percent(text: &str) -> (String, Option<String>) {
    let mut command = String::with_capacity(text.len());
    let mut escaped = false;
    let mut characters = text.chars();
    let mut input = false;
    for c in characters.by_ref() {
        match (escaped, c) {
            (true, '%') => {
                command.pop();
                command.push('%');
            }
            (false, '%') => {
                input = true;
                break;
            }
            _ => command.push(c),
        }
        escaped = !escaped && c == '\\';
    }
    let stdin = input.then(|| stdin(characters)).filter(|stdin| !stdin.is_empty());
    (command, stdin)
}

fn stdin(text: std::str::Chars<'_>) -> String {
    let mut stdin = String::with_capacity(text.as_str().len() + 1);
    let mut escaped = false;
    for c in text {
        if escaped && c != '%' {
            stdin.push('\\');
        }
        let written = if c == '%' && !escaped { '\n' } else { c };
        escaped = written == '\\';
        if !escaped {
            stdin.push(written);
        }
    }
    if escaped {
        stdin.push('\\');
    }
    if !stdin.is_empty() && !stdin.ends_with('\n') {
        stdin.push('\n');
    }
    stdin
}
