//! Takes orders, starts keepers (`keeper`), ships their output, reports. A library: `sexton up`, `sexton runner` and
//! `sexton exec` are thin around it.
//!
//! | file | duty |
//! |---|---|
//! | `runner`, `handle`, `heartbeat`, `exec` | the whole, as a service and for one command; `options` is what they are given |
//! | `intake`, `admission`, `required_sinks` | orders: claimed, stored, admitted; held while a required sink cannot be reached |
//! | `supervise`, `keeper_state`, `reporting`, `finish`, `report` | one run from its start to its report |
//! | `policy`, `secrets` | what may be run on this machine; what takes the place of references |
//! | `feed`, `scan`, `excerpt` | the readers of the output: sinks and rules |
//! | `outbox` | reports on their way out |
//! | `recover`, `adopt`, `retention` | what an earlier runner, a killed `exec` and old runs leave |
//! | `spool_watch`, `local_run`, `runner_state`, `state_lock` | what these rest on |
//!
//! Absent on purpose: no schedule, no ledger, no judgement of its own (that is `rules`), no network but through ports and
//! sinks.

mod admission;
mod adopt;
mod excerpt;
pub mod exec;
mod feed;
mod finish;
mod handle;
mod heartbeat;
mod intake;
mod keeper_state;
mod local_run;
pub mod options;
mod outbox;
mod policy;
mod recover;
mod report;
mod reporting;
mod required_sinks;
mod retention;
mod runner;
mod runner_state;
mod scan;
mod secrets;
mod spool_watch;
mod state_lock;
mod supervise;

pub use handle::{Handle, LocalInfo};
pub use options::{OnShutdown, Options, Policy, Ports};
pub use policy::PolicyFile;
pub use runner::{Runner, run};
pub use secrets::LocalSecrets;
pub use state_lock::{RunnerError, lock_state_directory};
