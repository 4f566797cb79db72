//! Alerts about failing sinks, as alerts of the system jobs `sexton/sink.NAME`. Reads the status of the sinks and never
//! changes them. The state of each job is stored, so a restart repeats no alert and a flapping sink is damped like a
//! job.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use domain::job::JobKey;
use domain::ports::{PortResult, Ports};
use domain::run::Outcome;
use domain::units::format_lines;
use jiff::Timestamp;
use runner::RemovedSink;
use services::system_alerts::{self, Condition};
use sinks::error::ErrorClass;
use sinks::status::{SinkEvent, SinkState, SinkStatus, SinkTrouble};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::local_runner::LocalRunner;
use crate::print::{format_bytes, format_duration};

/// Interval of checking the sinks. Chosen: short against `alert_after` (default 5 min).
const POLL_INTERVAL: Duration = Duration::from_secs(2);

fn sink_key(sink: &str) -> JobKey {
    system_alerts::key(format!("sink.{sink}"))
}

/// Alerts about sinks that lag or are misconfigured, until `stop`.
pub(crate) async fn watch_sinks(runner: Arc<LocalRunner>, ports: Ports, stop: CancellationToken) {
    let mut alerted = BTreeSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
        if let Err(error) = check_removed(&ports, &runner.removed_sinks(), &mut alerted, Timestamp::now()).await {
            tracing::warn!(%error, "cannot store the alert about a removed sink; retrying");
        }
        if let Err(error) = check_sinks(&ports, &runner.sink_statuses(), Timestamp::now()).await {
            tracing::warn!(%error, "cannot store sink alerts; retrying");
        }
    }
}

/// Alerts when a sink lost lines permanently. The delivery itself logs every event.
pub(crate) async fn alert_losses(mut events: mpsc::Receiver<SinkEvent>, ports: Ports) {
    while let Some(event) = events.recv().await {
        if let SinkEvent::Trouble(trouble) = &event
            && let Err(error) = alert_loss(&ports, trouble, Timestamp::now()).await
        {
            let sink = &trouble.sink;
            tracing::warn!(sink, %error, "cannot store the alert about lost lines; only this log has it");
        }
    }
}

/// Records every change between failing and healthy, with its alert.
///
/// # Errors
/// Returns the port's error; the next check retries.
async fn check_sinks(ports: &Ports, statuses: &[SinkStatus], now: Timestamp) -> PortResult<()> {
    for status in statuses {
        let (outcome, reason) = match failure_reason(status) {
            Some(reason) => (Outcome::Failed, reason),
            None if is_healthy(status) => (Outcome::Succeeded, format!("sink `{}` recovered", status.name)),
            None => continue,
        };
        let (key, id_prefix) = (sink_key(&status.name), format!("sink:{}", status.name));
        let condition =
            Condition { key: &key, id_prefix: &id_prefix, outcome, reason: &reason, sent_unrecorded: false };
        system_alerts::change(ports, condition, now).await?;
    }
    Ok(())
}

/// Records that removed sinks lack lines, with one alert for each removal, and that they no longer do.
///
/// # Errors
/// Returns the port's error; the next check retries.
async fn check_removed(
    ports: &Ports,
    removed: &[RemovedSink],
    alerted: &mut BTreeSet<String>,
    now: Timestamp,
) -> PortResult<()> {
    for sink in removed {
        let (key, name) = (sink_key(&sink.name), &sink.name);
        if sink.lines > 0 && !sink.is_over {
            let id = format!("sink_removed:{name}:{}", sink.at.as_millisecond());
            if !alerted.contains(&id) && system_alerts::failure(ports, &key, &id, &removed_reason(sink), now).await? {
                alerted.insert(id);
            }
            continue;
        }
        let reason = match sink.lines {
            0 => format!("sink `{name}` was removed; it had every line"),
            _ => format!("sink `{name}` was removed; the lines that it lacked are no longer kept, or were given up"),
        };
        let (outcome, id_prefix) = (Outcome::Succeeded, format!("sink:{name}"));
        let condition =
            Condition { key: &key, id_prefix: &id_prefix, outcome, reason: &reason, sent_unrecorded: false };
        system_alerts::change(ports, condition, now).await?;
    }
    Ok(())
}

fn removed_reason(sink: &RemovedSink) -> String {
    let RemovedSink { name, lines, runs, .. } = sink;
    let runs = if *runs == 1 { "1 run".to_owned() } else { format!("{runs} runs") };
    format!(
        "sink `{name}` was removed or renamed with {} of {runs} undelivered; add a sink with this name to deliver them \
         while they are kept, or run `sexton sinks --reset {name}` to give them up",
        format_lines(*lines)
    )
}

/// Alerts that a sink lost lines permanently, at most once an hour. Other failures are part of the status.
///
/// # Errors
/// Returns the port's error.
async fn alert_loss(ports: &Ports, trouble: &SinkTrouble, now: Timestamp) -> PortResult<()> {
    if trouble.class != ErrorClass::Permanent {
        return Ok(());
    }
    let reason = format!("sink `{}` permanently lacks lines: {}", trouble.sink, trouble.error);
    system_alerts::loss(ports, &sink_key(&trouble.sink), &format!("sink_loss:{}", trouble.sink), reason, now).await
}

