//! One task per run: sees that it has a keeper, tells that it started, lets the rules read along, and when it has ended
//! judges and reports. It may be dropped at any point and begun again by the next runner; see [`keeper::crash`].

use std::io;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use domain::ports::PortError;
use jiff::Timestamp;
use keeper::crash;
use keeper::directory::{Durability, write_json};
use keeper::free_space;
use keeper::records::{Exit, Refusal, RefusalKind};
use tokio::time::{Instant, sleep, sleep_until};

use crate::finish::{finish, lost};
use crate::keeper_state::{LOOK_INTERVAL, Standing, look, standing};
use crate::local_run::{LocalRun, locked};
use crate::reporting::{announce, quiet_at, tell_if_quiet};
use crate::required_sinks::FRESH;
use crate::runner_state::{NotSpawned, Shared};
use crate::scan::{Scan, read_along};

/// The rules read along so much behind; a turn for every line would cost more than the matching.
const SCAN_DELAY: Duration = Duration::from_millis(200);

/// Keepers that die before they begin anything are replaced so often. Ours: it is the machine that fails, not the job.
const SPAWN_TRIES: u32 = 3;
const SPAWN_RETRY_DELAY: Duration = Duration::from_millis(500);

/// What the disk does not take is tried again after this.
const STORE_RETRY_DELAY: Duration = Duration::from_secs(1);

/// A secret that cannot be had now (throttled, unreachable) is asked for again, more and more seldom, for so long. Ours:
/// an outage of minutes costs no run; what lasts longer is worth an alert. A time limit for the start ends it as well.
const SECRET_PATIENCE: Duration = Duration::from_secs(600);
const SECRET_RETRY_DELAY: Duration = Duration::from_secs(1);
const SECRET_RETRY_DELAY_MAX: Duration = Duration::from_secs(30);

/// Attends the run to its end and gives back its place in admission.
pub async fn attend(shared: Arc<Shared>, run: Arc<LocalRun>) {
    let leave = shared.leave.clone();
    let left = leave.run_until_cancelled(attend_to_end(&shared, run.clone())).await.is_none();
    shared.watch.remove(&run);
    if !left {
        locked(&shared.admission).release(run.job().needs);
        shared.admission_changed.notify_waiters();
    }
}

async fn attend_to_end(shared: &Arc<Shared>, mut run: Arc<LocalRun>) {
    if let Err(error) = shared.watch.add(&run) {
        tracing::warn!(%error, run_id = %run.run_id(), "no inotify watch to be had; the run is looked at every 5 s");
    }
    let mut child = None;
    let mut tries = Tries::default();
    let mut scan = None;
    let exit = loop {
        match look(&run).await {
            Standing::Ended(exit) => break *exit,
            Standing::Orphaned => break lost(shared, &run).await,
            Standing::Kept => watch_over(shared, &run, &mut scan).await,
            Standing::NotBegun => match begin(shared, &run, &mut tries).await {
                Begun::Kept(None) => {}
                Begun::Kept(Some(keeper)) => {
                    // One that died before it began leaves only its end to be taken in.
                    if let Some(dead) = child.replace(keeper) {
                        reap(dead).await;
                    }
                }
                Begun::Refused(refusal) => {
                    run = refuse(shared, &run, refusal);
                    store_refusal(&run).await;
                    break Exit::not_started(said(&run), Timestamp::now());
                }
                Begun::Failed(exit) => break *exit,
            },
        }
    };
    crash::point("seen");
    if let Some(child) = child {
        reap(child).await;
    }
    finish(shared, &run, exit, scan).await;
}

/// What was tried to begin a run.
#[derive(Default)]
struct Tries {
    keepers: u32,
    secrets: u32,
    /// Since when a secret is asked for in vain, and what was said last.
    secret: Option<(Instant, String)>,
}

enum Begun {
    Kept(Option<Child>),
    Refused(Refusal),
    Failed(Box<Exit>),
}

/// Starts a run that has not begun, if it still may.
async fn begin(shared: &Arc<Shared>, run: &Arc<LocalRun>, tries: &mut Tries) -> Begun {
    let accepted = &run.accepted;
    let refused = |why, says: String| Begun::Refused(Refusal { why, says });
    if let Some(refusal) = &accepted.refused {
        return Begun::Refused(refusal.clone());
    }
    if accepted.boot_id != shared.boot_id {
        // What a keeper marked just before may not have reached the disk: starting again might be twice.
        return Begun::Failed(Box::new(lost(shared, run).await));
    }
    if run.directory.stop().exists() {
        return refused(RefusalKind::Stopped, "stopped before it began".to_owned());
    }
    let held = shared.held(run.job()).await;
    if let Some(start_by) = accepted.order.start_by.filter(|start_by| *start_by < Timestamp::now()) {
        let why = held
            .or_else(|| tries.secret.take().map(|(_, says)| says))
            .map(|says| format!(": {says}"))
            .unwrap_or_default();
        return refused(RefusalKind::TooLate, format!("the runner could not start it before {start_by}{why}"));
    }
    if held.is_some() {
        sleep(FRESH).await;
        return Begun::Kept(None);
    }
    // Before the next one is born: whoever has a keeper may have begun.
    if tries.keepers >= SPAWN_TRIES {
        return refused(RefusalKind::Impossible, why_keepers_die(shared));
    }
    if tries.keepers > 0 {
        sleep(SPAWN_RETRY_DELAY * tries.keepers).await;
    }
    match shared.spawn_keeper(run).await {
        Ok(child) => {
            tries.keepers += u32::from(child.is_some());
            crash::point("spawned");
            Begun::Kept(child)
        }
        Err(NotSpawned::Secret(PortError::Permanent(says))) => {
            refused(RefusalKind::Impossible, format!("a secret of the job cannot be had: {says}"))
        }
        Err(NotSpawned::Secret(PortError::Retry(says))) => await_secret(run, tries, says).await,
        Err(NotSpawned::Keeper(says)) if tries.keepers + 1 >= SPAWN_TRIES => refused(RefusalKind::Impossible, says),
        Err(NotSpawned::Keeper(says)) => {
            tries.keepers += 1;
            tracing::warn!(says, run_id = %run.run_id(), "a run could not be started; it is tried again");
            Begun::Kept(None)
        }
    }
}

