//! The SQLite file: one writer thread that commits the writes of many callers together (`group_commit`), and reader
//! connections. Called by every port; knows no table.

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use domain::ports::PortResult;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use crate::group_commit::{Answer, Request, Writer};
use crate::ledger_fault::FaultKind;
use crate::ledger_mark::{Mark, MarkFile};
use crate::schema::{self, Mismatch};
use crate::{Denied, Failure, OpenError, Outcome, ledger_space};

/// Writes waiting for the writer; further callers get an error to retry. Chosen, not measured.
const WAITING_WRITES_MAX: usize = 16_384;

/// How long a statement waits for another process that locks the file (a backup, `sqlite3` by hand). Chosen, not
/// measured.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Reader connections kept open between reads. Chosen, not measured.
const READERS_MAX: usize = 4;

/// Prepared statements cached per connection. Chosen: more than this crate has.
const STATEMENTS_CACHED_MAX: usize = 64;

/// Size in bytes to which SQLite truncates the write-ahead log after a checkpoint. Chosen, not measured.
const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Whether a write must survive a power cut once it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Written to the log; synced by a later checkpoint.
    Normal,
    /// Synced to the disk before the answer.
    Full,
}

pub(crate) struct Database {
    pub(crate) file: OpenFile,
    requests: Mutex<Option<SyncSender<Request>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    readers: Mutex<Vec<Connection>>,
    is_closed: AtomicBool,
    /// A read or write found damage: for the next probe.
    pub(crate) is_suspect: Arc<AtomicBool>,
}

/// The file as it was opened. Its handle stays open, because closing any handle of the file would release the locks
/// of SQLite in this process (fcntl(2), "Advisory record locking").
#[derive(Clone)]
pub(crate) struct OpenFile {
    pub(crate) path: PathBuf,
    pub(crate) handle: Arc<File>,
}

impl OpenFile {
    fn open(path: &Path) -> std::io::Result<OpenFile> {
        let handle = File::options().read(true).write(true).open(path)?;
        Ok(OpenFile { path: path.to_owned(), handle: Arc::new(handle) })
    }

    /// Fails if the path leads to another file than the one that was opened.
    pub(crate) fn check_is_in_place(&self) -> Result<(), Denied> {
        let missing = |why: &str| Denied::new(FaultKind::Missing, format!("the file {} {why}", self.path.display()));
        let opened = self.handle.metadata().map_err(|error| missing(&format!("cannot be checked: {error}")))?;
        match std::fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == (opened.dev(), opened.ino()) => Ok(()),
            Ok(_) => Err(missing("was replaced by another one")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(missing("was deleted")),
            Err(error) => Err(missing(&format!("cannot be reached: {error}"))),
        }
    }

    /// Opens a connection to this file, never to another one at its path.
    pub(crate) fn connect(&self, flags: OpenFlags) -> Outcome<Connection> {
        self.check_is_in_place().map_err(Failure::Transaction)?;
        let connection = Connection::open_with_flags(&self.path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        configure_statements(&connection)?;
        Ok(connection)
    }

    pub(crate) fn connect_writer(&self) -> Outcome<Connection> {
        let connection = self.connect(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.execute_batch(&format!("PRAGMA journal_size_limit = {LOG_BYTES_MAX}"))?;
        ledger_space::limit_log(&connection, self)?;
        Ok(connection)
    }

    fn connect_reader(&self) -> Outcome<Connection> {
        self.connect(OpenFlags::SQLITE_OPEN_READ_ONLY)
    }
}

impl Database {
    /// Opens, creates or migrates the file. With `mark`, the file of the ledger's mark in the state directory.
    pub(crate) fn open(file: &Path, mark: Option<MarkFile>) -> Result<Database, OpenError> {
        let name = || file.display().to_string();
        let sqlite = |source| OpenError::Sqlite { file: name(), source };
        create_private(file).map_err(|source| OpenError::Create { file: name(), source })?;
        let opened = OpenFile::open(file).map_err(|source| OpenError::Create { file: name(), source })?;
        let mut connection = Connection::open(file).map_err(sqlite)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(sqlite)?;
        schema::migrate(&mut connection).map_err(|mismatch| match mismatch {
            Mismatch::Newer { found, known } => OpenError::Newer { file: name(), found, known },
            Mismatch::Foreign => OpenError::Foreign { file: name() },
            Mismatch::Sqlite(source) => OpenError::Sqlite { file: name(), source },
        })?;
        let set_up = format!("PRAGMA journal_mode = WAL; PRAGMA journal_size_limit = {LOG_BYTES_MAX}");
        connection.execute_batch(&set_up).map_err(sqlite)?;
        configure_statements(&connection).map_err(sqlite)?;
        ledger_space::limit_log(&connection, &opened).map_err(sqlite)?;
        let marked = match mark {
            None => None,
            Some(mark_file) => Some((Mark::read(&connection).map_err(sqlite)?, mark_file)),
        };
        let is_suspect = Arc::new(AtomicBool::new(false));
        let writer = Writer::new(opened.clone(), connection, is_suspect.clone());
        let writer = match marked {
            None => writer,
            Some((mark, mark_file)) => writer.with_mark(mark, mark_file).map_err(sqlite)?,
        };
        let (requests, waiting) = sync_channel(WAITING_WRITES_MAX);
        let writer = std::thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || writer.write_until_closed(&waiting))
            .map_err(|source| OpenError::Thread { file: name(), source })?;
        Ok(Database {
            file: opened,
            requests: Mutex::new(Some(requests)),
            writer: Mutex::new(Some(writer)),
            readers: Mutex::default(),
            is_closed: AtomicBool::new(false),
            is_suspect,
        })
    }

    /// Runs `work` in the writer's next transaction; returns after the commit. An error undoes only this work.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    ) -> PortResult<T> {
        Ok(self.try_write(durability, work).await?)
    }

