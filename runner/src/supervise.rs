//! One task per run: starts its keeper, reports the start, lets the rules read, and at the end judges and reports. The
//! task may stop at any point; the next runner then resumes the run. See [`keeper::crash`].

use std::io;
use std::sync::Arc;
use std::time::Duration;

use domain::ports::PortError;
use jiff::Timestamp;
use keeper::crash;
use keeper::directory::{Durability, write_json};
use keeper::free_space;
use keeper::records::{Exit, Refusal, RefusalKind};
use keeper::spawn::Keeper;
use tokio::time::{Instant, sleep, sleep_until};

use crate::finish::{finish, record_lost_run};
use crate::hung_keeper;
use crate::keeper_state::{KeeperState, POLL_INTERVAL, keeper_state, wait_for_keeper_state};
use crate::local_run::{LocalRun, lock};
use crate::output_end::follow_output;
use crate::reporting::{START_REPORT_DELAY, pass_start_to_sinks, quiet_deadline, report_if_quiet, report_started};
use crate::runner_state::{RunnerState, SpawnError};
use crate::scan::{Scan, match_new_output};

/// Delay of the rules behind the output. One turn per line would cost more than the matching. Chosen, not measured.
const SCAN_DELAY: Duration = Duration::from_millis(200);

/// Starts of a keeper that exits before it starts the job. Chosen: it is the machine that fails, not the job.
const SPAWN_ATTEMPTS_MAX: u32 = 3;

/// Delay before the second start; the third waits twice as long. Chosen, not measured.
const SPAWN_RETRY_DELAY: Duration = Duration::from_millis(500);

/// Retry interval of starts that a limit of the machine refuses. Chosen, not measured.
const LIMIT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Retry interval of writes that the disk refuses. Chosen, not measured.
const STORE_RETRY_DELAY: Duration = Duration::from_secs(1);

/// How long a failing secret lookup is retried, with growing delay. Chosen: an outage of minutes costs no run, and a
/// longer one needs an alert. The latest start time of the order also ends the retries.
const SECRET_RETRY_MAX: Duration = Duration::from_secs(600);

/// First delay of a secret lookup; doubled up to [`SECRET_RETRY_DELAY_MAX`]. Chosen, not measured.
const SECRET_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Chosen: a stop request and the latest start time do not wait for it.
const SECRET_RETRY_DELAY_MAX: Duration = Duration::from_secs(30);

/// Supervises the run to its end and releases its place in admission.
pub(crate) async fn supervise(shared: Arc<RunnerState>, run: Arc<LocalRun>) {
    let leave = shared.leave.clone();
    let ended = leave.run_until_cancelled(supervise_to_end(&shared, run.clone())).await;
    shared.watch.remove(&run);
    if let Some(keeper) = ended {
        lock(&shared.admission).release(run.job().needs);
        shared.admission_changed.notify_waiters();
        if run.has_open_output() {
            follow_output(&shared, &run, keeper);
        }
    }
}

/// Returns the keeper, if this process started it and it still reads output.
async fn supervise_to_end(shared: &Arc<RunnerState>, mut run: Arc<LocalRun>) -> Option<Keeper> {
    if let Err(error) = shared.watch.add(&run) {
        tracing::warn!(%error, run_id = %run.run_id(), "inotify watch failed; polling the run every 5 s");
    }
    let mut child = None;
    let mut attempts = StartAttempts::default();
    let mut scan = None;
    let exit = loop {
        match wait_for_keeper_state(&run).await {
            KeeperState::Ended(exit) => break *exit,
            KeeperState::Orphaned => break record_lost_run(shared, &run).await,
            KeeperState::Alive => {
                if watch_keeper(shared, &run, &mut scan).await == Watched::Overdue {
                    hung_keeper::end_run(&run).await;
                }
            }
            KeeperState::NotStarted => match start_keeper(shared, &run, &mut attempts).await {
                StartResult::CheckAgain(None) => {}
                StartResult::CheckAgain(Some(keeper)) => {
                    // A keeper that died before it started the job must still be reaped.
                    if let Some(dead) = child.replace(keeper) {
                        wait_for_keeper(dead).await;
                    }
                }
                StartResult::Refused(refusal) => {
                    run = refuse(shared, &run, refusal);
                    store_refusal(&run).await;
                    break Exit::not_started(refusal_reason(&run), Timestamp::now());
                }
                StartResult::Failed(exit) => break *exit,
            },
        }
    };
    crash::point("seen");
    if !exit.output_open
        && let Some(child) = child.take()
    {
        wait_for_keeper(child).await;
    }
    finish(shared, &run, exit, scan).await;
    child
}

