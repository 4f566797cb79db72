//! The state directory: what an `up` or `runner` stores, and where commands on the same machine find it.
//!
//! | path | content |
//! |---|---|
//! | `lock` | locked while an `up` or `runner` uses the directory |
//! | `token` | token of the API; mode 0600 |
//! | `up.json` | files of sinks and rules that the last `up` was started with, for `exec` |
//! | `server.json` | `url` and `pid` of the serving `up` or `runner`; absent when none serves |
//! | `runner-id` | distinguishes this runner from others with the same host name |
//! | `last_good/` | the last good version of the sinks file and of rule packs |
//! | `sexton.db` | the ledger: jobs, runs, orders, reports, alerts |
//! | `ledger.json` | id and counter of the ledger |
//! | `bus-fault` | not empty after a process that SIGBUS has ended |
//! | `store-alert.json` | when the alert `sexton/store` was last sent |
//! | `runner/` | run directories, spools, outbox |
//! | `logs/` | files of the default sink |
//! | `sample.crontab` | the crontab that runs when no file is given |
//! | `modes-checked` | exists once files of older builds were made private |

mod protection;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// Random bytes of the token: 256 bits cannot be guessed.
const TOKEN_BYTES: usize = 32;

/// Random bytes of a runner id. Chosen: 24 bits distinguish the few runners with one host name.
const RUNNER_ID_BYTES: usize = 3;

/// Longest token file that is read. Chosen: a token has 64 bytes.
const TOKEN_FILE_BYTES_MAX: u64 = 4096;

#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error(
        "cannot {doing} {}: {why}; name another directory with --state, or correct its permissions",
        path.display()
    )]
    Io { doing: &'static str, path: PathBuf, why: io::Error },
    #[error(
        "the state directory {} is in use by another `sexton up` or `sexton runner`{by}; stop it first, or name \
         another directory with --state",
        path.display()
    )]
    InUse { path: PathBuf, by: String },
    #[error(
        "the state directory {} belongs to {}, who could replace its files, and this process runs as {}; run it as \
         the owner, change the owner with chown, or name another directory with --state",
        path.display(), user_name(*owner), user_name(*own)
    )]
    Foreign { path: PathBuf, owner: u32, own: u32 },
    #[error(
        "all users can write to the state directory {} (mode {mode:04o}); name a directory below it with --state, like {}, \
         which is created, or run `chmod o-w {}`",
        path.display(), path.join("sexton").display(), path.display()
    )]
    WritableByAll { path: PathBuf, mode: u32 },
    #[error(
        "no home directory is known: neither XDG_STATE_HOME nor HOME is set, and this user has no passwd entry; name a \
         state directory with --state"
    )]
    NoHome,
}

/// The content of `server.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerInfo {
    pub(crate) url: String,
    pub(crate) pid: u32,
}

/// The content of `up.json`: absolute paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UpSettings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sinks: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rules: Vec<PathBuf>,
}

/// The paths of a state directory. Creating this value accesses no file.
#[derive(Clone, Debug)]
pub(crate) struct StateDirectory {
    pub(crate) dir: PathBuf,
}

