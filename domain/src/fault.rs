//! Faults: defects of files and arguments, each with its place and the remedy.
//!
//! Readers of crontabs, jobs, sinks, rules and configuration collect faults and return all of them. Nothing here
//! prints.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The effect of a fault on its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The file is refused.
    Fault,
    /// The file is valid, but may not do what its author expects.
    Warning,
}

/// One fault: its place, the text there, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Whether the file is refused.
    pub level: Level,
    /// The file as the user named it; empty for an argument.
    pub file: String,
    /// 1-based; 0 when the line is unknown.
    pub line: u32,
    /// The faulty text.
    pub value: String,
    /// One lower-case sentence: what is wrong and what to write instead.
    pub message: String,
}

impl Fault {
    /// A fault that refuses the file.
    pub fn new(file: &str, line: u32, value: impl Into<String>, message: impl Into<String>) -> Fault {
        Fault { level: Level::Fault, file: file.to_owned(), line, value: value.into(), message: message.into() }
    }

    /// A warning.
    pub fn warning(file: &str, line: u32, value: impl Into<String>, message: impl Into<String>) -> Fault {
        Fault { level: Level::Warning, ..Fault::new(file, line, value, message) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}:", self.file)?;
            if self.line > 0 {
                write!(f, "{}:", self.line)?;
            }
            f.write_str(" ")?;
        }
        if self.level == Level::Warning {
            f.write_str("warning: ")?;
        }
        if !self.value.is_empty() {
            write!(f, "`{}`: ", self.value)?;
        }
        f.write_str(&self.message)
    }
}

/// All faults of one reading; displayed one per line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// Whether any of them refuses the file; warnings do not.
    pub fn has_faults(&self) -> bool {
        self.0.iter().any(|fault| fault.level == Level::Fault)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// The known name nearest to `name`, if the difference can be a typing error: at most 1 edit, plus 1 per 3 characters.
pub fn nearest_name<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().max(name.len()) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