/// The attempts to start a run so far.
#[derive(Default)]
struct StartAttempts {
    keepers: u32,
    secrets: u32,
    /// Start of the failing secret lookup, and its last error.
    secret: Option<(Instant, String)>,
    /// The last start that a limit of the machine refused.
    limit: Option<String>,
}

enum StartResult {
    CheckAgain(Option<Keeper>),
    Refused(Refusal),
    Failed(Box<Exit>),
}

/// Starts a run that was not started, if it still may start.
async fn start_keeper(shared: &Arc<RunnerState>, run: &Arc<LocalRun>, attempts: &mut StartAttempts) -> StartResult {
    let accepted = &run.accepted;
    let refused = |why, message: String| StartResult::Refused(Refusal { why, message });
    if let Some(refusal) = &accepted.refused {
        return StartResult::Refused(refusal.clone());
    }
    if accepted.boot_id != shared.boot_id {
        // The marker of a keeper may not have reached the disk before the reboot: another start could be a second one.
        return StartResult::Failed(Box::new(record_lost_run(shared, run).await));
    }
    if run.directory.stop().exists() {
        return refused(RefusalKind::Stopped, "stopped before it started".to_owned());
    }
    let blocking_reason = shared.blocking_reason(run.job()).await;
    if let Some(start_by) = accepted.order.start_by.filter(|start_by| *start_by < Timestamp::now()) {
        let why = blocking_reason
            .or_else(|| attempts.secret.take().map(|(_, message)| message))
            .or_else(|| attempts.limit.take())
            .or_else(|| run.delayed_by.get().cloned())
            .or_else(|| run.waits_for())
            .map(|message| format!(": {message}"))
            .unwrap_or_default();
        return refused(RefusalKind::TooLate, format!("the runner could not start it before {start_by}{why}"));
    }
    let is_blocked = blocking_reason.is_some();
    let lasting = attempts.secret.as_ref().map(|(_, message)| format!("a secret is not available: {message}"));
    run.set_waits_for(blocking_reason.or(lasting).or_else(|| attempts.limit.clone()));
    if is_blocked {
        shared.wait_while_held().await;
        return StartResult::CheckAgain(None);
    }
    // Checked before the next keeper starts: a run with a keeper may have started.
    if attempts.keepers >= SPAWN_ATTEMPTS_MAX {
        return refused(RefusalKind::Impossible, spawn_failure_reason(shared));
    }
    if attempts.keepers > 0 {
        sleep(SPAWN_RETRY_DELAY * attempts.keepers).await;
    }
    match shared.spawn_keeper(run).await {
        Ok(child) => {
            attempts.keepers += u32::from(child.is_some());
            crash::point("spawned");
            StartResult::CheckAgain(child)
        }
        Err(SpawnError::Secret(PortError::Permanent(message))) => {
            refused(RefusalKind::Impossible, format!("a secret of the job is not available: {message}"))
        }
        Err(SpawnError::Secret(PortError::Retry(message))) => retry_secret(run, attempts, message).await,
        Err(SpawnError::Limit(message)) => {
            tracing::warn!(error = message, "a limit of this machine delays the start of runs; retrying");
            run.set_waits_for(Some(message.clone()));
            attempts.limit = Some(message);
            sleep(LIMIT_RETRY_DELAY).await;
            StartResult::CheckAgain(None)
        }
        Err(SpawnError::Keeper(message)) if attempts.keepers + 1 >= SPAWN_ATTEMPTS_MAX => {
            refused(RefusalKind::Impossible, message)
        }
        Err(SpawnError::Keeper(message)) => {
            attempts.keepers += 1;
            tracing::warn!(error = message, run_id = %run.run_id(), "cannot start keeper; retrying");
            StartResult::CheckAgain(None)
        }
    }
}

fn spawn_failure_reason(shared: &RunnerState) -> String {
    let is_full = free_space::read(&shared.runs_folder).is_ok_and(|space| space.available_for_output_bytes() == 0);
    let why = if is_full { "the runner's disk is full; free some space" } else { "see keeper.log" };
    format!("{SPAWN_ATTEMPTS_MAX} keepers exited before starting the job; {why}")
}

