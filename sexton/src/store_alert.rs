//! The alert `sexton/store`, sent without the store: about a refused start, and about a ledger that stopped working.
//! Remembers in a file when it was last sent, so that restarts do not repeat it within an hour.

use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::job::JobKey;
use domain::ports::{PortResult, Ports};
use domain::run::Outcome;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use services::system_alerts::{self, Condition};

use crate::state::StateDirectory;
use crate::up::notifier::{ChannelNotifier, send_without_store};

/// Shortest time between two alerts about one broken store, over all restarts.
const REPEAT_INTERVAL: Duration = Duration::from_secs(3600);

/// Longest file that is read. Chosen: it has about 60 bytes.
const FILE_BYTES_MAX: u64 = 1024;

/// Length of the file, padded with spaces, so that it is overwritten in place on a full disk.
const FILE_BYTES: usize = 128;

/// The content of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SentAlert {
    at: Timestamp,
    /// No recovery was recorded since.
    open: bool,
}

/// Sends the alert and remembers it.
#[derive(Clone)]
pub(crate) struct StoreAlert {
    notifier: Arc<ChannelNotifier>,
    /// In the order of preference: a state directory that cannot be written must not silence the alert.
    files: Vec<PathBuf>,
}

impl StoreAlert {
    pub(crate) fn new(state: &StateDirectory, notifier: Arc<ChannelNotifier>) -> StoreAlert {
        StoreAlert { notifier, files: files(&state.dir) }
    }

    /// Alerts that a start was refused, unless an alert was sent within the last hour.
    pub(crate) async fn alert_refused_start(&self, reason: &str) {
        let reason = format!("sexton cannot start, and no job runs: {reason}");
        self.alert(&reason, false).await;
    }

    /// Alerts that the running store is broken, unless an alert about it was sent within the last hour.
    pub(crate) async fn alert_broken(&self, reason: &str) {
        self.alert(reason, true).await;
    }

    /// `is_running`: an alert that was followed by a recovery does not count.
    async fn alert(&self, reason: &str, is_running: bool) {
        let now = Timestamp::now();
        let is_recent = |sent: &SentAlert| {
            let since = Duration::try_from(now.duration_since(sent.at)).unwrap_or(REPEAT_INTERVAL);
            since < REPEAT_INTERVAL && (sent.open || !is_running)
        };
        if self.read().as_ref().is_some_and(is_recent) {
            return;
        }
        let alert = send_without_store(&self.notifier, &key(), "store:unstored", reason, now).await;
        let is_accepted = if is_running { alert.continue_in_background() } else { alert.finish().await };
        if is_accepted {
            self.write(SentAlert { at: now, open: true });
        }
    }

    /// Records that the store works, with the alert about its recovery. Does nothing when it was not alerted.
    ///
    /// # Errors
    /// Returns the port's error; the next call retries.
    pub(crate) async fn record_recovery(&self, ports: &Ports, now: Timestamp) -> PortResult<()> {
        let Some(sent) = self.read().filter(|sent| sent.open) else { return Ok(()) };
        let key = key();
        let reason = "the ledger works again";
        let condition =
            Condition { key: &key, id_prefix: "store", outcome: Outcome::Succeeded, reason, sent_unrecorded: true };
        system_alerts::change(ports, condition, now).await?;
        self.write(SentAlert { open: false, ..sent });
        Ok(())
    }

    /// The newest of the files: an older one may be from before the state directory became unwritable.
    fn read(&self) -> Option<SentAlert> {
        self.files.iter().filter_map(|path| read_own_file(path)).max_by_key(|sent| (sent.at, !sent.open))
    }

    fn write(&self, sent: SentAlert) {
        let mut text = serde_json::to_vec(&sent).unwrap_or_default();
        text.resize(FILE_BYTES.max(text.len() + 1) - 1, b' ');
        text.push(b'\n');
        let mut written = false;
        for path in &self.files {
            // All existing files are kept equal, so that an old one is not read later.
            if !written || path.exists() {
                written |= write_own_file(path, &text).is_ok();
            }
        }
        if !written {
            tracing::warn!("cannot store when the store alert was sent; a restart sends it again");
        }
    }
}

fn key() -> JobKey {
    system_alerts::key("store")
}

/// A file of the state directory; without it, one of the folders for files of running programs.
fn files(state: &Path) -> Vec<PathBuf> {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    let uid = rustix::process::geteuid().as_raw();
    let name = format!("sexton-store-alert-{uid}-{:016x}", hasher.finish());
    let from_environment = ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"].into_iter().filter_map(std::env::var_os);
    let mut folders: Vec<PathBuf> = from_environment.map(PathBuf::from).collect();
    folders.extend((uid == 0).then(|| PathBuf::from("/run")));
    folders.extend([std::env::temp_dir(), PathBuf::from("/dev/shm")]);
    let elsewhere = folders.into_iter().filter(|folder| folder.is_absolute()).map(|folder| folder.join(&name));
    std::iter::once(state.join("store-alert.json")).chain(elsewhere).collect()
}

fn read_own_file(path: &Path) -> Option<SentAlert> {
    let file = open_own_file(OpenOptions::new().read(true), path).ok()?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    serde_json::from_str(text.trim()).ok()
}

fn write_own_file(path: &Path, text: &[u8]) -> io::Result<()> {
    let file = open_own_file(OpenOptions::new().create(true).truncate(false).write(true).mode(0o600), path)?;
    file.write_all_at(text, 0)
}

/// Opens a regular file of this user only: other users can write to some of the folders.
fn open_own_file(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let found = file.metadata()?;
    let is_own = found.is_file() && found.uid() == rustix::process::geteuid().as_raw() && found.nlink() == 1;
    if is_own { Ok(file) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}
