//! Space for starts on a full disk: files and inodes that are allocated while there is space, and freed when a run has
//! to be started on a disk that other files have filled. So the job that frees space still starts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use keeper::directory::open_private;
use rustix::fs::{FallocateFlags, StatVfs, fallocate, statvfs};

/// Space of one start: its order, the files of its keeper, a little output, its report. Chosen: about twice what a run
/// without output takes on a file system with blocks of 4 KiB.
const START_BYTES: u64 = 256 << 10;

/// Free space below which a start frees a reserve. Chosen: what a run without output takes.
const LOW_BYTES: u64 = 128 << 10;

/// Files of one start. Chosen: a run has fewer.
const START_FILES: u64 = 24;

/// Free inodes above which none are reserved: they cost a file each. Chosen: other programs do not make that many files
/// between two calls of [`StartReserve::fill`].
const PLENTY_OF_INODES: u64 = 4 << 20;

/// Starts that find space. Chosen: 8 MiB.
const STARTS_MAX: u64 = 32;

/// A small disk gives this part of its size.
const SMALL_DISK_DIVISOR: u64 = 32;

/// The reserves of a runner's state directory: one folder each, below `reserve`.
pub(crate) struct StartReserve {
    folder: PathBuf,
}

impl StartReserve {
    /// The reserves below this state directory. Allocates nothing.
    pub(crate) fn new(state: &Path) -> StartReserve {
        StartReserve { folder: state.join("reserve") }
    }

    /// Allocates what is missing, as long as the disk keeps as much again. A disk that refuses is left as it is.
    pub(crate) fn fill(&self) {
        let Ok(()) = fs::create_dir_all(&self.folder) else { return };
        for number in 0..STARTS_MAX {
            let Ok(disk) = statvfs(&self.folder) else { return };
            let starts = starts_of(&disk);
            if number >= starts {
                return;
            }
            let path = self.folder.join(file_name(number));
            let with_inodes = !has_inodes(&disk, PLENTY_OF_INODES);
            if path.exists() {
                if with_inodes && has_inodes(&disk, 4 * START_FILES) {
                    let _ = allocate_inodes(&path);
                }
                continue;
            }
            if free_bytes(&disk) < 2 * starts * START_BYTES
                || !has_inodes(&disk, 4 * START_FILES)
                || allocate(&path, with_inodes).is_err()
            {
                let _ = fs::remove_dir_all(&path);
                return;
            }
        }
    }

    /// Frees one reserve if the disk has no room for a start. Returns whether the disk has room now.
    pub(crate) fn make_room(&self) -> bool {
        let Ok(disk) = statvfs(self.folder.parent().unwrap_or(&self.folder)) else { return true };
        if free_bytes(&disk) >= LOW_BYTES && has_inodes(&disk, START_FILES) {
            return true;
        }
        let Ok(entries) = fs::read_dir(&self.folder) else { return false };
        let Some(entry) = entries.flatten().next() else { return false };
        // Renamed first: of several starts at once, each frees another one.
        let freed = self.folder.with_file_name(format!(".freed-{}", entry.file_name().to_string_lossy()));
        if fs::rename(entry.path(), &freed).is_err() {
            return false;
        }
        let is_freed = fs::remove_dir_all(&freed).is_ok();
        tracing::warn!(left = self.count(), "the disk is full; a reserve for starts was freed");
        is_freed
    }

    /// Whether the disk has no room for a start, and no reserve is left.
    pub(crate) fn is_exhausted(&self) -> bool {
        let disk = statvfs(self.folder.parent().unwrap_or(&self.folder));
        let has_room = disk.is_ok_and(|disk| free_bytes(&disk) >= LOW_BYTES && has_inodes(&disk, START_FILES));
        !has_room && self.count() == 0
    }

    fn count(&self) -> usize {
        fs::read_dir(&self.folder).map_or(0, |entries| entries.flatten().count())
    }
}

/// Frees space for one start, or for the start of the runner itself, if the disk of the state directory is full.
pub fn make_room(state: &Path) {
    StartReserve::new(state).make_room();
}

fn allocate(path: &Path, with_inodes: bool) -> io::Result<()> {
    fs::create_dir(path)?;
    if with_inodes {
        allocate_inodes(path)?;
    }
    let space = open_private(&path.join("space"))?;
    Ok(fallocate(&space, FallocateFlags::empty(), 0, START_BYTES)?)
}

/// Creates the files of one start, if they are missing.
fn allocate_inodes(path: &Path) -> io::Result<()> {
    if path.join(file_name(START_FILES - 1)).exists() {
        return Ok(());
    }
    (1..START_FILES).try_for_each(|number| open_private(&path.join(file_name(number))).map(drop))
}

fn file_name(number: u64) -> String {
    format!("{number:02}")
}

/// How many starts have space on this disk.
fn starts_of(disk: &StatVfs) -> u64 {
    (disk.f_blocks.saturating_mul(disk.f_frsize) / SMALL_DISK_DIVISOR / START_BYTES).clamp(1, STARTS_MAX)
}

fn free_bytes(disk: &StatVfs) -> u64 {
    disk.f_bavail.saturating_mul(disk.f_frsize)
}

/// Whether there are as many free inodes, or the file system does not count them.
fn has_inodes(disk: &StatVfs, files: u64) -> bool {
    disk.f_files == 0 || disk.f_favail >= files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_are_reserved_once_and_only_where_it_is_asked_for() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("00");
        let files = || fs::read_dir(&path).expect("there").count() as u64;
        allocate(&path, false).expect("space");
        assert_eq!(files(), 1);
        allocate_inodes(&path).expect("inodes");
        allocate_inodes(&path).expect("inodes");
        assert_eq!(files(), START_FILES);
    }
}
