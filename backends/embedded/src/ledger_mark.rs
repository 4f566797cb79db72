//! The mark of a ledger: an id and a counter, stored both in the database and in a file of the state directory. They
//! show whether the database is the one that the state directory was last used with. Called by `ledger_opening` and by
//! the writer; decides nothing.
//!
//! The writer advances the counter in each transaction that it syncs, and writes the file after that. So the file is
//! never ahead of its own database, also after a power cut, and is ahead of every older copy of it.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use crate::row;

/// Name of the mark in the table of settings.
const SETTING: &str = "ledger";

/// Length of the file, padded with spaces: less than a sector, so that one write replaces all of it.
const FILE_BYTES: usize = 256;

/// Which ledger it is, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Random; made with the ledger.
    pub(crate) id: String,
    /// Grows with each synced transaction.
    pub(crate) count: u64,
    /// When the counter was last advanced.
    pub(crate) at: Timestamp,
    /// Only in the file, after a clean stop: the database as it was closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) closed: Option<ClosedFile>,
}

/// Size and modification time of a closed database. Another program that writes to it changes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClosedFile {
    pub(crate) bytes: u64,
    pub(crate) modified_ns: i64,
}

impl ClosedFile {
    pub(crate) fn of(file: &Metadata) -> ClosedFile {
        ClosedFile { bytes: file.len(), modified_ns: file.mtime() * 1_000_000_000 + file.mtime_nsec() }
    }
}

impl Mark {
    /// Reads the mark in the database; `None` where a build without marks wrote it.
    pub(crate) fn read(connection: &Connection) -> rusqlite::Result<Option<Mark>> {
        let has_table = "SELECT count(*) FROM sqlite_schema WHERE name = 'settings'";
        if connection.query_row(has_table, [], |columns| columns.get::<_, i64>(0))? == 0 {
            return Ok(None);
        }
        let select = "SELECT body FROM settings WHERE name = ?1";
        let body = connection.query_row(select, [SETTING], |columns| row::text(columns, 0)).optional()?;
        Ok(body.and_then(|body| row::parse(&body).ok()))
    }

    /// Writes the mark to the database.
    pub(crate) fn store(&self, connection: &Connection) -> rusqlite::Result<()> {
        let body = serde_json::to_string(&Mark { closed: None, ..self.clone() }).unwrap_or_default();
        connection
            .prepare_cached(
                "INSERT INTO settings (name, version, body) VALUES (?1, 1, ?2)
                 ON CONFLICT DO UPDATE SET version = version + 1, body = excluded.body",
            )?
            .execute(params![SETTING, body])?;
        Ok(())
    }

    /// The mark of a new ledger.
    pub(crate) fn new(connection: &Connection, now: Timestamp) -> rusqlite::Result<Mark> {
        let id = connection.query_row("SELECT lower(hex(randomblob(16)))", [], |columns| columns.get(0))?;
        Ok(Mark { id, count: 0, at: now, closed: None })
    }

    /// Reads the mark in the state directory. `None` where there is none, or where it is unreadable.
    ///
    /// # Errors
    /// Returns the error of the system when the file exists and cannot be read.
    pub(crate) fn read_file(path: &Path) -> io::Result<Option<Mark>> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(row::parse(text.trim())
                .map_err(|why| tracing::warn!(path = %path.display(), why, "cannot read the mark of the ledger"))
                .ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The file of the mark, open for writing: on a full disk it is overwritten in place.
pub(crate) struct MarkFile {
    path: PathBuf,
    file: File,
}

impl MarkFile {
    /// # Errors
    /// Returns the error of the system.
    pub(crate) fn open(path: &Path) -> io::Result<MarkFile> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        Ok(MarkFile { path: path.to_owned(), file })
    }

    /// Writes the mark. An error is logged: a file that is behind its database accepts it.
    pub(crate) fn write(&self, mark: &Mark) {
        let mut text = serde_json::to_vec(mark).unwrap_or_default();
        text.resize(text.len().max(FILE_BYTES - 1), b' ');
        text.push(b'\n');
        if let Err(error) = self.file.write_all_at(&text, 0) {
            tracing::warn!(%error, path = %self.path.display(), "cannot write the mark of the ledger");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_keeps_its_json_and_is_replaced_by_one_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.json");
        let closed = Some(ClosedFile { bytes: 7, modified_ns: 9 });
        let mark = Mark { id: "ab".to_owned(), count: 12, at: Timestamp::UNIX_EPOCH, closed };
        let file = MarkFile::open(&path).unwrap();
        file.write(&mark);
        assert_eq!(Mark::read_file(&path).unwrap(), Some(mark.clone()));
        let text = std::fs::read_to_string(&path).unwrap();
        let json = r#"{"id":"ab","count":12,"at":"1970-01-01T00:00:00Z","closed":{"bytes":7,"modified_ns":9}}"#;
        assert_eq!((text.trim_end(), text.len()), (json, FILE_BYTES));
        file.write(&Mark { count: 13, closed: None, ..mark.clone() });
        assert_eq!(Mark::read_file(&path).unwrap(), Some(Mark { count: 13, closed: None, ..mark }));
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Mark::read_file(&path).unwrap(), None);
    }
}
