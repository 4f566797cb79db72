//! Errors of sinks. The class is decided where the error arises; it decides what the engine does next.

use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use domain::system_error::{plain_text, without_numbers};

/// What the engine does after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// It may pass without a change: unreachable, busy, connection lost. Every record is kept and sent again with
    /// backoff.
    Retry,
    /// It passes after the operator changes something: a certificate, a permission, an address. Every record is kept;
    /// the engine retries every `retry.max`.
    Misconfigured,
    /// The receiver will never accept this record. It is skipped, counted and listed; the others are sent.
    Permanent,
}

impl ErrorClass {
    /// The name in log lines.
    pub const fn name(self) -> &'static str {
        match self {
            ErrorClass::Retry => "retry",
            ErrorClass::Misconfigured => "misconfigured",
            ErrorClass::Permanent => "permanent",
        }
    }
}

/// One lower-case sentence for the operator, and a class for the engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SinkError {
    /// What the engine does next.
    pub class: ErrorClass,
    /// Place, value and what is wrong; then the remedy after a semicolon.
    pub message: String,
}

impl SinkError {
    /// An error that may pass without a change.
    pub fn retry(message: impl Into<String>) -> SinkError {
        SinkError { class: ErrorClass::Retry, message: without_number(message.into()) }
    }

    /// An error that needs the operator.
    pub fn misconfigured(message: impl Into<String>) -> SinkError {
        SinkError { class: ErrorClass::Misconfigured, message: without_number(message.into()) }
    }

    /// A failed connection to `shown`. Only what this machine forbids needs the operator.
    pub(crate) fn unreachable(shown: impl Display, error: &io::Error) -> SinkError {
        SinkError::from_network_error(format!("cannot reach {shown}: {}", network_words(error)), error)
    }

    /// An error of a network call. Only what this machine forbids needs the operator.
    pub(crate) fn from_network_error(message: String, error: &io::Error) -> SinkError {
        match error.kind() {
            ErrorKind::PermissionDenied => SinkError::misconfigured(message),
            _ => SinkError::retry(message),
        }
    }

    /// An error of a file or directory: missing paths and permissions need the operator; other errors are retried.
    pub(crate) fn from_path_error(doing: &str, path: &Path, error: &io::Error) -> SinkError {
        let message = format!("cannot {doing} {}: {}", path.display(), path_words(error));
        match error.kind() {
            ErrorKind::PermissionDenied
            | ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::IsADirectory
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidFilename => SinkError::misconfigured(message),
            _ if error.raw_os_error() == Some(libc::ELOOP) => SinkError::misconfigured(message),
            _ => SinkError::retry(message),
        }
    }

    /// `doing` names the step, for example `writing to`.
    pub(crate) fn timed_out(doing: &str, address: &str, after: Duration) -> SinkError {
        SinkError::retry(format!("{doing} {address} took longer than {}", domain::units::format_duration(after)))
    }
}

fn without_number(message: String) -> String {
    without_numbers(&message).into_owned()
}

/// Result of a sink's step.
pub type SinkResult<T> = Result<T, SinkError>;

/// What happened to a network call, and the remedy.
pub(crate) fn network_words(error: &io::Error) -> String {
    let text = plain_text(error);
    // glibc and musl write several texts, which the standard library begins with these words.
    let text = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned();
    let lower = text.to_lowercase();
    let words = match error.kind() {
        ErrorKind::ConnectionRefused => "is the receiver running, and are host and port right?",
        ErrorKind::HostUnreachable => "is that machine switched on, and is the address right?",
        ErrorKind::NetworkUnreachable => "this machine has no route there; check its network",
        ErrorKind::TimedOut => "is that machine running, and does a firewall drop the packets?",
        ErrorKind::ConnectionReset => "the receiver ended the connection; its log may have the reason",
        ErrorKind::PermissionDenied => "this machine forbids it; check its firewall and the sandbox of the service",
        ErrorKind::AddrNotAvailable => "this machine has no free port or no such address; check its network",
        _ if lower.contains("temporary failure in name resolution") || lower.contains("try again") => {
            return "no name server answers; check the network and /etc/resolv.conf".to_owned();
        }
        _ if is_unknown_name(&lower) => {
            return "the name has no address; correct it, or add it to the name server or to /etc/hosts".to_owned();
        }
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            "raise LimitNOFILE= of the unit, or `ulimit -n`"
        }
        _ if error.raw_os_error().is_some() => "check the network here, the address, and the log of the receiver",
        _ => return text,
    };
    format!("{text}; {words}")
}

fn is_unknown_name(lower: &str) -> bool {
    ["name or service not known", "no address associated", "name does not resolve", "the name has no address"]
        .iter()
        .any(|known| lower.contains(known))
}

/// What happened to a file, and the remedy.
fn path_words(error: &io::Error) -> String {
    let text = plain_text(error);
    let words = match error.kind() {
        ErrorKind::PermissionDenied => {
            let user = rustix::process::geteuid().as_raw();
            return format!("{text} to user {user}; give that user access with chown or chmod, or write elsewhere");
        }
        ErrorKind::NotFound => "correct the path, or create it",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "a file with the name of a directory is in the way; move it, or correct the path"
        }
        ErrorKind::IsADirectory => "write the path of a file in it",
        ErrorKind::ReadOnlyFilesystem => {
            "mount it writable, add the path to ReadWritePaths= of the unit, or write elsewhere"
        }
        ErrorKind::InvalidFilename => "the name is too long; shorten the path",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space; the lines wait",
        ErrorKind::InvalidInput => "correct the path",
        _ if error.raw_os_error() == Some(libc::ELOOP) => "correct the links, which lead in a circle",
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            "raise LimitNOFILE= of the unit, or `ulimit -n`; the lines wait"
        }
        ErrorKind::FileTooLarge => "the file has the largest size that is allowed; rotate it, or raise `ulimit -f`",
        _ => "check the disk and its file system; the lines wait",
    };
    format!("{text}; {words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_get_their_remedy_and_lose_their_number() {
        let number = |number: i32| io::Error::from_raw_os_error(number);
        for (error, text) in [
            (number(libc::ECONNREFUSED), "connection refused; is the receiver running, and are host and port right?"),
            (number(libc::EHOSTUNREACH), "no route to host; is that machine switched on, and is the address right?"),
            (
                io::Error::other("failed to lookup address information: Name or service not known"),
                "the name has no address; correct it, or add it to the name server or to /etc/hosts",
            ),
            (
                io::Error::other("failed to lookup address information: Temporary failure in name resolution"),
                "no name server answers; check the network and /etc/resolv.conf",
            ),
            (
                io::Error::other(
                    "127.0.0.1:1: Connection refused (os error 111), [::1]:1: Connection refused (os error 111)",
                ),
                "127.0.0.1:1: Connection refused, [::1]:1: Connection refused",
            ),
            (number(libc::EPROTO), "protocol error; check the network here, the address, and the log of the receiver"),
        ] {
            assert_eq!(network_words(&error), text);
        }
        let full = SinkError::from_path_error("write to", Path::new("/x"), &number(libc::ENOSPC));
        let wanted = "cannot write to /x: no space left on device; free some space; the lines wait";
        assert_eq!((full.class, full.message.as_str()), (ErrorClass::Retry, wanted));
    }
}
