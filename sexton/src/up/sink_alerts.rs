//! People hear of a sink in trouble through the channels for alerts: as the pseudo job `sexton/sink.NAME` that failed, and
//! recovered. What is in trouble is read from the sinks' own numbers; what was told is stored, so a restart tells nothing
//! twice, and a sink that comes and goes is damped as a job is. Never touches a sink.

use std::sync::Arc;
use std::time::Duration;

use domain::job::JobKey;
use domain::ports::{PortResult, Ports};
use domain::run::Outcome;
use jiff::Timestamp;
use services::system_alerts::{self, Condition};
use sinks::error::Class;
use sinks::status::{SinkEvent, SinkState, SinkStatus, SinkTrouble};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::local_runner::{LocalRunner, log_sink_event};
use crate::print::{format_bytes, format_duration};

/// Sinks are looked at this often: small against any `alert_after` that people choose.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

fn sink_key(sink: &str) -> JobKey {
    system_alerts::key(format!("sink.{sink}"))
}

/// Makes alerts of sinks that lag or cannot work, until `stop`.
pub async fn watch_sinks(runner: Arc<LocalRunner>, ports: Ports, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
        if let Err(error) = check_sinks(&ports, &runner.sink_statuses(), Timestamp::now()).await {
            tracing::warn!(%error, "troubles of sinks could not be stored as alerts; tried again");
        }
    }
}

/// Says in the log what people should hear of a sink, and makes an alert of what is lost for good.
pub async fn log_and_alert(mut events: mpsc::Receiver<SinkEvent>, ports: Ports) {
    while let Some(event) = events.recv().await {
        log_sink_event(&event);
        if let SinkEvent::Trouble(trouble) = &event
            && let Err(error) = alert_loss(&ports, trouble, Timestamp::now()).await
        {
            tracing::warn!(sink = trouble.sink, %error, "a loss could not be stored as an alert; it is only in this log");
        }
    }
}

/// Tells what has changed since it was told last.
///
/// # Errors
/// A port's; the next look is the retry.
async fn check_sinks(ports: &Ports, statuses: &[SinkStatus], now: Timestamp) -> PortResult<()> {
    for status in statuses {
        let (outcome, reason) = match failure_reason(status) {
            Some(reason) => (Outcome::Failed, reason),
            None if is_healthy(status) => (Outcome::Succeeded, format!("sink `{}` takes lines again", status.name)),
            None => continue,
        };
        let (key, id_prefix) = (sink_key(&status.name), format!("sink:{}", status.name));
        let condition =
            Condition { key: &key, id_prefix: &id_prefix, outcome, reason: &reason, sent_unrecorded: false };
        system_alerts::change(ports, condition, now).await?;
    }
    Ok(())
}

/// Tells that a sink lost lines for good, at most once an hour. Other troubles show in the numbers.
///
/// # Errors
/// A port's.
async fn alert_loss(ports: &Ports, trouble: &SinkTrouble, now: Timestamp) -> PortResult<()> {
    if trouble.class != Class::Permanent {
        return Ok(());
    }
    let reason = format!("sink `{}` will never have some lines: {}", trouble.sink, trouble.error);
    system_alerts::loss(ports, &sink_key(&trouble.sink), &format!("sink_loss:{}", trouble.sink), reason, now).await
}

/// What people should do something about; none while it is only a short while.
fn failure_reason(status: &SinkStatus) -> Option<String> {
    let name = &status.name;
    let error = status.last_error.as_deref().filter(|_| status.failing_since.is_some());
    let cause = error.map_or_else(String::new, |error| format!(": {error}"));
    if status.state == SinkState::Misconfigured {
        let waiting = lines_readable(status.lag_lines);
        return Some(format!("sink `{name}` cannot work until somebody mends it; {waiting} kept for it{cause}"));
    }
    let behind = status.lag_lines > 0 && status.lag_seconds >= status.alert_after_seconds;
    behind.then(|| {
        let (lines, bytes) = (lines_readable(status.lag_lines), format_bytes(status.lag_bytes));
        let span = format_duration(Duration::from_secs_f64(status.lag_seconds));
        format!("sink `{name}` is {span} behind; {lines} ({bytes}) kept for it{cause}")
    })
}

fn lines_readable(lines: u64) -> String {
    if lines == 1 { "1 line".to_owned() } else { format!("{lines} lines") }
}

