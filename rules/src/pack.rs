//! One rule pack: reads its TOML, compiles its patterns, and returns all its faults. Called by [`crate::Packs`]. Never
//! does I/O: the caller passes the text.
//!
//! Patterns have the syntax of the crate `regex` (linear time, no look-around), over bytes, in ASCII mode, one line at
//! a time. `^` and `$` also match at a carriage return, as on a screen: a rule sees each state of a progress bar, and
//! `$` matches before CR LF. Colour codes are not removed before.

use std::collections::BTreeMap;

use domain::document::{Document, Section};
use domain::fault::{Fault, Faults};
use domain::run::Severity;

use crate::pattern::{Mode, Pattern};

/// Rules in one pack. Chosen: twice the number whose automaton fits its cache.
pub const RULES_PER_PACK_MAX: usize = 2_000;

/// Bytes of the name of a pack or the id of a rule. Chosen: both are in every report.
pub const NAME_BYTES_MAX: usize = 100;

/// Largest `at_least`. Chosen, not measured.
pub const AT_LEAST_MAX: i64 = 1_000_000_000;

/// Bytes of `explain`. Chosen: it is a part of reasons, which are in mails.
pub const EXPLAIN_BYTES_MAX: usize = 500;

/// The rules of one file.
#[derive(Debug)]
pub struct Pack {
    /// At most [`NAME_BYTES_MAX`] letters, digits, dots, dashes and underscores.
    pub name: String,
    /// Free text for people; may be empty.
    pub description: String,
    /// The file as the user named it; [`crate::packs::BUILT_IN`] for a built-in pack.
    pub file: String,
    /// Globs ([`domain::glob`]) of program names for which `auto` includes this pack. `None`: for every program, where
    /// the pack is not built in.
    pub suggest: Option<Vec<String>>,
    /// In the order of the file.
    pub rules: Vec<Rule>,
}

/// A pattern that a run's output must not match, or must match.
#[derive(Debug)]
pub struct Rule {
    /// Unique in its pack.
    pub id: String,
    /// Whether a match or its absence is the hit.
    pub expectation: Expectation,
    /// `pattern` or `require`.
    pub pattern: Pattern,
    /// A line that also matches this does not count.
    pub unless: Option<Pattern>,
    /// Lines of other streams do not count.
    pub stream: StreamChoice,
    /// Matching lines from which on the rule is a hit; with [`Expectation::Match`], from which on it is not. From 1.
    pub at_least: u64,
    /// The effect of a hit.
    pub severity: Severity,
    /// What a match means, one sentence for people; may be empty.
    pub explain: String,
    /// Example lines that the rule must match.
    pub matches: Vec<String>,
    /// Example lines that the rule must not match.
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

impl Rule {
    /// Whether the line counts for this rule, on any stream.
    pub fn matches(&self, line: &[u8]) -> bool {
        self.pattern.is_match(line) && !self.is_excluded(line)
    }

    /// Whether `unless` excludes the line.
    pub fn is_excluded(&self, line: &[u8]) -> bool {
        self.unless.as_ref().is_some_and(|unless| unless.is_match(line))
    }
}

impl Pack {
    /// Reads a pack, with its warnings. `file` appears in faults only.
    ///
    /// # Errors
    /// All faults and warnings of the file, each with its line.
    pub fn read(file: &str, text: &str) -> Result<(Pack, Faults), Faults> {
        let (document, mut root) = Document::parse(file, text)?;
        let name = name_of(&mut root, "name");
        let description = root.text("description").unwrap_or_default();
        let suggest = suggest_of(&mut root);
        let sections = root.sections("rule");
        if sections.len() > RULES_PER_PACK_MAX {
            let message = format!("more than {RULES_PER_PACK_MAX} rules in one pack; split the pack");
            root.fault(root.line(), sections.len().to_string(), message);
        } else if sections.is_empty() {
            root.fault(root.line(), "", "the pack has no rule; write at least one [[rule]]");
        }
        let mut rules: Vec<Rule> = Vec::with_capacity(sections.len().min(RULES_PER_PACK_MAX));
        let mut lines: BTreeMap<String, u32> = BTreeMap::new();
        for section in sections.into_iter().take(RULES_PER_PACK_MAX) {
            let line = section.line();
            let Some(rule) = rule_of(section) else { continue };
            if let Some(first) = lines.insert(rule.id.clone(), line) {
                let message = format!("line {first} already has a rule with this id; give each rule its own id");
                document.push(Fault::new(file, line, rule.id.as_str(), message));
            }
            rules.push(rule);
        }
        root.reject_unknown_keys();
        let faults = document.faults();
        match name {
            Some(name) if !faults.has_faults() => {
                Ok((Pack { name, description, file: file.to_owned(), suggest, rules }, faults))
            }
            _ => Err(faults),
        }
    }

