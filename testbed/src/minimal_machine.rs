//! A machine with nothing but programs and libraries: no /etc, so neither CA certificates nor passwd entries nor a
//! zone; a root that cannot be written; no environment; a user id without a name. Entering it needs root, or `sudo`
//! without a password as on CI machines.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::installation::leave_out;

/// Makes the machine in a mount namespace of its own: `$1` becomes its root, `$2` its only writable folder and `$3` a
/// program, both under their own paths. Then becomes the rest of the command.
const ENTER: &str = r#"set -e
root=$1 folder=$2 binary=$3; shift 3
mount -t tmpfs tmpfs "$root"
for part in /usr /proc /dev; do mkdir "$root$part"; mount --rbind "$part" "$root$part"; done
for part in /bin /sbin /lib /lib32 /lib64; do
  if [ -L "$part" ]; then cp -P "$part" "$root$part"
  elif [ -d "$part" ]; then mkdir "$root$part"; mount --rbind "$part" "$root$part"; fi
done
for store in /usr/share/ca-certificates /usr/local/share/ca-certificates /usr/lib/ssl /usr/share/ssl /usr/local/ssl; do
  if [ -d "$store" ]; then mount -t tmpfs tmpfs "$root$store"; fi
done
mkdir -p "$root$folder"; mount --bind "$folder" "$root$folder"
mkdir -p "$(dirname "$root$binary")"; touch "$root$binary"; mount --bind "$binary" "$root$binary"
chown -R 54321:54321 "$root$folder"
mount -o remount,ro "$root"
exec chroot --userspec=54321:54321 --groups= "$root" /usr/bin/env -i "$@"
"#;

/// The machine. Each command gets a new one; they share the folder and the network.
#[derive(Debug)]
pub struct MinimalMachine {
    root: TempDir,
    folder: PathBuf,
    binary: PathBuf,
    prefix: &'static [&'static str],
}

impl MinimalMachine {
    /// Prints the reason and returns `None` where this process may not make one.
    pub fn new(folder: &Path, binary: &Path) -> Option<MinimalMachine> {
        let mut refusal = String::new();
        for prefix in [&[][..], &["sudo", "-n"]] {
            let root = tempfile::tempdir().expect("a temporary folder");
            let machine = MinimalMachine { root, folder: folder.into(), binary: binary.into(), prefix };
            match machine.command(&["--version"]).output() {
                Ok(output) if output.status.success() => return Some(machine),
                Ok(output) => refusal = String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                Err(error) => refusal = error.to_string(),
            }
        }
        leave_out("a minimal machine", &refusal);
        None
    }

    /// The program with these arguments, on this machine.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_with(&[], arguments)
    }

    /// The same, with these variables (`NAME=value`) in its environment.
    pub fn command_with(&self, variables: &[&str], arguments: &[&str]) -> Command {
        let mut words =
            self.prefix.iter().chain(&["unshare", "-m", "--propagation", "private", "sh", "-c", ENTER, "sh"]);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).arg(self.root.path()).arg(&self.folder).arg(&self.binary);
        command.args(variables).arg(&self.binary).args(arguments);
        command
    }
}
