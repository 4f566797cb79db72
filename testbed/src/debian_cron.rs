//! Debian's own cron as the reference for crontabs. Runs as root in a mount namespace of its own, with its own `/etc`,
//! `/run`, `/var/spool` and sendmail, so the machine's crontabs are neither read nor changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::installation::{installed, leave_out};
use crate::ready_process::ReadyProcess;
use crate::wait::DEADLINE;

/// Prepares the namespace and becomes cron. Arguments: a folder of this test, the program, and the zone's file.
const SCRIPT: &str = r#"
set -e
folder=$1 cron=$2 zone=$3
mount -t tmpfs tmpfs "$folder/namespace"
mkdir "$folder"/namespace/etc "$folder"/namespace/etc.work "$folder"/namespace/sbin "$folder"/namespace/sbin.work
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$folder/namespace/etc,workdir=$folder/namespace/etc.work" /etc
mount -t overlay overlay -o \
  "lowerdir=/usr/sbin,upperdir=$folder/namespace/sbin,workdir=$folder/namespace/sbin.work" /usr/sbin
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/spool
rm -rf /etc/cron.d /etc/crontab /etc/localtime /etc/timezone
ln -s "$zone" /etc/localtime
mkdir -p /etc/cron.d /etc/pam.d /var/spool/cron
printf '%s required pam_permit.so\n' auth account session > /etc/pam.d/cron
cp "$folder"/cron.d/* /etc/cron.d 2>/dev/null || true
cp -r "$folder/crontabs" /var/spool/cron
chmod 1730 /var/spool/cron/crontabs
for file in /var/spool/cron/crontabs/*; do chown "${file##*/}" "$file"; chmod 600 "$file"; done
chmod 644 /etc/cron.d/* 2>/dev/null || true
rm -f /usr/sbin/sendmail
cat > /usr/sbin/sendmail <<'SENDMAIL'
#!/bin/sh
file=$(mktemp FOLDER/mail/XXXXXX.new)
cat > "$file"
chmod 644 "$file"
mv "$file" "${file%.new}"
SENDMAIL
sed -i "s|FOLDER|$folder|" /usr/sbin/sendmail
chmod 755 /usr/sbin/sendmail
echo ready
exec "$cron" -f
"#;

/// A running cron. It ends, with its namespace, when this value is dropped.
#[derive(Debug)]
pub struct DebianCron {
    process: ReadyProcess,
    folder: PathBuf,
}

impl DebianCron {
    /// Starts cron with these crontabs of users (user, text) and files of cron.d (name, text), in the zone of this
    /// name. `None` when it is not available here, or this process is not root.
    ///
    /// # Panics
    /// When the namespace cannot be prepared.
    pub fn start(folder: &Path, zone: &str, users: &[(&str, &str)], system: &[(&str, &str)]) -> Option<DebianCron> {
        let cron = installed("cron", "bin/cron")?;
        if !crate::mail::is_root() {
            leave_out("cron", "cron changes its user, which needs root");
            return None;
        }
        for name in ["namespace", "crontabs", "cron.d", "mail"] {
            fs::create_dir(folder.join(name)).expect("made");
        }
        set_mode(&folder.join("mail"), 0o1777);
        for (name, text) in users {
            fs::write(folder.join("crontabs").join(name), text).expect("written");
        }
        for (name, text) in system {
            fs::write(folder.join("cron.d").join(name), text).expect("written");
        }
        let mut command = Command::new("unshare");
        // libc prefers it to /etc/localtime.
        command.env_remove("TZ");
        command.args(["--mount", "--propagation", "private", "bash", "-c", SCRIPT, "bash"]);
        command.arg(folder).arg(cron).arg(format!("/usr/share/zoneinfo/{zone}"));
        let process = ReadyProcess::spawn(&mut command).expect("unshare starts");
        let cron = DebianCron { process, folder: folder.to_owned() };
        assert!(cron.process.is_ready_within(DEADLINE), "cron is not ready: {}", cron.process.printed());
        Some(cron)
    }

    /// A command that runs in the namespace of cron: it sees the same crontabs, zone and sendmail.
    pub fn beside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.process.pid().to_string(), program]);
        command
    }

    /// Every mail that was handed to sendmail in the namespace.
    ///
    /// # Panics
    /// When one cannot be read.
    pub fn mails(&self) -> Vec<String> {
        let files = fs::read_dir(self.folder.join("mail")).expect("made at the start");
        let whole = files.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.extension().is_none());
        whole.map(|path| String::from_utf8_lossy(&fs::read(path).expect("read")).into_owned()).collect()
    }
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("own folder");
}
