//! Real processes, real files, real kills.

mod any_policy;
#[cfg(feature = "crash_points")]
mod crashes;
mod disk;
mod exec;
mod first_lines;
mod hung_keepers;
mod open_output;
mod policy;
mod required;
mod secrets;
mod service;
mod world;