/// The lock of a state directory; the kernel releases it when the process exits, also after kill -9.
pub(crate) struct Lock(#[expect(dead_code, reason = "holds the lock")] File);

impl StateDirectory {
    pub(crate) fn new(dir: impl Into<PathBuf>) -> StateDirectory {
        StateDirectory { dir: dir.into() }
    }

    /// `dir` if given, otherwise `$XDG_STATE_HOME/sexton`, otherwise `/var/lib/sexton` for root and
    /// `~/.local/state/sexton` for other users (XDG Base Directory Specification 0.8). Without HOME, `~` is read from
    /// the passwd entry.
    ///
    /// # Errors
    /// Fails if no home directory is known.
    pub(crate) fn find(dir: Option<&Path>) -> Result<StateDirectory, StateError> {
        if let Some(dir) = dir {
            // Absolute, because the path is passed to processes with other working directories.
            return Ok(StateDirectory::new(std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned())));
        }
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        if let Some(home) = absolute("XDG_STATE_HOME") {
            return Ok(StateDirectory::new(home.join("sexton")));
        }
        if rustix::process::geteuid().is_root() {
            return Ok(StateDirectory::new("/var/lib/sexton"));
        }
        let home = absolute("HOME").or_else(|| keeper::own_home().map(PathBuf::from).filter(|path| path.is_absolute()));
        home.map(|home| StateDirectory::new(home.join(".local/state/sexton"))).ok_or(StateError::NoHome)
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.dir.join("sexton.db")
    }

    /// The file that shows whether the ledger is the one that the directory was last used with.
    pub(crate) fn ledger_mark(&self) -> PathBuf {
        self.dir.join("ledger.json")
    }

    /// The file that shows whether SIGBUS has ended the last process.
    pub(crate) fn bus_fault(&self) -> PathBuf {
        self.dir.join("bus-fault")
    }

    pub(crate) fn runner_folder(&self) -> PathBuf {
        self.dir.join("runner")
    }

    pub(crate) fn logs_folder(&self) -> PathBuf {
        self.dir.join("logs")
    }

    pub(crate) fn sample_crontab(&self) -> PathBuf {
        self.dir.join("sample.crontab")
    }

    fn token_file(&self) -> PathBuf {
        self.dir.join("token")
    }

    /// The default name of the runner: the host name and a stored random id, which distinguishes cloned machines and
    /// several runners on one host.
    ///
    /// # Errors
    /// Fails if the file `runner-id` can be neither read nor created.
    pub(crate) fn runner_name(&self, host: &str) -> Result<String, StateError> {
        let path = self.dir.join("runner-id");
        let known = match fs::read_to_string(&path) {
            Ok(known) => known.trim().to_owned(),
            Err(why) if why.kind() == io::ErrorKind::NotFound => String::new(),
            Err(why) => return Err(io_error("read", &path, why)),
        };
        if !known.is_empty() {
            return Ok(format!("{host}-{known}"));
        }
        let id = random_hex(RUNNER_ID_BYTES).map_err(|why| io_error("get random bytes for", &path, why))?;
        write_private(&path, id.as_bytes()).map_err(|why| io_error("write", &path, why))?;
        Ok(format!("{host}-{id}"))
    }

    fn server_file(&self) -> PathBuf {
        self.dir.join("server.json")
    }

    /// Creates the directory, readable only by its owner, because it contains the token and output of jobs.
    ///
    /// # Errors
    /// Fails if it cannot be created, or if other users can replace its files.
    pub(crate) fn create(&self) -> Result<(), StateError> {
        protection::create(&self.dir)?;
        sinks::trust_directory(&self.dir);
        Ok(())
    }

    /// Makes the files that older builds left readable for others private. For the holder of the lock.
    ///
    /// # Errors
    /// Fails if the directory cannot be written.
    pub(crate) fn make_files_private(&self) -> Result<(), StateError> {
        protection::make_files_private(&self.dir).map_err(|why| io_error("write to", &self.dir, why))
    }

    /// Locks the directory for this process.
    ///
    /// # Errors
    /// Fails if another process holds the lock; the error names its pid and address if known.
    pub(crate) fn lock(&self) -> Result<Lock, StateError> {
        let path = self.dir.join("lock");
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(|why| io_error("open", &path, why))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let by =
                    self.read_server_file().map_or_else(String::new, |up| format!(" (pid {}, at {})", up.pid, up.url));
                Err(StateError::InUse { path: self.dir.clone(), by })
            }
            Err(why) => Err(io_error("lock", &path, why.into())),
        }
    }

    /// The token of the API, created at first use.
    ///
    /// # Errors
    /// Fails if it can be neither read nor created.
    pub(crate) fn token(&self) -> Result<String, StateError> {
        let path = self.token_file();
        if let Some(token) = self.existing_token()? {
            return Ok(token);
        }
        let token = random_hex(TOKEN_BYTES).map_err(|why| io_error("get random bytes for", &path, why))?;
        write_private(&path, token.as_bytes()).map_err(|why| io_error("write", &path, why))?;
        Ok(token)
    }

    /// The token of the API, if one exists.
    ///
    /// # Errors
    /// Fails if the file exists and cannot be read.
    pub(crate) fn existing_token(&self) -> Result<Option<String>, StateError> {
        let path = self.token_file();
        let mut text = String::new();
        match File::open(&path).and_then(|file| file.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text)) {
            Ok(_) if !text.trim().is_empty() => Ok(Some(text.trim().to_owned())),
            Ok(_) => Ok(None),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(io_error("read", &path, why)),
        }
    }

    /// The server that `server.json` names. After a crash the file names a process that has exited.
    pub(crate) fn read_server_file(&self) -> Option<ServerInfo> {
        serde_json::from_slice(&fs::read(self.server_file()).ok()?).ok()
    }

    /// # Errors
    /// Fails if the file cannot be written.
    pub(crate) fn write_server_file(&self, server: &ServerInfo) -> Result<(), StateError> {
        let path = self.server_file();
        let text = serde_json::to_vec(server).map_err(|why| io_error("write", &path, why.into()))?;
        write_private(&path, &text).map_err(|why| io_error("write", &path, why))
    }

    /// The files of the last `up`, if there was one.
    pub(crate) fn read_up_settings(&self) -> Option<UpSettings> {
        serde_json::from_slice(&fs::read(self.dir.join("up.json")).ok()?).ok()
    }

    /// Stores the files of an `up`. A failure is only logged: `exec` then uses the defaults.
    pub(crate) fn write_up_settings(&self, settings: &UpSettings) {
        let path = self.dir.join("up.json");
        let written =
            serde_json::to_vec(settings).map_err(io::Error::from).and_then(|text| write_private(&path, &text));
        if let Err(why) = written {
            tracing::warn!(%why, "cannot store the paths of sinks and rules for `sexton exec`");
        }
    }

    /// Deletes `server.json`. A file that remains is harmless: commands report that the server is unreachable.
    pub(crate) fn remove_server_file(&self) {
        if let Err(why) = fs::remove_file(self.server_file()) {
            tracing::debug!(%why, "cannot delete server.json");
        }
    }
}

