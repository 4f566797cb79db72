//! The sinks against real receivers: rsyslog, syslog-ng, graygelf, files; and through outages.

mod delivery;
mod files;
mod gelf;
mod http;
mod memory;
mod outage;
mod speed;
mod syslog;
