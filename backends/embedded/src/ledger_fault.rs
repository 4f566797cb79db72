//! Why the ledger does not work, by kind. The kinds are for callers that alert and answer requests; the details name
//! paths and are for the operator only.

use rusqlite::ErrorCode;

/// What is wrong with the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Another process locks it.
    Locked,
    /// Its content cannot be read.
    Damaged,
    /// Its file was deleted, or replaced by another one.
    Missing,
    /// It cannot be written.
    ReadOnly,
    /// There is no space for it.
    Full,
    /// The system reports another error.
    Unusable,
    /// There is no answer.
    Silent,
}

impl FaultKind {
    /// One sentence that names no path and no job.
    pub const fn summary(self) -> &'static str {
        match self {
            FaultKind::Locked => "the ledger is locked by another process",
            FaultKind::Damaged => "the ledger is damaged",
            FaultKind::Missing => "the file of the ledger was deleted or replaced",
            FaultKind::ReadOnly => "the ledger cannot be written",
            FaultKind::Full => "there is no space for the ledger",
            FaultKind::Unusable => "the ledger cannot be read or written",
            FaultKind::Silent => "the ledger does not answer",
        }
    }

    /// Whether waiting cannot help: an operator has to act.
    pub const fn needs_operator(self) -> bool {
        matches!(self, FaultKind::Damaged | FaultKind::Missing)
    }

    /// The kind of an error of SQLite. `None`: an error of one statement, not of the file.
    pub(crate) fn of(code: ErrorCode) -> Option<FaultKind> {
        Some(match code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed => {
                FaultKind::Locked
            }
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => FaultKind::Damaged,
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied => FaultKind::ReadOnly,
            ErrorCode::DiskFull => FaultKind::Full,
            ErrorCode::TooBig
            | ErrorCode::ConstraintViolation
            | ErrorCode::TypeMismatch
            | ErrorCode::ParameterOutOfRange => return None,
            _ => FaultKind::Unusable,
        })
    }
}

/// A fault of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerFault {
    /// What is wrong.
    pub kind: FaultKind,
    /// The error of the system or of SQLite, with the file.
    pub detail: String,
}
