//! Errors of sinks. The class is decided where the error arises; it decides what the engine does next.

use std::time::Duration;

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
        SinkError { class: ErrorClass::Retry, message: message.into() }
    }

    /// An error that needs the operator.
    pub fn misconfigured(message: impl Into<String>) -> SinkError {
        SinkError { class: ErrorClass::Misconfigured, message: message.into() }
    }

    /// An error of a network call. Only what this machine forbids needs the operator.
    pub(crate) fn from_network_error(message: String, error: &std::io::Error) -> SinkError {
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => SinkError::misconfigured(message),
            _ => SinkError::retry(message),
        }
    }

    /// An error of a file or directory: missing paths and permissions need the operator; other errors are retried.
    pub(crate) fn from_path_error(doing: &str, path: &std::path::Path, error: &std::io::Error) -> SinkError {
        use std::io::ErrorKind;
        let message = format!("cannot {doing} {}: {error}", path.display());
        match error.kind() {
            ErrorKind::PermissionDenied
            | ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::IsADirectory
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidFilename => SinkError::misconfigured(message),
            _ => SinkError::retry(message),
        }
    }

    /// `doing` names the step, for example `writing to`.
    pub(crate) fn timed_out(doing: &str, address: &str, after: Duration) -> SinkError {
        SinkError::retry(format!("{doing} {address} took longer than {}", domain::units::format_duration(after)))
    }
}

/// Result of a sink's step.
pub type SinkResult<T> = Result<T, SinkError>;
