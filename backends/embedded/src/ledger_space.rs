//! Space on the disk that the ledger allocates before it needs it, so that a disk that other files fill holds up no
//! run. Called when the file is opened, and by each probe.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rusqlite::Connection;
use rustix::fs::{FallocateFlags, fallocate, fstatvfs};

use crate::database::OpenFile;

/// Space of the write-ahead log. Chosen: twice what it holds before a checkpoint, so that a reader may delay one.
const LOG_BYTES: u64 = 8 << 20;

/// Space behind the end of the database, for the pages that a checkpoint adds. Chosen: a whole log of new pages, and
/// some.
const GROWTH_BYTES: u64 = 6 << 20;

/// A small disk gives this part of its size to each of the two.
const SMALL_DISK_DIVISOR: u64 = 32;

/// Pages of SQLite, its default.
const PAGE_BYTES: u64 = 4096;

/// Pages of the log at which SQLite copies them to the database, its default.
const CHECKPOINT_PAGES_MAX: u64 = 1000;

/// Allocates the space behind the end of both files. Allocated blocks stay; a disk or a file system that has none to
/// give is left as it is.
pub(crate) fn preallocate(file: &OpenFile) {
    let (log_bytes, growth_bytes) = sizes(&file.handle);
    allocate(&file.handle, growth_bytes);
    // Closing the log releases no lock: SQLite locks the database and the index of the log.
    if let Ok(log) = File::options().read(true).write(true).open(log_path(file)) {
        let length = log.metadata().map_or(0, |log| log.len());
        allocate(&log, log_bytes.saturating_sub(length));
    }
}

/// Limits the log of this connection to its space.
///
/// # Errors
/// Returns the error of SQLite.
pub(crate) fn limit_log(connection: &Connection, file: &OpenFile) -> rusqlite::Result<()> {
    let (log_bytes, _) = sizes(&file.handle);
    let pages = (log_bytes / 2 / PAGE_BYTES).clamp(1, CHECKPOINT_PAGES_MAX);
    connection.execute_batch(&format!("PRAGMA wal_autocheckpoint = {pages}"))
}

pub(crate) fn log_path(file: &OpenFile) -> PathBuf {
    let mut name = file.path.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

fn sizes(handle: &File) -> (u64, u64) {
    let total = fstatvfs(handle).map_or(0, |disk| disk.f_blocks.saturating_mul(disk.f_frsize));
    let share = if total == 0 { u64::MAX } else { total / SMALL_DISK_DIVISOR };
    (LOG_BYTES.min(share), GROWTH_BYTES.min(share))
}

/// Allocates `more` bytes behind the end, unless they are allocated.
fn allocate(file: &File, more: u64) {
    let Ok(found) = file.metadata() else { return };
    if more > 0 && found.blocks() * 512 < found.len() + more {
        let _ = fallocate(file, FallocateFlags::KEEP_SIZE, 0, found.len() + more);
    }
}
