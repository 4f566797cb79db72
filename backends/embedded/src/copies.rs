//! Copies of a ledger: [`back_up`] makes one while the ledger is in use, [`restore`] puts one in its place. Called by
//! `sexton backup` and `sexton restore`. Decides nothing about runs: a restored ledger holds a note, which `services`
//! settles at the next start.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use domain::restored::{RESTORED, RestoredLedger};
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use crate::ledger_mark::{Mark, MarkFile};
use crate::ledger_opening::{beside, check_content, connect, damaged, rename_aside};
use crate::schema::{self, Mismatch};
use crate::{OpenError, row};

/// Name of the setting that a copy is recognised by.
const COPY: &str = "copy";

/// How far the counter of a restored ledger is ahead of all others. Chosen: a file of the state directory that could
/// not be written lags by fewer writes.
const COUNT_AHEAD: u64 = 1000;

/// Why a copy cannot be made or restored.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A file is not a whole ledger of this build or an older one.
    #[error(transparent)]
    Ledger(#[from] OpenError),
    /// A file cannot be read or written.
    #[error("cannot {doing} {file}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Path of the file.
        file: String,
        /// The error of the system.
        source: io::Error,
    },
    /// The copy would replace a file that is no copy.
    #[error("{0}")]
    Refused(String),
}

/// A copy that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The instant of its content.
    pub at: Timestamp,
    /// Its size.
    pub bytes: u64,
}

/// A copy that was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The instant of its content.
    pub copied_at: Timestamp,
    /// Where the ledger is that it replaced.
    pub replaced: Option<PathBuf>,
}

/// The note in a copy.
#[derive(Serialize, Deserialize)]
struct CopyNote {
    taken_at: Timestamp,
}

