//! Space on the disk that the keeper allocates before the job starts. A disk that the job filled can then still store
//! the last lines and the exit record. The space belongs to the file that becomes exit.json, so writing that file frees
//! it.

use std::fs;
use std::fs::OpenOptions;
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, fallocate};

use crate::directory::{RunDirectory, open_private, unfinished_path};

/// Fits the kept tail of the output and exit.json. Chosen, not measured.
const RESERVE_BYTES: u64 = 128 << 10;

pub(crate) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// Allocates the space. On a full disk there is none, and the run continues without.
    pub(crate) fn allocate(run: &RunDirectory) -> Reserve {
        let path = unfinished_path(&run.exit());
        let allocated =
            open_private(&path).and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES)?));
        if allocated.is_err() {
            let _ = fs::remove_file(&path);
        }
        Reserve { path }
    }

    /// Frees the space before the file is written. Idempotent.
    pub(crate) fn release(&self) {
        let _ = OpenOptions::new().write(true).truncate(true).open(&self.path);
    }
}
