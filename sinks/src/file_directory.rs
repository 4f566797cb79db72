//! Opens the directory of a file, component by component, so that no other user can lead root elsewhere: what was
//! checked is what is used, also when another user renames a component at that moment.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, chmodat, fchmod, fstat, mkdirat, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// Symbolic links followed in one path (Linux follows at most 40: path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Opens without access to the content: other directories of a path need not be readable.
const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The state directory of this process, once its owner and mode were accepted.
static TRUSTED: OnceLock<PathBuf> = OnceLock::new();

/// From now on, the directories above this one are not checked for files inside it: its user accepted it. The first
/// call counts, because a process has one state directory.
pub fn trust_directory(directory: &Path) {
    let _ = TRUSTED.set(directory.to_owned());
}

/// The trusted directory that a path is in, and the rest of the path.
fn trusted_part(directory: &Path) -> Option<(PathBuf, PathBuf)> {
    let trusted = TRUSTED.get()?;
    let inside = directory.strip_prefix(trusted).ok()?;
    let leaves = inside.components().any(|component| component == Component::ParentDir);
    (!leaves).then(|| (trusted.clone(), inside.to_owned()))
}

/// An open directory, and why another user could replace it or the files in it.
pub(crate) struct OpenDirectory {
    pub(crate) opened: OwnedFd,
    pub(crate) reason: Option<String>,
}

/// Opens a directory. Creates what is missing of it with the mode; as root, nothing below a
/// directory that another user could replace.
pub(crate) fn open_directory(directory: &Path, create: u32) -> io::Result<OpenDirectory> {
    let mut walk = Walk::new(directory, create)?;
    while let Some(name) = walk.pending.pop() {
        walk.enter(&name)?;
        if walk.reason.is_some() && geteuid().is_root() {
            break;
        }
    }
    let own = fstat(&walk.opened)?;
    let reason = walk.reason.or_else(|| untrusted(&own, &walk.path));
    Ok(OpenDirectory { opened: walk.opened, reason })
}

/// The part of a path that is open, and what is left of it.
struct Walk {
    opened: OwnedFd,
    path: PathBuf,
    /// The next component is the last one.
    pending: Vec<OsString>,
    create: u32,
    links: usize,
    reason: Option<String>,
}

impl Walk {
    fn new(directory: &Path, create: u32) -> io::Result<Walk> {
        if let Some((trusted, inside)) = trusted_part(directory) {
            let opened = openat(CWD, &trusted, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            let mut walk = Walk { opened, path: trusted, pending: Vec::new(), create, links: 0, reason: None };
            walk.add(&inside);
            return Ok(walk);
        }
        let start = if directory.is_absolute() { "/" } else { "." };
        let opened = openat(CWD, start, PATH_ONLY | OFlags::DIRECTORY, Mode::empty())?;
        let mut walk = Walk { opened, path: start.into(), pending: Vec::new(), create, links: 0, reason: None };
        walk.add(directory);
        Ok(walk)
    }

    fn add(&mut self, path: &Path) {
        let names = path.components().filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        });
        self.pending.extend(names.collect::<Vec<_>>().into_iter().rev());
    }

    fn enter(&mut self, name: &OsStr) -> io::Result<()> {
        let above = fstat(&self.opened)?;
        let next = match openat(&self.opened, name, PATH_ONLY, Mode::empty()) {
            Err(Errno::NOENT) => self.make(name)?,
            opened => opened?,
        };
        let found = fstat(&next)?;
        let path =
            if name == ".." { self.path.parent().unwrap_or(Path::new("/")).into() } else { self.path.join(name) };
        if name != ".." && self.reason.is_none() {
            self.reason = replaceable(&above, &self.path, &found, &path);
        }
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => (self.opened, self.path) = (next, path),
            FileType::Symlink => self.follow(&next)?,
            _ => return Err(Errno::NOTDIR.into()),
        }
        Ok(())
    }

    fn follow(&mut self, link: &OwnedFd) -> io::Result<()> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(Errno::LOOP.into());
        }
        let target = PathBuf::from(OsString::from_vec(readlinkat(link, "", Vec::new())?.into_bytes()));
        if target.is_absolute() {
            self.opened = openat(CWD, "/", PATH_ONLY | OFlags::DIRECTORY, Mode::empty())?;
            self.path = "/".into();
        }
        self.add(&target);
        Ok(())
    }

    /// Creates a directory with its mode, with any umask.
    fn make(&self, name: &OsStr) -> rustix::io::Result<OwnedFd> {
        let mode = Mode::from_raw_mode(self.create);
        match mkdirat(&self.opened, name, mode) {
            Ok(()) => {}
            // Another process made it first.
            Err(Errno::EXIST) => return openat(&self.opened, name, PATH_ONLY, Mode::empty()),
            Err(errno) => return Err(errno),
        }
        let readable = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.opened, name, readable, Mode::empty()) {
            Ok(made) if fstat(&made)?.st_uid == geteuid().as_raw() => fchmod(&made, mode)?,
            // With this umask, its owner cannot read it.
            Err(Errno::ACCESS) => chmodat(&self.opened, name, mode, AtFlags::empty())?,
            // Replaced since; the checks decide.
            Ok(_) | Err(_) => {}
        }
        openat(&self.opened, name, PATH_ONLY, Mode::empty())
    }
}

fn is_trusted(owner: u32) -> bool {
    [0, geteuid().as_raw()].contains(&owner)
}

/// Why another user could have put this entry in place of the one that the operator named. A directory of root or of
/// this process's user is accepted: another user can neither make one nor move one here.
fn replaceable(above: &Stat, directory: &Path, found: &Stat, path: &Path) -> Option<String> {
    let (shown, path) = (directory.display(), path.display());
    let who = match above.st_mode & 0o022 {
        _ if !is_trusted(above.st_uid) => format!("user {}", above.st_uid),
        0 => return None,
        0o020 => "its group".to_owned(),
        _ => "every user".to_owned(),
    };
    let remedy = "give the directories of the path to root or to Sexton's user, with chown and `chmod go-w`, or write \
                  below another directory";
    if !is_trusted(found.st_uid) {
        let owner = found.st_uid;
        return Some(format!("{path} belongs to user {owner}, and {who} can write to {shown}; {remedy}"));
    }
    let is_kept = above.st_mode & 0o1000 != 0 && is_trusted(above.st_uid);
    let is_link = FileType::from_raw_mode(found.st_mode) == FileType::Symlink;
    (is_link && !is_kept).then(|| format!("{path} is a symbolic link, and {who} can replace it in {shown}; {remedy}"))
}

/// Why other users could replace files in this directory.
fn untrusted(own: &Stat, directory: &Path) -> Option<String> {
    let shown = directory.display();
    if !is_trusted(own.st_uid) {
        return Some(format!(
            "the directory {shown} belongs to user {}, who could replace its files; give it to root or to Sexton's \
             user with chown, or write below another directory",
            own.st_uid
        ));
    }
    let who = match own.st_mode & 0o022 {
        0 => return None,
        0o020 => "its group",
        _ => "every user",
    };
    let mode = own.st_mode & 0o7777;
    Some(format!(
        "{who} can write to the directory {shown} (mode {mode:04o}) and replace its files; run `chmod go-w {shown}`, or \
         write below a directory of your own"
    ))
}
