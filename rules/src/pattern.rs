//! One regular expression of a rule: its syntax, its limits, and the faults of an invalid one.
//!
//! A rule's own regex and the shared automaton of a set use the same syntax settings, so both always agree. Never
//! searches beyond the given line.

use std::ops::Range;
use std::sync::LazyLock;

use regex_automata::meta::{BuildError, Regex};
use regex_automata::util::syntax;
use regex_syntax::hir::Hir;

use crate::line_text::LineText;
use crate::pattern_check;
use crate::pattern_cost::has_too_many_states;
use crate::wide_gap;

/// Bytes of a pattern's text. Chosen: the longest pattern seen in the field has 300.
pub const PATTERN_BYTES_MAX: usize = 4_096;

/// Bytes of one compiled pattern. Chosen: `\w{100}` in ASCII mode takes about 20 KiB.
pub const COMPILED_BYTES_MAX: usize = 1 << 20;

/// Bytes of the cache of states of a rule's own regex. Chosen: only candidate lines use it.
const OWN_CACHE_BYTES_MAX: usize = 256 << 10;

/// Nesting of groups. Chosen, not measured; the default of the crate `regex` is 250.
const NEST_MAX: u32 = 50;

/// A pattern with its text.
#[derive(Debug)]
pub struct Pattern {
    text: String,
    mode: Mode,
    /// Of a built-in pattern, parsed at its first use.
    hir: LazyLock<Hir, Parse>,
    /// Compiled at its first use: a process loads many packs and uses few of them.
    regex: LazyLock<Option<Regex>, Compile>,
}

/// Parses one pattern.
type Parse = Box<dyn FnOnce() -> Hir + Send + Sync>;

/// Compiles the regex of one pattern.
type Compile = Box<dyn FnOnce() -> Option<Regex> + Send + Sync>;

/// The meaning of character classes in a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bytes: `\w`, `\b` and `(?i)` know ASCII only.
    Ascii,
    /// The pattern is not valid in ASCII mode; with the reason.
    Unicode(String),
}

impl Pattern {
    /// Reads a pattern within the limits of this file, and refuses one that is useless in every line.
    ///
    /// # Errors
    /// The fault and its remedy, as a clause that follows the name of the rule.
    pub fn compile(text: &str) -> Result<Pattern, String> {
        let (mode, hir) = parse(text)?;
        let regex = build(&hir).map_err(|error| build_message(&error))?;
        pattern_check::check(&hir)?;
        if regex.is_match(b"") && regex.is_match(b"\x01") {
            return Err("matches every line; write what a matching line must contain".to_owned());
        }
        let (parsed, compiled): (Parse, Compile) = (Box::new(move || hir), Box::new(move || Some(regex)));
        let (hir, regex) = (LazyLock::new(parsed), LazyLock::new(compiled));
        let pattern = Pattern { text: text.to_owned(), mode, hir, regex };
        LazyLock::force(&pattern.regex);
        Ok(pattern)
    }

    /// Reads a pattern of a built-in pack, which a test parses and compiles. It is parsed and compiled when a rule set
    /// or a line needs it: every process holds all built-in packs.
    pub(crate) fn read(text: &str) -> Pattern {
        let (source, again) = (text.to_owned(), text.to_owned());
        let parsed: Parse = Box::new(move || parse(&source).map_or_else(|_| Hir::fail(), |(_, hir)| hir));
        let compiled: Compile = Box::new(move || parse(&again).ok().and_then(|(_, hir)| build(&hir).ok()));
        let (hir, regex) = (LazyLock::new(parsed), LazyLock::new(compiled));
        Pattern { text: text.to_owned(), mode: Mode::Ascii, hir, regex }
    }

    /// The text in the pack.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The mode in which it is valid.
    pub fn mode(&self) -> &Mode {
        &self.mode
    }

    /// Whether it has too many states to be matched together with others.
    pub(crate) fn is_slow(&self) -> bool {
        let piece = wide_gap::longest_piece(&self.hir);
        has_too_many_states(piece.as_ref().unwrap_or(&self.hir))
    }

    /// The parsed text.
    pub(crate) fn hir(&self) -> &Hir {
        &self.hir
    }

    /// Whether it matches anywhere in the line, or at the begin of one of its messages.
    pub(crate) fn is_match(&self, line: &LineText<'_>) -> bool {
        let Some(regex) = self.regex.as_ref() else { return false };
        regex.is_match(line.whole()) || line.at_messages().any(|(_, input)| regex.is_match(input))
    }

    /// The bytes of its matches in the line: those of the whole line, which do not overlap each other, and those at the
    /// begin of a message.
    pub(crate) fn matches_in(&self, line: &LineText<'_>) -> impl Iterator<Item = Range<usize>> {
        let regex = self.regex.as_ref();
        let whole = regex.into_iter().flat_map(|regex| regex.find_iter(line.whole())).map(|found| found.range());
        let at_messages = regex
            .into_iter()
            .flat_map(|regex| line.at_messages().filter_map(|(at, input)| Some((at, regex.find(input)?))));
        whole.chain(at_messages.map(|(at, found)| at + found.start()..at + found.end()))
    }
}

fn parse(text: &str) -> Result<(Mode, Hir), String> {
    if text.len() > PATTERN_BYTES_MAX {
        return Err(format!("is longer than {PATTERN_BYTES_MAX} bytes; split it into several rules"));
    }
    let (mode, hir) = match syntax::parse_with(text, &syntax_of(false)) {
        Ok(hir) => (Mode::Ascii, hir),
        Err(ascii) => match syntax::parse_with(text, &syntax_of(true)) {
            Ok(hir) => (Mode::Unicode(sentence(&ascii.to_string())), hir),
            Err(error) => return Err(syntax_message(&error.to_string())),
        },
    };
    if hir.properties().look_set().contains_word_unicode() {
        return Err("needs Unicode word boundaries, which do not run in linear time; write (?-u:\\b)".to_owned());
    }
    Ok((mode, hir))
}

fn syntax_of(unicode: bool) -> syntax::Config {
    syntax::Config::new().unicode(unicode).utf8(false).multi_line(true).crlf(true).nest_limit(NEST_MAX)
}

fn build(hir: &Hir) -> Result<Regex, Box<BuildError>> {
    let config = Regex::config()
        .utf8_empty(false)
        .nfa_size_limit(Some(COMPILED_BYTES_MAX))
        .hybrid_cache_capacity(OWN_CACHE_BYTES_MAX);
    Regex::builder().configure(config).build_from_hir(hir).map_err(Box::new)
}

fn build_message(error: &BuildError) -> String {
    match error.size_limit() {
        Some(_) => format!("takes more than {} KiB compiled; write smaller repetitions", COMPILED_BYTES_MAX >> 10),
        None => syntax_message(&error.to_string()),
    }
}

fn syntax_message(drawn: &str) -> String {
    let why = sentence(drawn);
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

/// The last line of the parser's multi-line error.
fn sentence(drawn: &str) -> String {
    let last = drawn.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    last.trim().trim_start_matches("error: ").trim_end_matches('.').to_owned()
}
