//! Refuses files that another user can change, before root acts on them: they decide what root runs and where output
//! is sent. The same rule as cron's for crontabs.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use keeper::user::find_by_uid;

const ROOT: u32 = 0;

/// Write permission of the group or of all.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Who can write a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileOwner {
    uid: u32,
    mode: u32,
}

impl FileOwner {
    pub(crate) fn of(file: &Metadata) -> FileOwner {
        FileOwner { uid: file.uid(), mode: file.mode() }
    }
}

/// Checks that only root, and `owner` where there is one, can write a file that Sexton reads as root. Without root's
/// rights, and for a pipe (`None`), nothing is checked.
///
/// # Errors
/// One lower-case sentence with the remedy.
pub(crate) fn check_when_root(file: Option<FileOwner>, owner: Option<u32>) -> Result<(), String> {
    let is_root = rustix::process::geteuid().as_raw() == ROOT;
    match file {
        Some(file) if is_root => check(file, &[Some(ROOT), owner]),
        _ => Ok(()),
    }
}

/// Checks a file of a directory of crontabs, as cron does: it belongs to root, to the user of this process, or to
/// `owner` where there is one, and no other user can write it.
///
/// # Errors
/// As [`check_when_root`].
pub(crate) fn check_as_cron(file: Option<FileOwner>, owner: Option<u32>) -> Result<(), String> {
    let own = rustix::process::geteuid().as_raw();
    file.map_or(Ok(()), |file| check(file, &[Some(ROOT), Some(own), owner]))
}

fn check(file: FileOwner, owners: &[Option<u32>]) -> Result<(), String> {
    if !owners.contains(&Some(file.uid)) {
        let name = |uid: u32| find_by_uid(uid).map_or_else(|| uid.to_string(), |user| user.name);
        let mut allowed: Vec<String> = owners.iter().flatten().map(|uid| name(*uid)).collect();
        allowed.dedup();
        return Err(format!(
            "the file belongs to `{}`, who can write what runs as another user; it must belong to {}; use chown",
            name(file.uid),
            allowed.join(" or ")
        ));
    }
    if file.mode & WRITABLE_BY_OTHERS != 0 {
        return Err(format!(
            "other users can write the file (mode {:04o}), so they decide what runs; use chmod go-w",
            file.mode & 0o7777
        ));
    }
    Ok(())
}
