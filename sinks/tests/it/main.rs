//! Tests of the sinks against real receivers (rsyslog, syslog-ng, graygelf, emulators of CloudWatch Logs, files), also
//! during outages.

mod any_text;
mod cloudwatch;
mod cloudwatch_access;
mod cloudwatch_emulated;
mod cloudwatch_set_up;
mod cloudwatch_sso;
mod conformance;
mod conformance_targets;
mod delivery;
mod false_receivers;
mod files;
mod gelf;
mod half_closing;
mod hanging;
mod http;
mod http_faults;
mod memory;
mod names;
mod outage;
mod pacing;
#[path = "../../src/sample_records.rs"]
mod sample_records;
mod sink_states;
mod special_files;
mod speed;
mod strict_logs;
mod syslog;
mod tls_key_files;
mod tls_messages;
mod tls_trust;

// The path by which `sample_records` names these types in both places.
use sinks::feed;
