//! The name of a file with jobs: its path as the operator gave it, made absolute. Links are not resolved, so a link
//! that is switched to another release stays the same source.

use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// The absolute path, without `.` and `..`. Links in it are kept.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    let joined = if path.is_absolute() { path.to_owned() } else { working_directory().join(path) };
    let mut absolute = PathBuf::new();
    for component in joined.components() {
        match component {
            Component::CurDir => {}
            // The parent of a link is the parent of its target.
            Component::ParentDir => {
                if absolute.is_symlink() {
                    absolute = absolute.canonicalize().unwrap_or(absolute);
                }
                absolute.pop();
            }
            other => absolute.push(other),
        }
    }
    absolute
}

/// The working directory as the shell names it, with its links, where `PWD` is right.
fn working_directory() -> PathBuf {
    let identity = |path: &Path| path.metadata().map(|metadata| (metadata.dev(), metadata.ino())).ok();
    let named = std::env::var_os("PWD").map(PathBuf::from).filter(|path| path.is_absolute());
    named
        .filter(|path| identity(path).is_some_and(|named| Some(named) == identity(Path::new("."))))
        .or_else(|| std::env::current_dir().ok())
        .unwrap_or_else(|| PathBuf::from("/"))
}

/// Whether the path is a descriptor of this process, like the one of `<(crontab -l)`. Its number differs with each
/// call.
pub(crate) fn is_descriptor(path: &Path) -> bool {
    let folder = path.parent().unwrap_or(path);
    path == Path::new("/dev/stdin")
        || folder == Path::new("/dev/fd")
        || (folder.starts_with("/proc") && folder.file_name().is_some_and(|name| name == "fd"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_kept_and_parents_of_links_are_those_of_their_targets() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let at = |path: &str| folder.path().canonicalize().expect("there").join(path);
        std::fs::create_dir_all(at("releases/2")).expect("made");
        std::os::unix::fs::symlink(at("releases/2"), at("current")).expect("linked");
        for (given, expected) in [
            ("current/crontab", "current/crontab"),
            ("./current/./crontab", "current/crontab"),
            ("releases/../current/crontab", "current/crontab"),
            ("current/../crontab", "releases/crontab"),
            ("absent/../crontab", "crontab"),
        ] {
            assert_eq!(absolute(&at(given)), at(expected), "{given}");
        }
        assert_eq!(absolute(Path::new("/../x")), Path::new("/x"));
        assert!(absolute(Path::new("x")).is_absolute());
    }
}
