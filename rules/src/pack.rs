//! One rule pack: reads its TOML, compiles its patterns, and says every fault of it at once.
//!
//! Called through [`crate::Packs`]. Never does I/O: the caller hands over the text.
//!
//! Patterns are those of the crate `regex` (linear time, no look-around) over bytes, in ASCII mode, against one line at
//! a time. A carriage return ends a line for `^` and `$`, as it does on a screen: so a rule sees each state of a
//! progress bar, and the line ends of Windows do not get in the way of `$`. Colour codes are not taken out before.

use std::collections::BTreeMap;

use domain::document::{Document, Section};
use domain::fault::{Fault, Faults};
use domain::run::Severity;

use crate::pattern::{Mode, Pattern};

/// Rules in one pack. Ours; the automaton of 1000 rules still fits its cache.
pub const RULES_PER_PACK_MAX: usize = 2_000;

/// Bytes of a pack's or a rule's name. Ours; they stand in every report.
pub const NAME_BYTES_MAX: usize = 100;

/// Lines that a rule may want before it counts. Ours.
pub const AT_LEAST_MAX: i64 = 1_000_000_000;

/// Bytes of `explain`. Ours; it stands in the reason of a run, hence in mails.
pub const EXPLAIN_BYTES_MAX: usize = 500;

/// A set of rules with a name, as one file holds it.
#[derive(Debug)]
pub struct Pack {
    pub name: String,
    pub description: String,
    /// Where it was read, as the user named it; `built-in` for ours.
    pub file: String,
    /// Program names for which `auto` takes this pack; `*` stands for any text, `?` for one character.
    pub suggest: Vec<String>,
    pub rules: Vec<Rule>,
}

/// What one line of output, or its absence, says about a run.
#[derive(Debug)]
pub struct Rule {
    pub id: String,
    pub expectation: Expectation,
    pub pattern: Pattern,
    /// A line that matches this too does not count.
    pub unless: Option<Pattern>,
    pub stream: StreamChoice,
    /// Lines that must match before the rule says anything (or, with [`Expectation::Match`], before it is content).
    pub at_least: u64,
    pub severity: Severity,
    /// What a match means, one sentence for people; may be empty.
    pub explain: String,
    pub matches: Vec<String>,
    pub ignores: Vec<String>,
    /// 1-based line of the rule in its file.
    pub line: u32,
}

/// Which way round a rule accuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// `pattern`: a run in whose output the pattern stands is bad.
    NoMatch,
    /// `require`: a run in whose output the pattern never stands is bad.
    Match,
}

/// Which lines a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamChoice {
    Any,
    Stdout,
    Stderr,
}

impl Rule {
    /// Whether the line counts for this rule, its stream aside.
    pub fn matches(&self, line: &[u8]) -> bool {
        self.pattern.is_match(line) && !self.is_excluded(line)
    }

    /// Whether `unless` takes the line out.
    pub fn is_excluded(&self, line: &[u8]) -> bool {
        self.unless.as_ref().is_some_and(|unless| unless.is_match(line))
    }
}

impl Pack {
    /// Reads a pack. `file` is only named in faults. With the pack come its warnings.
    ///
    /// # Errors
    /// Every fault of the file (and its warnings), each with its line.
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
                let message = format!("this id stands at line {first} already; give each rule its own");
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

    /// Tries the pack's own examples: each of `matches` must match its rule, none of `ignores` may.
    pub fn check_examples(&self) -> Faults {
        let mut faults = Vec::new();
        for rule in &self.rules {
            let wrong = |example: &String, message: &str| {
                Fault::new(&self.file, rule.line, example.as_str(), format!("rule `{}` {message}", rule.id))
            };
            let matches = rule.matches.iter().filter(|example| !rule.matches(example.as_bytes()));
            faults.extend(matches.map(|example| wrong(example, "does not match its own example; mend one of the two")));
            let ignores = rule.ignores.iter().filter(|example| rule.matches(example.as_bytes()));
            faults.extend(
                ignores.map(|example| wrong(example, "matches a line that its `ignores` names; mend one of the two")),
            );
        }
        Faults(faults)
    }
}

/// A name that people write in lists and see in reports.
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
        section.fault(line, name, "the name `auto` is kept for the choice by command; call the pack something else");
        return None;
    }
    Some(name)
}

fn suggest_of(root: &mut Section) -> Vec<String> {
    let line = root.line_of("suggest");
    let suggest = root.texts("suggest").unwrap_or_default();
    for name in suggest.iter().filter(|name| name.is_empty() || name.contains('/')) {
        root.fault(
            line,
            name.as_str(),
            "not the name of a program; write its last part without a path, like \"python*\"",
        );
    }
    suggest
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
            section.fault(section.line(), rule, "has both `pattern` and `require`; make two rules of it");
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
                    "`{key}` of {rule} is matched in Unicode mode, which is slower, because it does not read in ASCII \
                     mode ({why}); write ASCII classes where they will do"
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
