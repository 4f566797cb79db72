//! Shows that the receivers are sound, with clients that are not ours, and that the repository keeps its own rules.

mod aws;
mod client;
mod gelf;
mod language;
mod mail;
mod plain;
mod syslog;
mod tidy;
