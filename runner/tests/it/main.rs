//! Real processes, real files, real kills.

mod attempt;
mod disk;
mod keeper;
mod output;
mod stopping;
