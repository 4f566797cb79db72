//! Protects a state directory from other users: who may own it, and the modes of its files.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::process::geteuid;

use super::{StateError, io_error};

/// Exists once the files that older builds made readable for others were made private.
const MARKER: &str = "modes-checked";

/// Creates the directory, readable only by its owner, or checks that other users cannot replace its files.
pub(super) fn create(dir: &Path) -> Result<(), StateError> {
    if fs::symlink_metadata(dir).is_err() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o700)))
            .map_err(|why| io_error("create", dir, why))?;
    }
    check(dir)
}

/// Checks owner and mode of the directory, and of the link by which it was named.
pub(super) fn check(dir: &Path) -> Result<(), StateError> {
    let unreadable = |why| io_error("read the owner of", dir, why);
    let named = fs::symlink_metadata(dir).map_err(unreadable)?;
    let found = fs::metadata(dir).map_err(unreadable)?;
    let own = geteuid().as_raw();
    if let Some(other) = [&named, &found].into_iter().find(|metadata| ![0, own].contains(&metadata.uid())) {
        return Err(StateError::Foreign { path: dir.to_owned(), owner: other.uid(), own });
    }
    if found.mode() & 0o002 != 0 {
        return Err(StateError::WritableByAll { path: dir.to_owned(), mode: found.mode() & 0o7777 });
    }
    Ok(())
}

/// Makes all files in the directory private, once: older builds created them by the umask. A file that cannot be
/// changed is logged and left.
pub(super) fn make_files_private(dir: &Path) -> io::Result<()> {
    let marker = dir.join(MARKER);
    if marker.exists() {
        return Ok(());
    }
    make_private_below(dir);
    fs::File::create(marker).map(drop)
}

fn make_private_below(dir: &Path) {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(why) => return tracing::warn!(%why, path = %dir.display(), "cannot make the files of a directory private"),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        // Never follows a link.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if let Some(mode) = private_mode(&metadata)
            && let Err(why) = fs::set_permissions(&path, fs::Permissions::from_mode(mode))
        {
            tracing::warn!(%why, path = %path.display(), "cannot make a file private");
        }
        if metadata.is_dir() {
            make_private_below(&path);
        }
    }
}

/// The mode to set; none when the file has it, or is neither a file nor a directory.
fn private_mode(metadata: &Metadata) -> Option<u32> {
    let wanted = match metadata.file_type() {
        kind if kind.is_dir() => 0o700,
        kind if kind.is_file() => 0o600,
        _ => return None,
    };
    Some(wanted).filter(|wanted| metadata.mode() & 0o7777 != *wanted)
}
