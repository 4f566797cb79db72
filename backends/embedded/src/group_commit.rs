//! The writer thread: runs all waiting writes in one transaction, commits, and only then answers.
//!
//! A commit costs the same for one write as for a hundred. Each write has its own savepoint, so a failing write does
//! not undo the others. Each synced transaction also advances the ledger's mark. After an error of the file, the next
//! transaction opens a new connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use jiff::Timestamp;
use rusqlite::Connection;

use crate::database::{Durability, OpenFile};
use crate::ledger_fault::FaultKind;
use crate::ledger_mark::{ClosedFile, Mark, MarkFile};
use crate::{Denied, ledger_space};

/// Writes in one transaction. Chosen: enough to make the commit cheap, few enough to answer within milliseconds.
const GROUP_WRITES_MAX: usize = 256;

/// Sends a caller the result of its write, after the transaction was committed or has failed.
pub(crate) type Answer = Box<dyn FnOnce(Result<(), Denied>) + Send>;

/// Runs a write; with `Err`, it runs nothing and answers with the error. Returns whether to keep its savepoint.
type Work = Box<dyn FnOnce(Result<&Connection, Denied>) -> (bool, Answer) + Send>;

pub(crate) struct Request {
    pub(crate) durability: Durability,
    pub(crate) work: Work,
}

pub(crate) struct Writer {
    file: OpenFile,
    /// None after an error of the file.
    connection: Option<Connection>,
    /// The durability that the connection is set to.
    synchronous: Option<Durability>,
    mark: Option<(Mark, MarkFile)>,
    is_suspect: Arc<AtomicBool>,
}

impl Writer {
    pub(crate) fn new(file: OpenFile, connection: Connection, is_suspect: Arc<AtomicBool>) -> Writer {
        ledger_space::preallocate(&file);
        Writer { file, connection: Some(connection), synchronous: None, mark: None, is_suspect }
    }

    /// Keeps the mark, and writes it now: `found` in the database, or a new one.
    pub(crate) fn with_mark(mut self, found: Option<Mark>, file: MarkFile) -> rusqlite::Result<Writer> {
        let Some(connection) = &self.connection else { return Ok(self) };
        let is_new = found.is_none();
        let mark = match found {
            Some(mark) => mark,
            None => Mark::new(connection, Timestamp::now())?,
        };
        let mark = Mark { count: mark.count + 1, at: Timestamp::now(), closed: None, ..mark };
        connection.execute_batch("PRAGMA synchronous = FULL")?;
        mark.store(connection)?;
        if is_new {
            // A copy of the file without its log then has the id too. An error leaves the id in the log.
            let _ = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        }
        file.write(&mark);
        self.mark = Some((mark, file));
        Ok(self)
    }

    /// Runs until every sender is dropped; then closes the file.
    pub(crate) fn write_until_closed(mut self, waiting: &Receiver<Request>) {
        while let Ok(first) = waiting.recv() {
            let mut group = vec![first];
            while group.len() < GROUP_WRITES_MAX {
                match waiting.try_recv() {
                    Ok(request) => group.push(request),
                    Err(_) => break,
                }
            }
            self.commit_group(group);
        }
        self.close();
    }

