//! Opens the ledger of a state directory: refuses one that is damaged, missing, an older copy, or another's. Called
//! once, when `sexton up` starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};

use crate::database::{BUSY_TIMEOUT, Database};
use crate::ledger_mark::{ClosedFile, Mark, MarkFile};
use crate::ledger_probe::quick_check;
use crate::schema::{self, Mismatch};
use crate::{Embedded, Failure, OpenError};

/// The ledger to open.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The database.
    pub file: PathBuf,
    /// The file with the ledger's mark in the state directory.
    pub mark: PathBuf,
    /// What shows that the state directory was used with a ledger, where the mark does not: its run directories.
    pub traces: Option<String>,
    /// Start with an empty ledger where this one would be refused. The old files are renamed, not deleted.
    pub new_ledger: bool,
}

/// An open ledger.
pub struct Opened {
    /// Its store.
    pub store: Embedded,
    /// The refused ledger that an empty one replaced: its new path, and why it was refused.
    pub replaced: Option<(PathBuf, String)>,
}

impl Embedded {
    /// Opens the ledger of a state directory. Checks the whole file, unless it was closed cleanly and is unchanged
    /// since. The caller holds the lock of the state directory.
    ///
    /// # Errors
    /// Returns why the ledger is refused, with the remedy; nothing is changed then.
    pub fn open_ledger(opening: &Opening) -> Result<Opened, OpenError> {
        let file = &opening.file;
        let mark_error = |source| OpenError::Create { file: opening.mark.display().to_string(), source };
        let mark = Mark::read_file(&opening.mark).map_err(mark_error)?;
        let replaced = match examine(opening, mark.as_ref()) {
            Err(refusal) if opening.new_ledger && refusal.is_replaceable() => {
                Some((rename_aside(file).map_err(mark_error)?, refusal.to_string()))
            }
            examined => {
                examined?;
                None
            }
        };
        let mark_file = MarkFile::open(&opening.mark).map_err(mark_error)?;
        let database = Database::open(file, Some(mark_file))?;
        Ok(Opened { store: Embedded::over(database, Arc::new(Timestamp::now)), replaced })
    }

    /// Checks a ledger that no process of this state directory needs to stop for. Changes nothing.
    ///
    /// # Errors
    /// Returns why the file is not a whole ledger.
    pub fn check(file: &Path) -> Result<(), OpenError> {
        let connection = connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        check_content(file, &connection)
    }
}

impl OpenError {
    /// Whether an empty ledger may replace the refused one. Not where the system refuses the file, or where it is of
    /// another program.
    fn is_replaceable(&self) -> bool {
        matches!(self, OpenError::Damaged { .. } | OpenError::Missing { .. } | OpenError::Other { .. })
    }
}

fn examine(opening: &Opening, mark: Option<&Mark>) -> Result<(), OpenError> {
    let file = &opening.file;
    let name = || file.display().to_string();
    let length = match fs::metadata(file) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(source) => return Err(OpenError::Create { file: name(), source }),
    };
    if length == 0 {
        let why = match mark {
            Some(mark) => format!("the state directory was last used with one at {}", shown(mark.at)),
            None => match &opening.traces {
                Some(traces) => traces.clone(),
                None => return Ok(()),
            },
        };
        return Err(OpenError::Missing { file: name(), why });
    }
    let connection = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let known = check_header(file, &connection, mark.is_some() || opening.traces.is_some())?;
    if !known {
        // Another program's, or of a newer build: `Database::open` refuses it with its own message.
        return Ok(());
    }
    if opening.new_ledger || !was_closed_cleanly(file, mark) {
        check_content(file, &connection)?;
    }
    let stored = Mark::read(&connection).map_err(|error| damaged(file, &error))?;
    match mark {
        Some(mark) => compare(mark, stored.as_ref()).map_err(|why| OpenError::Other { file: name(), why }),
        None => Ok(()),
    }
}