/// A user, for messages.
pub(crate) fn user_name(uid: u32) -> String {
    keeper::user_name(uid).map_or_else(|| format!("user {uid}"), |name| format!("user `{name}`"))
}

fn random_hex(bytes: usize) -> io::Result<String> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes a file atomically: a temporary file is renamed.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

fn io_error(doing: &'static str, path: &Path, why: io::Error) -> StateError {
    StateError::Io { doing, path: path.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, StateDirectory) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let state = StateDirectory::new(dir.path().join("state"));
        state.create().expect("made");
        (dir, state)
    }

    #[test]
    fn the_server_file_keeps_its_json() {
        let server = ServerInfo { url: "http://127.0.0.1:1".to_owned(), pid: 7 };
        assert_eq!(serde_json::to_string(&server).expect("JSON"), r#"{"url":"http://127.0.0.1:1","pid":7}"#);
    }

    #[test]
    fn the_token_is_created_once_and_readable_only_by_its_owner() {
        let (_dir, state) = scratch();
        assert_eq!(state.existing_token().expect("read"), None);
        let token = state.token().expect("made");
        assert_eq!(token.len(), 64);
        assert_eq!(state.token().expect("read"), token);
        let mode = fs::metadata(state.dir.join("token")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_runner_name_survives_a_restart_and_differs_between_state_directories() {
        let ((_one, state), (_other, elsewhere)) = (scratch(), scratch());
        let name = state.runner_name("web1").expect("made");
        assert!(name.starts_with("web1-") && name.len() == "web1-".len() + 2 * RUNNER_ID_BYTES, "{name}");
        assert_eq!(state.runner_name("web1").expect("read"), name);
        assert_ne!(elsewhere.runner_name("web1").expect("made"), name);
    }

    #[test]
    fn a_second_up_is_refused_with_pid_and_address_of_the_first() {
        let (_dir, state) = scratch();
        let first = state.lock().expect("free");
        state.write_server_file(&ServerInfo { url: "http://127.0.0.1:7077".into(), pid: 42 }).expect("announced");
        let refused = state.lock().err().expect("taken").to_string();
        assert!(refused.contains("pid 42") && refused.contains("127.0.0.1:7077"), "{refused}");
        drop(first);
        state.lock().expect("free again");
    }
}
