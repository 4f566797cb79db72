//! Unsent reports on disk: written and synced first, then sent in order until accepted.
//!
//! One file has the events that were queued together, one per line, so that 1,000 runs that end at once cost a few
//! syncs. Reports that the receiver refuses permanently are quarantined and logged, never deleted.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::event::Event;
use domain::ports::{PortError, Reports};
use keeper::crash;
use keeper::directory::{Durability, write_atomically};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Events per file: a few hundred KiB at most. Chosen, not measured.
const EVENTS_PER_FILE_MAX: usize = 64;

/// First delay after a failed write or send; doubled up to [`RETRY_MAX`]. Chosen, not measured.
const RETRY_FIRST: Duration = Duration::from_millis(500);

/// Longest delay between retries. Chosen: one failed call per minute during a long outage.
const RETRY_MAX: Duration = Duration::from_secs(60);

struct QueuedReport {
    event: Event,
    stored: oneshot::Sender<()>,
}

/// Access to the outbox for tasks that report.
#[derive(Clone)]
pub(crate) struct Outbox {
    queued: mpsc::Sender<QueuedReport>,
    waiting: watch::Receiver<usize>,
}

/// The tasks that store and send the reports.
pub(crate) struct OutboxTasks {
    folder: PathBuf,
    queued: mpsc::Receiver<QueuedReport>,
    waiting: watch::Sender<usize>,
    files: BTreeSet<u64>,
    next_file: u64,
}

impl Outbox {
    /// Opens the outbox and finds the reports that an earlier runner left.
    ///
    /// # Errors
    /// When the directory cannot be created or read.
    pub(crate) fn open(folder: PathBuf) -> io::Result<(Outbox, OutboxTasks)> {
        fs::create_dir_all(&folder)?;
        let mut files = BTreeSet::new();
        for entry in fs::read_dir(&folder)? {
            let name = entry?.file_name();
            files.extend(name.to_str().and_then(|name| name.strip_suffix(".json")?.parse::<u64>().ok()));
        }
        let next_file = files.last().map_or(1, |last| last + 1);
        let (queued, received) = mpsc::channel(EVENTS_PER_FILE_MAX);
        let (waiting, watched) = watch::channel(files.len());
        let tasks = OutboxTasks { folder, queued: received, waiting, files, next_file };
        Ok((Outbox { queued, waiting: watched }, tasks))
    }

    /// Returns when the event is on disk; it will then be sent. Waits while the disk refuses writes.
    pub(crate) async fn put(&self, event: Event) {
        let (stored, is_stored) = oneshot::channel();
        if self.queued.send(QueuedReport { event, stored }).await.is_ok() {
            let _ = is_stored.await;
        }
    }

    /// Returns when everything queued before has been accepted.
    pub(crate) async fn wait_flushed(&self) {
        let mut waiting = self.waiting.clone();
        let _ = waiting.wait_for(|files| *files == 0).await;
    }
}

impl OutboxTasks {
    /// Stores and sends until every [`Outbox`] is dropped or `stop` is cancelled. Stored reports stay on disk.
    pub(crate) async fn run(mut self, reports: Arc<dyn Reports>, stop: CancellationToken) {
        let (file_stored, mut stored_files) = mpsc::unbounded_channel();
        for file in &self.files {
            let _ = file_stored.send(*file);
        }
        let folder = self.folder.clone();
        let waiting = self.waiting.clone();
        let sender = async {
            while let Some(file) = stored_files.recv().await {
                send_file(&folder, file, &*reports).await;
                waiting.send_modify(|files| *files = files.saturating_sub(1));
            }
        };
        let storer = async {
            let mut queued = Vec::new();
            while self.queued.recv_many(&mut queued, EVENTS_PER_FILE_MAX).await > 0 {
                let file = self.next_file;
                self.next_file += 1;
                self.waiting.send_modify(|files| *files += 1);
                store(&self.folder, file, &queued).await;
                for queued_report in queued.drain(..) {
                    // The task that queued it may have ended; the event is stored anyway.
                    let _ = queued_report.stored.send(());
                }
                let _ = file_stored.send(file);
            }
            std::future::pending::<()>().await;
        };
        stop.run_until_cancelled(async { tokio::join!(sender, storer) }).await;
    }
}