/// Why the sink needs attention; none if it is healthy or lags for less than `alert_after`.
fn failure_reason(status: &SinkStatus) -> Option<String> {
    let name = &status.name;
    let error = status.last_error.as_deref().filter(|_| status.failing_since.is_some());
    let waiting_since = status.waiting_since.map(|since| format!("waiting for an answer since {since}"));
    let cause = error.map(str::to_owned).or(waiting_since).map_or_else(String::new, |cause| format!(": {cause}"));
    if status.state == SinkState::Misconfigured {
        let waiting = format_lines(status.lag_lines);
        return Some(format!("sink `{name}` is misconfigured and needs a change; {waiting} waiting{cause}"));
    }
    let behind = status.lag_lines > 0 && status.lag_seconds >= status.alert_after_seconds;
    if !behind {
        return status.set_up_fault.as_ref().map(|fault| format!("sink `{name}` delivers its lines, but {fault}"));
    }
    Some({
        let (lines, bytes) = (format_lines(status.lag_lines), format_bytes(status.lag_bytes));
        let span = format_duration(Duration::from_secs_f64(status.lag_seconds));
        format!("sink `{name}` lags {span}; {lines} ({bytes}) waiting{cause}")
    })
}

/// Whether the sink is known to work: no failure, and no old line waits for its first attempt.
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
            waiting_since: None,
            set_up_fault: None,
            oldest_undelivered_run: None,
            delivered_lines: 0,
            dropped_lines: 0,
            dropped_bytes: 0,
            refused_records: 0,
            refused: Vec::new(),
            counted_since: None,
            alert_after_seconds: 300.0,
        }
    }

    fn behind(seconds: f64) -> SinkStatus {
        let failing_since = Some(Timestamp::UNIX_EPOCH);
        let last_error = Some("connection refused".to_owned());
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
    async fn a_lag_is_alerted_once_and_its_recovery_once() {
        let folder = tempfile::tempdir().expect("folder");
        let ports = Embedded::open(&folder.path().join("db")).expect("opened").ports();
        let misconfigured = SinkStatus { state: SinkState::Misconfigured, ..behind(1.0) };
        let catching_up = SinkStatus { lag_lines: 3, delivered_lines: 4, ..status() };
        let never_tried = SinkStatus { lag_lines: 7, ..status() };
        let fault = "cannot set the retention of log group /x to 30 days: denied".to_owned();
        let set_up = SinkStatus { set_up_fault: Some(fault), ..status() };
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
            (status(), 4),
            (set_up.clone(), 5),
            (set_up, 5),
            (status(), 6),
        ];
        for (step, (status, wanted)) in history.into_iter().enumerate() {
            // Days apart: frequent changes count as flapping.
            let now = Timestamp::from_second(1_000_000 + step as i64 * 86_400).expect("instant");
            check_sinks(&ports, &[status], now).await.expect("checked");
            assert_eq!(alerts(&ports).await.len(), wanted, "step {step}");
        }
        let alerts = alerts(&ports).await;
        let kinds: Vec<&str> = alerts.iter().map(|(kind, _, _)| kind.as_str()).collect();
        assert_eq!(kinds, ["failed", "recovered", "failed", "recovered", "failed", "recovered"]);
        assert!(alerts.iter().all(|(_, job, _)| job == "sink.central"));
        let first = "sink `central` lags 5m01s; 7 lines (700 B) waiting: connection refused";
        assert_eq!(alerts[0].2, first);
        assert!(alerts[2].2.contains("is misconfigured"), "{}", alerts[2].2);
        let text = "sink `central` delivers its lines, but cannot set the retention of log group /x to 30 days: denied";
        assert_eq!(alerts[4].2, text);
    }

    #[tokio::test]
    async fn lost_lines_are_alerted_once_an_hour() {
        let folder = tempfile::tempdir().expect("folder");
        let ports = Embedded::open(&folder.path().join("db")).expect("opened").ports();
        let since = Timestamp::UNIX_EPOCH;
        let trouble =
            |class| SinkTrouble { sink: "central".to_owned(), class, since, error: "seq 7 is bad".to_owned() };
        for (second, class, wanted) in [
            (0, ErrorClass::Retry, 0),
            (0, ErrorClass::Permanent, 1),
            (3599, ErrorClass::Permanent, 1),
            (3600, ErrorClass::Permanent, 2),
        ] {
            let now = Timestamp::from_second(second).expect("instant");
            alert_loss(&ports, &trouble(class), now).await.expect("alerted");
            assert_eq!(alerts(&ports).await.len(), wanted, "second {second}");
        }
        assert_eq!(alerts(&ports).await[0].2, "sink `central` permanently lacks lines: seq 7 is bad");
    }
}