    fn commit_group(&mut self, group: Vec<Request>) {
        let wanted = match group.iter().any(|request| request.durability == Durability::Full) {
            true => Durability::Full,
            false => Durability::Normal,
        };
        if let Err(denied) = self.begin(wanted) {
            self.handle_denied(&denied);
            for request in group {
                let (_, answer) = (request.work)(Err(denied.clone()));
                answer(Ok(()));
            }
            return;
        }
        let Some(connection) = &self.connection else { return };
        let mut answers = Vec::with_capacity(group.len());
        for request in group {
            let saved = execute(connection, "SAVEPOINT one").map_err(Denied::from);
            let started = saved.is_ok();
            let (keep, answer) = (request.work)(saved.map(|()| connection));
            let undone = if keep || !started { Ok(()) } else { execute(connection, "ROLLBACK TO one") };
            let released = if started { execute(connection, "RELEASE one") } else { Ok(()) };
            answers.push((answer, undone.and(released)));
        }
        let advanced = self.mark.as_ref().filter(|_| wanted == Durability::Full).map(|(mark, _)| Mark {
            count: mark.count + 1,
            at: Timestamp::now(),
            ..mark.clone()
        });
        let stored = advanced.as_ref().map_or(Ok(()), |mark| mark.store(connection));
        let committed = stored.and_then(|()| execute(connection, "COMMIT")).map_err(Denied::from);
        if committed.is_err() && !connection.is_autocommit() {
            // SQLite rolls back by itself on a full disk, but not on a locked file. The next group must not commit
            // these writes.
            if let Err(error) = execute(connection, "ROLLBACK") {
                tracing::error!(%error, "cannot roll back a database transaction");
            }
        }
        match &committed {
            Ok(()) => self.advance(advanced),
            Err(denied) => self.handle_denied(denied),
        }
        for (answer, saved) in answers {
            answer(committed.clone().and(saved.map_err(Denied::from)));
        }
    }

    fn advance(&mut self, advanced: Option<Mark>) {
        if let (Some((mark, file)), Some(advanced)) = (&mut self.mark, advanced) {
            file.write(&advanced);
            *mark = advanced;
        }
    }

    /// Begins a transaction, on a new connection if the last one failed. Sets the durability first: the pragma works
    /// only between transactions, for later commits.
    fn begin(&mut self, wanted: Durability) -> Result<(), Denied> {
        if self.connection.is_none() {
            let opened = self.file.connect_writer();
            self.connection = Some(opened.map_err(|failure| {
                Denied::new(failure.fault_kind().unwrap_or(FaultKind::Unusable), failure.to_string())
            })?);
            self.synchronous = None;
        }
        let Some(connection) = &self.connection else { return Ok(()) };
        if self.synchronous != Some(wanted) {
            connection.execute_batch(match wanted {
                Durability::Normal => "PRAGMA synchronous = NORMAL",
                Durability::Full => "PRAGMA synchronous = FULL",
            })?;
            self.synchronous = Some(wanted);
        }
        Ok(execute(connection, "BEGIN IMMEDIATE")?)
    }

    fn handle_denied(&mut self, denied: &Denied) {
        match denied.kind {
            FaultKind::Locked | FaultKind::Silent => {}
            FaultKind::Full => {
                // The space of the log is used again from its start.
                if let Some(connection) = &self.connection {
                    let _ = connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
                }
            }
            FaultKind::Damaged | FaultKind::Missing | FaultKind::ReadOnly | FaultKind::Unusable => {
                if denied.kind == FaultKind::Damaged {
                    self.is_suspect.store(true, Ordering::Release);
                }
                self.connection = None;
            }
        }
    }

    /// Empties the log, closes the file, and records that it is whole.
    fn close(mut self) {
        let Some(connection) = self.connection.take() else { return };
        let marked = self.mark.take().and_then(|(mark, file)| {
            let mark = Mark { count: mark.count + 1, at: Timestamp::now(), ..mark };
            connection.execute_batch("PRAGMA synchronous = FULL").and_then(|()| mark.store(&connection)).ok()?;
            file.write(&mark);
            Some((mark, file))
        });
        let emptied = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |columns| columns.get::<_, i64>(0));
        let closed = connection.close();
        let is_whole = matches!(emptied, Ok(0)) && closed.is_ok() && !self.is_suspect.load(Ordering::Acquire);
        if let (Some((mark, file)), true, Ok(())) = (marked, is_whole, self.file.check_is_in_place())
            && let Ok(found) = self.file.handle.metadata()
        {
            file.write(&Mark { closed: Some(ClosedFile::of(&found)), ..mark });
        }
    }
}

fn execute(connection: &Connection, statement: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(statement)?.execute([]).map(|_| ())
}
