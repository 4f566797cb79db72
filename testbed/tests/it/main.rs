//! Tests the receivers with independent clients, and the rules that the repository keeps.

mod aws;
mod client;
mod gelf;
mod language;
mod mail;
mod plain;
mod syslog;
mod tidy;
