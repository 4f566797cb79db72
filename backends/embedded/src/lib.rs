//! The ports over one SQLite file: what `sexton up` keeps everything in.
//!
//! One connection writes, in a thread of its own that commits many callers' writes together (`database.rs`); readers
//! have connections of their own. Each port is one file. Orders and reports are tables with leases (`queue.rs`).
//!
//! Run state is written with `synchronous=NORMAL`: a power cut may take back the last moments, never their order.
//! Accepting a report is written durably, because its runner then forgets it.

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

/// What tells the time to leases and waits. Tests step it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Why the file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the database {file} is of version {found}, and this build knows {known}; use a newer build, or another --state"
    )]
    Newer { file: String, found: i64, known: i64 },
    #[error("the file {file} is not a database of sexton; name another directory with --state")]
    Foreign { file: String },
    #[error("the database {file} cannot be opened: {source}; check that its directory exists and may be written")]
    Sqlite { file: String, source: rusqlite::Error },
    #[error("no thread for the database {file}: {source}")]
    Thread { file: String, source: std::io::Error },
}

/// What a statement could not do.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the database cannot do it now: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("a record cannot be written as json: {0}")]
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
                Some(DatabaseBusy | DatabaseLocked | DiskFull | SystemIoFailure | OutOfMemory | CannotOpen) => {
                    PortError::Retry(message)
                }
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
    /// Whether transitions were claimed since the file was opened.
    has_claimed: Arc<AtomicBool>,
}

impl Embedded {
    /// Opens the file, creates it when it is missing, and brings an older one up to date.
    ///
    /// # Errors
    /// One sentence that names the file; a file of a newer build is left as it is.
    pub fn open(file: &Path) -> Result<Embedded, OpenError> {
        Embedded::open_at(file, Arc::new(Timestamp::now))
    }

    /// As [`Embedded::open`], with a clock of the caller's.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub fn open_at(file: &Path, clock: Clock) -> Result<Embedded, OpenError> {
        let database = Arc::new(Database::open(file)?);
        let orders = Arc::new(Queue::new(database.clone(), "orders", clock.clone()));
        let reports = Arc::new(Queue::new(database.clone(), "reports", clock));
        Ok(Embedded { database, orders, reports, has_claimed: Arc::default() })
    }

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
            reports: embedded,
        }
    }
}

/// Does to a file what a person with `sqlite3` does; for tests of what comes of that.
///
/// # Errors
/// What SQLite says.
#[doc(hidden)]
pub fn edit_by_hand(file: &Path, statements: &str) -> Result<(), OpenError> {
    let edited = rusqlite::Connection::open(file).and_then(|connection| {
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.execute_batch(statements)
    });
    edited.map_err(|source| OpenError::Sqlite { file: file.display().to_string(), source })
}
