//! People hear of a disk that is full, while it is: as the pseudo job `sexton/disk` that failed, and recovered. Where that
//! cannot even be stored, because the ledger lies on the same disk, they are told without a record. Never writes to
//! the disk itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::alert::{AlertKind, Transition};
use domain::disk_space::DiskSpace;
use domain::job::JobKey;
use domain::ports::{Notifier, PortResult, Ports};
use domain::run::Outcome;
use jiff::Timestamp;
use keeper::free_space;
use services::Links;
use services::system_alerts::{self, Condition};
use tokio_util::sync::CancellationToken;

use super::notifier::ChannelNotifier;
use crate::print::format_bytes;

/// The disk is looked at this often: a job that floods it takes longer to matter.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Makes alerts of a full disk under `folder`, until `stop`.
pub async fn watch_disk(ports: Ports, notifier: Arc<ChannelNotifier>, folder: PathBuf, stop: CancellationToken) {
    let mut alerts = DiskAlerts::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
        if let Err(error) = alerts.check_disk(&ports, &notifier, &folder, Timestamp::now()).await {
            tracing::warn!(%error, "how the disk stands could not be stored as an alert; tried again");
        }
    }
}

/// What is known between two looks.
#[derive(Debug, Default)]
struct DiskAlerts {
    /// People were told that it is full, and the store does not know it.
    sent_unrecorded: bool,
}

/// How the disk stands; in between, nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DiskState {
    Full,
    Free,
    Between,
}

fn disk_state(space: DiskSpace) -> DiskState {
    match space.available_for_output_bytes() {
        // A keeper that was refused leaves a little: what it would have written at once.
        available_bytes if available_bytes < space.reserve_bytes() / 8 => DiskState::Full,
        available_bytes if available_bytes >= space.reserve_bytes() => DiskState::Free,
        _ => DiskState::Between,
    }
}

impl DiskAlerts {
    /// Tells what has changed since it was told last.
    ///
    /// # Errors
    /// A port's, once people know all the same; the next look is the retry.
    async fn check_disk(
        &mut self,
        ports: &Ports,
        notifier: &ChannelNotifier,
        folder: &Path,
        now: Timestamp,
    ) -> PortResult<()> {
        // A folder that is gone has other troubles, and others tell them.
        let Ok(space) = free_space::read(folder) else { return Ok(()) };
        let outcome = match disk_state(space) {
            DiskState::Full => Outcome::Failed,
            DiskState::Free => Outcome::Succeeded,
            DiskState::Between => return Ok(()),
        };
        let reason = reason(outcome, folder, space);
        let recorded = self.record_change(ports, outcome, &reason, now).await;
        if recorded.is_err() && outcome == Outcome::Failed && !self.sent_unrecorded {
            self.sent_unrecorded = send_unrecorded(notifier, &reason, now).await;
        }
        recorded
    }

    async fn record_change(&mut self, ports: &Ports, outcome: Outcome, reason: &str, now: Timestamp) -> PortResult<()> {
        let condition =
            Condition { key: &key(), id_prefix: "disk", outcome, reason, sent_unrecorded: self.sent_unrecorded };
        if system_alerts::change(ports, condition, now).await? {
            self.sent_unrecorded = false;
        }
        Ok(())
    }
}

fn key() -> JobKey {
    system_alerts::key("disk")
}

fn reason(outcome: Outcome, folder: &Path, space: DiskSpace) -> String {
    let (free, all) = (format_bytes(space.free_bytes), format_bytes(space.total_bytes));
    match outcome {
        Outcome::Failed => format!(
            "the disk under {} is full, {free} of {all} are left: of what running jobs print, head and tail are kept and \
             the middle is dropped until there is room; free some",
            folder.display()
        ),
        _ => format!("the disk under {} has room again: {free} of {all}", folder.display()),
    }
}

/// Whether anybody was told.
async fn send_unrecorded(notifier: &ChannelNotifier, reason: &str, now: Timestamp) -> bool {
    let transition = Transition::new("disk:unstored".to_owned(), AlertKind::Failed, &key(), reason, now);
    let alert = services::alert_message::alert(&transition, None, &Links::default());
    let mut sent = false;
    for channel in notifier.channel_names() {
        match notifier.notify(&channel, &alert).await {
            Ok(()) => sent = true,
            Err(error) => tracing::error!(%error, channel, "people cannot be told that the disk is full"),
        }
    }
    sent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_before_its_last_byte_and_has_room_only_when_there_is_some_to_spare() {
        let check = |free_mib: u64, expected: DiskState| {
            let space = DiskSpace { free_bytes: free_mib << 20, total_bytes: 10 << 30 };
            assert_eq!(disk_state(space), expected, "{free_mib} MiB");
        };
        check(0, DiskState::Full);
        check(64, DiskState::Full);
        check(71, DiskState::Full);
        check(72, DiskState::Between);
        check(127, DiskState::Between);
        check(128, DiskState::Free);
    }
}
