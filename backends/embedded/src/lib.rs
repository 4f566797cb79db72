//! The ports of `domain` over one SQLite file, in which `sexton up` stores all its state. Each port is one file.
//!
//! | item | purpose |
//! |---|---|
//! | [`Embedded`] | an open database; [`Embedded::ports`] returns its ports |
//! | [`Clock`] | the clock of leases and waits, which tests replace |
//! | [`OpenError`] | reasons why a file cannot be opened |
//! | [`Embedded::open_ledger`] | opens the ledger of a state directory, after checking that it is whole and its own |
//! | [`Embedded::probe`] | whether the file works now |
//! | [`copies`] | copies a ledger, and puts a copy in its place |
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
pub mod copies;
mod database;
mod due;
mod group_commit;
mod jobs;
mod ledger_fault;
mod ledger_mark;
mod ledger_opening;
mod ledger_probe;
mod ledger_space;
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
pub use ledger_fault::{FaultKind, LedgerFault};
pub use ledger_opening::{Opened, Opening};
use ledger_probe::Watch;
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
    /// The file is damaged.
    #[error("the ledger {file} is damaged: {why}; {REMEDY}")]
    Damaged {
        /// Path of the file.
        file: String,
        /// The first damage that was found.
        why: String,
    },
    /// The state directory was used with a ledger that is not there.
    #[error("the ledger {file} is missing or empty, but {why}; {REMEDY}")]
    Missing {
        /// Path of the file.
        file: String,
        /// What shows that there was one.
        why: String,
    },
    /// The ledger is an older copy, or belongs to another state directory.
    #[error(
        "the ledger {file} {why}. It lacks the runs since then, which would be started again; accept it with `sexton \
         restore {file}`, which starts nothing twice, put the right file back, or start with an empty ledger with \
         `sexton up --new-ledger`"
    )]
    Other {
        /// Path of the file.
        file: String,
        /// How it differs.
        why: String,
    },
    /// SQLite cannot open or migrate the file.
    #[error("cannot open the database {file}: {source}; check that its directory exists and is writable")]
    Sqlite {
        /// Path of the file.
        file: String,
        /// The error of SQLite.
        source: rusqlite::Error,
    },
    /// The system refuses to create or open the file.
    #[error("cannot open {file}: {source}; check that its directory exists and is writable")]
    Create {
        /// Path of the file.
        file: String,
        /// The error of the system.
        source: std::io::Error,
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

/// The two ways to start without the ledger of the state directory.
const REMEDY: &str = "restore a copy with `sexton restore FILE`, which starts nothing twice, or start with an empty \
    ledger with `sexton up --new-ledger`, which keeps the old file beside it";

/// Errors of a read or write.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("database error: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("cannot write a record as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Transaction(Denied),
}

/// Why a transaction was not committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
struct Denied {
    kind: FaultKind,
    message: String,
}

impl Denied {
    fn new(kind: FaultKind, message: impl Into<String>) -> Denied {
        Denied { kind, message: message.into() }
    }
}

impl From<rusqlite::Error> for Denied {
    fn from(error: rusqlite::Error) -> Denied {
        let kind = error.sqlite_error_code().and_then(FaultKind::of).unwrap_or(FaultKind::Unusable);
        Denied::new(kind, error.to_string())
    }
}

impl Failure {
    /// What the failure shows about the file. `None`: the failure concerns one statement.
    fn fault_kind(&self) -> Option<FaultKind> {
        match self {
            Failure::Sqlite(error) => error.sqlite_error_code().and_then(FaultKind::of),
            Failure::Json(_) => None,
            Failure::Transaction(denied) => Some(denied.kind),
        }
    }
}

impl From<Failure> for PortError {
    /// Every fault of the file is to be retried: after a permanent error, callers give up what they have to write.
    fn from(failure: Failure) -> PortError {
        let message = failure.to_string();
        match (&failure, failure.fault_kind()) {
            (Failure::Sqlite(error), Some(FaultKind::Locked)) => {
                PortError::Retry(format!("the database is busy: {error}"))
            }
            (_, Some(_)) => PortError::Retry(message),
            (_, None) => PortError::Permanent(message),
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
    watch: Arc<Watch>,
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
        Ok(Embedded::over(Database::open(file, None)?, clock))
    }

    fn over(database: Database, clock: Clock) -> Embedded {
        let database = Arc::new(database);
        let orders = Arc::new(Queue::new(database.clone(), "orders", clock.clone()));
        let reports = Arc::new(Queue::new(database.clone(), "reports", clock));
        Embedded { database, orders, reports, has_claimed: Arc::default(), watch: Arc::default() }
    }

    /// Ends all writes and closes the file, so that the next start need not check it. Later calls of the ports fail.
    /// Blocks until the last commit.
    pub fn close(&self) {
        self.database.close();
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

/// Locks a file against all writers until the value is dropped, as another program does. For tests.
///
/// # Errors
/// Returns the error of SQLite.
#[doc(hidden)]
pub fn lock_by_hand(file: &Path) -> Result<impl Drop + use<>, OpenError> {
    struct LockedFile(rusqlite::Connection);
    impl Drop for LockedFile {
        fn drop(&mut self) {
            let _ = self.0.execute_batch("ROLLBACK");
        }
    }
    let locked = rusqlite::Connection::open(file).and_then(|connection| {
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.execute_batch("BEGIN EXCLUSIVE")?;
        Ok(LockedFile(connection))
    });
    locked.map_err(|source| OpenError::Sqlite { file: file.display().to_string(), source })
}
