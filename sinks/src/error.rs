//! What a sink could not do, classed where the fault is born: the class decides what the engine does next.

use std::time::Duration;

/// What is to be made of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// It may work later by itself: unreachable, busy, broken off. Everything is kept and sent again.
    Retry,
    /// It works once a person has mended something: a certificate, a permission, an address. Everything is kept, and the
    /// engine looks again from time to time.
    Misconfigured,
    /// This very record will never be taken. It is set aside, counted and told; the others go on.
    Permanent,
}

impl ErrorClass {
    pub const fn name(self) -> &'static str {
        match self {
            ErrorClass::Retry => "retry",
            ErrorClass::Misconfigured => "misconfigured",
            ErrorClass::Permanent => "permanent",
        }
    }
}

/// One lower-case sentence for people and a class for the engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SinkError {
    pub class: ErrorClass,
    pub message: String,
}

impl SinkError {
    pub fn retry(message: impl Into<String>) -> SinkError {
        SinkError { class: ErrorClass::Retry, message: message.into() }
    }

    pub fn misconfigured(message: impl Into<String>) -> SinkError {
        SinkError { class: ErrorClass::Misconfigured, message: message.into() }
    }

    /// A network: only what this machine itself forbids is for a person to mend; everything else may pass.
    pub(crate) fn from_network_error(message: String, error: &std::io::Error) -> SinkError {
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => SinkError::misconfigured(message),
            _ => SinkError::retry(message),
        }
    }

    /// A file or directory: what a person must mend, and what may pass.
    pub fn from_path_error(doing: &str, path: &std::path::Path, error: &std::io::Error) -> SinkError {
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

    pub(crate) fn timed_out(doing: &str, address: &str, after: Duration) -> SinkError {
        SinkError::retry(format!("{doing} {address} took longer than {}", domain::units::format_duration(after)))
    }
}

pub type SinkResult<T> = Result<T, SinkError>;
