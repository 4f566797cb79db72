//! A control group (cgroup v2) for each job, where the keeper has the permission to create one. It kills a whole
//! process tree at once, however fast the tree forks. Without it, the keeper walks /proc instead.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub(crate) struct Cgroup {
    path: PathBuf,
    folder: OwnedFd,
}

impl Cgroup {
    /// Creates the group below the keeper's own. None without cgroup v2 or without permission.
    pub(crate) fn create(name: &str) -> Option<Cgroup> {
        let parent = own_folder()?;
        let path = parent.join(format!("sexton-{name}"));
        match fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(_) => return None,
        }
        let folder = File::open(&path).ok()?.into();
        // Kernels before 5.14 cannot kill a group at once; such a group has no use here.
        if !path.join("cgroup.kill").exists() {
            let _ = fs::remove_dir(&path);
            return None;
        }
        Some(Cgroup { path, folder })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory for clone3, so that the job starts inside the group.
    pub(crate) fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

impl Drop for Cgroup {
    /// The group stays while it has processes; a later [`remove`] deletes it.
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Kills every process in the group.
pub(crate) fn kill(path: &Path) -> io::Result<()> {
    fs::write(path.join("cgroup.kill"), "1")
}

/// The processes in the group.
pub(crate) fn members(path: &Path) -> Vec<u32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Removes an empty group; a group with processes stays.
pub fn remove(path: &Path) {
    let _ = fs::remove_dir(path);
}

/// Set by a fork server, whose keepers are in its group.
static OWN_FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();

/// Finds the directory of the own group for this process and those that it forks.
pub(crate) fn remember_own_folder() {
    OWN_FOLDER.get_or_init(find_own_folder);
}

/// The directory of the keeper's own group.
fn own_folder() -> Option<PathBuf> {
    OWN_FOLDER.get().cloned().unwrap_or_else(find_own_folder)
}

fn find_own_folder() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    folder_in(&mounts, own)
}

/// proc_pid_mountinfo(5): the mount's root and mount point are the fourth and fifth fields; the type follows ` - `.
fn folder_in(mounts: &str, own: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        if !kind.starts_with("cgroup2 ") {
            return None;
        }
        let mut fields = fields.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let below = Path::new(own).strip_prefix(root).ok()?;
        Some(Path::new(point).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found_below_its_mount() {
        let mounts = "24 1 0:22 / /proc rw,relatime - proc proc rw\n\
                      30 24 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let check = |mounts: &str, own: &str, expected: Option<&str>| {
            assert_eq!(folder_in(mounts, own).as_deref(), expected.map(Path::new), "{own}");
        };
        check(mounts, "/", Some("/sys/fs/cgroup"));
        check(mounts, "/system.slice/sexton.service", Some("/sys/fs/cgroup/system.slice/sexton.service"));
        check("24 1 0:22 / /proc rw - proc proc rw\n", "/", None);
        let container = "30 24 0:27 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        check(container, "/docker/abc/x", Some("/sys/fs/cgroup/x"));
        check(container, "/elsewhere", None);
    }
}