fn why_keepers_die(shared: &Shared) -> String {
    let is_full = free_space::read(&shared.runs_folder).is_ok_and(|space| space.available_for_output_bytes() == 0);
    let why = if is_full { "the runner's disk is full; make room on it" } else { "look for keeper.log" };
    format!("{SPAWN_TRIES} keepers died before they began anything; {why}")
}

/// Waits for the next turn to ask for a secret that could not be had, or gives up.
async fn await_secret(run: &LocalRun, tries: &mut Tries, says: String) -> Begun {
    let since = tries.secret.take().map_or_else(Instant::now, |(since, _)| since);
    if since.elapsed() >= SECRET_PATIENCE {
        let waited = domain::units::format_duration(SECRET_PATIENCE);
        let says = format!("a secret of the job could not be had for {waited}: {says}");
        return Begun::Refused(Refusal { why: RefusalKind::Impossible, says });
    }
    if tries.secrets == 0 {
        tracing::warn!(says, run_id = %run.run_id(), "a secret cannot be had now; the run waits for it");
    }
    let delay = SECRET_RETRY_DELAY.saturating_mul(1 << tries.secrets.min(8)).min(SECRET_RETRY_DELAY_MAX);
    tries.secrets += 1;
    tries.secret = Some((since, says));
    // A stop, or the latest time to start, is not to wait for it.
    let until_start_by = run.accepted.order.start_by.map(|by| Duration::try_from(by.duration_since(Timestamp::now())));
    let until_start_by = until_start_by.map_or(delay, |left| left.unwrap_or_default() + Duration::from_millis(1));
    tokio::select! {
        () = run.wake.notified() => {}
        () = sleep(delay.min(until_start_by)) => {}
    }
    Begun::Kept(None)
}

/// The same run with the refusal. Whoever attends it stores that before anybody is told.
pub fn refuse(shared: &Shared, run: &Arc<LocalRun>, refusal: Refusal) -> Arc<LocalRun> {
    let mut accepted = run.accepted.clone();
    accepted.refused = Some(refusal);
    let refused = Arc::new(LocalRun::new(run.directory.clone(), accepted));
    locked(&shared.runs).insert(refused.key(), refused.clone());
    refused
}

/// Stores the refusal, with patience: told and then forgotten, it would let the next runner start the run after its end.
async fn store_refusal(run: &LocalRun) {
    let mut told = false;
    while let Err(error) = write_json(&run.directory.order(), &run.accepted, Durability::Cache) {
        // Where somebody removed the directory nothing is left that could be started.
        if error.kind() == io::ErrorKind::NotFound && !run.directory.path().exists() {
            return;
        }
        if !std::mem::replace(&mut told, true) {
            tracing::error!(%error, run_id = %run.run_id(), "a refusal cannot be stored; it is told when it is");
        }
        sleep(STORE_RETRY_DELAY).await;
    }
}

fn said(run: &LocalRun) -> String {
    run.accepted.refused.as_ref().map(|refusal| refusal.says.clone()).unwrap_or_default()
}

/// Stays until the keeper is gone.
async fn watch_over(shared: &Arc<Shared>, run: &Arc<LocalRun>, scan: &mut Option<Scan>) {
    let mut scan_at = None;
    let mut quiet_told = false;
    loop {
        if run.take_change() {
            if run.header().is_none()
                && let Ok(Some(started)) = run.started()
            {
                announce(shared, run, &started).await;
            }
            if !matches!(standing(run), Ok(Standing::Kept)) {
                return;
            }
        }
        if run.take_growth() {
            quiet_told = false;
            scan_at.get_or_insert(Instant::now() + SCAN_DELAY);
        }
        let quiet_at = run.job().quiet_limit.filter(|_| !quiet_told).map(|limit| quiet_at(run, limit));
        let look_at = Instant::now() + LOOK_INTERVAL;
        tokio::select! {
            () = run.wake.notified() => {}
            () = sleep_until(scan_at.unwrap_or(look_at)) => {
                if scan_at.take().is_some() {
                    if read_along(shared, run, scan, None).await {
                        scan_at = Some(Instant::now());
                    }
                } else {
                    run.note_change();
                    run.note_growth();
                    shared.wake_readers(run);
                }
            }
            () = sleep_until(quiet_at.unwrap_or(look_at)), if quiet_at.is_some() => {
                quiet_told = tell_if_quiet(shared, run).await;
            }
        }
    }
}

/// Takes in the keeper's own end, which comes right behind its last word.
async fn reap(mut child: Child) {
    let ended = tokio::task::spawn_blocking(move || child.wait()).await;
    if let Ok(Err(error)) = ended {
        tracing::warn!(%error, "a keeper's end could not be taken in");
    }
}
