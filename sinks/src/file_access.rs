//! Opens the files of the sink `file` so that no other user of the machine can redirect them: never through a link, and
//! only in directories that other users cannot write.

#![expect(unsafe_code, reason = "the users and groups of the machine are read through libc")]

use std::ffi::{CString, OsStr};
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, fchown, openat, statat};
use rustix::process::geteuid;

use crate::error::{SinkError, SinkResult};
use crate::file_directory::{OpenDirectory, open_directory};
use crate::special_file::{self, FileKind};

/// Mode of new files without the key `mode`.
pub(crate) const MODE_DEFAULT: u32 = 0o600;

/// Mode and owner of the files that a sink creates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileAccess {
    pub mode: u32,
    /// `USER` or `USER:GROUP`, by name or number; absent: the user of this process.
    pub owner: Option<String>,
}

impl Default for FileAccess {
    fn default() -> FileAccess {
        FileAccess { mode: MODE_DEFAULT, owner: None }
    }
}

impl FileAccess {
    /// Readers of a file must be able to enter its directory.
    fn directory_mode(&self) -> u32 {
        match self.owner {
            Some(_) => 0o755,
            None => 0o700 | (self.mode & 0o044) | ((self.mode & 0o044) >> 2),
        }
    }

    /// Opens for appending; creates the file and its directories. The warning names a directory that other users can
    /// write, where this process does not run as root. Never waits: a FIFO without a reader is an error.
    pub(crate) fn open(&self, path: &Path) -> SinkResult<(File, FileKind, Option<String>)> {
        if let Some(opened) = special_file::open_standard(path) {
            let (file, kind) = opened.map_err(|error| SinkError::from_path_error("open", path, &error))?;
            return Ok((file, kind, None));
        }
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(SinkError::misconfigured(format!("{} is not the path of a file", path.display())));
        };
        let (opened, warning) = open_trusted(directory, self.directory_mode())?;
        let (file, kind) = self.open_in(&opened, name, path)?;
        Ok((file, kind, warning))
    }

    fn open_in(&self, directory: &OwnedFd, name: &OsStr, path: &Path) -> SinkResult<(File, FileKind)> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        // Another file that takes the place of this one at this moment must not make the call wait.
        let flags = flags | OFlags::NONBLOCK;
        let private = Mode::from_raw_mode(MODE_DEFAULT);
        loop {
            let found = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(rustix::io::Errno::NOENT) => {
                    if is_device_folder(path) {
                        return Err(SinkError::misconfigured(format!("{} does not exist; correct it", path.display())));
                    }
                    match openat(directory, name, flags | OFlags::CREATE | OFlags::EXCL, private) {
                        Ok(created) => return Ok((self.give(created.into(), path)?, FileKind::Regular)),
                        // Made since the first call.
                        Err(rustix::io::Errno::EXIST) => continue,
                        Err(errno) => return Err(SinkError::from_path_error("create", path, &errno.into())),
                    }
                }
                Err(errno) => return Err(SinkError::from_path_error("open", path, &errno.into())),
            };
            if let Some(fault) = special_file::type_fault(found, path) {
                return Err(fault);
            }
            if found != FileType::RegularFile {
                match special_file::open_special(directory, name, path, found)? {
                    Some(opened) => return Ok(opened),
                    None => continue,
                }
            }
            match openat(directory, name, flags, Mode::empty()) {
                Ok(existing) => {
                    let file = File::from(existing);
                    if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
                        return Ok((file, FileKind::Regular));
                    }
                }
                // Rotated away or replaced since the first call.
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP) => {}
                Err(errno) => return Err(SinkError::from_path_error("open", path, &errno.into())),
            }
        }
    }

    /// Sets owner and mode of a new file, with any umask.
    fn give(&self, file: File, path: &Path) -> SinkResult<File> {
        if let Some(owner) = &self.owner {
            let (user, group) = find_owner(owner).map_err(SinkError::misconfigured)?;
            fchown(&file, Some(user), group).map_err(|errno| {
                let _ = std::fs::remove_file(path);
                SinkError::from_path_error(&format!("make `{owner}` the owner of"), path, &errno.into())
            })?;
        }
        let permitted = file.set_permissions(Permissions::from_mode(self.mode));
        permitted.map(|()| file).map_err(|error| SinkError::from_path_error("set the mode of", path, &error))
    }

    /// Creates what is missing of a directory, and checks it as for the first line of a file in it.
    pub(crate) fn create_directories(&self, directory: &Path) -> SinkResult<Option<String>> {
        open_trusted(directory, self.directory_mode()).map(|(_, warning)| warning)
    }
}

/// A misspelt device must not become a file in memory.
fn is_device_folder(path: &Path) -> bool {
    path.starts_with("/dev") && !path.starts_with("/dev/shm")
}

/// As root, a directory that other users can write is an error; else the returned warning names it, because /var/log
/// is writable by a group on some systems.
fn open_trusted(directory: &Path, mode: u32) -> SinkResult<(OwnedFd, Option<String>)> {
    let failed = |error: io::Error| SinkError::from_path_error("create the directory", directory, &error);
    let OpenDirectory { opened, reason } = open_directory(directory, mode).map_err(failed)?;
    match reason {
        Some(reason) if geteuid().is_root() => Err(SinkError::misconfigured(reason)),
        reason => Ok((opened, reason)),
    }
}

/// The user and group of `USER` or `USER:GROUP`; without a group, the user's own.
fn find_owner(text: &str) -> Result<(Uid, Option<Gid>), String> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let unknown =
        |kind: &str, name: &str| format!("`owner`: {kind} `{name}` does not exist on this machine; create it");
    let found = find_user(user);
    let uid = user.parse().ok().or(found.map(|(uid, _)| uid)).ok_or_else(|| unknown("user", user))?;
    let gid = match group {
        None => found.map(|(_, gid)| gid),
        Some(group) => Some(group.parse().ok().or_else(|| find_group(group)).ok_or_else(|| unknown("group", group))?),
    };
    Ok((Uid::from_raw(uid), gid.map(Gid::from_raw)))
}

/// A buffer for one entry of passwd or group. Chosen: far longer than any entry without thousands of members.
const ENTRY_BYTES: usize = 1 << 20;

fn find_user(name: &str) -> Option<(u32, u32)> {
    let name = CString::new(name).ok()?;
    let mut buffer: Vec<libc::c_char> = vec![0; ENTRY_BYTES];
    let mut found = std::ptr::null_mut();
    // SAFETY: plain data; all pointers are valid during the call, and the name ends in NUL. The entry is read only if
    // the call found one.
    unsafe {
        let mut entry: libc::passwd = std::mem::zeroed();
        libc::getpwnam_r(name.as_ptr(), &mut entry, buffer.as_mut_ptr(), buffer.len(), &mut found);
        (!found.is_null()).then_some((entry.pw_uid, entry.pw_gid))
    }
}

fn find_group(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    let mut buffer: Vec<libc::c_char> = vec![0; ENTRY_BYTES];
    let mut found = std::ptr::null_mut();
    // SAFETY: as for users.
    unsafe {
        let mut entry: libc::group = std::mem::zeroed();
        libc::getgrnam_r(name.as_ptr(), &mut entry, buffer.as_mut_ptr(), buffer.len(), &mut found);
        (!found.is_null()).then_some(entry.gr_gid)
    }
}
