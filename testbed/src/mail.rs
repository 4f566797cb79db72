//! Receivers of mail: aiosmtpd accepts it; Postfix's smtp-sink can refuse it. Called by the tests of alerts.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::installation::{certificates, installed, python};
use crate::listeners::{Addresses, free_port};
use crate::process::{Process, Program};
use crate::wait::{DEADLINE, holds_within};

/// The encryption of aiosmtpd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpMode {
    /// No encryption.
    Plain,
    /// Mail is refused (530) before STARTTLS.
    StartTls,
    /// TLS from the first byte.
    Smtps,
}

/// aiosmtpd, which accepts every message.
#[derive(Debug)]
pub struct Aiosmtpd {
    process: Process,
    address: SocketAddr,
}

/// Postfix's smtp-sink.
#[derive(Debug)]
pub struct SmtpSink {
    process: Process,
    address: SocketAddr,
}

impl Aiosmtpd {
    /// Starts aiosmtpd, with the server certificate of `certificates()`; `None` when it is not available here.
    #[track_caller]
    pub fn start(mode: SmtpMode) -> Option<Aiosmtpd> {
        let path = python()?;
        let certificates = certificates()?;
        let process = Process::start(|folder| {
            let address = free_port();
            let (certificate, key) = (path_text(&certificates.server), path_text(&certificates.server_key));
            let tls = match mode {
                SmtpMode::Plain => vec![],
                SmtpMode::StartTls => vec!["--tlscert".to_owned(), certificate, "--tlskey".to_owned(), key],
                SmtpMode::Smtps => vec!["--smtpscert".to_owned(), certificate, "--smtpskey".to_owned(), key],
            };
            let mut arguments = ["-m", "aiosmtpd", "-n", "-l", &address.to_string()].map(str::to_owned).to_vec();
            arguments.extend(tls);
            arguments.extend(["-c", "aiosmtpd.handlers.Mailbox", &path_text(&folder.join("mail"))].map(str::to_owned));
            program(path.clone(), arguments, address)
        });
        let address = process.addresses().tcp?;
        Some(Aiosmtpd { process, address })
    }

    /// The address at which it accepts mail.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every accepted message with its headers, in order of arrival; `X-MailFrom` and `X-RcptTo` hold the envelope.
    pub fn messages(&self) -> Vec<String> {
        files_by_age(&self.process.folder().join("mail/new"))
    }

    /// Waits for at least `count` messages, and returns them; panics after [`DEADLINE`].
    #[track_caller]
    pub fn wait_for_count(&self, count: usize) -> Vec<String> {
        assert!(
            holds_within(DEADLINE, || self.messages().len() >= count),
            "{} of {count} messages arrived: {:?}; the server's output: {}",
            self.messages().len(),
            self.messages(),
            self.process.diagnostics()
        );
        self.messages()
    }

    /// Ends the server; its port refuses connections.
    pub fn stop(&self) {
        self.process.stop();
    }

    /// Starts the server again on the same port; earlier messages stay.
    #[track_caller]
    pub fn restart(&self) {
        self.process.restart();
    }
}

impl SmtpSink {
    /// Starts smtp-sink with `flags` of smtp-sink(1), such as `["-r", "rcpt"]` (450 to RCPT, a temporary refusal) or
    /// `["-f", "data"]` (500 to DATA, a permanent one); `None` when it is not available here.
    #[track_caller]
    pub fn start(flags: &[&str]) -> Option<SmtpSink> {
        let path = installed("smtp-sink", "bin/smtp-sink")?;
        let process = Process::start(|folder| {
            let address = free_port();
            let mut arguments: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
            if is_root() {
                arguments.extend(["-u", "nobody"].map(str::to_owned));
            }
            // The last argument is the length of the queue of connections not yet accepted.
            arguments.extend(["-d", &path_text(&folder.join("mail.")), &address.to_string(), "10"].map(str::to_owned));
            program(path.clone(), arguments, address)
        });
        let address = process.addresses().tcp?;
        Some(SmtpSink { process, address })
    }

    /// The address at which it accepts or refuses mail.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every accepted message, in order of arrival, with smtp-sink's own `X-` headers for the envelope.
    pub fn messages(&self) -> Vec<String> {
        files_by_age(self.process.folder()).into_iter().filter(|text| text.starts_with("X-Client-Addr:")).collect()
    }
}

fn program(path: PathBuf, arguments: Vec<String>, address: SocketAddr) -> Program {
    Program { path, arguments, addresses: Addresses { tcp: Some(address), ..Addresses::default() } }
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// The contents of the files of a folder, oldest first; empty while the folder is missing.
fn files_by_age(folder: &Path) -> Vec<String> {
    let mut files: Vec<(SystemTime, PathBuf)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some((entry.as_ref().ok()?.metadata().ok()?.modified().ok()?, entry.ok()?.path())))
        .collect();
    files.sort();
    files.iter().filter_map(|(_, path)| Some(String::from_utf8_lossy(&fs::read(path).ok()?).into_owned())).collect()
}
