//! What a sink could not do, classed where the fault is born: the class decides what the engine does next.

use std::time::Duration;

/// What is to be made of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// It may work later by itself: unreachable, busy, broken off. Everything is kept and sent again.
    Retry,
    /// It works once a person has mended something: a certificate, a permission, an address. Everything is kept, and the
    /// engine looks again from time to time.
    Misconfigured,
    /// This very record will never be taken. It is set aside, counted and told; the others go on.
    Permanent,
}

impl Class {
    pub const fn name(self) -> &'static str {
        match self {
            Class::Retry => "retry",
            Class::Misconfigured => "misconfigured",
            Class::Permanent => "permanent",
        }
    }
}

/// One lower-case sentence for people and a class for the engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{says}")]
pub struct SinkError {
    pub class: Class,
    pub says: String,
}

impl SinkError {
    pub fn retry(says: impl Into<String>) -> SinkError {
        SinkError { class: Class::Retry, says: says.into() }
    }

    pub fn misconfigured(says: impl Into<String>) -> SinkError {
        SinkError { class: Class::Misconfigured, says: says.into() }
    }

    /// A network: only what this machine itself forbids is for a person to mend; everything else may pass.
    pub(crate) fn of_network(says: String, error: &std::io::Error) -> SinkError {
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => SinkError::misconfigured(says),
            _ => SinkError::retry(says),
        }
    }

    /// A file or directory: what a person must mend, and what may pass.
    pub fn of_path(doing: &str, path: &std::path::Path, error: &std::io::Error) -> SinkError {
        use std::io::ErrorKind;
        let says = format!("cannot {doing} {}: {error}", path.display());
        match error.kind() {
            ErrorKind::PermissionDenied
            | ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::IsADirectory
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidFilename => SinkError::misconfigured(says),
            _ => SinkError::retry(says),
        }
    }

    pub(crate) fn timed_out(doing: &str, address: &str, after: Duration) -> SinkError {
        SinkError::retry(format!("{doing} {address} took longer than {}", domain::units::format_duration(after)))
    }
}

pub type SinkResult<T> = Result<T, SinkError>;
