//! A small disk that a test can fill: a tmpfs. Mounting needs root, or `sudo` without a password as on CI machines.

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
    /// Mounts a disk of this size. Prints the reason and returns `None` where the machine cannot mount one.
    pub fn mount(bytes: u64) -> Option<SmallDisk> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = format!("size={bytes},mode=1777");
        let mut refusal = String::new();
        for prefix in [&[][..], &["sudo", "-n"]] {
            let mounting =
                command(prefix, &["mount", "-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).output();
            match mounting {
                Ok(output) if output.status.success() => return Some(SmallDisk { folder, prefix }),
                Ok(output) => refusal = String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                Err(error) => refusal = error.to_string(),
            }
        }
        leave_out("a small disk", &format!("cannot mount a tmpfs: {refusal}"));
        None
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Fills the disk with one file, whose path is returned. Removing it frees the space.
    pub fn fill(&self) -> PathBuf {
        let ballast = self.path().join("ballast");
        let mut file = std::fs::File::create(&ballast).expect("ballast");
        let piece = vec![0; 1 << 20];
        // The last write is a short one, which uses the last byte.
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
