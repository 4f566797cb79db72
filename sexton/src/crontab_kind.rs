//! Decides by the path of a crontab whether its entries have a user column, and whose crontab it is.

use std::path::{Path, PathBuf};

use domain::crontab::Format;
use keeper::user::{User, find_by_name};

/// The crontab of the system, besides the files of [`SYSTEM_DIRECTORY`].
const SYSTEM_CRONTAB: &str = "/etc/crontab";

/// The directory of the crontabs of packages.
const SYSTEM_DIRECTORY: &str = "/etc/cron.d";

/// Directories with these names hold one crontab per user (Debian: `/var/spool/cron/crontabs`, SUSE: `tabs`).
const SPOOL_NAMES: [&str; 2] = ["crontabs", "tabs"];

/// The spool of Red Hat.
const SPOOL_DIRECTORY: &str = "/var/spool/cron";

/// What a crontab is, by its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CrontabKind {
    /// Schedule and command; the commands run as the user of Sexton.
    Plain,
    /// Schedule, user and command.
    System,
    /// A crontab in the spool of cron: the commands run as the user that the file is named after.
    OfUser(String),
}

impl CrontabKind {
    /// The kind of the file at an absolute path. `system`: the operator states that crontabs have a user column.
    pub(crate) fn of(path: &Path, system: bool) -> CrontabKind {
        // A path that only leads into a spool counts as well, so that no link makes a user's crontab run as root.
        let resolved = resolved(path);
        let target = path.canonicalize().ok();
        let spooled = [Some(path), Some(&resolved), target.as_deref()].into_iter().flatten().find_map(spool_user);
        match spooled {
            Some(user) => CrontabKind::OfUser(user),
            None if system || is_system_crontab(path) || is_system_crontab(&resolved) => CrontabKind::System,
            None => CrontabKind::Plain,
        }
    }

    pub(crate) fn format(&self) -> Format {
        match self {
            CrontabKind::System => Format::System,
            CrontabKind::Plain | CrontabKind::OfUser(_) => Format::User,
        }
    }

    /// The user that the file is named after.
    pub(crate) fn user(&self) -> Option<&str> {
        match self {
            CrontabKind::OfUser(user) => Some(user),
            CrontabKind::Plain | CrontabKind::System => None,
        }
    }

    /// The account of [`CrontabKind::user`]. `runs_here`: this process starts the commands.
    ///
    /// # Errors
    /// One lower-case sentence if there is no such account, or if this process may not change to it.
    pub(crate) fn account(&self, runs_here: bool) -> Result<Option<User>, String> {
        let Some(name) = self.user() else { return Ok(None) };
        let account = find_by_name(name).ok_or_else(|| {
            format!(
                "a file in this directory is the crontab of the user of its name, and there is no user `{name}` on this \
                 machine; create the user, or move the file"
            )
        })?;
        let own = rustix::process::geteuid();
        if runs_here && !own.is_root() && own.as_raw() != account.uid {
            return Err(format!(
                "this is the crontab of `{name}`, and only root may run commands as another user; run Sexton as root or \
                 as `{name}`, or move the file"
            ));
        }
        Ok(Some(account))
    }
}

/// The path with the links in its directory resolved.
fn resolved(path: &Path) -> PathBuf {
    match (path.parent().and_then(|folder| folder.canonicalize().ok()), path.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

fn spool_user(path: &Path) -> Option<String> {
    let folder = path.parent()?;
    let is_spool = folder == Path::new(SPOOL_DIRECTORY)
        || folder.file_name().is_some_and(|name| SPOOL_NAMES.iter().any(|spool| name == *spool));
    is_spool.then(|| path.file_name().map(|name| name.to_string_lossy().into_owned()))?
}

fn is_system_crontab(path: &Path) -> bool {
    path == Path::new(SYSTEM_CRONTAB) || path.parent() == Some(Path::new(SYSTEM_DIRECTORY))
}

/// Whether files of this directory are crontabs of users.
pub(crate) fn is_spool_directory(directory: &Path) -> bool {
    spool_user(&directory.join("user")).is_some() || spool_user(&resolved(&directory.join("user"))).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_crontab_decides_its_kind() {
        let of_user = |name: &str| CrontabKind::OfUser(name.to_owned());
        for (path, system, expected) in [
            ("/etc/crontab", false, CrontabKind::System),
            ("/etc/cron.d/php", false, CrontabKind::System),
            ("/etc/cron.d/sub/php", false, CrontabKind::Plain),
            ("/etc/sexton/crontab", false, CrontabKind::Plain),
            ("/etc/sexton/crontab", true, CrontabKind::System),
            ("/srv/crontab", false, CrontabKind::Plain),
            ("/var/spool/cron/crontabs/daemon", false, of_user("daemon")),
            ("/var/spool/cron/alice", false, of_user("alice")),
            ("/var/spool/cron/tabs/bob", true, of_user("bob")),
            ("/data/crontabs/carol", false, of_user("carol")),
            ("/data/crontabs/sub/carol", false, CrontabKind::Plain),
        ] {
            assert_eq!(CrontabKind::of(Path::new(path), system), expected, "{path}");
        }
    }

    #[test]
    fn a_link_into_a_spool_leads_to_the_crontab_of_its_user() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let at = |path: &str| folder.path().join(path);
        std::fs::create_dir(at("crontabs")).expect("made");
        std::fs::write(at("crontabs/daemon"), "").expect("written");
        std::os::unix::fs::symlink(at("crontabs/daemon"), at("file")).expect("linked");
        std::os::unix::fs::symlink(at("crontabs"), at("mine")).expect("linked");
        for path in ["file", "mine/daemon", "crontabs/daemon"] {
            assert_eq!(CrontabKind::of(&at(path), true).user(), Some("daemon"), "{path}");
        }
        assert!(is_spool_directory(&at("mine")) && !is_spool_directory(folder.path()));
    }
}
