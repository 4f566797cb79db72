//! The lock on a state directory: one runner or one `exec` uses it at a time.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use domain::ports::{NAME_HELD, NameInUse};
use keeper::directory::open_private;
use rustix::fs::{FlockOperation, flock};

/// Why a runner cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// Another process has locked the directory.
    #[error("another runner uses the state directory {0}; stop it, or give this one its own with --state")]
    InUse(PathBuf),
    /// Another runner with this name is alive.
    #[error(
        "the runner name `{runner}` is in use by a runner on host {}, whose last heartbeat was at {}; set another `name` \
         in [runner], or stop that runner and wait {} s", rival.host, rival.last_heartbeat, NAME_HELD.as_secs()
    )]
    NameInUse {
        /// The name.
        runner: String,
        /// The other runner.
        rival: NameInUse,
    },
    /// The directory cannot be created or opened.
    #[error("the state directory {0} cannot be used: {1}")]
    State(PathBuf, io::Error),
}

/// Locks the state directory for this process until the file is dropped. Creates the directory when absent.
///
/// # Errors
/// When another process holds the lock, or the directory cannot be created.
pub fn lock_state_directory(state: &Path) -> Result<File, RunnerError> {
    let failed = |error: io::Error| RunnerError::State(state.to_owned(), error);
    fs::create_dir_all(state).map_err(failed)?;
    let lock = open_private(&state.join("runner.lock")).map_err(failed)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        // The previous owner may have deleted the file with its directory; this would be a lock on a deleted file.
        Ok(()) if is_same_file(&lock, &state.join("runner.lock")) => Ok(lock),
        Ok(()) => Err(RunnerError::InUse(state.to_owned())),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(RunnerError::InUse(state.to_owned())),
        Err(errno) => Err(failed(errno.into())),
    }
}

fn is_same_file(file: &File, path: &Path) -> bool {
    let same = |one: Metadata, other: Metadata| (one.dev(), one.ino()) == (other.dev(), other.ino());
    file.metadata().is_ok_and(|file| fs::metadata(path).is_ok_and(|path| same(file, path)))
}
