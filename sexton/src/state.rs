//! The state directory: where an `up` keeps what must outlive it, and where commands of the same machine find it.
//!
//! | path | what |
//! |---|---|
//! | `lock` | held for as long as an `up` or a `runner` runs here |
//! | `token` | what the API asks for; 0600 |
//! | `server.json` | `url` and `pid` of the `up` or `runner` that serves; absent when none does |
//! | `runner-id` | what tells this runner from others of the same host name |
//! | `sexton.db` | jobs, runs, orders, reports, alerts |
//! | `runner/` | run directories, spools, outbox |
//! | `logs/` | the default sink |
//! | `sample.crontab` | what runs when no file is given |

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// 32 random bytes as hexadecimal digits: beyond guessing.
const TOKEN_BYTES: usize = 32;

/// Runners of one host name are few.
const RUNNER_ID_BYTES: usize = 3;

/// A token file longer than this is not one of ours.
const TOKEN_FILE_BYTES_MAX: u64 = 4096;

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot {doing} {}: {why}; name another directory with --state, or mend its rights", path.display())]
    Io { doing: &'static str, path: PathBuf, why: io::Error },
    #[error("another `sexton up` or `sexton runner` has the state directory {}{by}; stop it first, or name another directory with --state", path.display())]
    InUse { path: PathBuf, by: String },
    #[error("neither XDG_STATE_HOME nor HOME is set; name a state directory with --state")]
    NoHome,
}

/// How commands find an `up`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    pub url: String,
    pub pid: u32,
}

/// The paths of a state directory; making one touches nothing.
#[derive(Clone, Debug)]
pub struct StateDirectory {
    pub dir: PathBuf,
}

