//! The directory of one attempt: the meaning of each file, and how a file is written whole.
//!
//! ```text
//! STATE/runs/<run_id>.<attempt>/
//!   order.json      runner, synced before the message is deleted: the order
//!   lock            flock, taken by the runner, passed to the keeper, held while the keeper is alive
//!   keeper          the keeper's process id, for signals
//!   starting        keeper, before the job is launched: from now on the job may have started
//!   started.json    keeper: the job's process
//!   stop            runner: stop request to the keeper
//!   stopping        keeper: its stop sequence has started
//!   exit.json       keeper: how the job ended
//!   output.json     keeper: how the output ended, where another process had it open after the job's end
//!   .exit.json.new  keeper: space kept for exit.json on a full disk; older builds: `reserve`
//!   keeper.log      keeper, only after an error
//!   spool/          keeper: segments of output, named by the seq of their first record
//!   cursors/        runner: the cursor of each sink, and the state of the rules
//!   finished.json   runner: the report, made once
//!   told.started    runner: the event `started` is in the outbox
//!   told.finished   runner: the report is in the outbox
//!   mailed          runner: the output was mailed, or never can be
//!   reported.output runner: the report of output.json is in the outbox
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use domain::run::RunId;
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Whether a file must survive a power cut, or only the death of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// In the page cache: survives kill -9.
    Cache,
    /// Synced, with its directory entry: survives a power cut.
    Disk,
}

/// Only the runner's user may read: output and orders may be confidential.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Paths and lock of one run directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDirectory {
    path: PathBuf,
}

impl RunDirectory {
    /// The directory of an attempt below the folder of runs.
    pub fn new(runs: &Path, run_id: &RunId, attempt: u32) -> RunDirectory {
        RunDirectory { path: runs.join(format!("{run_id}.{attempt}")) }
    }

    /// The directory at this path. Reads and creates nothing.
    pub fn open(path: impl Into<PathBuf>) -> RunDirectory {
        RunDirectory { path: path.into() }
    }

    /// Parses the name of a run directory. None for any other name.
    pub fn parse_name(name: &str) -> Option<(RunId, u32)> {
        let (run_id, attempt) = name.split_once('.')?;
        if !RunId::is_valid(run_id) {
            return None;
        }
        Some((RunId(run_id.to_owned()), attempt.parse().ok().filter(|attempt| *attempt > 0)?))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file of this name in the directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// `order.json`
    pub fn order(&self) -> PathBuf {
        self.file("order.json")
    }

    /// `lock`
    pub fn lock(&self) -> PathBuf {
        self.file("lock")
    }

    /// `keeper`
    pub fn keeper(&self) -> PathBuf {
        self.file("keeper")
    }

    /// `starting`
    pub fn starting(&self) -> PathBuf {
        self.file("starting")
    }

    /// `started.json`
    pub fn started(&self) -> PathBuf {
        self.file("started.json")
    }

    /// `stop`
    pub fn stop(&self) -> PathBuf {
        self.file("stop")
    }

    /// `exit.json`
    pub fn exit(&self) -> PathBuf {
        self.file("exit.json")
    }

    /// `stopping`
    pub fn stopping(&self) -> PathBuf {
        self.file("stopping")
    }

    /// `output.json`
    pub fn output_end(&self) -> PathBuf {
        self.file("output.json")
    }

    /// `finished.json`
    pub fn finished(&self) -> PathBuf {
        self.file("finished.json")
    }

    /// `told.started`
    pub fn start_reported(&self) -> PathBuf {
        self.file("told.started")
    }

    /// `told.finished`
    pub fn end_reported(&self) -> PathBuf {
        self.file("told.finished")
    }

    /// `mailed`
    pub fn mailed(&self) -> PathBuf {
        self.file("mailed")
    }

    /// `reported.output`
    pub fn output_end_reported(&self) -> PathBuf {
        self.file("reported.output")
    }

    /// `spool/`
    pub fn spool(&self) -> PathBuf {
        self.file("spool")
    }

    /// `cursors/`
    pub fn cursors(&self) -> PathBuf {
        self.file("cursors")
    }

    /// Creates the directory with its subdirectories. Idempotent.
    pub fn create(&self) -> io::Result<()> {
        for path in [self.path.clone(), self.spool(), self.cursors()] {
            fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)?;
        }
        Ok(())
    }