fn file_path(folder: &Path, file: u64) -> PathBuf {
    folder.join(format!("{file:020}.json"))
}

/// Retries until the disk accepts the file. The run directory is kept until then, so waiting loses nothing.
async fn store(folder: &Path, file: u64, queued: &[QueuedReport]) {
    let mut bytes = Vec::new();
    for queued_report in queued {
        // An event always has a JSON form, because it is plain data with text keys. An error here would be a bug, so it
        // is logged.
        if let Err(error) = serde_json::to_writer(&mut bytes, &queued_report.event) {
            tracing::error!(%error, run_id = %queued_report.event.run_id, "cannot write a report as JSON");
        }
        bytes.push(b'\n');
    }
    let path = file_path(folder, file);
    let bytes: Arc<[u8]> = bytes.into();
    let mut wait = RETRY_FIRST;
    loop {
        let (path, bytes) = (path.clone(), bytes.clone());
        let written = tokio::task::spawn_blocking(move || write_atomically(&path, &bytes, Durability::Disk)).await;
        match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) => return,
            Err(error) => tracing::error!(%error, "cannot write the outbox; retrying"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

/// Sends one file until it is accepted or permanently refused.
async fn send_file(folder: &Path, file: u64, reports: &dyn Reports) {
    let path = file_path(folder, file);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => return tracing::error!(%error, path = %path.display(), "cannot read a stored report"),
    };
    let events: Result<Vec<Event>, _> = text.lines().map(serde_json::from_str).collect();
    let events = match events {
        Ok(events) => events,
        Err(error) => return quarantine(&path, &error.to_string()),
    };
    if deliver(&events, reports).await.is_err() {
        // One refused event must not block the others.
        let mut refused = Vec::new();
        for event in &events {
            if let Err(message) = deliver(std::slice::from_ref(event), reports).await {
                refused.push((event, message));
            }
        }
        if let Err(error) = write_refused(&path, &refused) {
            tracing::error!(%error, path = %path.display(), "cannot write the refused reports of a file; the whole file moves to quarantine");
            return quarantine(&path, "one of them was refused");
        }
    }
    crash::point("sent");
    if let Err(error) = fs::remove_file(&path) {
        tracing::warn!(%error, path = %path.display(), "cannot delete a sent report; it will be sent again");
    }
}

/// Sends until accepted.
///
/// # Errors
/// Returns the reason of a permanent refusal.
async fn deliver(events: &[Event], reports: &dyn Reports) -> Result<(), String> {
    let mut wait = RETRY_FIRST;
    let mut logged = false;
    loop {
        match reports.send(events).await {
            Ok(()) => return Ok(()),
            Err(PortError::Permanent(message)) => return Err(message),
            Err(PortError::Retry(message)) if logged => {
                tracing::debug!(error = message, "sending reports failed again")
            }
            Err(PortError::Retry(message)) => {
                tracing::warn!(error = message, "sending reports failed; retrying");
                logged = true;
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

/// Writes the refused events of a file into a file beside it.
fn write_refused(path: &Path, refused: &[(&Event, String)]) -> io::Result<()> {
    let mut bytes = Vec::new();
    for (event, message) in refused {
        tracing::error!(error = message, run_id = %event.run_id, event = event.id(), "report permanently refused; moved to quarantine");
        serde_json::to_writer(&mut bytes, event)?;
        bytes.push(b'\n');
    }
    match refused.is_empty() {
        true => Ok(()),
        false => write_atomically(&path.with_extension("refused"), &bytes, Durability::Disk),
    }
}

fn quarantine(path: &Path, message: &str) {
    let quarantined = path.with_extension("refused");
    tracing::error!(error = message, path = %quarantined.display(), "reports permanently refused; moved to quarantine");
    if let Err(error) = fs::rename(path, &quarantined) {
        tracing::error!(%error, path = %path.display(), "cannot move a refused report to quarantine");
    }
}
