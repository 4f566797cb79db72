//! One regular expression of a rule: how it is read, what it may cost, and what is said when it will not do.
//!
//! The same syntax settings serve a rule's own regex and the automaton that all rules of a set share, so that both
//! always agree. Never searches more than the line it is given.

use regex::bytes::{Regex, RegexBuilder};
use regex_automata::util::syntax;

/// Bytes of a pattern's text. Ours; the longest pattern seen in the field has 300.
pub const PATTERN_BYTES_MAX: usize = 4_096;

/// Bytes that one compiled pattern may take. Ours; `\w{100}` in ASCII mode takes about 20 KiB.
pub const COMPILED_BYTES_MAX: usize = 1 << 20;

/// Bytes of the cache in which a rule's own regex builds states. Ours; only lines that hit use it.
const OWN_CACHE_BYTES_MAX: usize = 256 << 10;

/// Groups within groups. Ours; the default of the crate `regex` is 250.
const NEST_MAX: u32 = 50;

/// A compiled pattern with its text.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Regex,
    mode: Mode,
}

/// How the pattern reads letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bytes: `\w`, `\b` and `(?i)` know ASCII only.
    Ascii,
    /// The pattern does not read in ASCII mode, for this reason.
    Unicode(String),
}

impl Pattern {
    /// Compiles a pattern within the limits of this file.
    ///
    /// # Errors
    /// What is wrong and what to write instead, to stand after the name of the rule.
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
            return Err(
                "needs the word boundaries of Unicode, which are not had in linear time; write (?-u:\\b)".to_owned()
            );
        }
        if regex.is_match(b"") && regex.is_match(b"\x01") {
            return Err("matches every line, even one of a single byte; say what must stand there".to_owned());
        }
        Ok(Pattern { text: text.to_owned(), regex, mode })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn mode(&self) -> &Mode {
        &self.mode
    }

    /// Whether it stands anywhere in the line (without its line feed).
    pub fn is_match(&self, line: &[u8]) -> bool {
        self.regex.is_match(line)
    }

    /// Where it stands first in the line.
    pub fn find(&self, line: &[u8]) -> Option<std::ops::Range<usize>> {
        self.regex.find(line).map(|found| found.range())
    }

    /// The settings under which this pattern is read.
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
                why if why.contains("look-around") => "; put what must not stand on the line into `unless`",
                why if why.contains("backreference") => "; spell out what repeats",
                why if why.contains("escape") => {
                    "; write the pattern in single quotes and a backslash only before what needs it"
                }
                why if why.contains("unclosed") || why.contains("unopened") => {
                    "; put a backslash before a bracket that is meant as text"
                }
                why if why.contains("repetition") => "; put a backslash before a *, + or ? that is meant as text",
                _ => "; see the syntax of the Rust crate `regex`",
            };
            format!("is not a regular expression: {why}{remedy}")
        }
    }
}

/// The sentence at the end of the several lines in which the parser draws its errors.
fn sentence(drawn: &str) -> String {
    let last = drawn.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    last.trim().trim_start_matches("error: ").trim_end_matches('.').to_owned()
}
