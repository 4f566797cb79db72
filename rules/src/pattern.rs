//! One regular expression of a rule: its syntax, its limits, and the faults of an invalid one.
//!
//! A rule's own regex and the shared automaton of a set use the same syntax settings, so both always agree. Never
//! searches beyond the given line.

use regex::bytes::{Regex, RegexBuilder};
use regex_automata::util::syntax;

/// Bytes of a pattern's text. Chosen: the longest pattern seen in the field has 300.
pub const PATTERN_BYTES_MAX: usize = 4_096;

/// Bytes of one compiled pattern. Chosen: `\w{100}` in ASCII mode takes about 20 KiB.
pub const COMPILED_BYTES_MAX: usize = 1 << 20;

/// Bytes of the cache of states of a rule's own regex. Chosen: only candidate lines use it.
const OWN_CACHE_BYTES_MAX: usize = 256 << 10;

/// Nesting of groups. Chosen, not measured; the default of the crate `regex` is 250.
const NEST_MAX: u32 = 50;

/// A compiled pattern with its text.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Regex,
    mode: Mode,
}

/// The meaning of character classes in a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bytes: `\w`, `\b` and `(?i)` know ASCII only.
    Ascii,
    /// The pattern is not valid in ASCII mode; with the reason.
    Unicode(String),
}

impl Pattern {
    /// Compiles a pattern within the limits of this file.
    ///
    /// # Errors
    /// The fault and its remedy, as a clause that follows the name of the rule.
    pub fn compile(text: &str) -> Result<Pattern, String> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(format!("is longer than {PATTERN_BYTES_MAX} bytes; split it into several rules"));
        }
        let (mode, regex) = match build(text, false) {
            Ok(regex) => (Mode::Ascii, regex),
            Err(regex::Error::Syntax(ascii)) => match build(text, true) {
                Ok(regex) => (Mode::Unicode(sentence(&ascii)), regex),
                Err(error) => return Err(message(&error)),
            },
            Err(error) => return Err(message(&error)),
        };
        let looks = syntax::parse_with(text, &syntax_of(mode != Mode::Ascii))
            .map_err(|error| message(&regex::Error::Syntax(error.to_string())))?
            .properties()
            .look_set();
        if looks.contains_word_unicode() {
            return Err("needs Unicode word boundaries, which do not run in linear time; write (?-u:\\b)".to_owned());
        }
        if regex.is_match(b"") && regex.is_match(b"\x01") {
            return Err("matches every line; write what a matching line must contain".to_owned());
        }
        Ok(Pattern { text: text.to_owned(), regex, mode })
    }

    /// The text in the pack.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The mode in which it is valid.
    pub fn mode(&self) -> &Mode {
        &self.mode
    }

    /// Whether it matches anywhere in the line (passed without its line feed).
    pub fn is_match(&self, line: &[u8]) -> bool {
        self.regex.is_match(line)
    }

    /// The bytes of its first match in the line.
    pub fn find(&self, line: &[u8]) -> Option<std::ops::Range<usize>> {
        self.regex.find(line).map(|found| found.range())
    }

    /// The syntax settings of this pattern.
    pub(crate) fn syntax(&self) -> syntax::Config {
        syntax_of(self.mode != Mode::Ascii)
    }
}

fn syntax_of(unicode: bool) -> syntax::Config {
    syntax::Config::new().unicode(unicode).utf8(false).multi_line(true).crlf(true).nest_limit(NEST_MAX)
}

fn build(text: &str, unicode: bool) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text)
        .unicode(unicode)
        .multi_line(true)
        .crlf(true)
        .nest_limit(NEST_MAX)
        .size_limit(COMPILED_BYTES_MAX)
        .dfa_size_limit(OWN_CACHE_BYTES_MAX)
        .build()
}

fn message(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => {
            format!("takes more than {} KiB compiled; write smaller repetitions", COMPILED_BYTES_MAX >> 10)
        }
        other => {
            let why = sentence(&other.to_string());
            let remedy = match why.as_str() {
                why if why.contains("look-around") => "; write in `unless` what the line must not contain",
                why if why.contains("backreference") => "; write the repeated text out",
                why if why.contains("escape") => {
                    "; write the pattern in single quotes, with backslashes only before special characters"
                }
                why if why.contains("unclosed") || why.contains("unopened") => {
                    "; write a backslash before a bracket that is plain text"
                }
                why if why.contains("repetition") => "; write a backslash before a *, + or ? that is plain text",
                _ => "; see the syntax of the Rust crate `regex`",
            };
            format!("is not a regular expression: {why}{remedy}")
        }
    }
}

/// The last line of the parser's multi-line error.
fn sentence(drawn: &str) -> String {
    let last = drawn.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    last.trim().trim_start_matches("error: ").trim_end_matches('.').to_owned()
}
