//! The file: one writer that commits many callers' writes together, and readers.
//!
//! A commit costs the same for one write as for a hundred, so the writer takes whatever is waiting, runs it in one
//! transaction (each write in a savepoint of its own, so that one that fails takes nothing along), commits, and only
//! then answers. Called by every port; knows no table.

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

/// Writes in one transaction. Ours: enough to make the commit cheap, few enough to answer within milliseconds.
const GROUP_WRITES_MAX: usize = 256;

/// Writes waiting for the writer; beyond, the caller is told to come again.
const WAITING_WRITES_MAX: usize = 16_384;

/// How long another process may hold the file (a backup, `sqlite3` by hand).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Reader connections kept open between reads.
const READERS_MAX: usize = 4;

/// Prepared statements kept per connection.
const STATEMENTS_CACHED_MAX: usize = 64;

/// The write-ahead log is cut back to this many bytes after a checkpoint.
const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Whether a write must survive a power cut once it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    Normal,
    /// Synced to the disk before the answer.
    Full,
}

/// Tells a caller what came of its write, once the transaction is known to have been committed or not.
type Answer = Box<dyn FnOnce(Result<(), String>) + Send>;

/// Given `Err`, it only answers. The flag says whether its savepoint is to be kept.
type Work = Box<dyn FnOnce(Result<&Connection, String>) -> (bool, Answer) + Send>;

struct Request {
    durability: Durability,
    work: Work,
}

pub struct Database {
    file: PathBuf,
    requests: Option<SyncSender<Request>>,
    writer: Option<JoinHandle<()>>,
    readers: Mutex<Vec<Connection>>,
}

impl Database {
    pub fn open(file: &Path) -> Result<Database, OpenError> {
        let name = || file.display().to_string();
        let sqlite = |source| OpenError::Sqlite { file: name(), source };
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
    pub async fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    ) -> PortResult<T> {
        let (sender, receiver) = oneshot::channel();
        let work = Box::new(move |connection: Result<&Connection, String>| -> (bool, Answer) {
            let result = connection.map_err(Failure::Transaction).and_then(work);
            let keep = result.is_ok();
            let answer = move |committed: Result<(), String>| {
                // The caller may have gone away; what was written stays.
                let _ = sender.send(result.and_then(|value| committed.map(|()| value).map_err(Failure::Transaction)));
            };
            (keep, Box::new(answer))
        });
        match self.requests.as_ref().map(|requests| requests.try_send(Request { durability, work })) {
            Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_))) => {
                return Err(PortError::Retry(format!("{WAITING_WRITES_MAX} writes wait for the database already")));
            }
            Some(Err(TrySendError::Disconnected(_))) | None => return Err(writer_stopped()),
        }
        Ok(receiver.await.map_err(|_| writer_stopped())??)
    }

    /// Runs `work` on a connection that sees everything committed before.
    pub async fn read<T: Send + 'static>(
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
            Err(error) => Err(PortError::Retry(format!("a read of the database was broken off: {error}"))),
        }
    }
}

impl Drop for Database {
    /// Waits for the last commit, so that who opens the file next finds everything.
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn writer_stopped() -> PortError {
    PortError::Retry("the thread that writes the database has ended; restart sexton".to_owned())
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

/// A statement is compiled once. Left to itself, SQLite compiles one anew for each call whose plan might depend on a
/// parameter's value, such as a `LIMIT`.
fn configure_statements(connection: &Connection) -> rusqlite::Result<()> {
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
        // A full disk rolls back by itself; a busy file does not. Nothing of this group may slip into the next one.
        if let Err(error) = execute(connection, "ROLLBACK") {
            tracing::error!(%error, "a transaction of the database could not be rolled back");
        }
    }
    for (answer, saved) in answers {
        answer(committed.clone().and(saved.map_err(|error| error.to_string())));
    }
}

/// The pragma has an effect only between transactions, and only on the next commits.
fn begin_transaction(
    connection: &Connection,
    now: &mut Option<Durability>,
    wanted: Durability,
) -> rusqlite::Result<()> {
    if *now != Some(wanted) {
        connection.execute_batch(match wanted {
            Durability::Normal => "PRAGMA synchronous = NORMAL",
            Durability::Full => "PRAGMA synchronous = FULL",
        })?;
        *now = Some(wanted);
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