/// Waits until the next lookup of a missing secret, or gives up.
async fn retry_secret(run: &LocalRun, attempts: &mut StartAttempts, message: String) -> StartResult {
    let since = attempts.secret.take().map_or_else(Instant::now, |(since, _)| since);
    if since.elapsed() >= SECRET_RETRY_MAX {
        let waited = domain::units::format_duration(SECRET_RETRY_MAX);
        let message = format!("a secret of the job was not available for {waited}: {message}");
        return StartResult::Refused(Refusal { why: RefusalKind::Impossible, message });
    }
    if attempts.secrets == 0 {
        tracing::warn!(error = message, run_id = %run.run_id(), "secret not available; retrying");
    }
    let delay = SECRET_RETRY_DELAY.saturating_mul(1 << attempts.secrets.min(8)).min(SECRET_RETRY_DELAY_MAX);
    attempts.secrets += 1;
    run.set_waits_for(Some(format!("a secret is not available: {message}")));
    attempts.secret = Some((since, message));
    // A stop request, or the latest start time, must not wait for the secret.
    let until_start_by = run.accepted.order.start_by.map(|by| Duration::try_from(by.duration_since(Timestamp::now())));
    let until_start_by = until_start_by.map_or(delay, |left| left.unwrap_or_default() + Duration::from_millis(1));
    tokio::select! {
        () = run.wake.notified() => {}
        () = sleep(delay.min(until_start_by)) => {}
    }
    StartResult::CheckAgain(None)
}

/// Replaces the run by one with the refusal. Its supervision stores the refusal before it reports the end.
pub(crate) fn refuse(shared: &RunnerState, run: &Arc<LocalRun>, refusal: Refusal) -> Arc<LocalRun> {
    let mut accepted = run.accepted.clone();
    accepted.refused = Some(refusal);
    let refused = Arc::new(LocalRun::new(run.directory.clone(), accepted));
    lock(&shared.runs).insert(refused.key(), refused.clone());
    refused
}

/// Stores the refusal, with retries. A refusal that was reported but not stored would let the next runner start the run
/// after its end.
async fn store_refusal(run: &LocalRun) {
    let mut logged = false;
    while let Err(error) = write_json(&run.directory.order(), &run.accepted, Durability::Cache) {
        // When another process removed the directory, nothing is left that could be started.
        if error.kind() == io::ErrorKind::NotFound && !run.directory.path().exists() {
            return;
        }
        if !std::mem::replace(&mut logged, true) {
            tracing::error!(%error, run_id = %run.run_id(), "cannot store refusal; report delayed");
        }
        sleep(STORE_RETRY_DELAY).await;
    }
}

fn refusal_reason(run: &LocalRun) -> String {
    run.accepted.refused.as_ref().map(|refusal| refusal.message.clone()).unwrap_or_default()
}

/// Why [`watch_keeper`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watched {
    /// The keeper has exited or has recorded the end.
    Changed,
    /// The keeper did not end the run at its limit or on a stop request.
    Overdue,
}

/// Returns when the state of the keeper has changed, or should have.
async fn watch_keeper(shared: &Arc<RunnerState>, run: &Arc<LocalRun>, scan: &mut Option<Scan>) -> Watched {
    let mut scan_at = None;
    let mut report_start_at = None;
    let mut quiet_reported = false;
    loop {
        if run.take_changed() {
            if run.header().is_none()
                && let Ok(Some(started)) = run.started()
            {
                pass_start_to_sinks(shared, run, &started);
                report_start_at = Some(Instant::now() + START_REPORT_DELAY);
            }
            if !matches!(keeper_state(run), Ok(KeeperState::Alive)) {
                return Watched::Changed;
            }
        }
        if run.take_grown() {
            quiet_reported = false;
            scan_at.get_or_insert(Instant::now() + SCAN_DELAY);
        }
        let quiet_at = run.job().quiet_limit.filter(|_| !quiet_reported).map(|limit| quiet_deadline(run, limit));
        let poll_at = Instant::now() + POLL_INTERVAL;
        tokio::select! {
            () = run.wake.notified() => {}
            () = hung_keeper::wait_until_overdue(run) => return Watched::Overdue,
            () = sleep_until(scan_at.unwrap_or(poll_at)) => {
                if scan_at.take().is_some() {
                    if match_new_output(shared, run, scan, None).await {
                        scan_at = Some(Instant::now());
                    }
                } else {
                    run.note_change();
                    run.note_growth();
                    shared.wake_readers(run);
                }
            }
            () = sleep_until(report_start_at.unwrap_or(poll_at)), if report_start_at.is_some() => {
                report_start_at = None;
                report_started(shared, run).await;
            }
            () = sleep_until(quiet_at.unwrap_or(poll_at)), if quiet_at.is_some() => {
                quiet_reported = report_if_quiet(shared, run).await;
            }
        }
    }
}

/// Reaps the keeper, which exits right after its last write.
pub(crate) async fn wait_for_keeper(keeper: Keeper) {
    if !keeper.is_child() {
        return;
    }
    let ended = tokio::task::spawn_blocking(move || keeper.wait()).await;
    if let Ok(Err(error)) = ended {
        tracing::warn!(%error, "cannot reap a keeper");
    }
}