/// Gone when dropped, also by kill -9: the kernel lets go of it.
pub struct Lock(#[expect(dead_code, reason = "holds the lock")] File);

impl StateDirectory {
    pub fn new(dir: impl Into<PathBuf>) -> StateDirectory {
        StateDirectory { dir: dir.into() }
    }

    /// `dir` when given, else `$XDG_STATE_HOME/sexton`, else `/var/lib/sexton` for root and `~/.local/state/sexton`
    /// for everyone else (XDG Base Directory Specification 0.8).
    ///
    /// # Errors
    /// When there is no home to speak of.
    pub fn find(dir: Option<&Path>) -> Result<StateDirectory, StateError> {
        if let Some(dir) = dir {
            // Processes that are told this path run elsewhere.
            return Ok(StateDirectory::new(std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned())));
        }
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        if let Some(home) = absolute("XDG_STATE_HOME") {
            return Ok(StateDirectory::new(home.join("sexton")));
        }
        if rustix::process::geteuid().is_root() {
            return Ok(StateDirectory::new("/var/lib/sexton"));
        }
        absolute("HOME").map(|home| StateDirectory::new(home.join(".local/state/sexton"))).ok_or(StateError::NoHome)
    }

    pub fn database(&self) -> PathBuf {
        self.dir.join("sexton.db")
    }

    pub fn runner_folder(&self) -> PathBuf {
        self.dir.join("runner")
    }

    pub fn logs_folder(&self) -> PathBuf {
        self.dir.join("logs")
    }

    pub fn sample_crontab(&self) -> PathBuf {
        self.dir.join("sample.crontab")
    }

    fn token_file(&self) -> PathBuf {
        self.dir.join("token")
    }

    /// The runner's name where the configuration has none: the host's, and what tells it from other runners of such a name
    /// (cloned machines, two runners on one). The same after every restart.
    ///
    /// # Errors
    /// When the file that remembers it can neither be read nor made.
    pub fn runner_name(&self, host: &str) -> Result<String, StateError> {
        let path = self.dir.join("runner-id");
        let known = match fs::read_to_string(&path) {
            Ok(known) => known.trim().to_owned(),
            Err(why) if why.kind() == io::ErrorKind::NotFound => String::new(),
            Err(why) => return Err(io_error("read", &path, why)),
        };
        if !known.is_empty() {
            return Ok(format!("{host}-{known}"));
        }
        let id = random_hex(RUNNER_ID_BYTES).map_err(|why| io_error("draw random bytes for", &path, why))?;
        write_private(&path, id.as_bytes()).map_err(|why| io_error("write", &path, why))?;
        Ok(format!("{host}-{id}"))
    }

    fn server_file(&self) -> PathBuf {
        self.dir.join("server.json")
    }

    /// Makes the directory, readable for its owner only: output of jobs and the token lie in it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self) -> Result<(), StateError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(|why| io_error("make", &self.dir, why))
    }

    /// Makes this process the only `up` of the directory.
    ///
    /// # Errors
    /// When there is one already, named by its pid and address where they are known.
    pub fn lock(&self) -> Result<Lock, StateError> {
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

    /// The token of the API, made at first use.
    ///
    /// # Errors
    /// When it can neither be read nor made.
    pub fn token(&self) -> Result<String, StateError> {
        let path = self.token_file();
        if let Some(token) = self.existing_token()? {
            return Ok(token);
        }
        let token = random_hex(TOKEN_BYTES).map_err(|why| io_error("draw random bytes for", &path, why))?;
        write_private(&path, token.as_bytes()).map_err(|why| io_error("write", &path, why))?;
        Ok(token)
    }

    /// The token, if an `up` has made one here.
    ///
    /// # Errors
    /// When there is one and it cannot be read.
    pub fn existing_token(&self) -> Result<Option<String>, StateError> {
        let path = self.token_file();
        let mut text = String::new();
        match File::open(&path).and_then(|file| file.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text)) {
            Ok(_) if !text.trim().is_empty() => Ok(Some(text.trim().to_owned())),
            Ok(_) => Ok(None),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(io_error("read", &path, why)),
        }
    }

    /// The `up` that serves, as far as its file says; it may be gone without having said so.
    pub fn read_server_file(&self) -> Option<ServerInfo> {
        serde_json::from_slice(&fs::read(self.server_file()).ok()?).ok()
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn write_server_file(&self, server: &ServerInfo) -> Result<(), StateError> {
        let path = self.server_file();
        let text = serde_json::to_vec(server).map_err(|why| io_error("write", &path, why.into()))?;
        write_private(&path, &text).map_err(|why| io_error("write", &path, why))
    }

    /// Takes the announcement back. A file left behind is harmless: commands say that nobody answers there.
    pub fn remove_server_file(&self) {
        if let Err(why) = fs::remove_file(self.server_file()) {
            tracing::debug!(%why, "the announcement was not there to be withdrawn");
        }
    }
}

fn random_hex(bytes: usize) -> io::Result<String> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whole or not at all: written beside, then renamed.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
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
    fn the_token_is_made_once_and_only_its_owner_reads_it() {
        let (_dir, state) = scratch();
        assert_eq!(state.existing_token().expect("read"), None);
        let token = state.token().expect("made");
        assert_eq!(token.len(), 64);
        assert_eq!(state.token().expect("read"), token);
        let mode = fs::metadata(state.dir.join("token")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_runner_is_called_the_same_after_a_restart_and_differently_elsewhere() {
        let ((_one, state), (_other, elsewhere)) = (scratch(), scratch());
        let name = state.runner_name("web1").expect("made");
        assert!(name.starts_with("web1-") && name.len() == "web1-".len() + 2 * RUNNER_ID_BYTES, "{name}");
        assert_eq!(state.runner_name("web1").expect("read"), name);
        assert_ne!(elsewhere.runner_name("web1").expect("made"), name);
    }

    #[test]
    fn a_second_up_is_refused_and_told_who_has_the_directory() {
        let (_dir, state) = scratch();
        let first = state.lock().expect("free");
        state.write_server_file(&ServerInfo { url: "http://127.0.0.1:7077".into(), pid: 42 }).expect("announced");
        let refused = state.lock().err().expect("taken").to_string();
        assert!(refused.contains("pid 42") && refused.contains("127.0.0.1:7077"), "{refused}");
        drop(first);
        state.lock().expect("free again");
    }
}
