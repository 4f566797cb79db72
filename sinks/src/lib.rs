//! Ships the records of runs to log systems: reads them from feeds, encodes them for each type of sink, and moves
//! cursors only past records that the receiver has. Used by `runner` and `sexton`.
//!
//! | item | purpose |
//! |---|---|
//! | [`config::SinksFile`] | reads the sinks file into [`config::SinkConfig`]s, with all its faults |
//! | [`engine::Engine`] | delivers the feeds of one sink in a separate task: at least once, in order per run |
//! | [`feed::Feed`] | the source of one run's records; the runner implements it over a spool |
//! | [`feed::RunHeader`], [`feed::FinishedRecord`] | the fields of a run, and of its end |
//! | [`status::SinkStatus`] | the numbers of `sexton sinks` and `/metrics` |
//! | [`losses::Losses`] | the counters of refused and dropped lines, which the runner stores |
//! | [`status::SinkEvent`] | failures, losses and recoveries, which become alerts |
//! | [`check::check`] | sends a test line, for `sexton check` |
//! | [`probe::probe`] | connects and sends nothing, for sinks with `required = true` |
//! | [`cloudwatch_logs::read_back::Reader`] | reads the lines of a run back, for `sexton logs` |
//!
//! It never starts, judges or changes a run, never reads a spool except through a feed, has no buffer but the spool,
//! and drops no line without counting it and leaving a gap.
//!
//! | files | duty |
//! |---|---|
//! | `config`, `address`, `template`, `filter`, `foreign_names` | the sinks file |
//! | `engine`, `delivery` (`fill`, `cursors`, `health_events`), `encode` | delivery from feeds to a sink |
//! | `status`, `losses` | its numbers |
//! | `clock_history` | the age of lines |
//! | `feed`, `record`, `sink` | the input of a sink, and the traits that a sink implements |
//! | `refusals`, `unanswered` | which records a receiver refuses while it accepts others; calls without an answer |
//! | `syslog`, `gelf`, `file`, `stdout`, `cloudwatch_logs` | one file for each type of sink |
//! | `file_access`, `file_directory`, `special_file` | how the sink `file` opens and writes |
//! | `lines`, `json`, `bracket_records`, `stamp`, `ansi`, `frames` | encoding of records |
//! | `wire`, `stream`, `datagram` (`udp_reports`), `http` (`http_faults`), `resolver` | transport of bytes |
//! | `tls` (`tls_files`, `tls_verifier`) | trust and client certificates |
//! | `tls_faults`, `certificate_faults`, `key_kinds` | faults of TLS in plain words |

#![warn(missing_docs)]

mod address;
mod ansi;
mod bracket_records;
mod certificate_faults;
pub mod check;
pub mod clock_history;
pub mod cloudwatch_logs;
pub mod config;
mod confirmation;
mod datagram;
mod delivery;
mod encode;
pub mod engine;
pub mod error;
pub mod feed;
mod file;
mod file_access;
mod file_directory;
mod filter;
mod foreign_answer;
mod foreign_names;
mod frames;
mod gelf;
mod http;
mod http_faults;
mod json;
mod key_kinds;
mod lines;
pub mod losses;
pub mod probe;
mod record;
mod refusals;
mod resolver;
#[cfg(test)]
mod sample_records;
mod sink;
mod special_file;
mod stamp;
pub mod status;
mod stdout;
mod stream;
mod stream_socket;
mod syslog;
mod template;
mod tls;
mod tls_faults;
mod tls_files;
mod tls_verifier;
mod udp_reports;
mod unanswered;
mod wire;

pub use file_directory::trust_directory;
