//! Reads from a run directory whether its keeper is alive, has ended or has died. Called by the supervision of a run,
//! at its end, and when a runner starts. Never changes anything on disk.

use std::io;
use std::time::Duration;

use domain::event::Event;
use keeper::directory::read_json;
use keeper::records::Exit;
use tokio::time::sleep;

use crate::local_run::LocalRun;

/// Poll interval of a run directory when no inotify event arrives. Chosen, not measured.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The state of a run's keeper.
#[derive(Debug)]
pub(crate) enum KeeperState {
    /// A keeper is alive or being started.
    Alive,
    /// The end is recorded. The keeper may still read output of other processes ([`Exit::output_open`]).
    Ended(Box<Exit>),
    /// There is no keeper, and the job may have started.
    Orphaned,
    /// There is no keeper, and the job has not started.
    NotStarted,
}

pub(crate) fn keeper_state(run: &LocalRun) -> io::Result<KeeperState> {
    // The lock first: after its release, everything that the keeper wrote is visible.
    if run.directory.has_keeper()? {
        return Ok(match run.exit() {
            Ok(Some(exit)) if exit.output_open => KeeperState::Ended(Box::new(exit)),
            _ => KeeperState::Alive,
        });
    }
    match run.exit() {
        Ok(Some(exit)) => return Ok(KeeperState::Ended(Box::new(exit))),
        Ok(None) => {}
        // A keeper never writes half a file. The disk has lost the content, and it cannot be recovered.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::error!(%error, run_id = %run.run_id(), "exit record damaged; run recorded as lost");
            return Ok(KeeperState::Orphaned);
        }
        Err(error) => return Err(error),
    }
    // Where another process removed the directory, the marker is missing, too, and the job may be running.
    let may_have_started = run.directory.starting().exists() || !run.directory.order().try_exists()?;
    Ok(if may_have_started { KeeperState::Orphaned } else { KeeperState::NotStarted })
}

/// Reads the state, with retries while the directory cannot be read.
pub(crate) async fn wait_for_keeper_state(run: &LocalRun) -> KeeperState {
    loop {
        match keeper_state(run) {
            Ok(keeper_state) => return keeper_state,
            Err(error) => tracing::error!(%error, run_id = %run.run_id(), "cannot read a run's directory, retrying"),
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// The report of this run, if this runner or an earlier one has stored it.
pub(crate) fn stored_report(run: &LocalRun) -> Option<Event> {
    let stored = read_json::<Event>(&run.directory.finished());
    stored.unwrap_or_else(|error| {
        tracing::warn!(%error, run_id = %run.run_id(), "stored report damaged; making it again");
        None
    })
}
