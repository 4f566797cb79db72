//! The keeper as a real process, without a runner.

mod any_spool;
mod attempt;
mod disk;
mod fork_server;
mod guards;
mod keeper;
mod late_output;
mod output;
mod secrets;
mod stopping;
mod stored;
