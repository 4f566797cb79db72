//! The real binary: what it prints, what it exits with, what a running `up` does.

mod commands;
mod driver;
mod faults;
mod readme;
mod running;
mod sinks;
