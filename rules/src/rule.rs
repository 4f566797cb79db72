//! One rule of a pack: its keys, and whether a line counts for it. Read from TOML by [`crate::pack`]; used by the
//! matcher, the judge and the examples of packs. Never counts lines itself.

use std::ops::Range;
use std::sync::Arc;

use domain::document::Section;
use domain::fault::Fault;
use domain::glob;
use domain::run::Severity;

use crate::line_text::{LineReader, LineText};
use crate::matcher::SLOW_BYTES_MAX;
use crate::pack::{Origin, name_of};
use crate::pattern::{Mode, Pattern};

/// Largest `at_least` and `at_most`. Chosen, not measured.
pub const AT_LEAST_MAX: i64 = 1_000_000_000;

/// Largest `within`. Chosen: as many matches of one rule wait for their next lines.
pub const WITHIN_MAX: i64 = 100;

/// Bytes of `explain`. Chosen: it is a part of reasons, which are in mails.
pub const EXPLAIN_BYTES_MAX: usize = 500;

/// A pattern that a run's output must not match, or must match.
#[derive(Debug)]
pub struct Rule {
    /// Unique in its pack.
    pub id: String,
    /// Whether a match or its absence is the hit.
    pub expectation: Expectation,
    /// `pattern` or `require`.
    pub pattern: Arc<Pattern>,
    /// A line that also matches this does not count.
    pub unless: Option<Arc<Pattern>>,
    /// A match that a match of this overlaps does not count; the line's other matches do.
    pub unless_here: Option<Arc<Pattern>>,
    /// A later line of either stream that matches this cancels all earlier matches.
    pub cleared_by: Option<Arc<Pattern>>,
    /// A match counts only when one of the next lines of its stream matches this.
    pub then: Option<Then>,
    /// Globs of words. The rule applies only to commands with one of them; empty: to every command.
    pub if_word: Vec<String>,
    /// Globs of words. The rule does not apply to commands with one of them.
    pub unless_word: Vec<String>,
    /// Lines of other streams do not count.
    pub stream: StreamChoice,
    /// With `at_most`, the number of matching lines for which the rule is a hit; with [`Expectation::Match`], for which
    /// it is not. From 1.
    pub at_least: u64,
    /// Absent: any number from `at_least` on.
    pub at_most: Option<u64>,
    /// The effect of a hit.
    pub severity: Severity,
    /// What a match means, one sentence for people; may be empty.
    pub explain: String,
    /// Example texts that the rule must match; more than one line where the rule needs them.
    pub matches: Vec<String>,
    /// Example texts that the rule must not match.
    pub ignores: Vec<String>,
    /// 1-based line of the rule in its file.
    pub line: u32,
}

/// Whether a match is a hit, or its absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// `pattern`: matching lines are the hit.
    NoMatch,
    /// `require`: the absence of matching lines is the hit.
    Match,
}

/// The streams whose lines count for a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamChoice {
    /// Both.
    Any,
    /// Standard output only.
    Stdout,
    /// Standard error only.
    Stderr,
}

/// What must follow a match.
#[derive(Clone, Debug)]
pub struct Then {
    /// Of the following line.
    pub pattern: Arc<Pattern>,
    /// The number of following lines of the same stream, from 1.
    pub within: u32,
}

impl Rule {
    /// Whether the line, without its line feed, matches the rule on any stream. Other lines of `cleared_by` and `then`
    /// are not considered.
    pub fn matches(&self, line: &[u8]) -> bool {
        let mut reader = LineReader::default();
        let line = reader.read(line);
        !line.is_trace() && self.match_in(&line).is_some() && !self.is_excluded(&line)
    }

    /// Whether the rule applies to a command with these words.
    pub(crate) fn applies_to(&self, words: &[&str]) -> bool {
        let has = |globs: &[String]| globs.iter().any(|wild| words.iter().any(|word| glob::matches(wild, word)));
        (self.if_word.is_empty() || has(&self.if_word)) && !has(&self.unless_word)
    }

    /// The first match in the line that `unless_here` does not exclude. `unless` is not considered.
    pub(crate) fn match_in(&self, line: &LineText<'_>) -> Option<Range<usize>> {
        let Some(unless) = &self.unless_here else { return self.pattern.matches_in(line).next() };
        let mut excluded: Option<Vec<Range<usize>>> = None;
        self.pattern.matches_in(line).find(|found| {
            let excluded = excluded.get_or_insert_with(|| unless.matches_in(line).collect());
            !excluded.iter().any(|other| overlap(found, other))
        })
    }

    /// Whether `unless` excludes the line.
    pub(crate) fn is_excluded(&self, line: &LineText<'_>) -> bool {
        self.unless.as_ref().is_some_and(|unless| unless.is_match(line))
    }

    /// Whether this number of matching lines makes the rule a hit.
    pub(crate) fn is_hit(&self, count: u64) -> bool {
        let is_counted = count >= self.at_least && self.at_most.is_none_or(|most| count <= most);
        match self.expectation {
            Expectation::NoMatch => is_counted,
            Expectation::Match => !is_counted,
        }
    }

    /// Whether the line cancels earlier matches.
    pub(crate) fn clears(&self, line: &[u8]) -> bool {
        let mut reader = LineReader::default();
        let line = reader.read(line);
        !line.is_trace() && self.cleared_by.as_ref().is_some_and(|cleared_by| cleared_by.is_match(&line))
    }
}

/// Whether two matches have a byte in common, or an empty one is at or in the other.
fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    match one.is_empty() || other.is_empty() {
        true => one.start <= other.end && other.start <= one.end,
        false => one.start < other.end && other.start < one.end,
    }
}

