//! Finds false successes: runs that exit with a success code although their output shows a failure. Rule packs name the
//! lines that show it, a streaming matcher finds them, and the judge computes the outcome and its reason. Used by
//! `runner`, `services` and `sexton rules`.
//!
//! | item | purpose |
//! |---|---|
//! | [`Packs`], [`Pack`], [`Rule`] | the built-in rule packs and those of the user, read from TOML |
//! | [`choose_packs`] | the packs of a job, by name or by its command; and the unknown names |
//! | [`RuleSet`] | the compiled rules of several packs, shared by all their users |
//! | [`Matcher`], [`MatcherState`] | counts matching lines of one attempt; resumes after a restart |
//! | [`judge()`], [`judge_report`], [`Verdict`] | outcome and reason, from exit and hits |
//! | [`test_run()`] | all of it over plain text, for `sexton rules test` |
//!
//! Does this line show that the command failed?
//!
//! ```
//! use std::time::Duration;
//! use rules::{ExitFacts, Limits, Packs, RuleSet, test_run};
//!
//! let rules = RuleSet::compile(&Packs::builtin(), &["shell".to_owned()])?;
//! let output = "backup.sh: line 3: pg_dump: command not found\n";
//! let summary = test_run(&rules, output.as_bytes(), |found| assert_eq!(found.line, 1))?;
//! assert_eq!(summary.verdict.outcome.name(), "false_success");
//!
//! // Without a matching line, exit code 0 is a success.
//! let verdict = rules::judge(&ExitFacts::exited(0, Duration::from_secs(1)), &Limits::DEFAULT, &[]);
//! assert_eq!(verdict.outcome.name(), "succeeded");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! It never reads files, clocks or the network, and never changes output: text comes through a reader or as blocks.
//!
//! ```text
//! pack.rs (TOML) ▶ packs.rs (all packs) ── pack_choice.rs: which of them a job uses ──▶ rule_set.rs (compiled, shared)
//! spool blocks ▶ line_text.rs (the text that patterns see) ▶ matcher.rs (automata.rs: the lines with a match)
//!              ▶ hits ▶ judge.rs ▶ outcome and reason
//! ```
//!
//! The runner matches all output. The collector judges the runner's counts. `sexton rules test` (`test_run.rs`) does
//! both over a file.

#![warn(missing_docs)]

mod automata;
mod automaton;
mod command_syntax;
pub mod judge;
pub mod kept_line;
mod line_text;
mod long_line;
pub mod matcher;
pub mod matcher_state;
mod message_begin;
pub mod pack;
pub mod pack_choice;
pub mod packs;
pub mod pattern;
mod pattern_check;
mod pattern_cost;
pub mod programs;
mod replay;
pub mod rule;
pub mod rule_set;
pub mod test_run;
mod time_stamp;
mod wide_gap;
mod wrappers;

pub use judge::{ExitFacts, Limits, Verdict, judge, judge_excerpt, judge_report};
pub use matcher::{Matcher, MatcherState};
pub use pack::{Pack, Rule};
pub use pack_choice::{ChosenPacks, Interpreters, choose_packs, choose_packs_with};
pub use packs::Packs;
pub use rule_set::{RuleSet, RulesError};
pub use test_run::{TestMatch, TestSummary, test_run};