    /// Tests the pack's own examples: a rule must match each of its `matches` and none of its `ignores`.
    pub fn check_examples(&self) -> Faults {
        let mut faults = Vec::new();
        for rule in &self.rules {
            let wrong = |example: &String, message: &str| {
                Fault::new(&self.file, rule.line, example.as_str(), format!("rule `{}` {message}", rule.id))
            };
            let matches = rule.matches.iter().filter(|example| !rule.matches(example.as_bytes()));
            faults.extend(matches.map(|example| wrong(example, "does not match its own example; fix one of the two")));
            let ignores = rule.ignores.iter().filter(|example| rule.matches(example.as_bytes()));
            faults.extend(ignores.map(|example| wrong(example, "matches a line of its `ignores`; fix one of the two")));
        }
        Faults(faults)
    }
}

/// Reads the name of a pack or the id of a rule.
fn name_of(section: &mut Section, key: &'static str) -> Option<String> {
    let line = section.line_of(key);
    let name = section.required_text(key)?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(legal) {
        let message = format!("not a name; write 1 to {NAME_BYTES_MAX} letters, digits, dots, dashes or underscores");
        section.fault(line, name, message);
        return None;
    }
    if key == "name" && name == crate::pack_choice::AUTO {
        section.fault(line, name, "`auto` is reserved for the choice by command; give the pack another name");
        return None;
    }
    Some(name)
}

fn suggest_of(root: &mut Section) -> Option<Vec<String>> {
    let line = root.line_of("suggest");
    let suggest = root.texts("suggest")?;
    for name in suggest.iter().filter(|name| name.is_empty() || name.contains('/')) {
        root.fault(
            line,
            name.as_str(),
            "not the name of a program; write its file name without a path, like \"python*\"",
        );
    }
    Some(suggest)
}

fn rule_of(mut section: Section) -> Option<Rule> {
    let line = section.line();
    let id = name_of(&mut section, "id");
    let shown = id.clone().unwrap_or_else(|| "this rule".to_owned());
    let condition = condition_of(&mut section, &shown);
    let unless = pattern_of(&mut section, "unless", &shown);
    let stream = section
        .choice(
            "stream",
            &[("any", StreamChoice::Any), ("stdout", StreamChoice::Stdout), ("stderr", StreamChoice::Stderr)],
        )
        .unwrap_or(StreamChoice::Any);
    let at_least = section.integer("at_least", 1..=AT_LEAST_MAX).map_or(1, i64::unsigned_abs);
    let severity =
        section.choice("severity", &[("fail", Severity::Fail), ("warn", Severity::Warn)]).unwrap_or(Severity::Fail);
    let explain = explain_of(&mut section);
    let matches = section.texts("matches").unwrap_or_default();
    let ignores = section.texts("ignores").unwrap_or_default();
    section.reject_unknown_keys();
    let (expectation, pattern) = condition?;
    Some(Rule { id: id?, expectation, pattern, unless, stream, at_least, severity, explain, matches, ignores, line })
}

fn condition_of(section: &mut Section, rule: &str) -> Option<(Expectation, Pattern)> {
    let (has_pattern, has_require) = (section.has_unread("pattern"), section.has_unread("require"));
    let pattern = pattern_of(section, "pattern", rule);
    let require = pattern_of(section, "require", rule);
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

fn pattern_of(section: &mut Section, key: &'static str, rule: &str) -> Option<Pattern> {
    let (line, text) = section.text_at(key)?;
    match Pattern::compile(&text) {
        Ok(pattern) => {
            if let Mode::Unicode(why) = pattern.mode() {
                let message = format!(
                    "`{key}` of {rule} is matched in Unicode mode, which is slower, because it is not valid in ASCII \
                     mode ({why}); write ASCII classes where they are enough"
                );
                section.document().push(Fault::warning(section.document().file(), line, text, message));
            }
            Some(pattern)
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