    /// Takes the lock for the owner of the returned descriptor. None while a keeper holds the lock. The kernel releases
    /// it when the last copy of the descriptor is closed. A child can therefore inherit the lock, and it is never free
    /// in between.
    pub fn take_lock(&self) -> io::Result<Option<OwnedFd>> {
        let file = open_private(&self.lock())?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file.into())),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether a keeper is alive or being started. A directory without a lock file has none.
    pub fn has_keeper(&self) -> io::Result<bool> {
        let file = match File::open(self.lock()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Opens a file for writing without truncating it. Creates it when absent, readable only by its user.
pub fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)
}

/// The file beside `path` that is renamed to it once it is whole.
pub(crate) fn unfinished_path(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()))
}

/// Writes the whole file or nothing: into a temporary file beside it, which is then renamed.
pub fn write_atomically(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let (Some(folder), Some(_)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"));
    };
    let beside = unfinished_path(path);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&beside)?;
    file.write_all(bytes)?;
    if durability == Durability::Disk {
        file.sync_all()?;
    }
    drop(file);
    fs::rename(&beside, path)?;
    if durability == Durability::Disk {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// A file that was written and renamed, and is not synced yet.
pub struct UnsyncedFile {
    file: File,
    folder: PathBuf,
}

impl UnsyncedFile {
    /// Writes a file that does not exist yet, or whose content is not needed: a power cut before the sync can leave it
    /// empty. Processes see the whole file or none.
    pub fn write(path: &Path, bytes: &[u8]) -> io::Result<UnsyncedFile> {
        let (Some(folder), Some(_)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"));
        };
        let beside = unfinished_path(path);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&beside)?;
        file.write_all(bytes)?;
        fs::rename(&beside, path)?;
        Ok(UnsyncedFile { file, folder: folder.to_owned() })
    }

    /// Returns when content and name survive a power cut. Of several files that were written before, the first sync
    /// commits all on a journalling file system, and the others cost little.
    pub fn sync(self) -> io::Result<()> {
        self.file.sync_all()?;
        File::open(&self.folder)?.sync_all()
    }
}

/// Writes a value as JSON, whole or not at all; see [`write_atomically`].
pub fn write_json<T: Serialize>(path: &Path, value: &T, durability: Durability) -> io::Result<()> {
    write_atomically(path, &serde_json::to_vec(value)?, durability)
}

/// Reads a JSON file. None when the file does not exist.
///
/// # Errors
/// Returns a sentence with the path when the file cannot be read or has another form.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    }
}

/// Creates an empty file whose existence marks a step as done. Idempotent.
pub fn create_marker(path: &Path) -> io::Result<()> {
    open_private(path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_run_directories_are_parsed() {
        let check = |name: &str, expected: Option<(&str, u32)>| {
            let read = RunDirectory::parse_name(name);
            assert_eq!(read.as_ref().map(|(id, attempt)| (id.as_str(), *attempt)), expected, "{name}");
        };
        check("20261123T075000Z-3f9a1c0e7b2d.1", Some(("20261123T075000Z-3f9a1c0e7b2d", 1)));
        check("20261123T075000Z-3f9a1c0e7b2d.12", Some(("20261123T075000Z-3f9a1c0e7b2d", 12)));
        check("20261123T075000Z-3f9a1c0e7b2d.0", None);
        check("20261123T075000Z-3f9a1c0e7b2d", None);
        check("../../etc.1", None);
        check("lost+found", None);
    }

    #[test]
    fn a_lock_is_held_until_the_last_copy_is_closed() {
        let folder = tempfile::tempdir().expect("folder");
        let run = RunDirectory::open(folder.path());
        assert!(!run.has_keeper().expect("no lock file"));
        let first = run.take_lock().expect("lock").expect("free");
        let copy = rustix::io::dup(&first).expect("dup");
        drop(first);
        assert!(run.has_keeper().expect("kept"));
        assert!(run.take_lock().expect("lock").is_none());
        drop(copy);
        assert!(!run.has_keeper().expect("free"));
    }
}
