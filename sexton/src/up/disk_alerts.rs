//! Alerts about a full disk, as alerts of the system job `sexton/disk`. If the alert cannot be stored, because the
//! database is on the same disk, it is sent without a record. Never writes files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::disk_space::DiskSpace;
use domain::job::JobKey;
use domain::ports::{PortResult, Ports};
use domain::run::Outcome;
use jiff::Timestamp;
use keeper::free_space;
use services::system_alerts::{self, Condition};
use tokio_util::sync::CancellationToken;

use super::notifier::{ChannelNotifier, send_without_store};
use crate::print::format_bytes;

/// Interval of checking the disk. Chosen: shorter than a job needs to fill the reserve.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Alerts when the disk of `folder` is full, until `stop`.
pub(crate) async fn watch_disk(ports: Ports, notifier: Arc<ChannelNotifier>, folder: PathBuf, stop: CancellationToken) {
    let mut alerts = DiskAlerts::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
        if let Err(error) = alerts.check_disk(&ports, &notifier, &folder, Timestamp::now()).await {
            tracing::warn!(%error, "cannot store the disk alert; retrying");
        }
    }
}

/// State between two checks.
#[derive(Debug, Default)]
struct DiskAlerts {
    /// An alert about the full disk was sent but could not be stored.
    sent_unrecorded: bool,
}

/// The state of the disk. `Between` keeps the previous state, so that alerts do not flap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DiskState {
    Full,
    Free,
    Between,
}

fn disk_state(space: DiskSpace) -> DiskState {
    match space.available_for_output_bytes() {
        // A refused keeper leaves less than one write free, so full is below an eighth of the reserve, not zero.
        available_bytes if available_bytes < space.reserve_bytes() / 8 => DiskState::Full,
        available_bytes if available_bytes >= space.reserve_bytes() => DiskState::Free,
        _ => DiskState::Between,
    }
}

impl DiskAlerts {
    /// Records a change between full and free, with its alert.
    ///
    /// # Errors
    /// Returns the port's error; the alert was then sent without a record. The next check retries.
    async fn check_disk(
        &mut self,
        ports: &Ports,
        notifier: &Arc<ChannelNotifier>,
        folder: &Path,
        now: Timestamp,
    ) -> PortResult<()> {
        // A missing folder causes other errors, which are logged where they arise.
        let Ok(space) = free_space::read(folder) else { return Ok(()) };
        let outcome = match disk_state(space) {
            DiskState::Full => Outcome::Failed,
            DiskState::Free => Outcome::Succeeded,
            DiskState::Between => return Ok(()),
        };
        let reason = reason(outcome, folder, space);
        let recorded = self.record_change(ports, outcome, &reason, now).await;
        if recorded.is_err() && outcome == Outcome::Failed && !self.sent_unrecorded {
            let alert = send_without_store(notifier, &key(), "disk:unstored", &reason, now).await;
            self.sent_unrecorded = alert.continue_in_background();
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
            "the disk of {} is full ({free} of {all} free): jobs keep running, but the middle of their output is \
             dropped; free some space",
            folder.display()
        ),
        _ => format!("the disk of {} has space again ({free} of {all} free)", folder.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_before_its_last_byte_and_free_only_with_the_whole_reserve() {
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
