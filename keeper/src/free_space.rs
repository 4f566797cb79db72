//! Reads the free space of a disk. Called by the keeper for its spool, by the runner, and by the alerts about a full
//! disk.

use std::io;
use std::path::Path;

use domain::disk_space::DiskSpace;

/// The space of the disk that holds `path`.
///
/// # Errors
/// When the path does not exist, or its file system does not support `statvfs`.
pub fn read(path: &Path) -> io::Result<DiskSpace> {
    let stat = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(DiskSpace { free_bytes: bytes(stat.f_bavail), total_bytes: bytes(stat.f_blocks) })
}
