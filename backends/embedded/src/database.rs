//! The SQLite file: one writer thread that commits the writes of many callers together, and reader connections. Called
//! by every port; knows no table.
//!
//! A commit costs the same for one write as for a hundred. So the writer runs all waiting writes in one transaction,
//! commits, and only then answers. Each write has its own savepoint, so a failing write does not undo the others.

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use domain::ports::{PortError, PortResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use crate::schema::{self, Mismatch};
use crate::{Failure, OpenError, Outcome};

/// Writes in one transaction. Chosen: enough to make the commit cheap, few enough to answer within milliseconds.
const GROUP_WRITES_MAX: usize = 256;

/// Writes waiting for the writer; further callers get an error to retry. Chosen, not measured.
const WAITING_WRITES_MAX: usize = 16_384;

/// How long a statement waits for another process that locks the file (a backup, `sqlite3` by hand). Chosen, not
/// measured.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

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

/// Sends a caller the result of its write, after the transaction was committed or has failed.
type Answer = Box<dyn FnOnce(Result<(), String>) + Send>;

/// Runs a write; with `Err`, it runs nothing and answers with the error. Returns whether to keep its savepoint.
type Work = Box<dyn FnOnce(Result<&Connection, String>) -> (bool, Answer) + Send>;

struct Request {
    durability: Durability,
    work: Work,
}

pub(crate) struct Database {
    file: PathBuf,
    requests: Option<SyncSender<Request>>,
    writer: Option<JoinHandle<()>>,
    readers: Mutex<Vec<Connection>>,
}

impl Database {
    pub(crate) fn open(file: &Path) -> Result<Database, OpenError> {
        let name = || file.display().to_string();
        let sqlite = |source| OpenError::Sqlite { file: name(), source };
        create_private(file);
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
        let (requests, waiting) = sync_channel(WAITING_WRITES_MAX);
        let writer = std::thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || write_until_closed(connection, &waiting))
            .map_err(|source| OpenError::Thread { file: name(), source })?;
        Ok(Database {
            file: file.to_owned(),
            requests: Some(requests),
            writer: Some(writer),
            readers: Mutex::new(Vec::new()),
        })
    }

    /// Runs `work` in the writer's next transaction; returns after the commit. An error undoes only this work.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    ) -> PortResult<T> {
        let (sender, receiver) = oneshot::channel();
        let work = Box::new(move |connection: Result<&Connection, String>| -> (bool, Answer) {
            let result = connection.map_err(Failure::Transaction).and_then(work);
            let keep = result.is_ok();
            let answer = move |committed: Result<(), String>| {
                // The caller may have stopped waiting; the write stays.
                let _ = sender.send(result.and_then(|value| committed.map(|()| value).map_err(Failure::Transaction)));
            };
            (keep, Box::new(answer))
        });
        match self.requests.as_ref().map(|requests| requests.try_send(Request { durability, work })) {
            Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_))) => {
                return Err(PortError::Retry(format!("the database is busy: {WAITING_WRITES_MAX} writes are waiting")));
            }
            Some(Err(TrySendError::Disconnected(_))) | None => return Err(writer_stopped()),
        }
        Ok(receiver.await.map_err(|_| writer_stopped())??)
    }

    /// Runs `work` on a connection that sees everything committed before.
    pub(crate) async fn read<T: Send + 'static>(
        self: &std::sync::Arc<Self>,
        work: impl FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    ) -> PortResult<T> {
        let database = self.clone();
        let read = move || -> Outcome<T> {
            let connection = match database.readers.lock().unwrap_or_else(PoisonError::into_inner).pop() {
                Some(connection) => connection,
                None => open_reader(&database.file)?,
            };
            let result = work(&connection);
            let mut readers = database.readers.lock().unwrap_or_else(PoisonError::into_inner);
            if readers.len() < READERS_MAX {
                readers.push(connection);
            }
            result
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(result) => Ok(result?),
            Err(error) => Err(PortError::Retry(format!("a read of the database was interrupted: {error}"))),
        }
    }
}

