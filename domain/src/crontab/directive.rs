//! Directives: `# sexton: key=value ...` and `# sexton-defaults: key=value ...` set fields of jobs in comments.
//!
//! Values may be quoted with `"` or `'`. A dotted key is a field of a table (`retries.max=2`, `alert.channels=oncall`,
//! `env.LEVEL=9`), commas make a list (`rules=default,python`).

use crate::document::Document;
use crate::job::Job;
use crate::jobs_file::fields;

/// The words of one comment, not yet checked.
pub(super) struct Directive {
    /// 1-based.
    pub line: u32,
    words: Vec<(String, String)>,
}

pub(super) enum DirectiveKind {
    Next(Directive),
    Defaults(Directive),
}

/// Reads a comment without its `#`; `None` when it is not a directive.
///
/// # Errors
/// One lower-case sentence with the remedy.
pub(super) fn read(line: u32, comment: &str) -> Result<Option<DirectiveKind>, String> {
    let Some((head, rest)) = comment.trim_start().split_once(':') else { return Ok(None) };
    match head {
        "sexton" => Ok(Some(DirectiveKind::Next(Directive { line, words: words(rest)? }))),
        "sexton-defaults" => Ok(Some(DirectiveKind::Defaults(Directive { line, words: words(rest)? }))),
        // Near misses are warnings: a comment that is none may begin like one.
        _ => Ok(None),
    }
}

fn words(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut words = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let key = &rest[..end];
        let Some(value) = rest[end..].strip_prefix('=').filter(|_| !key.is_empty()) else {
            return Err(format!(
                "`{}` is not key=value; put values with blanks in quotes",
                if end == 0 { rest } else { key }
            ));
        };
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
        let (value, after) = match quote {
            Some(quote) => value[1..]
                .split_once(quote)
                .ok_or_else(|| format!("the value of `{key}` has no closing quote; add it"))?,
            None => value.split_at(value.find(char::is_whitespace).unwrap_or(value.len())),
        };
        if !after.is_empty() && !after.starts_with(char::is_whitespace) {
            return Err(format!("`{after}` follows the closing quote of `{key}`; write a blank between"));
        }
        words.push((key.to_owned(), value.to_owned()));
        rest = after.trim_start();
    }
    if words.is_empty() {
        return Err("the directive is empty; write key=value, like name=nightly-dump timeout=2h".to_owned());
    }
    Ok(words)
}

impl Directive {
    pub(crate) fn names(&self, key: &str) -> bool {
        self.words.iter().any(|(name, _)| name == key)
    }

    /// Adds a later directive of the same entry, whose values take precedence.
    pub(crate) fn merge(&mut self, later: Directive) {
        self.line = later.line;
        self.words.extend(later.words);
    }

    /// Sets the fields of a job; faults go to `document`.
    pub(crate) fn apply(&self, document: &Document, job: &mut Job) {
        let mut section = document.section_of_words(self.line, self.words.clone());
        if let Some(group) = section.text("group") {
            job.group = group;
        }
        if let Some(name) = section.text("name") {
            job.name = name;
        }
        fields::read(&mut section, job);
        section.reject_unknown_keys();
    }
}
