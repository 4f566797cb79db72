//! The process that owns one attempt of a run, and the files through which runner and keeper communicate. `sexton
//! keeper DIR` calls [`main`]. The runner starts it with [`spawn::spawn_keeper`] and reads the files that it writes to
//! the run directory.
//!
//! | type or function | purpose |
//! |---|---|
//! | [`main`] | the keeper: starts the job, writes its output to the spool, stops it, records the exit |
//! | [`spawn::KeeperCommand`] | the program that becomes a keeper |
//! | [`foreground::Foreground`] | a process in the foreground whose command a keeper owns |
//! | [`spawn::KeeperStarter`] | starts keepers, by the fork server where it works |
//! | [`fork_server::serve`] | the process that forks keepers |
//! | [`directory::RunDirectory`] | paths and lock of one run directory |
//! | [`records::Accepted`], [`records::Launch`], [`records::Started`], [`records::Exit`] | its JSON files |
//! | [`spool::SpoolReader`] | reads whole records while the keeper writes, or afterwards |
//! | [`output::Output`] | a run's output as the job wrote it, for `sexton logs` |
//! | [`leftovers::kill_leftovers`] | kills the processes that a dead keeper left |
//! | [`processes::Process`] | one process of /proc, safe against a reused process id |
//! | [`free_space::read`] | free space of the disk of a path |
//! | [`crash::point`] | the steps at which a test can end a process |
//!
//! What this crate never does: use a network, judge a run, know a sink, run asynchronous code. Its dependencies do not
//! allow it. A keeper never reads its own spool.

#![warn(missing_docs)]

pub mod caller_process;
mod caller_stream;
mod cgroup;
pub mod crash;
pub mod directory;
mod encoder;
pub mod foreground;
pub mod fork_server;
pub mod free_space;
mod guard_check;
mod job_clone;
mod job_loop;
mod keeper;
mod late_output;
mod launch;
pub mod leftovers;
mod mask;
pub mod output;
mod output_pipes;
mod process_title;
pub mod processes;
mod quoted_forms;
pub mod records;
mod reserve;
mod secret_encodings;
mod signals;
pub mod spawn;
pub mod spool;
mod stop_sequence;
pub mod user;
mod writer;

pub use cgroup::remove as remove_cgroup;
pub use keeper::main;
pub use launch::PATH_DEFAULT;
pub use secret_encodings::{SECRET_BYTES_MIN, is_masked};
pub use user::{name_and_home, own_home, own_user, user_name};
pub use writer::SEGMENT_BYTES_MAX;
