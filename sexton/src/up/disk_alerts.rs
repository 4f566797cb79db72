//! People hear of a disk that is full, while it is: as the pseudo job `sexton/disk` that failed, and recovered. Where that
//! cannot even be stored, because the ledger lies on the same disk, they are told without a record. Never writes to
//! the disk itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::alert::{AlertKind, Occurrence, Status, Transition, decide};
use domain::disk_space::DiskSpace;
use domain::job::{AlertPolicy, JobKey};
use domain::ports::{AlertStep, Notifier, PortResult, Ports, StateChange};
use domain::run::Outcome;
use jiff::Timestamp;
use keeper::free_space;
use services::Links;
use tokio_util::sync::CancellationToken;

use super::notify::People;
use crate::output::bytes_readable;

/// The disk is looked at this often: a job that floods it takes longer to matter.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Makes alerts of a full disk under `folder`, until `stop`.
pub async fn watch(ports: Ports, people: Arc<People>, folder: PathBuf, stop: CancellationToken) {
    let mut alerts = DiskAlerts::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        if let Err(error) = alerts.look(&ports, &people, &folder, Timestamp::now()).await {
            tracing::warn!(%error, "how the disk stands could not be stored as an alert; tried again");
        }
    }
}

/// What is known between two looks.
#[derive(Debug, Default)]
struct DiskAlerts {
    /// People were told that it is full, and the store does not know it.
    told_unstored: bool,
}

/// How the disk stands; in between, nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Full,
    Roomy,
    Between,
}

fn standing(space: DiskSpace) -> Standing {
    match space.available_for_output_bytes() {
        // A keeper that was refused leaves a little: what it would have written at once.
        most if most < space.reserve_bytes() / 8 => Standing::Full,
        most if most >= space.reserve_bytes() => Standing::Roomy,
        _ => Standing::Between,
    }
}

impl DiskAlerts {
    /// Tells what has changed since it was told last.
    ///
    /// # Errors
    /// A port's, once people know all the same; the next look is the retry.
    async fn look(&mut self, ports: &Ports, people: &People, folder: &Path, now: Timestamp) -> PortResult<()> {
        // A folder that is gone has other troubles, and others tell them.
        let Ok(space) = free_space::read(folder) else { return Ok(()) };
        let outcome = match standing(space) {
            Standing::Full => Outcome::Failed,
            Standing::Roomy => Outcome::Succeeded,
            Standing::Between => return Ok(()),
        };
        let reason = reason(outcome, folder, space);
        let told = self.store(ports, outcome, &reason, now).await;
        if told.is_err() && outcome == Outcome::Failed && !self.told_unstored {
            self.told_unstored = tell(people, &reason, now).await;
        }
        told
    }

    async fn store(&mut self, ports: &Ports, outcome: Outcome, reason: &str, now: Timestamp) -> PortResult<()> {
        let key = key();
        let stored = ports.alerts.state(&key).await?;
        let known_full = stored.record.status == Status::Bad;
        let is_news = match outcome {
            Outcome::Failed => !known_full,
            _ => known_full || self.told_unstored,
        };
        if !is_news {
            return Ok(());
        }
        let policy = AlertPolicy { after: 1, remind: None, channels: Vec::new() };
        let (state, kind) = decide(&policy, &stored.record, Occurrence::Ended(outcome), now);
        let kind = match outcome {
            // They know.
            Outcome::Failed if self.told_unstored => None,
            Outcome::Failed => kind,
            _ if known_full => kind,
            _ => Some(AlertKind::Recovered),
        };
        let since = state.since.or(stored.record.since);
        let transition = |kind: AlertKind| {
            let id = format!("disk:{}:{}", kind.name(), now.as_millisecond());
            Transition { since, ..Transition::new(id, kind, &key, reason, now) }
        };
        let transitions = kind.map(transition).into_iter().collect();
        let change = StateChange { key: key.clone(), expected: stored.version, state };
        if ports.alerts.raise(&AlertStep { state: Some(change), transitions }).await? {
            self.told_unstored = false;
        }
        Ok(())
    }
}

fn key() -> JobKey {
    JobKey::new("sexton", "disk")
}

fn reason(outcome: Outcome, folder: &Path, space: DiskSpace) -> String {
    let (free, all) = (bytes_readable(space.free_bytes), bytes_readable(space.total_bytes));
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
async fn tell(people: &People, reason: &str, now: Timestamp) -> bool {
    let transition = Transition::new("disk:unstored".to_owned(), AlertKind::Failed, &key(), reason, now);
    let alert = services::alert_message::alert(&transition, None, &Links::default());
    let mut told = false;
    for channel in people.names() {
        match people.notify(&channel, &alert).await {
            Ok(()) => told = true,
            Err(error) => tracing::error!(%error, channel, "people cannot be told that the disk is full"),
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_before_its_last_byte_and_has_room_only_when_there_is_some_to_spare() {
        let check = |free_mib: u64, expected: Standing| {
            let space = DiskSpace { free_bytes: free_mib << 20, total_bytes: 10 << 30 };
            assert_eq!(standing(space), expected, "{free_mib} MiB");
        };
        check(0, Standing::Full);
        check(64, Standing::Full);
        check(71, Standing::Full);
        check(72, Standing::Between);
        check(127, Standing::Between);
        check(128, Standing::Roomy);
    }
}
