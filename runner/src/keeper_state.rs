//! What a run directory tells about its keeper: alive, ended, or gone. Called by the supervision of a run, at its end and
//! when a runner starts. Never changes anything on disk.

use std::io;
use std::time::Duration;

use domain::event::Event;
use keeper::directory::read_json;
use keeper::records::Exit;
use tokio::time::sleep;

use crate::local_run::LocalRun;

/// Everything is looked at so often even when no event tells of a change.
pub const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// What the directory says about the keeper.
#[derive(Debug)]
pub enum KeeperState {
    /// It lives, or is being started.
    Alive,
    Ended(Box<Exit>),
    /// There is none, and the job may have begun.
    Orphaned,
    /// There is none, and nothing has begun.
    NotStarted,
}

pub fn keeper_state(run: &LocalRun) -> io::Result<KeeperState> {
    // The lock first: what its holder wrote before it let go is then all there.
    if run.directory.has_keeper()? {
        return Ok(KeeperState::Alive);
    }
    match run.exit() {
        Ok(Some(exit)) => return Ok(KeeperState::Ended(Box::new(exit))),
        Ok(None) => {}
        // No keeper writes half a file: the disk has lost it, and nobody will ever know more.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::error!(%error, run_id = %run.run_id(), "the record of an end is damaged; the run counts as lost");
            return Ok(KeeperState::Orphaned);
        }
        Err(error) => return Err(error),
    }
    // Where somebody removed the directory there is no mark either, and the job may run.
    let may_have_started = run.directory.starting().exists() || !run.directory.order().try_exists()?;
    Ok(if may_have_started { KeeperState::Orphaned } else { KeeperState::NotStarted })
}

/// Reads the standing until it can be read.
pub async fn wait_for_keeper_state(run: &LocalRun) -> KeeperState {
    loop {
        match keeper_state(run) {
            Ok(keeper_state) => return keeper_state,
            Err(error) => tracing::error!(%error, run_id = %run.run_id(), "a run's directory cannot be read"),
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Whether the report of this run was made before, by this runner or an earlier one.
pub fn stored_report(run: &LocalRun) -> Option<Event> {
    let stored = read_json::<Event>(&run.directory.finished());
    stored.unwrap_or_else(|error| {
        tracing::warn!(%error, run_id = %run.run_id(), "a stored report is damaged; it is made again");
        None
    })
}