    /// As [`Database::write`], with the error of the file.
    pub(crate) async fn try_write<T: Send + 'static>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let (sender, receiver) = oneshot::channel();
        let suspect = self.is_suspect.clone();
        let work = Box::new(move |connection: Result<&Connection, Denied>| -> (bool, Answer) {
            let result = connection.map_err(Failure::Transaction).and_then(work);
            note_damage(&suspect, &result);
            let keep = result.is_ok();
            let answer = move |committed: Result<(), Denied>| {
                // The caller may have stopped waiting; the write stays.
                let _ = sender.send(result.and_then(|value| committed.map(|()| value).map_err(Failure::Transaction)));
            };
            (keep, Box::new(answer))
        });
        let request = Request { durability, work };
        match lock(&self.requests).as_ref().map(|requests| requests.try_send(request)) {
            Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_))) => {
                let message = format!("the database is busy: {WAITING_WRITES_MAX} writes are waiting");
                return Err(Failure::Transaction(Denied::new(FaultKind::Silent, message)));
            }
            Some(Err(TrySendError::Disconnected(_))) | None => return Err(writer_stopped()),
        }
        receiver.await.map_err(|_| writer_stopped())?
    }

    /// Runs `work` on a connection that sees everything committed before.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    ) -> PortResult<T> {
        Ok(self.try_read(work).await?)
    }

    /// As [`Database::read`], with the error of the file.
    pub(crate) async fn try_read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let database = self.clone();
        let read = move || -> Outcome<T> {
            if database.is_closed.load(Ordering::Acquire) {
                return Err(writer_stopped());
            }
            let pooled = lock(&database.readers).pop();
            let connection = match pooled {
                Some(connection) => connection,
                None => database.file.connect_reader()?,
            };
            let result = work(&connection);
            note_damage(&database.is_suspect, &result);
            // After an error, the next read opens a new connection: this one may have cached what has changed since.
            let mut readers = lock(&database.readers);
            if result.is_ok() && readers.len() < READERS_MAX && !database.is_closed.load(Ordering::Acquire) {
                readers.push(connection);
            }
            result
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(result) => result,
            Err(error) => {
                let message = format!("a read of the database was interrupted: {error}");
                Err(Failure::Transaction(Denied::new(FaultKind::Unusable, message)))
            }
        }
    }

    /// Ends reads and writes, and waits for the last commit, so that the next process that opens the file finds all
    /// writes. Idempotent.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        lock(&self.readers).clear();
        drop(lock(&self.requests).take());
        if let Some(writer) = lock(&self.writer).take() {
            let _ = writer.join();
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note_damage<T>(suspect: &AtomicBool, result: &Outcome<T>) {
    if result.as_ref().err().and_then(Failure::fault_kind) == Some(FaultKind::Damaged) {
        suspect.store(true, Ordering::Release);
    }
}

fn writer_stopped() -> Failure {
    let message = "the writer thread of the database has stopped; restart sexton";
    Failure::Transaction(Denied::new(FaultKind::Silent, message))
}

/// Creates a missing file, readable only by its owner, before SQLite does: the log gets the mode of the file.
fn create_private(file: &Path) -> std::io::Result<()> {
    match File::options().write(true).create_new(true).mode(0o600).open(file) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        // Also with a umask that removes more.
        created => created?.set_permissions(Permissions::from_mode(0o600)),
    }
}

/// Makes SQLite compile each statement once, and keep temporary data in memory. By default, it compiles a statement
/// again if its plan may depend on the value of a parameter, such as a `LIMIT`.
fn configure_statements(connection: &Connection) -> rusqlite::Result<()> {
    // Sorting and savepoints need no temporary file, so that they work where no directory but the state directory can
    // be written, and where the folder for temporary files is full.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED_MAX);
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    #[test]
    fn a_statement_is_compiled_once_for_all_values_of_its_parameters() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sexton.db");
        let database = Database::open(&file, None).unwrap();
        let connection = database.file.connect_reader().unwrap();
        let mut select = connection.prepare_cached("SELECT at FROM due WHERE at <= ?1 ORDER BY at LIMIT ?2").unwrap();
        for most in 1..=5 {
            assert!(select.query_map([i64::MAX, most], |_| Ok(())).unwrap().next().is_none());
        }
        assert_eq!(select.get_status(StatementStatus::RePrepare), 0);
    }
}
