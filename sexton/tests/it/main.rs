//! The real binary: what it prints, what it exits with, what a running `up` does.

mod aws;
mod campaign;
mod commands;
mod disk;
mod driver;
mod evidence;
mod faults;
mod output;
mod readme;
mod running;
mod secrets;
mod sinks;
mod upgrade;
