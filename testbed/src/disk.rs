//! A small disk of a test's own, to be filled: a tmpfs. Mounting takes root, or `sudo` without a password as CI machines
//! have it.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::installation::leave_out;

/// Unmounted when it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    folder: TempDir,
    prefix: &'static [&'static str],
}

impl SmallDisk {
    /// A disk of so many bytes; `None` where none can be mounted, after saying so.
    pub fn mount(bytes: u64) -> Option<SmallDisk> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = format!("size={bytes},mode=1777");
        let mut said = String::new();
        for prefix in [&[][..], &["sudo", "-n"]] {
            let mounting =
                command(prefix, &["mount", "-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).output();
            match mounting {
                Ok(output) if output.status.success() => return Some(SmallDisk { folder, prefix }),
                Ok(output) => said = String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                Err(error) => said = error.to_string(),
            }
        }
        leave_out("a disk to fill", &format!("no small tmpfs can be mounted here: {said}"));
        None
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes all the room there is, until the file is removed.
    pub fn fill(&self) -> PathBuf {
        let ballast = self.path().join("ballast");
        let mut file = std::fs::File::create(&ballast).expect("ballast");
        let piece = vec![0; 1 << 20];
        // What does not fit whole fits in part, to the last byte.
        while std::io::Write::write(&mut file, &piece).is_ok_and(|bytes| bytes > 0) {}
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = command(self.prefix, &["umount", "-l"]).arg(self.folder.path()).status();
    }
}

fn command(prefix: &[&str], words: &[&str]) -> Command {
    let mut words = prefix.iter().chain(words);
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words);
    command
}
