//! Detects changes of files that are reloaded. Polls once a second, which works on every file system and with editors
//! that replace the file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Chosen: short for a person who waits for the effect of a save; one `stat` per second costs nothing.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Metadata that changes with the content of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl FileStamp {
    fn read(path: &Path) -> Option<FileStamp> {
        let metadata = fs::metadata(path).ok()?;
        Some(FileStamp {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// A set of files, watched together.
pub(crate) struct FileWatch {
    files: Vec<(PathBuf, Option<FileStamp>)>,
}

impl FileWatch {
    /// Starts watching: every change after this call is detected.
    pub(crate) fn new(files: impl IntoIterator<Item = PathBuf>) -> FileWatch {
        let marked = |path: PathBuf| {
            let mark = FileStamp::read(&path);
            (path, mark)
        };
        FileWatch { files: files.into_iter().map(marked).collect() }
    }

    /// Returns the files that were changed, created or deleted since the last call.
    pub(crate) fn take_changed(&mut self) -> Vec<PathBuf> {
        let mut changed = Vec::new();
        for (path, last) in &mut self.files {
            let mark = FileStamp::read(path);
            if mark != *last {
                *last = mark;
                changed.push(path.clone());
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_change_is_detected_once() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (path, beside) = (dir.path().join("crontab"), dir.path().join("new"));
        fs::write(&path, "a").expect("written");
        let mut watch = FileWatch::new([path.clone()]);
        assert!(watch.take_changed().is_empty());
        fs::write(&path, "ab").expect("written");
        assert_eq!(watch.take_changed(), std::slice::from_ref(&path));
        assert!(watch.take_changed().is_empty());
        fs::write(&beside, "cd").expect("written");
        fs::rename(&beside, &path).expect("renamed");
        assert_eq!(watch.take_changed(), std::slice::from_ref(&path));
        fs::remove_file(&path).expect("removed");
        assert_eq!(watch.take_changed(), std::slice::from_ref(&path));
        assert!(watch.take_changed().is_empty());
    }
}
