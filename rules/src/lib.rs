//! False success: a run exits 0 and lied. Rule packs say which lines of output tell a lie, a streaming matcher finds
//! them, the judge turns exit and hits into an outcome with a reason. Pure: no I/O but a reader handed in, no clock, no
//! runtime.
//!
//! ```text
//! pack.rs (TOML) ▶ packs.rs (all packs) ── pack_choice.rs: which of them a job uses ──▶ rule_set.rs (compiled, shared)
//! spool blocks ▶ matcher.rs (automaton.rs, wide_gap.rs find the lines) ▶ hits ▶ judge.rs ▶ outcome and reason
//! ```
//!
//! The runner matches all output; the collector judges what the runner counted; `sexton rules test` (`test_run.rs`)
//! does both over a file.

mod automaton;
pub mod judge;
pub mod matcher;
pub mod pack;
pub mod pack_choice;
pub mod packs;
pub mod pattern;
pub mod rule_set;
pub mod test_run;
mod wide_gap;

pub use judge::{ExitFacts, Limits, Verdict, judge, judge_excerpt, judge_report};
pub use matcher::{Matcher, MatcherState};
pub use pack::{Pack, Rule};
pub use pack_choice::choose_packs;
pub use packs::Packs;
pub use rule_set::{RuleSet, RulesError};
pub use test_run::{TestMatch, TestSummary, test_run};