/// Copies the ledger to a file, which is complete or absent. Writers of the ledger do not wait.
///
/// # Errors
/// Returns why there is no copy. An existing file is replaced only if it is an earlier copy, or empty.
pub fn back_up(ledger: &Path, to: &Path, now: Timestamp) -> Result<Copied, CopyError> {
    let source = fs::metadata(ledger).map_err(|error| io_error("read", ledger, error))?;
    check_target(&source, to)?;
    let connection = connect(ledger, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    check_is_ledger(ledger, &connection)?;
    let partial = beside(to, ".partial");
    let made = write_copy(&connection, ledger, &partial, now);
    if made.is_err() {
        let _ = fs::remove_file(&partial);
    }
    let bytes = made?;
    fs::rename(&partial, to).map_err(|error| io_error("write", to, error))?;
    sync_folder(to)?;
    Ok(Copied { at: now, bytes })
}

fn check_target(source: &fs::Metadata, to: &Path) -> Result<(), CopyError> {
    let Ok(found) = fs::metadata(to) else { return Ok(()) };
    let refused = |why: &str| Err(CopyError::Refused(format!("{} {why}; name another file", to.display())));
    if (found.dev(), found.ino()) == (source.dev(), source.ino()) {
        return refused("is the ledger itself");
    }
    if !found.is_file() {
        return refused("is not a regular file");
    }
    let is_copy = || {
        let connection = connect(to, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
        schema::check_version(&connection).ok()?;
        read_note(&connection).ok()?
    };
    if found.len() > 0 && is_copy().is_none() {
        return refused("exists and is not a copy of a ledger");
    }
    Ok(())
}

fn write_copy(connection: &Connection, ledger: &Path, to: &Path, now: Timestamp) -> Result<u64, CopyError> {
    use std::os::unix::fs::OpenOptionsExt;
    let write_error = |error| io_error("write", to, error);
    // SQLite accepts an empty file; this one is readable only by its owner.
    let _ = fs::remove_file(to);
    File::options().write(true).create_new(true).mode(0o600).open(to).map_err(write_error)?;
    let name = to.to_str().ok_or_else(|| CopyError::Refused("the name of the copy is not UTF-8".to_owned()))?;
    connection.execute("VACUUM INTO ?1", [name]).map_err(|error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => write_error(io::ErrorKind::StorageFull.into()),
        _ => damaged(ledger, &error).into(),
    })?;
    let copy = connect(to, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let noted = (|| {
        write_setting(&copy, COPY, &CopyNote { taken_at: now })?;
        copy.execute("DELETE FROM settings WHERE name = ?1 AND json_extract(body, '$.settled')", [RESTORED])
    })();
    noted.map_err(|error| damaged(to, &error))?;
    check_content(to, &copy)?;
    drop(copy);
    let file = File::open(to).map_err(write_error)?;
    file.sync_all().map_err(write_error)?;
    Ok(file.metadata().map_err(write_error)?.len())
}

/// Puts a copy in the place of the ledger. The caller holds the lock of the state directory. The replaced ledger is
/// renamed, not deleted. `from` may be the ledger itself, where an older copy was put there by hand.
///
/// # Errors
/// Returns why the copy is refused; the ledger is unchanged then.
pub fn restore(from: &Path, ledger: &Path, mark_file: &Path, now: Timestamp) -> Result<Restored, CopyError> {
    let partial = beside(ledger, ".restoring");
    let prepared = prepare(from, &partial, mark_file, now);
    if prepared.is_err() {
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(beside(&partial, suffix));
        }
    }
    let (mark, copied_at) = prepared?;
    let write_error = |error| io_error("write", ledger, error);
    let replaced = match ledger.try_exists().map_err(write_error)? {
        true => Some(rename_aside(ledger).map_err(write_error)?),
        false => None,
    };
    for suffix in ["-wal", "-shm"] {
        // The log of a missing ledger belongs to no other.
        let _ = fs::remove_file(beside(ledger, suffix));
    }
    fs::rename(&partial, ledger).map_err(write_error)?;
    sync_folder(ledger)?;
    MarkFile::open(mark_file).map_err(|error| io_error("write", mark_file, error))?.write(&mark);
    Ok(Restored { copied_at, replaced })
}

/// Makes the file that becomes the ledger: the copy, with a note about the restore, and a mark that is ahead of all
/// others.
fn prepare(from: &Path, to: &Path, mark_file: &Path, now: Timestamp) -> Result<(Mark, Timestamp), CopyError> {
    let found = fs::metadata(from).map_err(|error| io_error("read", from, error))?;
    if found.len() == 0 || !found.is_file() {
        return Err(CopyError::Refused(format!("{} is empty or no regular file; name a copy", from.display())));
    }
    for suffix in ["", "-wal"] {
        copy_private(&beside(from, suffix), &beside(to, suffix), suffix.is_empty())?;
    }
    let mut copy = connect(to, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    check_is_ledger(from, &copy)?;
    check_content(from, &copy)?;
    let sqlite = |error: rusqlite::Error| CopyError::from(damaged(from, &error));
    let modified = Timestamp::from_second(found.mtime()).unwrap_or(now);
    let stored = Mark::read(&copy).map_err(sqlite)?;
    let copied_at = copied_at(&copy, stored.as_ref(), modified).map_err(sqlite)?.min(now);
    schema::migrate(&mut copy).map_err(|mismatch| match mismatch {
        Mismatch::Sqlite(error) => sqlite(error),
        _ => CopyError::Refused(format!("{} is not a ledger of this build", from.display())),
    })?;
    let here = Mark::read_file(mark_file).map_err(|error| io_error("read", mark_file, error))?;
    let count = here.iter().chain(&stored).map(|mark| mark.count).max().unwrap_or(0) + COUNT_AHEAD;
    let mark = match here.or(stored) {
        Some(mark) => Mark { count, at: now, closed: None, ..mark },
        None => Mark { count, ..Mark::new(&copy, now).map_err(sqlite)? },
    };
    let note = RestoredLedger { copied_at, restored_at: now, settled: false };
    let written = (|| {
        mark.store(&copy)?;
        write_setting(&copy, RESTORED, &note)?;
        // No runner of the copy is alive: the caller holds the lock. A runner that lost its id need not wait.
        copy.execute("DELETE FROM beats", [])?;
        copy.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        copy.close().map_err(|(_, error)| error)
    })();
    written.map_err(sqlite)?;
    File::open(to).and_then(|file| file.sync_all()).map_err(|error| io_error("write", to, error))?;
    Ok((mark, copied_at))
}

/// The instant of a copy's content: its note, or its last synced write where it was copied by hand.
fn copied_at(copy: &Connection, mark: Option<&Mark>, modified: Timestamp) -> rusqlite::Result<Timestamp> {
    let noted = read_note(copy)?.map(|note| note.taken_at).into_iter().chain(mark.map(|mark| mark.at)).max();
    let last_beat: Option<i64> = copy.query_row("SELECT max(at) FROM beats", [], |columns| columns.get(0))?;
    let at = noted.or(last_beat.map(row::instant)).unwrap_or(modified);
    // A ledger that was restored and not started since lacks what the copy before it lacked.
    let before: Option<RestoredLedger> = read_setting(copy, RESTORED)?;
    Ok(before.filter(|before| !before.settled).map_or(at, |before| before.copied_at.min(at)))
}

fn check_is_ledger(file: &Path, connection: &Connection) -> Result<(), CopyError> {
    let name = || file.display().to_string();
    match schema::check_version(connection) {
        Ok(0) => Err(OpenError::Foreign { file: name() }.into()),
        Ok(_) => Ok(()),
        Err(Mismatch::Foreign) => Err(OpenError::Foreign { file: name() }.into()),
        Err(Mismatch::Newer { found, known }) => Err(OpenError::Newer { file: name(), found, known }.into()),
        Err(Mismatch::Sqlite(error)) => Err(damaged(file, &error).into()),
    }
}

fn read_note(connection: &Connection) -> rusqlite::Result<Option<CopyNote>> {
    read_setting(connection, COPY)
}

fn read_setting<T: serde::de::DeserializeOwned>(connection: &Connection, name: &str) -> rusqlite::Result<Option<T>> {
    let select = "SELECT body FROM settings WHERE name = ?1";
    let body = connection.query_row(select, [name], |columns| row::text(columns, 0)).optional()?;
    Ok(body.and_then(|body| row::parse(&body).ok()))
}

fn write_setting(connection: &Connection, name: &str, value: &impl Serialize) -> rusqlite::Result<()> {
    let body = serde_json::to_string(value).unwrap_or_default();
    connection.execute(
        "INSERT INTO settings (name, version, body) VALUES (?1, 1, ?2)
         ON CONFLICT DO UPDATE SET version = version + 1, body = excluded.body",
        params![name, body],
    )?;
    Ok(())
}

fn copy_private(from: &Path, to: &Path, is_required: bool) -> Result<(), CopyError> {
    use std::os::unix::fs::OpenOptionsExt;
    let _ = fs::remove_file(to);
    let mut source = match File::open(from) {
        Ok(source) => source,
        Err(error) if !is_required && error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("read", from, error)),
    };
    let target = File::options().write(true).create_new(true).mode(0o600).open(to);
    target
        .and_then(|mut target| io::copy(&mut source, &mut target))
        .map(|_| ())
        .map_err(|error| io_error("write", to, error))
}

fn sync_folder(file: &Path) -> Result<(), CopyError> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| io_error("write", folder, error))
}

fn io_error(doing: &'static str, file: &Path, source: io::Error) -> CopyError {
    CopyError::Io { doing, file: file.display().to_string(), source }
}
