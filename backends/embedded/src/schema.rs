//! The tables, and the migrations of older files. Called once, when the file is opened.

use rusqlite::{Connection, TransactionBehavior};

/// `PRAGMA application_id`: "Sxtn" in ASCII.
const APPLICATION_ID: i64 = 0x5378_746e;

/// Entry n migrates version n to version n + 1. Entries are never changed, only added.
const MIGRATIONS: [&str; 2] = [VERSION_1, VERSION_2];

/// Every record is JSON in `body`; the other columns are for queries. Instants are nanoseconds since 1970. `run_id`
/// begins with the nominal time, so its order is the order of time.
const VERSION_1: &str = "
CREATE TABLE jobs (
    grp TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (grp, name)
);
CREATE TABLE due (
    at INTEGER NOT NULL, grp TEXT NOT NULL, name TEXT NOT NULL, timing TEXT NOT NULL,
    PRIMARY KEY (at, grp, name, timing)
) WITHOUT ROWID;
CREATE TABLE runs (
    run_id TEXT NOT NULL UNIQUE, version INTEGER NOT NULL, grp TEXT NOT NULL, job TEXT NOT NULL,
    open INTEGER NOT NULL, outcome TEXT, runner TEXT, stopping INTEGER NOT NULL, body TEXT NOT NULL
);
CREATE INDEX runs_by_job ON runs (grp, job, run_id);
CREATE INDEX runs_open ON runs (grp, job, run_id) WHERE open = 1;
CREATE INDEX runs_stopping ON runs (runner) WHERE stopping = 1;
CREATE INDEX runs_by_outcome ON runs (outcome, run_id) WHERE outcome <> 'succeeded';
CREATE TABLE alert_states (
    grp TEXT NOT NULL, job TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (grp, job)
);
CREATE TABLE transitions (
    id TEXT NOT NULL UNIQUE, at INTEGER NOT NULL, pending INTEGER NOT NULL, ready INTEGER NOT NULL,
    worker TEXT, body TEXT NOT NULL
);
CREATE INDEX transitions_by_time ON transitions (at, id);
CREATE INDEX transitions_pending ON transitions (ready) WHERE pending = 1;
CREATE TABLE settings (name TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL);
CREATE TABLE beats (runner TEXT NOT NULL PRIMARY KEY, at INTEGER NOT NULL, body TEXT NOT NULL);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, grp TEXT NOT NULL, ready INTEGER NOT NULL,
    parked INTEGER NOT NULL DEFAULT 0, body TEXT NOT NULL
);
CREATE INDEX orders_ready ON orders (ready) WHERE parked = 0;
CREATE TABLE reports (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, grp TEXT NOT NULL, ready INTEGER NOT NULL,
    parked INTEGER NOT NULL DEFAULT 0, body TEXT NOT NULL
);
CREATE INDEX reports_ready ON reports (ready) WHERE parked = 0;
CREATE TABLE set_aside (
    kind TEXT NOT NULL, key TEXT NOT NULL, why TEXT NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (kind, key)
);
";

/// `leased_at` is the start of a lease. If it is in the future, the clock was set back since, and the lease is void.
const VERSION_2: &str = "
ALTER TABLE orders ADD COLUMN leased_at INTEGER;
CREATE INDEX orders_leased ON orders (leased_at) WHERE leased_at IS NOT NULL;
ALTER TABLE reports ADD COLUMN leased_at INTEGER;
CREATE INDEX reports_leased ON reports (leased_at) WHERE leased_at IS NOT NULL;
ALTER TABLE transitions ADD COLUMN leased_at INTEGER;
CREATE INDEX transitions_leased ON transitions (leased_at) WHERE leased_at IS NOT NULL;
";

pub(crate) enum Mismatch {
    Newer { found: i64, known: i64 },
    Foreign,
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Mismatch {
    fn from(error: rusqlite::Error) -> Mismatch {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => Mismatch::Foreign,
            _ => Mismatch::Sqlite(error),
        }
    }
}

/// Checks that the file is a database of this build or of an older one. Returns the number of its tables and indexes.
pub(crate) fn check_version(connection: &Connection) -> Result<i64, Mismatch> {
    let known = MIGRATIONS.len() as i64;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let application: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables > 0 && application != APPLICATION_ID {
        return Err(Mismatch::Foreign);
    }
    if found > known {
        return Err(Mismatch::Newer { found, known });
    }
    Ok(tables)
}

/// Migrates the file to the version of this build, in one transaction.
pub(crate) fn migrate(connection: &mut Connection) -> Result<(), Mismatch> {
    let known = MIGRATIONS.len() as i64;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    check_version(&transaction)?;
    let found: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for migration in &MIGRATIONS[found.max(0) as usize..] {
        transaction.execute_batch(migration)?;
    }
    transaction.execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {known}"))?;
    transaction.commit()?;
    Ok(())
}
