//! Takes orders, starts a keeper for each, ships the output, and reports the end. `sexton up`, `sexton runner` and
//! `sexton exec` are thin callers of this library.
//!
//! | type or function | purpose |
//! |---|---|
//! | [`Runner`], [`run`] | a runner as a service |
//! | [`exec::Call`], [`exec::Wait`] | one command in the foreground, for `sexton exec` |
//! | [`sender::send`] | the process that delivers it |
//! | [`Options`], [`Ports`] | everything that a runner is given |
//! | [`Handle`] | queries and commands to a runner of the same process |
//! | [`Policy`], [`PolicyFile`] | what may run on this machine |
//! | [`LocalSecrets`] | references that the machine itself resolves |
//! | [`reset_stored_losses`] | counters of sinks in a state directory that no runner uses |
//! | [`make_room`] | frees space that is kept for starts |
//! | [`lock_state_directory`] | one process per state directory |
//! | [`find_traces`], [`report_all_again`], [`count_runs`] | attempts that a restored ledger may not know |
//!
//! | file | duty |
//! |---|---|
//! | `runner`, `handle`, `heartbeat`, `options`, `shutdown` | the runner as a whole |
//! | `exec`, `sender`, `kept`, `due_sinks`, `exec_backlog` | one command of another scheduler: its wait and delivery |
//! | `intake`, `admission`, `required_sinks` | orders: claim, store, admit; hold while a required sink is unreachable |
//! | `supervise`, `keeper_state`, `reporting`, `finish`, `report` | one run from its start to its report |
//! | `policy`, `secrets` | what may run here; the values of references |
//! | `output_end`, `hung_keeper` | output after the end of a run; keepers that do not act |
//! | `feed`, `scan`, `excerpt` | the readers of the output: sinks and rules |
//! | `sink_table`, `sink_records`, `removed_sinks` | the sinks, edits of the sinks file, and what is stored of them |
//! | `outbox` | unsent reports on disk |
//! | `recover`, `adopt`, `traces`, `retention` | runs of an earlier runner, a killed `exec`, a restored ledger, old |
//! | `start_reserve` | space for starts on a full disk |
//! | `spool_watch`, `local_run`, `runner_state`, `state_lock` | what the others share |
//!
//! What this crate never does: schedule, write the ledger, judge by itself (that is `rules`), use a network except
//! through ports and sinks.

#![warn(missing_docs)]

mod admission;
mod adopt;
mod due_sinks;
mod excerpt;
pub mod exec;
mod exec_backlog;
mod feed;
mod finish;
mod first_line;
mod handle;
mod heartbeat;
mod hung_keeper;
mod identity;
mod intake;
mod keeper_state;
mod kept;
mod local_run;
mod mailing;
mod open_files;
pub mod options;
mod order_store;
mod outbox;
mod output_end;
mod policy;
mod recover;
mod removed_sinks;
mod report;
mod reporting;
mod required_sinks;
mod retention;
mod runner;
mod runner_state;
mod scan;
mod secrets;
pub mod sender;
mod shutdown;
mod sink_records;
mod sink_table;
mod spool_watch;
mod start_reserve;
mod start_waits;
mod state_lock;
mod supervise;
mod traces;

pub use exec_backlog::{UndeliveredCommand, undelivered_commands};
pub use handle::{Handle, LocalInfo};
pub use kept::KEPT_FOLDER;
pub use options::{OnShutdown, Options, Policy, Ports};
pub use policy::PolicyFile;
pub use removed_sinks::RemovedSink;
pub use runner::{Runner, run};
pub use secrets::LocalSecrets;
pub use sink_records::{ResetError, reset_stored_losses};
pub use sink_table::SinkChanges;
pub use start_reserve::make_room;
pub use state_lock::{RunnerError, lock_state_directory};
pub use traces::{count_runs, find_traces, report_all_again};
