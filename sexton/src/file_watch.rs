//! Detects changes of files and reads them when they are complete. Polls, which works on every file system and with
//! editors that replace the file.
//!
//! A change counts when two reads [`POLL_INTERVAL`] apart agree and the file ends with a newline, or when it has not
//! changed for [`QUIET_TIME`]. So a file is not read while it is being written.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::text_files::{ReadFile, Unreadable, read_file};

/// Time between two polls, and between the two reads that must agree. Chosen: short for a person who waits for the
/// effect of a save; long against the pauses of a program that writes a file.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// A file without a newline at its end, and a missing one, counts after this time without a change. Chosen: longer than
/// the pauses of an upload.
const QUIET_TIME: Duration = Duration::from_secs(10);

/// Longest wait for complete files at the start. Chosen: a file that stays as it is counts until then.
const START_WAIT_MAX: Duration = Duration::from_secs(11);

/// A file as it was read, or why it cannot be read.
pub(crate) type Content = Result<ReadFile, Unreadable>;

/// Metadata that changes with the content of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    fn read(path: &Path) -> Option<FileStamp> {
        let metadata = fs::metadata(path).ok()?;
        Some(FileStamp {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Whether nothing has changed for [`QUIET_TIME`] by the clock of this machine.
    fn is_quiet(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let changed = self.modified.0.max(self.changed.0);
        i64::try_from(now).is_ok_and(|now| now - changed > QUIET_TIME.as_secs() as i64)
    }
}

/// A change that is read for the first time, or is not complete.
struct PendingChange {
    content: Content,
    changed_at: Instant,
    read_at: Instant,
}

struct WatchedFile {
    path: PathBuf,
    /// Of the latest read; `None` before the first.
    stamp: Option<Option<FileStamp>>,
    pending: Option<PendingChange>,
    /// A hash of the content that was returned last.
    returned: Option<u64>,
    /// The content is returned even if it is the same.
    must_return: bool,
}

impl WatchedFile {
    fn new(path: PathBuf) -> WatchedFile {
        WatchedFile { path, stamp: None, pending: None, returned: None, must_return: false }
    }

    /// Reads the file if it has changed, and returns its content once it is complete.
    fn poll(&mut self, now: Instant) -> Option<Content> {
        let stamp = FileStamp::read(&self.path);
        match &mut self.pending {
            None if self.stamp == Some(stamp) && !self.must_return => return None,
            Some(pending) if now.duration_since(pending.read_at) < POLL_INTERVAL => return None,
            _ => {}
        }
        self.stamp = Some(stamp);
        let content = read_file(&self.path);
        let changed_at = match &self.pending {
            Some(pending) if pending.content == content => Some(pending.changed_at),
            _ => None,
        };
        let is_whole = match &content {
            Ok(file) => file.bytes.ends_with(b"\n"),
            Err(unreadable) => !unreadable.is_missing,
        };
        let is_complete = changed_at.is_some_and(|at| is_whole || now.duration_since(at) >= QUIET_TIME)
            || stamp.is_some_and(|stamp| stamp.is_quiet());
        if !is_complete {
            let changed_at = changed_at.unwrap_or(now);
            self.pending = Some(PendingChange { content, changed_at, read_at: now });
            return None;
        }
        self.pending = None;
        self.complete(content)
    }

    /// Marks the content as returned; `None` if it is the same as before.
    fn complete(&mut self, content: Content) -> Option<Content> {
        let mut hasher = DefaultHasher::new();
        content.as_ref().map_err(|unreadable| &unreadable.message).hash(&mut hasher);
        let hash = hasher.finish();
        let is_new = self.returned.replace(hash) != Some(hash);
        (std::mem::take(&mut self.must_return) || is_new).then_some(content)
    }
}

/// A set of files, watched together.
pub(crate) struct FileWatch {
    files: Vec<WatchedFile>,
}

impl FileWatch {
    /// Watches these files; each of them counts as changed.
    pub(crate) fn new(paths: impl IntoIterator<Item = PathBuf>) -> FileWatch {
        FileWatch { files: paths.into_iter().map(WatchedFile::new).collect() }
    }

    /// Replaces the set of files. A new one counts as changed.
    pub(crate) fn set_paths(&mut self, paths: &[PathBuf]) {
        let mut before = std::mem::take(&mut self.files);
        let mut known = |path: &PathBuf| {
            let index = before.iter().position(|file| file.path == *path)?;
            Some(before.swap_remove(index))
        };
        self.files = paths.iter().map(|path| known(path).unwrap_or_else(|| WatchedFile::new(path.clone()))).collect();
    }

    /// Returns all files at the next poll, also those that have not changed.
    pub(crate) fn read_again(&mut self) {
        self.files.iter_mut().for_each(|file| file.must_return = true);
    }

    /// Returns this file at the next poll, also if it does not change.
    pub(crate) fn retry(&mut self, path: &Path) {
        self.files.iter_mut().filter(|file| file.path == path).for_each(|file| file.must_return = true);
    }

    /// Returns the files that were changed, created or deleted since the last call and are complete.
    pub(crate) fn take_changed(&mut self) -> Vec<(PathBuf, Content)> {
        let now = Instant::now();
        self.files.iter_mut().filter_map(|file| Some((file.path.clone(), file.poll(now)?))).collect()
    }

    /// Reads all files for the start, and waits until they are complete, at most [`START_WAIT_MAX`]. A missing file is
    /// returned at once. A file that is still being written is left out; a later call of [`Self::take_changed`] returns
    /// it.
    pub(crate) fn read_at_start(&mut self) -> Vec<(PathBuf, Content)> {
        let start = Instant::now();
        let mut complete = Vec::new();
        loop {
            complete.extend(self.take_changed());
            for file in &mut self.files {
                let is_missing = |pending: &PendingChange| pending.content.as_ref().is_err_and(|why| why.is_missing);
                if let Some(pending) = file.pending.take_if(|pending| is_missing(pending))
                    && let Some(content) = file.complete(pending.content)
                {
                    complete.push((file.path.clone(), content));
                }
            }
            if self.files.iter().all(|file| file.pending.is_none()) || start.elapsed() >= START_WAIT_MAX {
                return complete;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Watched {
        folder: tempfile::TempDir,
        watch: FileWatch,
        now: Instant,
    }

    impl Watched {
        fn new() -> Watched {
            let folder = tempfile::tempdir().expect("temporary directory");
            let watch = FileWatch::new([folder.path().join("crontab")]);
            Watched { folder, watch, now: Instant::now() }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("crontab")
        }

        fn write(&self, text: &str) {
            write_now(&self.path(), text);
        }

        /// Polls after this time; returns the text, `-` for a missing file, and nothing for no change.
        fn poll_after(&mut self, milliseconds: u64) -> Option<String> {
            self.now += Duration::from_millis(milliseconds);
            let content = self.watch.files[0].poll(self.now)?;
            Some(content.map_or_else(|_| "-".to_owned(), |file| String::from_utf8(file.bytes).expect("UTF-8")))
        }
    }

    /// Writes a file that changed now, also by a clock that only this process has.
    fn write_now(path: &Path, text: &str) {
        fs::write(path, text).expect("written");
        let file = fs::File::options().write(true).open(path).expect("opened");
        file.set_modified(std::time::SystemTime::now()).expect("own file");
    }

    #[test]
    fn a_change_counts_when_two_reads_agree() {
        let mut watched = Watched::new();
        watched.write("a\n");
        assert_eq!(watched.poll_after(0), None);
        assert_eq!(watched.poll_after(499), None, "too early");
        assert_eq!(watched.poll_after(1).as_deref(), Some("a\n"));
        assert_eq!(watched.poll_after(500), None, "once");
        // Truncated, then written in two parts.
        watched.write("");
        assert_eq!(watched.poll_after(500), None);
        watched.write("a\nb\n");
        assert_eq!(watched.poll_after(500), None);
        watched.write("a\nb\nc\n");
        assert_eq!(watched.poll_after(500), None);
        assert_eq!(watched.poll_after(500).as_deref(), Some("a\nb\nc\n"));
        // Replaced, as by an editor, by the same text and by another.
        let beside = watched.folder.path().join("new");
        for (text, expected) in [("a\nb\nc\n", None), ("d\n", Some("d\n"))] {
            write_now(&beside, text);
            fs::rename(&beside, watched.path()).expect("renamed");
            assert_eq!(watched.poll_after(500), None);
            assert_eq!(watched.poll_after(500).as_deref(), expected);
        }
    }

    #[test]
    fn a_file_without_a_last_newline_and_a_missing_one_count_after_ten_quiet_seconds() {
        let mut watched = Watched::new();
        for text in [Some("a\nb"), Some(""), None] {
            match text {
                Some(text) => watched.write(text),
                None => fs::remove_file(watched.path()).expect("removed"),
            }
            for _ in 0..20 {
                assert_eq!(watched.poll_after(500), None, "{text:?}");
            }
            assert_eq!(watched.poll_after(500).as_deref(), Some(text.unwrap_or("-")));
            assert_eq!(watched.poll_after(500), None);
        }
    }

    #[test]
    fn at_the_start_an_old_file_is_read_once_and_a_missing_one_is_not_awaited() {
        let old = fs::canonicalize("/proc/self/exe").expect("this program");
        let mut watch = FileWatch::new(["/nowhere/crontab".into(), old.parent().expect("folder").to_owned()]);
        let read = watch.read_at_start();
        assert_eq!(read.len(), 2);
        assert!(read.iter().all(|(_, content)| content.is_err()), "{read:?}");
        assert!(watch.take_changed().is_empty());
        watch.read_again();
        assert_eq!(watch.files.iter().filter(|file| file.must_return).count(), 2);
    }
}
