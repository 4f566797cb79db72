//! Runs the scheduler's tick, and indexes edited jobs.
//!
//! A tick runs all periodic duties. They are independent: a failing one is logged, blocks no other, and is repeated by
//! the next tick. Two concurrent ticks have the effect of one.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use aws::Retries;
use domain::job::JobKey;
use domain::ports::{Notifier, Ports};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use services::alert_batch::BatchLimits;
use services::{Links, alerts, liveness, overdue, release, scheduler, sweep};

/// Calls of the scheduler service in one tick, if more is due than one call takes. Chosen: 200,000 firings; the next
/// tick fires the rest.
const CALLS_MAX: usize = 10;

/// How long a tick fires. Chosen: the next tick begins 60 s after this one and continues from its progress; two ticks
/// at once would halve the pace of both.
const FIRE_FOR: Duration = Duration::from_secs(50);

/// Time of a tick for its other duties, before Lambda ends it. Chosen, not measured.
const DUTIES_RESERVE: Duration = Duration::from_secs(30);

/// Time for what a duty must store after its last call. Chosen: more than the timeout of one call.
const STATE_RESERVE: Duration = Duration::from_secs(5);

/// Messages to a topic in one tick. Five a second are published, which takes [`DUTIES_RESERVE`].
const MESSAGES_MAX: u32 = 150;

/// Event of the scheduler's Lambda.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A minute has passed.
    Tick,
    /// Keys of created, changed or deleted items of the jobs table.
    Changed(BTreeSet<JobKey>),
}

#[derive(Deserialize)]
#[serde(tag = "duty", rename_all = "snake_case", deny_unknown_fields)]
enum TimerPayload {
    Tick,
}

/// Event of a table's stream (`aws:dynamodb`, keys only).
#[derive(Deserialize)]
struct StreamPayload {
    #[serde(rename = "Records")]
    records: Vec<StreamRecord>,
}

#[derive(Deserialize)]
struct StreamRecord {
    dynamodb: StreamedItem,
}

#[derive(Deserialize)]
struct StreamedItem {
    #[serde(rename = "Keys")]
    keys: JobItemKey,
}

#[derive(Deserialize)]
struct JobItemKey {
    group: StringAttribute,
    name: StringAttribute,
}

#[derive(Deserialize)]
struct StringAttribute {
    #[serde(rename = "S")]
    text: String,
}

impl Call {
    /// Decodes an event.
    ///
    /// # Errors
    /// Returns one sentence if the event is neither a tick nor records of the jobs table.
    pub fn decode(payload: Value) -> Result<Call, String> {
        if payload.get("Records").is_some() {
            let payload: StreamPayload = serde_json::from_value(payload)
                .map_err(|error| format!("not records of the stream of the jobs table: {error}"))?;
            let key =
                |record: StreamRecord| JobKey::new(record.dynamodb.keys.group.text, record.dynamodb.keys.name.text);
            return Ok(Call::Changed(payload.records.into_iter().map(key).collect()));
        }
        match serde_json::from_value(payload) {
            Ok(TimerPayload::Tick) => Ok(Call::Tick),
            Err(error) => {
                Err(format!("expected {{\"duty\":\"tick\"}} or records of the stream of the jobs table: {error}"))
            }
        }
    }
}

/// Runs the duties of the scheduler's Lambda.
pub struct Scheduler<'s> {
    /// All ports of the installation.
    pub ports: &'s Ports,
    /// Repeats the failed calls of the ports.
    pub retries: &'s Retries,
    /// Sends alerts.
    pub notifier: &'s dyn Notifier,
    /// Name of this process in claims of alerts.
    pub worker: &'s str,
}