/// How the ledger differs from the one that the state directory was last used with.
fn compare(mark: &Mark, stored: Option<&Mark>) -> Result<(), String> {
    let last = shown(mark.at);
    match stored {
        None => Err(format!(
            "has no id: it belongs to another state directory, or is a copy from before {last}, when the state \
             directory was last used, by an older build"
        )),
        Some(stored) if stored.id != mark.id => {
            Err(format!("belongs to another state directory: this one was last used with another ledger at {last}"))
        }
        Some(stored) if stored.count < mark.count => Err(format!(
            "is an older copy: it was last written at {}, and the state directory was last used at {last}",
            shown(stored.at)
        )),
        Some(_) => Ok(()),
    }
}

fn shown(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn was_closed_cleanly(file: &Path, mark: Option<&Mark>) -> bool {
    let closed = mark.and_then(|mark| mark.closed.as_ref());
    let log_is_empty = fs::metadata(beside(file, "-wal")).map_or(true, |log| log.len() == 0);
    log_is_empty && closed.is_some() && fs::metadata(file).ok().as_ref().map(ClosedFile::of).as_ref() == closed
}

pub(crate) fn connect(file: &Path, flags: OpenFlags) -> Result<Connection, OpenError> {
    let opened = Connection::open_with_flags(file, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).and_then(|connection| {
        connection.busy_timeout(BUSY_TIMEOUT)?;
        Ok(connection)
    });
    opened.map_err(|source| OpenError::Sqlite { file: file.display().to_string(), source })
}

/// Reads the header. Returns whether it is that of a ledger of this build or an older one. `is_expected`: anything else
/// is damage.
fn check_header(file: &Path, connection: &Connection, is_expected: bool) -> Result<bool, OpenError> {
    match schema::check_version(connection) {
        Ok(tables) if tables == 0 && is_expected => {
            Err(OpenError::Missing { file: file.display().to_string(), why: "it was used before".to_owned() })
        }
        Ok(_) => Ok(true),
        Err(Mismatch::Foreign) if is_expected => Err(OpenError::Damaged {
            file: file.display().to_string(),
            why: "it is not a database of sexton".to_owned(),
        }),
        Err(Mismatch::Sqlite(error)) => Err(damaged(file, &error)),
        Err(Mismatch::Foreign | Mismatch::Newer { .. }) => Ok(false),
    }
}

pub(crate) fn check_content(file: &Path, connection: &Connection) -> Result<(), OpenError> {
    match quick_check(connection) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(why)) => Err(OpenError::Damaged { file: file.display().to_string(), why }),
        Err(Failure::Sqlite(error)) => Err(damaged(file, &error)),
        Err(other) => Err(OpenError::Damaged { file: file.display().to_string(), why: other.to_string() }),
    }
}

/// Damage, or another error of SQLite.
pub(crate) fn damaged(file: &Path, error: &rusqlite::Error) -> OpenError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    let name = file.display().to_string();
    match error.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => OpenError::Damaged { file: name, why: error.to_string() },
        // A page that cannot be read ends before its end: the file was cut.
        Some(rusqlite::ErrorCode::SystemIoFailure) => OpenError::Damaged { file: name, why: error.to_string() },
        _ => {
            let code = error.sqlite_error().copied().unwrap_or_else(|| rusqlite::ffi::Error::new(1));
            let source = rusqlite::Error::SqliteFailure(code, Some(error.to_string()));
            OpenError::Sqlite { file: name, source }
        }
    }
}

pub(crate) fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Renames the database with its log, so that both stay together. Returns the new path.
pub(crate) fn rename_aside(file: &Path) -> std::io::Result<PathBuf> {
    let stamp = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let free = (0..).map(|number| match number {
        0 => beside(file, &format!(".replaced-{stamp}")),
        _ => beside(file, &format!(".replaced-{stamp}-{number}")),
    });
    let aside = free.into_iter().find(|path| !path.exists()).unwrap_or_else(|| beside(file, ".replaced"));
    for suffix in ["-wal", "-shm", ""] {
        match fs::rename(beside(file, suffix), beside(&aside, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}
