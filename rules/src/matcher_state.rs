//! The stored form of a matcher. The runner writes it next to its cursor, and later builds read it: fields are only
//! added, with defaults.

use domain::line::Stream;
use serde::{Deserialize, Serialize};

/// The stored state of a matcher, as JSON. Small: it has only rules with matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatcherState {
    /// [`crate::RuleSet::digest`] of the rules.
    pub digest: String,
    /// `seq` of the next line to match; 0 in the state of a new matcher.
    pub next_seq: u64,
    /// Lines that left the spool before they were matched.
    #[serde(default)]
    pub unseen_lines: u64,
    /// Bytes that the slow patterns of the rules have read.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub slow_bytes: u64,
    /// One entry for each rule with matches.
    pub found: Vec<MatchCount>,
    /// Matches that wait for the `then` of their rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<WaitingMatch>,
    /// Lines that the spool cut and whose last part is not matched yet; at most one of each stream.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open_lines: Vec<StoredOpenLine>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The matches of one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatchCount {
    /// Name of the rule's pack.
    pub pack: String,
    /// Id of the rule.
    pub rule: String,
    /// Matching lines.
    pub count: u64,
    /// `seq` of the first one.
    pub first_seq: u64,
    /// Its text, cut to [`crate::matcher::FIRST_LINE_BYTES_MAX`].
    pub first_line: String,
}

/// A match that counts only if a later line matches the `then` of its rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingMatch {
    /// Name of the rule's pack.
    pub pack: String,
    /// Id of the rule.
    pub rule: String,
    /// Stream of the line.
    pub stream: Stream,
    /// Lines of the stream in which `then` can still match.
    pub left: u32,
    /// `seq` of the line.
    pub seq: u64,
    /// Its text, cut as in [`MatchCount`].
    pub line: String,
}

/// A line whose first parts are matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredOpenLine {
    /// Stream of the line.
    pub stream: Stream,
    /// The last bytes of the parts so far, each byte as the character with its number.
    pub tail: String,
    /// Whether `tail` lacks the begin of the line.
    pub is_cut: bool,
    /// Whether it is a trace of a shell, which counts for no rule.
    pub is_trace: bool,
    /// The rules whose patterns its parts match.
    pub marks: Vec<StoredMark>,
}

/// A pattern of a rule that a part of an open line matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMark {
    /// Name of the rule's pack.
    pub pack: String,
    /// Id of the rule.
    pub rule: String,
    /// Which of its patterns.
    pub key: MarkKey,
    /// `seq` of the part.
    pub seq: u64,
    /// Its text, cut as in [`MatchCount`]; empty where it is not needed.
    pub line: String,
}

/// A key of a rule that has a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkKey {
    /// `cleared_by`.
    ClearedBy,
    /// `then`.
    Then,
    /// `unless`.
    Unless,
    /// `pattern` or `require`.
    Pattern,
}
