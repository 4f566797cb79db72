//! The duties of Sexton, over the ports of `domain`: fire schedules, judge reports, find missing runs, send alerts,
//! delete old runs; and the commands of console and command line. The loops of `sexton up`, or Lambda functions, call
//! them and pass the time.
//!
//! | module | duty | entry point |
//! |---|---|---|
//! | [`scheduler`] | turns due entries into runs and orders | [`scheduler::tick`] |
//! | [`firing_plan`] | decides what due firings become; pure | [`firing_plan::plan_runs`] |
//! | [`concurrency`] | decides about runs that would overlap; pure | [`concurrency::decide`] |
//! | [`boot`] | starts `@reboot` jobs once a boot | [`boot::start_reboot_jobs`] |
//! | [`sweep`] | finds jobs without a due entry, and invalid jobs | [`sweep::tick`], [`sweep::sweep_jobs`] |
//! | [`release`] | starts held runs when their wait is over | [`release::release_due`], [`release::release_jobs`] |
//! | [`restore`] | records the runs that a restored ledger lacks | [`restore::settle`] |
//! | [`collector`] | judges reports, ends runs, orders retries | [`collector::receive`], [`collector::collect`] |
//! | [`overdue`] | ends runs that are missed or lost; resends orders | [`overdue::list_open_runs`], [`overdue::tick`] |
//! | [`liveness`] | alerts about a silent scheduler and groups without a runner | [`liveness::tick`] |
//! | [`alerts`] | sends stored transitions as alerts | [`alerts::tick`] |
//! | [`system_alerts`] | records alerts about Sexton itself | [`system_alerts::change`], [`system_alerts::loss`] |
//! | [`pruner`] | deletes old runs | [`pruner::tick`] |
//! | [`current_state`] | reads what is bad, what runs and what is next | [`current_state::read`] |
//! | [`commands`] | jobs, runs and maintenance windows | [`commands::apply`], [`commands::run_now`], ... |
//!
//! Every duty is idempotent, works in bounded batches, and leaves what failed to its next call. Two calls of one duty
//! may run at once: ids of runs and transitions are derived from what they represent, and every write is conditional.
//! So the next call completes one that was interrupted.
//!
//! Nothing here reads a clock, draws random bytes, sleeps, or knows which database or queue is behind a port.

#![warn(missing_docs)]

pub mod alert_batch;
pub mod alert_delivery;
pub mod alert_message;
pub mod alert_rates;
pub mod alerts;
pub mod boot;
mod chunk_plan;
pub mod collector;
pub mod commands;
pub mod concurrency;
pub mod current_state;
pub mod error;
pub mod firing_plan;
mod job_guard;
pub mod liveness;
pub mod maintenance;
mod new_runs;
mod ordering;
pub mod overdue;
mod overlap;
pub mod pruner;
pub mod release;
mod removed_jobs;
pub mod restore;
mod run_end;
pub mod scheduler;
mod settings;
pub mod sweep;
pub mod system_alerts;
mod tick_progress;
pub mod tick_starts;

pub use alert_message::Links;
pub use error::{Error, Result};