impl Drop for Database {
    /// Waits for the last commit, so that the next process that opens the file finds all writes.
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// SQLite gives its own files the mode of the database. Errors are left to SQLite, whose texts name them.
fn create_private(file: &Path) {
    if let Ok(created) = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file) {
        let _ = created.set_permissions(Permissions::from_mode(0o600));
    }
}

fn writer_stopped() -> PortError {
    PortError::Retry("the writer thread of the database has stopped; restart sexton".to_owned())
}

fn open_reader(file: &Path) -> Outcome<Connection> {
    let connection = Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI,
    )?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    configure_statements(&connection)?;
    Ok(connection)
}

/// Makes SQLite compile each statement once, and keep temporary data in memory. By default, it compiles a statement
/// again if its plan may depend on the value of a parameter, such as a `LIMIT`.
fn configure_statements(connection: &Connection) -> rusqlite::Result<()> {
    // Sorting needs no temporary file, so that it works where no directory but the state directory can be written.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED_MAX);
    Ok(())
}

fn write_until_closed(connection: Connection, waiting: &Receiver<Request>) {
    let mut synchronous = None;
    while let Ok(first) = waiting.recv() {
        let mut group = vec![first];
        while group.len() < GROUP_WRITES_MAX {
            match waiting.try_recv() {
                Ok(request) => group.push(request),
                Err(_) => break,
            }
        }
        commit_group(&connection, &mut synchronous, group);
    }
}

fn commit_group(connection: &Connection, synchronous: &mut Option<Durability>, group: Vec<Request>) {
    let wanted = match group.iter().any(|request| request.durability == Durability::Full) {
        true => Durability::Full,
        false => Durability::Normal,
    };
    if let Err(error) = begin_transaction(connection, synchronous, wanted) {
        for request in group {
            let (_, answer) = (request.work)(Err(error.to_string()));
            answer(Ok(()));
        }
        return;
    }
    let mut answers = Vec::with_capacity(group.len());
    for request in group {
        let saved = execute(connection, "SAVEPOINT one").map_err(|error| error.to_string());
        let started = saved.is_ok();
        let (keep, answer) = (request.work)(saved.map(|()| connection));
        let undone = if keep || !started { Ok(()) } else { execute(connection, "ROLLBACK TO one") };
        let released = if started { execute(connection, "RELEASE one") } else { Ok(()) };
        answers.push((answer, undone.and(released)));
    }
    let committed = execute(connection, "COMMIT").map_err(|error| error.to_string());
    if committed.is_err() && !connection.is_autocommit() {
        // SQLite rolls back by itself on a full disk, but not on a locked file. The next group must not commit these
        // writes.
        if let Err(error) = execute(connection, "ROLLBACK") {
            tracing::error!(%error, "cannot roll back a database transaction");
        }
    }
    for (answer, saved) in answers {
        answer(committed.clone().and(saved.map_err(|error| error.to_string())));
    }
}

/// Sets the durability first: the pragma works only between transactions, for later commits.
fn begin_transaction(
    connection: &Connection,
    current: &mut Option<Durability>,
    wanted: Durability,
) -> rusqlite::Result<()> {
    if *current != Some(wanted) {
        connection.execute_batch(match wanted {
            Durability::Normal => "PRAGMA synchronous = NORMAL",
            Durability::Full => "PRAGMA synchronous = FULL",
        })?;
        *current = Some(wanted);
    }
    execute(connection, "BEGIN IMMEDIATE")
}

fn execute(connection: &Connection, statement: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(statement)?.execute([]).map(|_| ())
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    #[test]
    fn a_statement_is_compiled_once_for_all_values_of_its_parameters() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sexton.db");
        let _database = Database::open(&file).unwrap();
        let connection = open_reader(&file).unwrap();
        let mut select = connection.prepare_cached("SELECT at FROM due WHERE at <= ?1 ORDER BY at LIMIT ?2").unwrap();
        for most in 1..=5 {
            assert!(select.query_map([i64::MAX, most], |_| Ok(())).unwrap().next().is_none());
        }
        assert_eq!(select.get_status(StatementStatus::RePrepare), 0);
    }
}
