//! A little room on the disk that is taken before the job starts and given back when it has ended, so that a disk which
//! the job filled still takes the last lines and the record of the end.

use std::fs;
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, fallocate};

use crate::directory::{RunDirectory, open_private};

/// Room for the kept tail of the output and for exit.json. Ours.
const RESERVE_BYTES: u64 = 128 << 10;

pub struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// Takes the room; on a disk that is full already there is none, and the run goes on without.
    pub fn allocate(run: &RunDirectory) -> Reserve {
        let path = run.file("reserve");
        let allocated =
            open_private(&path).and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES)?));
        if allocated.is_err() {
            let _ = fs::remove_file(&path);
        }
        Reserve { path }
    }

    /// Gives it back. Idempotent.
    pub fn release(&self) {
        let _ = fs::remove_file(&self.path);
    }
}
