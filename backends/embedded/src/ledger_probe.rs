//! Whether the ledger works now. Called every few seconds by `sexton up`, which alerts without the ledger.
//!
//! A probe compares the file with the one that was opened, writes, reads, and checks the whole file from time to time:
//! SQLite notices a damaged page only when it reads it.

use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::database::{Database, Durability};
use crate::ledger_fault::{FaultKind, LedgerFault};
use crate::{Denied, Embedded, Failure, Outcome, ledger_space};

/// The first bytes of every database (SQLite file format, 1.3).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// How long a write or read may take. Chosen: far above a commit, and above the wait for a lock.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Shortest time between two checks of the whole file. Chosen, not measured.
const CHECK_INTERVAL_MIN: Duration = Duration::from_secs(30);

/// A check may take this part of the time: one that takes 1 s is repeated after 500 s.
const CHECK_SHARE: u32 = 500;

/// What the last probes found.
#[derive(Debug, Default)]
pub(crate) struct Watch(Mutex<WatchState>);

#[derive(Debug, Default)]
struct WatchState {
    length: u64,
    check_at: Option<Instant>,
}

impl Embedded {
    /// Writes, reads and checks the file. Takes at most a few seconds more than 30 s.
    ///
    /// # Errors
    /// Returns what is wrong with the file.
    pub async fn probe(&self) -> Result<(), LedgerFault> {
        let database = &self.database;
        let answered = async {
            self.check_file()?;
            database.try_write(Durability::Full, |_| Ok(())).await?;
            database.try_read(count_tables).await?;
            if self.needs_check() {
                self.check_content().await?;
            }
            Ok(())
        };
        match tokio::time::timeout(ANSWER_MAX, answered).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => return Err(ledger_fault(database, &failure)),
            Err(_) => {
                let detail = format!("{} did not answer for {} s", database.file.path.display(), ANSWER_MAX.as_secs());
                return Err(LedgerFault { kind: FaultKind::Silent, detail });
            }
        }
        let file = database.file.clone();
        let _ = tokio::task::spawn_blocking(move || ledger_space::preallocate(&file)).await;
        Ok(())
    }

    /// Compares the file with the one that was opened.
    fn check_file(&self) -> Outcome<()> {
        let file = &self.database.file;
        file.check_is_in_place().map_err(Failure::Transaction)?;
        let denied = |kind, message: String| Failure::Transaction(Denied::new(kind, message));
        let mut first = [0; 16];
        let read = file.handle.read_exact_at(&mut first, 0);
        if read.is_ok() && first != *MAGIC || read.is_err_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof)
        {
            return Err(denied(FaultKind::Damaged, "its first bytes are overwritten".to_owned()));
        }
        if !ledger_space::log_path(file).exists() {
            return Err(denied(FaultKind::Missing, "its write-ahead log was deleted".to_owned()));
        }
        let length = file.handle.metadata().map_or(0, |file| file.len());
        let mut watch = self.watch.0.lock().unwrap_or_else(PoisonError::into_inner);
        if length < watch.length {
            self.database.is_suspect.store(true, Ordering::Release);
        }
        watch.length = length;
        Ok(())
    }

    fn needs_check(&self) -> bool {
        let watch = self.watch.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.database.is_suspect.load(Ordering::Acquire) || watch.check_at.is_none_or(|at| at <= Instant::now())
    }

    async fn check_content(&self) -> Outcome<()> {
        let started = Instant::now();
        let checked = self.database.try_read(quick_check).await;
        let after = (started.elapsed() * CHECK_SHARE).max(CHECK_INTERVAL_MIN);
        self.watch.0.lock().unwrap_or_else(PoisonError::into_inner).check_at = Some(Instant::now() + after);
        match checked? {
            Ok(()) => self.database.is_suspect.store(false, Ordering::Release),
            Err(why) => {
                self.database.is_suspect.store(true, Ordering::Release);
                return Err(Failure::Transaction(Denied::new(FaultKind::Damaged, why)));
            }
        }
        Ok(())
    }
}

fn ledger_fault(database: &Database, failure: &Failure) -> LedgerFault {
    let kind = failure.fault_kind().unwrap_or(FaultKind::Unusable);
    LedgerFault { kind, detail: format!("{}: {failure}", database.file.path.display()) }
}

fn count_tables(connection: &Connection) -> Outcome<i64> {
    Ok(connection.query_row("SELECT count(*) FROM sqlite_schema", [], |columns| columns.get(0))?)
}

/// Checks every page of the file; the inner error is the first damage.
pub(crate) fn quick_check(connection: &Connection) -> Outcome<Result<(), String>> {
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |columns| columns.get(0))?;
    Ok(if found == "ok" { Ok(()) } else { Err(found.lines().collect::<Vec<_>>().join("; ")) })
}
