//! Watches the ledger and the state directory: probes them every few seconds, answers `/api/health`, and alerts
//! `sexton/store` without the ledger. Never repairs anything.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use console::{Health, StoreFault};
use domain::ports::Ports;
use domain::system_error::plain_text;
use embedded::{Embedded, FaultKind};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::store_alert::StoreAlert;

/// Interval of probes while all is well. Each syncs the disk once.
const PROBE_INTERVAL: Duration = Duration::from_secs(15);

/// Interval of probes after a failed one.
const RETRY_INTERVAL: Duration = Duration::from_secs(3);

/// How long probes must fail before the store counts as broken. Chosen: a backup or a query by hand locks it for
/// shorter; with the interval and the wait for a lock, the alert is sent within 60 s.
const CONFIRM_AFTER: Duration = Duration::from_secs(15);

/// How long a store may give no usable answer before the process exits, so that a restart opens it again. Chosen: far
/// above a slow disk.
const GIVE_UP_AFTER: Duration = Duration::from_secs(300);

/// What a probe found.
struct Finding {
    kind: FaultKind,
    summary: String,
    detail: String,
}

/// The state of the store, for `/api/health`.
#[derive(Default)]
pub(crate) struct StoreHealth(Mutex<Option<StoreFault>>);

impl StoreHealth {
    fn set(&self, fault: Option<StoreFault>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }
}

impl Health for StoreHealth {
    fn store_fault(&self) -> Option<StoreFault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(crate) struct StoreWatch {
    store: Embedded,
    ports: Ports,
    alert: StoreAlert,
    pub(crate) health: Arc<StoreHealth>,
    /// The folder of the runner, whose runs need files.
    runner_folder: PathBuf,
    /// Notified when only a restart can help.
    pub(crate) give_up: Arc<Notify>,
}

impl StoreWatch {
    pub(crate) fn new(store: &Embedded, alert: StoreAlert, runner_folder: PathBuf) -> StoreWatch {
        StoreWatch {
            store: store.clone(),
            ports: store.ports(),
            alert,
            health: Arc::default(),
            runner_folder,
            give_up: Arc::default(),
        }
    }

    /// Probes until `stop`.
    pub(crate) async fn watch(self, stop: CancellationToken) {
        let mut failing_since: Option<Instant> = None;
        loop {
            let finding = self.probe().await;
            let wait = match finding {
                None => {
                    if failing_since.take().is_some() && self.health.store_fault().is_some() {
                        tracing::info!("the ledger works again");
                    }
                    self.health.set(None);
                    if let Err(error) = self.alert.record_recovery(&self.ports, Timestamp::now()).await {
                        tracing::warn!(%error, "cannot record that the ledger works again; retrying");
                    }
                    PROBE_INTERVAL
                }
                Some(finding) => {
                    let since = *failing_since.get_or_insert_with(Instant::now);
                    self.handle(finding, since.elapsed()).await;
                    RETRY_INTERVAL
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn handle(&self, finding: Finding, failing_for: Duration) {
        let is_confirmed = failing_for >= CONFIRM_AFTER
            || finding.kind.needs_operator()
            || finding.kind == FaultKind::Silent
            || self.health.store_fault().is_some();
        if !is_confirmed {
            return;
        }
        let Finding { kind, summary, detail } = finding;
        let since = match self.health.store_fault() {
            Some(fault) => fault.since,
            None => {
                tracing::error!("{summary}: {detail}");
                Timestamp::now()
            }
        };
        self.health.set(Some(StoreFault { summary: summary.clone(), detail: detail.clone(), since }));
        let reason = format!("{summary}, and jobs may not start: {detail}; {}", remedy(kind));
        self.alert.alert_broken(&reason).await;
        if matches!(kind, FaultKind::Silent | FaultKind::Unusable) && failing_for >= GIVE_UP_AFTER {
            self.give_up.notify_one();
        }
    }

    async fn probe(&self) -> Option<Finding> {
        if let Err(fault) = self.store.probe().await {
            return Some(Finding { kind: fault.kind, summary: fault.kind.summary().to_owned(), detail: fault.detail });
        }
        let folder = self.runner_folder.clone();
        let probed = tokio::task::spawn_blocking(move || probe_folder(&folder)).await;
        let (summary, detail) = probed.ok()?.err()?;
        Some(Finding { kind: FaultKind::ReadOnly, summary, detail })
    }
}

fn remedy(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Locked => "find the process that locks it and end it (`fuser` names it)",
        FaultKind::Damaged => "stop sexton, restore a copy with `sexton restore FILE`, and start it again",
        FaultKind::Missing => {
            "move the file back, or stop sexton, restore a copy with `sexton restore FILE`, and start it again"
        }
        FaultKind::ReadOnly => "make the disk of the state directory writable, or free inodes",
        FaultKind::Full => "free some space",
        FaultKind::Unusable | FaultKind::Silent => "check the disk of the state directory",
    }
}

/// Creates and deletes a file, as each run does. A disk without space is left to `sexton/disk`: starts have their own
/// space.
fn probe_folder(folder: &Path) -> Result<(), (String, String)> {
    let path = folder.join(".probe");
    let probed = std::fs::File::create(&path)
        .and_then(|mut file| file.write_all(b"1"))
        .and_then(|()| std::fs::remove_file(&path));
    let Err(error) = probed else { return Ok(()) };
    let _ = std::fs::remove_file(&path);
    let summary = match error.kind() {
        io::ErrorKind::StorageFull if has_inodes(folder) => return Ok(()),
        io::ErrorKind::StorageFull => "the disk of the state directory has no free inodes",
        io::ErrorKind::ReadOnlyFilesystem => "the disk of the state directory is read-only",
        io::ErrorKind::NotFound => "the state directory was deleted",
        io::ErrorKind::PermissionDenied => "the state directory refuses new files",
        _ => "the state directory cannot be written",
    };
    Err((summary.to_owned(), format!("{}: {}", folder.display(), plain_text(&error))))
}

/// Whether the file system has free inodes, or does not count them.
fn has_inodes(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).map_or(true, |disk| disk.f_files == 0 || disk.f_favail > 0)
}
