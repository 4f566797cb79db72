//! A control group of the job's own (cgroup v2), where the keeper may make one. It ends a whole tree of processes at
//! once, however fast they fork. Everything works without it, by walking /proc.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

pub struct Cgroup {
    path: PathBuf,
    folder: OwnedFd,
}

impl Cgroup {
    /// Makes the group below the keeper's own; none where there is no cgroup v2 or no permission.
    pub fn create(name: &str) -> Option<Cgroup> {
        let parent = own_folder()?;
        let path = parent.join(format!("sexton-{name}"));
        match fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(_) => return None,
        }
        let folder = File::open(&path).ok()?.into();
        // Kernels before 5.14 cannot end a group at once; there it is worth nothing to us.
        if !path.join("cgroup.kill").exists() {
            let _ = fs::remove_dir(&path);
            return None;
        }
        Some(Cgroup { path, folder })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For clone3: the job is born inside.
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

impl Drop for Cgroup {
    /// Stays where processes still live in it; [`remove`] tries again later.
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Kills every process in the group.
pub fn kill(path: &Path) -> io::Result<()> {
    fs::write(path.join("cgroup.kill"), "1")
}

/// The processes in the group.
pub fn members(path: &Path) -> Vec<u32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Removes an empty group; one with processes stays.
pub fn remove(path: &Path) {
    let _ = fs::remove_dir(path);
}

/// Where the keeper's own group is mounted.
fn own_folder() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    folder_in(&mounts, own)
}

/// proc_pid_mountinfo(5): the mount's root and point are the fourth and fifth fields, the kind follows ` - `.
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
