//! One rule pack: reads its TOML, compiles its patterns, and returns all its faults. Called by [`crate::Packs`]. Never
//! does I/O: the caller passes the text.
//!
//! Patterns have the syntax of the crate `regex` (linear time, no look-around), over bytes, in ASCII mode, one line at
//! a time. `^` and `$` also match at a carriage return, as on a screen: a rule sees each state of a progress bar, and
//! `$` matches before CR LF. `^` also matches where a line's message begins (`message_begin.rs`).

use std::collections::BTreeMap;

use domain::document::{Document, Section};
use domain::fault::{Fault, Faults};
use domain::glob;

use crate::programs::Program;
use crate::replay::counts_in;
use crate::rule::rule_of;
pub use crate::rule::{Expectation, Rule, StreamChoice};

/// Rules in one pack. Chosen: twice the number whose automaton fits its cache.
pub const RULES_PER_PACK_MAX: usize = 2_000;

/// Bytes of the name of a pack or the id of a rule. Chosen: both are in every report.
pub const NAME_BYTES_MAX: usize = 100;

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
    /// Programs that write data to standard output, so that only standard error of theirs is judged. `None`: the file
    /// has no such key.
    pub data_stdout: Option<Vec<DataProgram>>,
    /// In the order of the file.
    pub rules: Vec<Rule>,
}

/// A program that writes data to standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataProgram {
    /// Glob of its file name.
    program: String,
    /// Globs, each of which must match one of its arguments. `-c` matches any group of short options with a `c`.
    words: Vec<String>,
}

impl DataProgram {
    fn read(entry: &str) -> Option<DataProgram> {
        let mut words = entry.split_ascii_whitespace().map(str::to_owned);
        let program = words.next().filter(|program| !program.contains('/'))?;
        Some(DataProgram { program, words: words.collect() })
    }

    /// As in the file.
    pub(crate) fn text(&self) -> String {
        std::iter::once(&self.program).chain(&self.words).cloned().collect::<Vec<_>>().join(" ")
    }

    /// Whether the program runs with these words.
    pub(crate) fn matches(&self, program: &Program) -> bool {
        let is_given = |wanted: &String| {
            program.arguments.iter().enumerate().any(|(place, word)| {
                // The first word of `tar czf x` is a group of options.
                let is_group = place == 0 && program.name.ends_with("tar") && !word.starts_with('-');
                is_word(wanted, word, is_group)
            })
        };
        glob::matches(&self.program, &program.name) && self.words.iter().all(is_given)
    }
}

/// Whether the word of a command is the wanted one: by its glob, as `--option=value`, or as one of several letters.
fn is_word(wanted: &str, word: &str, is_group: bool) -> bool {
    let letters = if is_group { Some(word) } else { word.strip_prefix('-').filter(|rest| !rest.starts_with('-')) };
    let letter = wanted.strip_prefix('-').filter(|rest| rest.len() == 1 && rest.as_bytes()[0].is_ascii_alphanumeric());
    let has_letter = letter.zip(letters).is_some_and(|(letter, letters)| letters.contains(letter));
    let option = word.split_once('=').map_or(word, |(option, _)| option);
    has_letter || glob::matches(wanted, word) || (wanted.starts_with("--") && glob::matches(wanted, option))
}

/// Who wrote a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A test has compiled its patterns, so a process compiles only those that it needs.
    BuiltIn,
    /// All patterns are compiled when the pack is read, so that all faults are found.
    User,
}

impl Pack {
    /// Reads a pack, with its warnings. `file` appears in faults only.
    ///
    /// # Errors
    /// All faults and warnings of the file, each with its line.
    pub fn read(file: &str, text: &str) -> Result<(Pack, Faults), Faults> {
        Pack::read_from(file, text, Origin::User)
    }

    /// As [`Pack::read`], for a pack of this origin.
    pub(crate) fn read_from(file: &str, text: &str, origin: Origin) -> Result<(Pack, Faults), Faults> {
        let (document, mut root) = Document::parse(file, text)?;
        let name = name_of(&mut root, "name");
        let description = root.text("description").unwrap_or_default();
        let suggest = suggest_of(&mut root);
        let data_stdout = data_stdout_of(&mut root);
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
            let Some(rule) = rule_of(section, origin) else { continue };
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
                Ok((Pack { name, description, file: file.to_owned(), suggest, data_stdout, rules }, faults))
            }
            _ => Err(faults),
        }
    }

    /// Tests the pack's own examples: a rule must match each of its `matches` and none of its `ignores`.
    pub fn check_examples(&self) -> Faults {
        let mut faults = Vec::new();
        for rule in &self.rules {
            let wrong = |example: &String, message: &str| {
                Fault::new(&self.file, rule.line, example.replace('\n', "\\n"), format!("rule `{}` {message}", rule.id))
            };
            let matches = rule.matches.iter().filter(|example| !counts_in(rule, example));
            faults.extend(matches.map(|example| wrong(example, "does not match its own example; fix one of the two")));
            let ignores = rule.ignores.iter().filter(|example| counts_in(rule, example));
            faults.extend(ignores.map(|example| wrong(example, "matches a line of its `ignores`; fix one of the two")));
        }
        Faults(faults)
    }
}

/// Reads the name of a pack or the id of a rule.
pub(crate) fn name_of(section: &mut Section, key: &'static str) -> Option<String> {
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

fn data_stdout_of(root: &mut Section) -> Option<Vec<DataProgram>> {
    let line = root.line_of("data_stdout");
    let entries = root.texts("data_stdout")?;
    let mut programs = Vec::with_capacity(entries.len());
    for entry in &entries {
        match DataProgram::read(entry) {
            Some(program) => programs.push(program),
            None => root.fault(
                line,
                entry.as_str(),
                "not a program with words of its command; write its file name without a path, like \"git log\"",
            ),
        }
    }
    Some(programs)
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
