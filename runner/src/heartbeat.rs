//! Sends the periodic "alive" record of this runner. Its answer carries the stop requests, or names another runner that
//! has the same name.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use domain::ports::{Heartbeat, HeartbeatAnswer, PortError};
use jiff::Timestamp;

use crate::handle::Handle;
use crate::local_run::lock;
use crate::options::Ports;
use crate::runner_state::RunnerState;
use crate::state_lock::RunnerError;

/// Sends a heartbeat per interval, and stops the runs that the answer names. Never returns.
pub(crate) async fn send_heartbeats(shared: Arc<RunnerState>, ports: Ports) {
    let handle = Handle::new(shared.clone());
    let mut logged = false;
    loop {
        let beat = new_heartbeat(&shared).await;
        match ports.claims.heartbeat(&beat).await {
            Ok(HeartbeatAnswer::Stops(stops)) => {
                logged = false;
                note_name(&shared, None);
                for run_id in &stops {
                    handle.stop(run_id, "the scheduler");
                }
            }
            Ok(HeartbeatAnswer::NameInUse(rival)) => {
                note_name(&shared, Some(RunnerError::NameInUse { runner: beat.runner.clone(), rival }));
            }
            Err(error) if logged => tracing::debug!(%error, "heartbeat failed again"),
            Err(error) => {
                tracing::warn!(%error, "heartbeat failed; retrying");
                logged = true;
            }
        }
        shared.first_heartbeat.cancel();
        shared.refuse_late_runs(Timestamp::now());
        let options = &shared.options;
        let interval = if beat.running > 0 { options.heartbeat_interval } else { options.idle_heartbeat_interval };
        tokio::time::sleep(interval).await;
    }
}

/// Sends one heartbeat.
///
/// # Errors
/// When another runner has this name. A failed call is no error: the next heartbeat repeats it.
pub(crate) async fn check_name(shared: &RunnerState, ports: &Ports) -> Result<(), RunnerError> {
    let beat = new_heartbeat(shared).await;
    match ports.claims.heartbeat(&beat).await {
        Ok(HeartbeatAnswer::NameInUse(rival)) => Err(RunnerError::NameInUse { runner: beat.runner, rival }),
        Ok(HeartbeatAnswer::Stops(_)) => Ok(()),
        Err(PortError::Retry(error) | PortError::Permanent(error)) => {
            tracing::warn!(error, "the first heartbeat failed; retrying");
            Ok(())
        }
    }
}

/// While another runner has the name, no orders are taken.
fn note_name(shared: &RunnerState, fault: Option<RunnerError>) {
    let was_refused = shared.is_name_refused.swap(fault.is_some(), Ordering::Relaxed);
    match fault {
        Some(fault) if !was_refused => tracing::error!("no orders are taken: {fault}"),
        None if was_refused => tracing::info!("the name of this runner is free again; orders are taken"),
        Some(_) | None => {}
    }
}

async fn new_heartbeat(shared: &RunnerState) -> Heartbeat {
    let held = shared.cached_blocking_reason().or_else(|| shared.waiting_reason(None));
    Heartbeat {
        runner: shared.options.runner.clone(),
        host: shared.options.host.clone(),
        groups: shared.options.groups.clone(),
        at: Timestamp::now(),
        id: shared.options.id.clone(),
        running: lock(&shared.runs).values().filter(|run| run.finished().is_none()).count() as u32,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        held,
        order_keys: shared.options.order_keys.clone(),
    }
}
