//! Takes orders, keeps processes, spools their output, ships it, reports. A library: `sexton up`, `sexton runner`,
//! `sexton exec` and the hidden `sexton keeper` are thin around it.
//!
//! | file | duty |
//! |---|---|
//! | `runner`, `exec` | the whole, as a service and for one command; `options` is what they are given |
//! | `intake`, `admission`, `gate` | orders: claimed, stored, admitted; held while a required sink cannot be reached |
//! | `attend`, `ending`, `report` | one run from its start to its report |
//! | `policy`, `secrets` | what may be run on this machine; what takes the place of references |
//! | `spawn`, `keeper` | the process that owns a run, and how it comes to be |
//! | `directory`, `records` | what the two tell each other through files |
//! | `spool`, `feed`, `scan`, `excerpt`, `output` | the output, and its readers: sinks, rules, people |
//! | `outbox` | reports on their way out |
//! | `recover`, `adopt`, `remains`, `retention` | what an earlier runner, a killed `exec`, a lost keeper and old runs leave |
//! | `watch`, `local`, `shared`, `processes`, `crash` | what these rest on |
//!
//! Absent on purpose: no schedule, no ledger, no judgement of its own (that is `rules`), no network but through ports and
//! sinks.

mod admission;
mod adopt;
mod attend;
pub mod crash;
pub mod directory;
mod ending;
mod excerpt;
pub mod exec;
mod feed;
pub mod free_space;
mod gate;
mod intake;
pub mod keeper;
mod local;
pub mod options;
mod outbox;
pub mod output;
mod policy;
pub mod processes;
pub mod records;
mod recover;
mod remains;
mod report;
mod retention;
mod runner;
mod scan;
mod secrets;
mod shared;
pub mod spawn;
pub mod spool;
mod watch;

pub use options::{OnShutdown, Options, Policy, Ports};
pub use policy::PolicyFile;
pub use runner::{Handle, LocalInfo, Runner, RunnerError, occupy, run};
pub use secrets::LocalSecrets;
