//! Delivered runs of `sexton exec`, kept for `sexton logs` and `sexton runs` until an `up` with the same state
//! directory takes them over, or until retention deletes them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use keeper::spool::{segment_name, segments};

use crate::options::Retention;
use crate::state_lock::lock_state_directory;

/// Folder of the delivered calls, below the runner's directory.
pub const KEPT_FOLDER: &str = "exec-kept";

/// File of a kept call that lacks lines of removed sinks: their names.
pub(crate) const REMOVED_FILE: &str = "removed-sinks.json";

/// Moves the state of a delivered call to the kept ones.
pub(crate) fn keep(runner_folder: &Path, state: &Path) -> io::Result<()> {
    let folder = runner_folder.join(KEPT_FOLDER);
    fs::create_dir_all(&folder)?;
    let name = state.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    fs::rename(state, folder.join(name))
}

/// Deletes kept calls that are too old, too many or too large together; the oldest first.
pub(crate) fn sweep_kept(runner_folder: &Path, retention: Retention) {
    let now = SystemTime::now();
    let mut calls: Vec<(SystemTime, PathBuf)> = fs::read_dir(runner_folder.join(KEPT_FOLDER))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    calls.sort_by(|one, other| other.cmp(one));
    let mut bytes = 0;
    for (index, (modified, path)) in calls.iter().enumerate() {
        bytes += call_bytes(path);
        let age = now.duration_since(*modified).unwrap_or_default();
        let is_kept = index < retention.runs && bytes <= retention.bytes && age < retention.age;
        if is_kept {
            continue;
        }
        // An `up` that takes the call over holds the lock.
        let Ok(_in_use) = lock_state_directory(path) else { continue };
        if let Err(error) = fs::remove_dir_all(path) {
            tracing::warn!(%error, path = %path.display(), "cannot delete a kept run");
        }
    }
}

fn call_bytes(state: &Path) -> u64 {
    let runs = fs::read_dir(state.join("runs")).into_iter().flatten().flatten();
    let spools = runs.map(|run| run.path().join("spool"));
    let sizes = spools.flat_map(|spool| {
        let names = segments(&spool).unwrap_or_default();
        names.into_iter().map(move |first| fs::metadata(spool.join(segment_name(first))).map_or(0, |file| file.len()))
    });
    sizes.sum()
}
