//! The ports of `domain` over one SQLite file, in which `sexton up` stores all its state. Each port is one file.
//!
//! | item | purpose |
//! |---|---|
//! | [`Embedded`] | an open database; [`Embedded::ports`] returns its ports |
//! | [`Clock`] | the clock of leases and waits, which tests replace |
//! | [`OpenError`] | reasons why a file cannot be opened |
//!
//! One connection writes, in its own thread, and commits the writes of many callers together (`database`). Readers have
//! their own connections. Orders and reports are tables with leases (`queue`).
//!
//! Run state is written with `synchronous=NORMAL`: after a power cut the latest writes may be missing, but none that is
//! older than a write that survived. Jobs and accepted reports are synced: a runner deletes a report once it is
//! accepted.
//!
//! This crate decides nothing about runs. It never deletes an unreadable record, and never opens a file of a newer
//! build.

#![warn(missing_docs)]

mod alerts;
mod claims;
mod database;
mod due;
mod jobs;
mod orders;
mod queue;
mod reports;
mod row;
mod runs;
mod schema;
mod settings;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use domain::ports::{PortError, Ports};
use jiff::Timestamp;

use database::Database;
use queue::Queue;

/// Clock of leases and waits. Tests advance it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Reasons why the file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A newer build has migrated the file.
    #[error(
        "the database {file} has version {found}, but this build supports up to {known}; use a newer build or another \
         --state"
    )]
    Newer {
        /// Path of the file.
        file: String,
        /// `user_version` of the file.
        found: i64,
        /// Newest version that this build supports.
        known: i64,
    },
    /// The file belongs to another program, or is not an SQLite database.
    #[error("the file {file} is not a database of sexton; choose another directory with --state")]
    Foreign {
        /// Path of the file.
        file: String,
    },
    /// SQLite cannot open or migrate the file.
    #[error("cannot open the database {file}: {source}; check that its directory exists and is writable")]
    Sqlite {
        /// Path of the file.
        file: String,
        /// The error of SQLite.
        source: rusqlite::Error,
    },
    /// The system refuses the thread of the writer.
    #[error("cannot start the writer thread of the database {file}: {source}")]
    Thread {
        /// Path of the file.
        file: String,
        /// The error of the system.
        source: std::io::Error,
    },
}

/// Errors of a read or write.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("database error: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("cannot write a record as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Transaction(String),
}

impl From<Failure> for PortError {
    fn from(failure: Failure) -> PortError {
        use rusqlite::ErrorCode::{CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, OutOfMemory, SystemIoFailure};
        let message = failure.to_string();
        match &failure {
            Failure::Sqlite(error) => match error.sqlite_error_code() {
                Some(DatabaseBusy | DatabaseLocked) => PortError::Retry(format!("the database is busy: {error}")),
                Some(DiskFull | SystemIoFailure | OutOfMemory | CannotOpen) => PortError::Retry(message),
                _ => PortError::Permanent(message),
            },
            Failure::Json(_) => PortError::Permanent(message),
            Failure::Transaction(_) => PortError::Retry(message),
        }
    }
}

type Outcome<T> = Result<T, Failure>;

/// An open database. Cheap to clone; the last clone closes it.
#[derive(Clone)]
pub struct Embedded {
    database: Arc<Database>,
    orders: Arc<Queue>,
    reports: Arc<Queue>,
    /// Whether this process has claimed transitions since it opened the file.
    has_claimed: Arc<AtomicBool>,
}

impl Embedded {
    /// Opens the file, creates it if it is missing, and migrates an older one.
    ///
    /// # Errors
    /// Returns the reason, with the file's name. A file of a newer build stays unchanged.
    pub fn open(file: &Path) -> Result<Embedded, OpenError> {
        Embedded::open_at(file, Arc::new(Timestamp::now))
    }

    /// As [`Embedded::open`], with the clock of leases and waits.
    ///
    /// # Errors
    /// Returns the errors of [`Embedded::open`].
    pub fn open_at(file: &Path, clock: Clock) -> Result<Embedded, OpenError> {
        let database = Arc::new(Database::open(file)?);
        let orders = Arc::new(Queue::new(database.clone(), "orders", clock.clone()));
        let reports = Arc::new(Queue::new(database.clone(), "reports", clock));
        Ok(Embedded { database, orders, reports, has_claimed: Arc::default() })
    }

    /// Returns all ports over this database.
    pub fn ports(&self) -> Ports {
        let embedded = Arc::new(self.clone());
        Ports {
            jobs: embedded.clone(),
            due: embedded.clone(),
            runs: embedded.clone(),
            alerts: embedded.clone(),
            settings: embedded.clone(),
            orders: embedded.clone(),
            claims: embedded.clone(),
            enforces_max_open: true,
            reports: embedded,
        }
    }
}

/// Runs statements on a file, as an operator does with `sqlite3`. For tests of edits by hand.
///
/// # Errors
/// Returns the error of SQLite.
#[doc(hidden)]
pub fn edit_by_hand(file: &Path, statements: &str) -> Result<(), OpenError> {
    let edited = rusqlite::Connection::open(file).and_then(|connection| {
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.execute_batch(statements)
    });
    edited.map_err(|source| OpenError::Sqlite { file: file.display().to_string(), source })
}
