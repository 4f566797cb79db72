//! Real processes, real files, real kills.

mod any_policy;
mod any_spool;
mod attempt;
#[cfg(feature = "crash_points")]
mod crashes;
mod disk;
mod exec;
mod keeper;
mod output;
mod policy;
mod required;
mod secrets;
mod service;
mod stopping;
mod world;
