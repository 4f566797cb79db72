//! Files that are applied again when they change. A change is seen by looking, once a second: that works on every file
//! system, and for editors that replace the file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// People wait for the effect of a save; a stat a second costs nothing.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// What tells one state of a file from another without reading it.
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
pub struct FileWatch {
    files: Vec<(PathBuf, Option<FileStamp>)>,
}

impl FileWatch {
    /// Watches from now on: a change after this call is seen.
    pub fn new(files: impl IntoIterator<Item = PathBuf>) -> FileWatch {
        let marked = |path: PathBuf| {
            let mark = FileStamp::read(&path);
            (path, mark)
        };
        FileWatch { files: files.into_iter().map(marked).collect() }
    }

    /// The files that changed, came or went since the last call.
    pub fn take_changed(&mut self) -> Vec<PathBuf> {
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
    fn a_change_is_seen_once_however_it_was_made() {
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
