//! The last good version of the sinks file and of each rule pack, in `last_good` of the state directory: a file that is
//! faulty at a start is replaced by it. Of jobs, the ledger has the last good version.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use crate::state::{StateDirectory, write_private};

/// The copies of one state directory.
#[derive(Debug)]
pub(crate) struct KeptFiles {
    folder: PathBuf,
    /// The versions of this process, for a state directory that cannot be written now.
    in_memory: BTreeMap<PathBuf, String>,
}

impl KeptFiles {
    pub(crate) fn new(state: &StateDirectory) -> KeptFiles {
        KeptFiles { folder: state.dir.join("last_good"), in_memory: BTreeMap::new() }
    }

    /// The copy has the path of the file below this folder.
    fn copy_of(&self, file: &Path) -> PathBuf {
        let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let names = absolute.components().filter(|part| matches!(part, Component::Normal(_)));
        self.folder.join(names.collect::<PathBuf>())
    }

    /// Keeps this version. A failure is only logged: the file itself is in use.
    pub(crate) fn keep(&mut self, file: &Path, text: &str) {
        let copy = self.copy_of(file);
        self.in_memory.insert(copy.clone(), text.to_owned());
        if fs::read(&copy).is_ok_and(|kept| kept == text.as_bytes()) {
            return;
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(copy.parent().unwrap_or(&self.folder));
        if let Err(why) = made.and_then(|()| write_private(&copy, text.as_bytes())) {
            tracing::warn!(file = %file.display(), %why, "cannot keep a copy of the last good version");
        }
    }

    /// The packs of which a last good version is kept, for a directory that is missing now.
    pub(crate) fn packs_in(&self, directory: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.copy_of(directory)).into_iter().flatten().flatten();
        let names = entries.map(|entry| directory.join(entry.file_name()));
        let mut packs: Vec<PathBuf> =
            names.filter(|file| file.extension().is_some_and(|extension| extension == "toml")).collect();
        packs.sort();
        packs
    }

    /// Forgets a file that was removed on purpose.
    pub(crate) fn forget(&mut self, file: &Path) {
        let copy = self.copy_of(file);
        self.in_memory.remove(&copy);
        if let Err(why) = fs::remove_file(&copy)
            && why.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %file.display(), %why, "cannot delete the copy of the last good version");
        }
    }

    /// The last good version, if there was one.
    pub(crate) fn last_good(&self, file: &Path) -> Option<String> {
        let copy = self.copy_of(file);
        self.in_memory.get(&copy).cloned().or_else(|| fs::read_to_string(copy).ok())
    }
}
