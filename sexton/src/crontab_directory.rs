//! The crontabs of a directory, by the rules of cron for `/etc/cron.d` and for the spool of users' crontabs.

use std::fs;
use std::path::{Path, PathBuf};

use domain::fault::Fault;
use domain::system_error::plain_text;

use crate::crontab_kind::is_spool_directory;

/// Ends of names that package managers give to their copies; cron and its users expect that they are ignored.
const LEFTOVER_ENDS: [&str; 10] = [
    ".dpkg-dist",
    ".dpkg-new",
    ".dpkg-old",
    ".dpkg-tmp",
    ".rpmnew",
    ".rpmorig",
    ".rpmsave",
    ".ucf-dist",
    ".ucf-new",
    ".ucf-old",
];

/// What a directory holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DirectoryContent {
    /// The files that cron would read, by name.
    pub(crate) files: Vec<PathBuf>,
    /// Warnings about files that cron ignores.
    pub(crate) ignored: Vec<Fault>,
}

/// Lists the crontabs of a directory. Owner and mode are checked when a file is read.
///
/// # Errors
/// One lower-case sentence if the directory cannot be read.
pub(crate) fn list(directory: &Path) -> Result<DirectoryContent, String> {
    let unreadable = |why: std::io::Error| format!("cannot be read: {}", plain_text(&why));
    let mut content = DirectoryContent::default();
    let is_spool = is_spool_directory(&crate::source_path::absolute(directory));
    let mut entries = fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(unreadable)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (name, path) = (entry.file_name(), entry.path());
        let ignored = match name.to_str() {
            _ if path.is_dir() => continue,
            Some(name) if name.starts_with('.') || LEFTOVER_ENDS.iter().any(|end| name.ends_with(end)) => continue,
            Some(_) if is_spool => false,
            Some(name) => !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')),
            None => true,
        };
        if !ignored {
            content.files.push(path);
            continue;
        }
        let message = "the file is ignored, as by cron: the name of a crontab in a directory has letters, digits, `_` \
                       and `-` only; rename it, or name the file itself";
        content.ignored.push(Fault::warning(&path.display().to_string(), 0, "", message));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(directory: &Path) -> (Vec<String>, Vec<String>) {
        let content = list(directory).expect("a directory");
        let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
        let ignored = content.ignored.iter().map(|fault| name(Path::new(&fault.file))).collect();
        (content.files.iter().map(|path| name(path)).collect(), ignored)
    }

    #[test]
    fn names_and_kinds_of_files_decide_as_in_cron() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let at = |name: &str| folder.path().join(name);
        for name in ["php", "B-2_x", "e2scrub_all", "README", ".placeholder", "php.dpkg-old", "a.sh", "b~", "ü", "c d"]
        {
            fs::write(at(name), "").expect("written");
        }
        fs::create_dir(at("directory")).expect("made");
        std::os::unix::fs::symlink(at("php"), at("linked")).expect("linked");
        let (files, ignored) = listed(folder.path());
        assert_eq!(files, ["B-2_x", "README", "e2scrub_all", "linked", "php"]);
        assert_eq!(ignored, ["a.sh", "b~", "c d", "ü"]);
        assert!(list(&at("absent")).expect_err("absent").starts_with("cannot be read"));
    }

    #[test]
    fn a_spool_holds_the_crontabs_of_all_names() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let spool = folder.path().join("crontabs");
        fs::create_dir(&spool).expect("made");
        for name in ["alice", "bob.smith", ".cron.update"] {
            fs::write(spool.join(name), "").expect("written");
        }
        assert_eq!(listed(&spool), (vec!["alice".to_owned(), "bob.smith".to_owned()], vec![]));
    }
}