/// Reads one `[[rule]]`.
pub(crate) fn rule_of(mut section: Section, origin: Origin) -> Option<Rule> {
    let line = section.line();
    let id = name_of(&mut section, "id");
    let shown = id.clone().unwrap_or_else(|| "this rule".to_owned());
    let mut read = |key: &'static str| pattern_of(&mut section, key, &shown, origin);
    let (unless, unless_here, cleared_by) = (read("unless"), read("unless_here"), read("cleared_by"));
    let condition = condition_of(&mut section, &shown, origin);
    let then = then_of(&mut section, &shown, origin);
    let stream = section
        .choice(
            "stream",
            &[("any", StreamChoice::Any), ("stdout", StreamChoice::Stdout), ("stderr", StreamChoice::Stderr)],
        )
        .unwrap_or(StreamChoice::Any);
    let (if_word, unless_word) = (words_of(&mut section, "if_word"), words_of(&mut section, "unless_word"));
    let (at_least, at_most) = counts_of(&mut section, &shown);
    let severity =
        section.choice("severity", &[("fail", Severity::Fail), ("warn", Severity::Warn)]).unwrap_or(Severity::Fail);
    let explain = explain_of(&mut section);
    let matches = section.texts("matches").unwrap_or_default();
    let ignores = section.texts("ignores").unwrap_or_default();
    section.reject_unknown_keys();
    let (expectation, pattern) = condition?;
    Some(Rule {
        id: id?,
        expectation,
        pattern,
        unless,
        unless_here,
        cleared_by,
        then,
        if_word,
        unless_word,
        stream,
        at_least,
        at_most,
        severity,
        explain,
        matches,
        ignores,
        line,
    })
}

fn condition_of(section: &mut Section, rule: &str, origin: Origin) -> Option<(Expectation, Arc<Pattern>)> {
    let (has_pattern, has_require) = (section.has_unread("pattern"), section.has_unread("require"));
    let pattern = pattern_of(section, "pattern", rule, origin);
    let require = pattern_of(section, "require", rule, origin);
    match (has_pattern, has_require) {
        (true, false) => pattern.map(|pattern| (Expectation::NoMatch, pattern)),
        (false, true) => require.map(|pattern| (Expectation::Match, pattern)),
        (true, true) => {
            section.fault(section.line(), rule, "has both `pattern` and `require`; make it two rules");
            None
        }
        (false, false) => {
            section.fault(section.line(), rule, "has neither `pattern` nor `require`; write pattern = '...'");
            None
        }
    }
}

fn then_of(section: &mut Section, rule: &str, origin: Origin) -> Option<Then> {
    let (has_then, has_within) = (section.has_unread("then"), section.has_unread("within"));
    let line = section.line_of(if has_then { "then" } else { "within" });
    let pattern = pattern_of(section, "then", rule, origin);
    let within = section.integer("within", 1..=WITHIN_MAX);
    match (has_then, has_within) {
        (true, false) => section.fault(line, rule, "has `then` without `within`; write within = 1 for the next line"),
        (false, true) => section.fault(line, rule, "has `within` without `then`; write then = '...'"),
        _ => {}
    }
    Some(Then { pattern: pattern?, within: u32::try_from(within?).ok()? })
}

fn words_of(section: &mut Section, key: &'static str) -> Vec<String> {
    let line = section.line_of(key);
    let words = section.texts(key).unwrap_or_default();
    for word in words.iter().filter(|word| word.is_empty() || word.contains(char::is_whitespace)) {
        section.fault(line, word.as_str(), "not one word of a command; write it without blanks, like \"--retry*\"");
    }
    words
}

fn counts_of(section: &mut Section, rule: &str) -> (u64, Option<u64>) {
    let line = section.line_of("at_most");
    let at_least = section.integer("at_least", 1..=AT_LEAST_MAX).map_or(1, i64::unsigned_abs);
    let at_most = section.integer("at_most", 1..=AT_LEAST_MAX).map(i64::unsigned_abs);
    if at_most.is_some_and(|most| most < at_least) {
        section.fault(line, rule, "has an `at_most` below its `at_least`, so that no number of lines is between them");
    }
    (at_least, at_most)
}

fn pattern_of(section: &mut Section, key: &'static str, rule: &str, origin: Origin) -> Option<Arc<Pattern>> {
    let (line, text) = section.text_at(key)?;
    let read = match origin {
        Origin::BuiltIn => Ok(Pattern::read(&text)),
        Origin::User => Pattern::compile(&text),
    };
    match read {
        Ok(pattern) => {
            if let Mode::Unicode(why) = pattern.mode() {
                let message = format!(
                    "`{key}` of {rule} is matched in Unicode mode, which is slower, because it is not valid in ASCII \
                     mode ({why}); write ASCII classes where they are enough"
                );
                section.document().push(Fault::warning(section.document().file(), line, text, message));
            }
            if origin == Origin::User && pattern.is_slow() {
                let message = format!(
                    "`{key}` of {rule} has a state for each combination of characters, so it is matched by itself, and \
                     only in the first {} MiB of a run's output; write a smaller repetition",
                    SLOW_BYTES_MAX >> 20
                );
                let file = section.document().file();
                section.document().push(Fault::warning(file, line, pattern.text(), message));
            }
            Some(Arc::new(pattern))
        }
        Err(message) => {
            section.fault(line, text, format!("`{key}` of {rule} {message}"));
            None
        }
    }
}

fn explain_of(section: &mut Section) -> String {
    let Some((line, explain)) = section.text_at("explain") else { return String::new() };
    if explain.len() > EXPLAIN_BYTES_MAX || explain.contains(char::is_control) {
        let message =
            format!("`explain` is longer than {EXPLAIN_BYTES_MAX} bytes or more than one line; write one sentence");
        section.fault(line, explain, message);
        return String::new();
    }
    explain
}
