//! Sends the periodic "alive" record of this runner. Its answer carries the stop requests.

use std::sync::Arc;

use domain::ports::Heartbeat;
use jiff::Timestamp;

use crate::handle::Handle;
use crate::local_run::lock;
use crate::options::Ports;
use crate::runner_state::RunnerState;

/// Sends a heartbeat per interval, and stops the runs that the answer names. Never returns.
pub(crate) async fn send_heartbeats(shared: Arc<RunnerState>, ports: Ports) {
    let handle = Handle::new(shared.clone());
    let mut logged = false;
    loop {
        let held = shared.cached_blocking_reason().await;
        let beat = Heartbeat {
            runner: shared.options.runner.clone(),
            host: shared.options.host.clone(),
            groups: shared.options.groups.clone(),
            at: Timestamp::now(),
            running: lock(&shared.runs).values().filter(|run| run.finished().is_none()).count() as u32,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            held,
        };
        match ports.claims.heartbeat(&beat).await {
            Ok(stops) => {
                logged = false;
                for run_id in &stops {
                    handle.stop(run_id, "the scheduler");
                }
            }
            Err(error) if logged => tracing::debug!(%error, "heartbeat failed again"),
            Err(error) => {
                tracing::warn!(%error, "heartbeat failed; retrying");
                logged = true;
            }
        }
        let options = &shared.options;
        let interval = if beat.running > 0 { options.heartbeat_interval } else { options.idle_heartbeat_interval };
        tokio::time::sleep(interval).await;
    }
}
