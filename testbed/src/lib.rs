//! Real servers and plain receivers for the tests of the other crates.
//!
//! Every server belongs to one test: own process group, own ports of 127.0.0.1, own temporary folder. The server is
//! ready when `start` returns, and killed when the value is dropped or the test process dies. `testbed/setup/install`
//! puts the programs below `.testbed`. Where a program is missing, `start` prints that and returns `None`: the test
//! returns early, and `./test` lists it as left out. With `CI=true`, `start` panics instead.
//!
//! Used by tests only, as a dev-dependency. It never imitates a server: `Capture` and `Proxy` know no protocol;
//! `AwsFaults` knows the error answers of AWS and forwards everything else.

mod aws_faults;
mod boto;
mod capture;
mod debian_cron;
mod disk;
mod emulators;
mod gelf;
mod golden;
mod haproxy;
mod installation;
mod listeners;
mod log_server;
mod mail;
mod minimal_machine;
mod mutations;
mod openssl;
mod own_network;
mod process;
mod proxy;
mod ready_process;
mod syslog;
mod wait;

pub use aws_faults::{AwsCall, AwsFault, AwsFaults};
pub use boto::{Boto, Caller, Refusal};
pub use capture::{Capture, Transport};
pub use debian_cron::DebianCron;
pub use disk::SmallDisk;
pub use emulators::{AwsServer, Ministack, Moto};
pub use gelf::{Graygelf, RsyslogGelf};
pub use golden::{golden, golden_written};
pub use haproxy::Haproxy;
pub use installation::{Certificates, certificates, cfn_lint, debian_cron_files, python, repository};
pub use listeners::free_port;
pub use log_server::LogServer;
pub use mail::{Aiosmtpd, SmtpMode, SmtpSink};
pub use minimal_machine::MinimalMachine;
pub use mutations::try_inputs;
pub use openssl::{Openssl, OpensslServer};
pub use own_network::{SILENT_NETWORK, in_own_network, with_variables};
pub use proxy::Proxy;
pub use ready_process::ReadyProcess;
pub use syslog::{Framing, Rsyslog, RsyslogOptions, SyslogFormat, SyslogNg};
pub use wait::{DEADLINE, wait_for, wait_until};
