//! Where a job's lines go: one file per kind of sink, one delivery engine for all of them. The runner hands every sink a
//! [`feed::Feed`] per run; nothing here knows how a spool is kept, and nothing here starts or judges a run.
//!
//! | file | duty |
//! |---|---|
//! | `config` | the sinks file; `address`, `template`, `filter`, `tls` read its parts |
//! | `engine`, `delivery` (`health_events`), `encode`, `status` | from feeds to a sink, in order, at least once, and how that is going |
//! | `feed`, `record`, `sink` | what goes in, what is encoded, what a sink must do |
//! | `syslog`, `gelf`, `file`, `stdout`, `cloudwatch_logs` | the kinds of sinks, one file each |
//! | `lines`, `json`, `bracket_records`, `stamp`, `ansi`, `frames` | how records are written |
//! | `wire`, `stream`, `datagram`, `http` | how bytes travel |
//! | `check` | reaches a sink with a test line |
//! | `room` | how much of a disk output leaves alone |
//! | `probe` | whether a required sink would take a connection, without sending |

pub mod address;
mod ansi;
mod bracket_records;
pub mod check;
pub mod cloudwatch_logs;
pub mod config;
mod datagram;
mod delivery;
mod encode;
pub mod engine;
pub mod error;
pub mod feed;
pub mod file;
pub mod filter;
mod frames;
pub mod gelf;
mod http;
mod json;
pub mod lines;
pub mod probe;
mod record;
#[cfg(test)]
mod sample_records;
mod sink;
mod stamp;
pub mod status;
pub mod stdout;
mod stream;
pub mod syslog;
pub mod template;
pub mod tls;
mod wire;
