//! Alerts when runs wait because the limit of open files is too low, as alerts of the system job `sexton/limits`.

use std::sync::Arc;
use std::time::Duration;

use domain::ports::{PortResult, Ports};
use domain::run::Outcome;
use jiff::Timestamp;
use services::system_alerts::{self, Condition};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::local_runner::LocalRunner;
use crate::repeated::reached_open_files_within;

/// Interval of checking. Chosen: shorter than a full minute's runs need to start.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The limit must not be reached for this time before the recovery is reported. Chosen: runs that wait every minute are
/// one condition.
const RECOVERY_AFTER: Duration = Duration::from_secs(180);

/// Alerts until `stop` when runs wait for the limit, or when a call failed because of it.
pub(crate) async fn watch_limits(runner: Arc<LocalRunner>, ports: Ports, stop: CancellationToken) {
    let mut reached_at: Option<Instant> = None;
    // An earlier `up` may have left the alert open.
    let mut is_good = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
        let reached = match runner.limit_reached() {
            Some(reason) => Some(reason),
            None if reached_open_files_within(POLL_INTERVAL * 2) => Some(refused_calls()),
            None => None,
        };
        let recorded = match reached {
            Some(reason) => {
                (reached_at, is_good) = (Some(Instant::now()), false);
                record(&ports, Outcome::Failed, &reason).await
            }
            None if !is_good && reached_at.is_none_or(|at| at.elapsed() >= RECOVERY_AFTER) => {
                let recorded = record(&ports, Outcome::Succeeded, "no run waits for the limit of open files").await;
                is_good = recorded.is_ok();
                recorded
            }
            None => Ok(()),
        };
        if let Err(error) = recorded {
            tracing::warn!(%error, "cannot store the alert about the limit of open files; retrying");
        }
    }
}

fn refused_calls() -> String {
    "calls failed because too many files are open, and are retried; raise the hard limit of open files (LimitNOFILE= of \
     a systemd unit, --ulimit nofile= of a container)"
        .to_owned()
}

async fn record(ports: &Ports, outcome: Outcome, reason: &str) -> PortResult<()> {
    let key = system_alerts::key("limits");
    let condition = Condition { key: &key, id_prefix: "limits", outcome, reason, sent_unrecorded: false };
    system_alerts::change(ports, condition, Timestamp::now()).await.map(drop)
}