/// Known to work again: nothing fails, and nothing old waits to be tried for the first time.
fn is_healthy(status: &SinkStatus) -> bool {
    status.state == SinkState::Working && (status.lag_lines == 0 || status.delivered_lines > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use embedded::Embedded;

    fn status() -> SinkStatus {
        SinkStatus {
            name: "central".to_owned(),
            kind: "syslog",
            state: SinkState::Working,
            lag_lines: 0,
            lag_bytes: 0,
            lag_seconds: 0.0,
            unconfirmed_lines: 0,
            unconfirmed_bytes: 0,
            rate_lines_per_second: 0.0,
            last_error: None,
            last_error_at: None,
            failing_since: None,
            oldest_undelivered_run: None,
            delivered_lines: 0,
            dropped_lines: 0,
            dropped_bytes: 0,
            refused_records: 0,
            refused: Vec::new(),
            alert_after_seconds: 300.0,
        }
    }

    fn behind(seconds: f64) -> SinkStatus {
        let failing_since = Some(Timestamp::UNIX_EPOCH);
        let last_error = Some("nobody is there".to_owned());
        let state = SinkState::Retrying;
        SinkStatus { lag_lines: 7, lag_bytes: 700, lag_seconds: seconds, state, failing_since, last_error, ..status() }
    }

    async fn alerts(ports: &Ports) -> Vec<(String, String, String)> {
        let page = ports.alerts.list(None, 100).await.expect("listed");
        let mut alerts: Vec<_> =
            page.records.into_iter().map(|one| (one.kind.name().to_owned(), one.job, one.reason)).collect();
        alerts.reverse();
        alerts
    }

    #[tokio::test]
    async fn a_lag_is_told_once_and_its_end_once() {
        let folder = tempfile::tempdir().expect("folder");
        let ports = Embedded::open(&folder.path().join("db")).expect("opened").ports();
        let misconfigured = SinkStatus { state: SinkState::Misconfigured, ..behind(1.0) };
        let catching_up = SinkStatus { lag_lines: 3, delivered_lines: 4, ..status() };
        let never_tried = SinkStatus { lag_lines: 7, ..status() };
        let history = [
            (status(), 0),
            (behind(299.0), 0),
            (behind(301.0), 1),
            (behind(400.0), 1),
            (behind(1.0), 1),
            (never_tried, 1),
            (catching_up, 2),
            (status(), 2),
            (misconfigured, 3),
        ];
        for (step, (status, wanted)) in history.into_iter().enumerate() {
            let now = Timestamp::from_second(1_000_000 + step as i64).expect("instant");
            check_sinks(&ports, &[status], now).await.expect("looked");
            assert_eq!(alerts(&ports).await.len(), wanted, "step {step}");
        }
        let alerts = alerts(&ports).await;
        let kinds: Vec<&str> = alerts.iter().map(|(kind, _, _)| kind.as_str()).collect();
        assert_eq!(kinds, ["failed", "recovered", "failed"]);
        assert!(alerts.iter().all(|(_, job, _)| job == "sink.central"));
        let first = "sink `central` is 5m01s behind; 7 lines (700 B) kept for it: nobody is there";
        assert_eq!(alerts[0].2, first);
        assert!(alerts[2].2.contains("until somebody mends it"), "{}", alerts[2].2);
    }

    #[tokio::test]
    async fn lost_lines_are_told_once_an_hour() {
        let folder = tempfile::tempdir().expect("folder");
        let ports = Embedded::open(&folder.path().join("db")).expect("opened").ports();
        let since = Timestamp::UNIX_EPOCH;
        let trouble =
            |class| SinkTrouble { sink: "central".to_owned(), class, since, error: "seq 7 is bad".to_owned() };
        for (second, class, wanted) in
            [(0, Class::Retry, 0), (0, Class::Permanent, 1), (3599, Class::Permanent, 1), (3600, Class::Permanent, 2)]
        {
            let now = Timestamp::from_second(second).expect("instant");
            alert_loss(&ports, &trouble(class), now).await.expect("told");
            assert_eq!(alerts(&ports).await.len(), wanted, "second {second}");
        }
        assert_eq!(alerts(&ports).await[0].2, "sink `central` will never have some lines: seq 7 is bad");
    }
}