impl Scheduler<'_> {
    /// Handles one event, until Lambda ends it at `timeout`.
    ///
    /// # Errors
    /// Returns the first error, after all duties have run.
    pub async fn run(&self, call: Call, now: Timestamp, timeout: Instant) -> services::Result<()> {
        let stops_at = timeout.checked_sub(STATE_RESERVE).unwrap_or(timeout);
        self.retries.set_deadline(Some(stops_at));
        match call {
            Call::Tick => self.tick(now, stops_at).await,
            Call::Changed(keys) => {
                let keys: Vec<JobKey> = keys.into_iter().collect();
                let summary = sweep::sweep_jobs(self.ports, &keys, now).await?;
                tracing::info!(
                    changed = keys.len(),
                    jobs = summary.jobs,
                    bad_jobs = summary.bad_jobs,
                    "edited jobs indexed"
                );
                Ok(())
            }
        }
    }

    async fn tick(&self, now: Timestamp, stops_at: Instant) -> services::Result<()> {
        let ports = self.ports;
        let left = stops_at.saturating_duration_since(Instant::now());
        // With a short timeout, half of it is for the other duties.
        let fires_until = Instant::now() + FIRE_FOR.min(left.saturating_sub(DUTIES_RESERVE).max(left / 2));
        self.retries.set_deadline(Some(fires_until));
        // Firing comes first, so that nothing delays it; alerts come last, because the other duties raise some.
        let fired = self.fire(now, fires_until).await;
        self.retries.set_deadline(Some(stops_at));
        let mut duties = vec![("scheduler", fired)];
        match overdue::list_open_runs(ports).await {
            Ok(open) => duties.extend([
                ("release", release::release_due(ports, &open, now).await.map(drop)),
                ("overdue", overdue::tick(ports, &open, now).await.map(drop)),
                ("liveness", liveness::tick(ports, &open, now).await.map(drop)),
            ]),
            Err(error) => duties.push(("release, overdue and liveness", Err(error))),
        }
        duties.push(("sweep", sweep::tick(ports, now).await.map(drop)));
        duties.push(("alerts", send_alerts(ports, self.notifier, self.worker, MESSAGES_MAX, now).await));
        let mut first = Ok(());
        for (duty, outcome) in duties {
            if let Err(error) = outcome {
                tracing::error!(duty, %error, "duty failed; the next tick repeats it");
                first = first.and(Err(error));
            }
        }
        first
    }

    async fn fire(&self, now: Timestamp, until: Instant) -> services::Result<()> {
        let has_time = || Instant::now() < until;
        for _ in 0..CALLS_MAX {
            let summary = scheduler::tick_while(self.ports, now, &has_time).await?;
            tracing::info!(
                started = summary.started,
                held = summary.held,
                skipped = summary.skipped,
                missed = summary.missed,
                resent = summary.resent,
                bad_jobs = summary.bad_jobs,
                failed = summary.failed,
                "tick"
            );
            if !summary.more || !has_time() {
                break;
            }
        }
        Ok(())
    }
}

/// Sends pending alerts, at most `messages_max` messages to each topic.
///
/// # Errors
/// Returns the port's error; the next tick retries.
pub async fn send_alerts(
    ports: &Ports,
    notifier: &dyn Notifier,
    worker: &str,
    messages_max: u32,
    now: Timestamp,
) -> services::Result<()> {
    // Channels are topics, which the notifier finds.
    let (channels, links) = ([], Links::default());
    let limits = BatchLimits::by_group(messages_max);
    let worker = alerts::AlertWorker { notifier, channels: &channels, links: &links, name: worker, limits };
    alerts::tick(ports, &worker, now).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Result<Call, String> {
        Call::decode(serde_json::from_str(text).expect("JSON"))
    }

    #[test]
    fn the_input_of_the_template_is_a_tick() {
        assert_eq!(decode(r#"{"duty":"tick"}"#), Ok(Call::Tick));
        for other in ["{}", "null", r#"{"duty":"prune"}"#, r#"{"Records":[{"eventSource":"aws:sqs","body":"x"}]}"#] {
            assert!(decode(other).is_err(), "{other}");
        }
    }
}
