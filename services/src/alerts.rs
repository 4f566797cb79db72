//! Sends stored transitions as alerts. Any number of workers can call [`tick`] in a loop, or, as `up` does, claim, send
//! to each channel and store by themselves. One worker claims each transition.
//!
//! [`alert_batch`](crate::alert_batch) decides which alerts share a message. A failed alert is retried with a growing
//! delay and given up after [`TRIES_MAX`] sends; the store keeps its last error.

use std::time::Duration;

use domain::alert::{AlertKind, DeliveryState, Occurrence, Transition, decide};
use domain::job::JobKey;
use domain::ports::{AlertStep, Notifier, PortError, Ports, StateChange};
use jiff::Timestamp;

use crate::alert_batch::{BatchLimits, Delivery, send_batch};
use crate::alert_message::Links;
use crate::new_runs::saturating_add;
use crate::run_end::load_jobs;
use crate::{Error, Result, error::CONFLICTS_MAX};

/// Transitions claimed in one call of the store. Chosen, not measured.
const CLAIM_MAX: usize = 500;

/// Transitions claimed in one call of [`claim_due`]. Chosen: bounds the memory; the next call claims the others.
const CLAIMED_MAX: usize = 20_000;

/// Lease of a claim. When a worker dies, another one claims its transitions after this time. Chosen, not measured.
const CLAIM_LEASE: Duration = Duration::from_secs(300);

/// Sends of one alert before it is given up: over half a day with the backoff below.
pub const TRIES_MAX: u32 = 16;

/// Calls that try to store the results. Chosen: enough for a single failed call. When the store is down for minutes,
/// the alerts are sent a second time.
const STORE_TRIES_MAX: usize = 3;

/// The backoff after a failed send: doubled from the first to the longest. Chosen, not measured.
const BACKOFF_MIN: Duration = Duration::from_secs(15);
const BACKOFF_MAX: Duration = Duration::from_secs(3600);

/// Counts of one [`tick`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertSummary {
    /// Messages sent: one for each alert and channel.
    pub sent: u32,
    /// Alerts sent in a digest.
    pub digested: u32,
    /// Reminders not sent, because the job is no longer bad.
    pub overtaken: u32,
    /// Alerts that wait for the next minute, or for the retry of a channel.
    pub waiting: u32,
    /// Alerts that at least one channel refused permanently, or failed to accept [`TRIES_MAX`] times.
    pub given_up: u32,
}

/// A sender of alerts.
pub struct AlertWorker<'s> {
    /// Sends one alert to one channel.
    pub notifier: &'s dyn Notifier,
    /// The names of all channels. An alert that names none is sent to all.
    pub channels: &'s [String],
    /// The links shown in each alert.
    pub links: &'s Links,
    /// Identifies the worker in the claims of transitions.
    pub name: &'s str,
    /// Limits of the messages of each channel.
    pub limits: BatchLimits,
}

/// Claims the transitions that are due and sends them, channel by channel.
///
/// # Errors
/// Returns the port's error; transitions whose result is not stored are sent again later. The error of a channel is
/// stored with its alert instead.
pub async fn tick(ports: &Ports, worker: &AlertWorker<'_>, now: Timestamp) -> Result<AlertSummary> {
    let mut summary = AlertSummary::default();
    let ClaimedAlerts { overtaken, mut due } = claim_due(ports, worker.name, now).await?;
    if overtaken.is_empty() && due.is_empty() {
        return Ok(summary);
    }
    summary.overtaken = overtaken.len() as u32;
    let mut failed: Option<Error> = None;
    let mut deliveries: Vec<Vec<(String, Delivery)>> = due.iter().map(|_| Vec::new()).collect();
    for channel in worker.channels {
        let wants = |index: &usize| channels_of(&due[*index], worker.channels).contains(channel);
        let indexes: Vec<usize> = (0..due.len()).filter(wants).collect();
        if indexes.is_empty() {
            continue;
        }
        let batch: Vec<&Transition> = indexes.iter().map(|index| &due[*index]).collect();
        let results = send_batch(ports, worker, channel, &batch, now).await.unwrap_or_else(|error| {
            failed.get_or_insert(error);
            batch.iter().map(|_| Delivery::Unsent).collect()
        });
        for (index, delivery) in indexes.into_iter().zip(results) {
            deliveries[index].push((channel.clone(), delivery));
        }
    }
    for (transition, deliveries) in due.iter_mut().zip(deliveries) {
        record_deliveries(transition, worker.channels, deliveries, &mut summary, now);
    }
    store_results(ports, worker.name, &[overtaken, due].concat(), now).await?;
    failed.map_or(Ok(summary), Err)
}

/// The transitions that a worker claimed.
#[derive(Debug, Default)]
pub struct ClaimedAlerts {
    /// Reminders that are no longer true; only their result is to be stored.
    pub overtaken: Vec<Transition>,
    /// To be sent.
    pub due: Vec<Transition>,
}

/// Claims the transitions that are due. A claim ends after five minutes; then any worker can claim it again.
///
/// # Errors
/// Returns the port's error; what was claimed is claimed again later.
pub async fn claim_due(ports: &Ports, worker: &str, now: Timestamp) -> Result<ClaimedAlerts> {
    let mut claimed = Vec::new();
    while claimed.len() < CLAIMED_MAX {
        let more = ports.alerts.claim(worker, now, saturating_add(now, CLAIM_LEASE), CLAIM_MAX).await?;
        let is_last = more.len() < CLAIM_MAX;
        claimed.extend(more);
        if is_last {
            break;
        }
    }
    check_reminders(ports, claimed, now).await
}

/// Stores the results of claimed transitions, and the next reminders of those that were sent. Repeating it is harmless.
/// A transition whose result is not stored is sent again.
///
/// # Errors
/// Returns the port's error, after some retries.
pub async fn store_results(ports: &Ports, worker: &str, results: &[Transition], now: Timestamp) -> Result<()> {
    let mut tries = 1;
    loop {
        let stored = async {
            raise_reminders(ports, results, now).await?;
            ports.alerts.settle(worker, results).await?;
            Ok(())
        };
        match stored.await {
            Err(Error::Port(PortError::Retry(_))) if tries < STORE_TRIES_MAX => tries += 1,
            stored => return stored,
        }
    }
}

/// The alert about an invalid job: at most one a day for the same fault.
pub(crate) fn bad_job_transition(key: &JobKey, message: &str, now: Timestamp) -> Transition {
    fault_transition("bad_job", key, message, format!("the job cannot fire: {message}"), now)
}

/// An alert about the definition of a job, of the kind `bad_job`: at most one a day for the same `id_prefix` and fault.
pub fn fault_transition(
    id_prefix: &str,
    key: &JobKey,
    fault: &str,
    reason: impl Into<String>,
    now: Timestamp,
) -> Transition {
    // FNV-1a, because the id of a transition must be the same in every build.
    let digest = fault
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let day = now.as_second().div_euclid(86_400);
    Transition::new(format!("{id_prefix}:{key}:{digest:016x}:{day}"), AlertKind::BadJob, key, reason, now)
}

/// Checks whether each reminder is still true, and advances the state of the job if it is. Returns the outdated ones,
/// and the rest.
async fn check_reminders(ports: &Ports, claimed: Vec<Transition>, now: Timestamp) -> Result<ClaimedAlerts> {
    let (mut overtaken, mut due) = (Vec::new(), Vec::new());
    for mut transition in claimed {
        // A reminder that was sent before has already advanced the state.
        if !transition.reminder || transition.tries > 0 {
            due.push(transition);
            continue;
        }
        match advance_reminder(ports, &transition, now).await? {
            Some((kind, count)) => {
                transition.kind = kind;
                transition.count = count;
                due.push(transition);
            }
            None => {
                transition.delivery = DeliveryState::Overtaken;
                overtaken.push(transition);
            }
        }
    }
    Ok(ClaimedAlerts { overtaken, due })
}

async fn advance_reminder(ports: &Ports, transition: &Transition, now: Timestamp) -> Result<Option<(AlertKind, u32)>> {
    let key = transition.key();
    let jobs = load_jobs(ports, [key.clone()]).await?;
    let Some(job) = jobs.get(&key) else { return Ok(None) };
    for _ in 0..CONFLICTS_MAX {
        let stored = ports.alerts.state(&key).await?;
        if stored.record.since != transition.since {
            return Ok(None);
        }
        let (state, kind) = decide(&job.alert, &stored.record, Occurrence::Clock, now);
        let Some(kind) = kind else { return Ok(None) };
        let count = state.streak;
        let change = StateChange { key: key.clone(), expected: stored.version, state };
        if ports.alerts.raise(&AlertStep { state: Some(change), transitions: Vec::new() }).await? {
            return Ok(Some((kind, count)));
        }
    }
    Ok(None)
}

/// Stores the next reminder of each job that was alerted as bad.
async fn raise_reminders(ports: &Ports, settled: &[Transition], now: Timestamp) -> Result<()> {
    let bad = |transition: &&Transition| {
        let of_a_run = transition.run_id.is_some() && transition.outcome.is_some_and(|outcome| outcome.is_failure());
        of_a_run && matches!(transition.delivery, DeliveryState::Sent | DeliveryState::Digested)
    };
    let alerted: Vec<&Transition> = settled.iter().filter(bad).collect();
    let jobs = load_jobs(ports, alerted.iter().map(|transition| transition.key())).await?;
    let mut transitions = Vec::new();
    for transition in alerted {
        let Some(remind) = jobs.get(&transition.key()).and_then(|job| job.alert.remind) else { continue };
        let due = saturating_add(now, remind);
        let since = transition.since.map_or(0, Timestamp::as_second);
        transitions.push(Transition {
            id: format!("{}:remind:{since}:{}", transition.key(), due.as_second()),
            reason: match transition.reminder {
                true => transition.reason.clone(),
                false => format!("still bad: {}", transition.reason),
            },
            at: now,
            reminder: true,
            not_before: due,
            delivery: DeliveryState::Pending,
            tries: 0,
            delivered_to: Vec::new(),
            last_error: None,
            ..transition.clone()
        });
    }
    if !transitions.is_empty() {
        ports.alerts.raise(&AlertStep { state: None, transitions }).await?;
    }
    Ok(())
}

/// The channels that do not have the alert yet. An alert none of whose channels exists goes to all: a wrong name must
/// not silence it.
pub fn channels_of(transition: &Transition, all: &[String]) -> Vec<String> {
    let is_wanted = |channel: &&String| transition.channels.contains(channel);
    let named: Vec<&String> = all.iter().filter(is_wanted).collect();
    let wanted = if named.is_empty() { all.iter().collect() } else { named };
    wanted.into_iter().filter(|channel| !transition.delivered_to.contains(channel)).cloned().collect()
}

/// The errors of the channels that the alert names and that do not exist.
fn unknown_channels(transition: &Transition, all: &[String]) -> Vec<String> {
    let unknown = transition.channels.iter().filter(|channel| !all.contains(channel));
    unknown.map(|channel| format!("{channel}: no channel {channel}; configured: {}", all.join(", "))).collect()
}

/// Marks a transition as sent if each of its channels has it or refused it permanently; otherwise schedules a retry.
/// `all`: the names of all channels. `deliveries`: the result of each channel that the alert was for.
pub fn record_deliveries(
    transition: &mut Transition,
    all: &[String],
    deliveries: Vec<(String, Delivery)>,
    summary: &mut AlertSummary,
    now: Timestamp,
) {
    let mut errors = unknown_channels(transition, all);
    let mut retry_at: Option<Timestamp> = None;
    let mut wait_until = |at: Timestamp| retry_at = Some(retry_at.map_or(at, |earlier| earlier.min(at)));
    let (mut is_failed, mut is_digested) = (false, false);
    let backoff = BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(transition.tries)).min(BACKOFF_MAX);
    for (channel, delivery) in deliveries {
        match delivery {
            Delivery::Sent | Delivery::Digested => {
                summary.sent += 1;
                is_digested |= matches!(delivery, Delivery::Digested);
                transition.delivered_to.push(channel);
            }
            Delivery::Waits(minute) => wait_until(minute),
            Delivery::Unsent => wait_until(saturating_add(now, BACKOFF_MIN)),
            Delivery::Failed(error) => {
                if matches!(error, PortError::Retry(_)) && transition.tries + 1 < TRIES_MAX {
                    wait_until(saturating_add(now, backoff));
                }
                is_failed = true;
                errors.push(format!("{channel}: {error}"));
            }
        }
    }
    summary.digested += u32::from(is_digested);
    transition.tries += u32::from(is_failed);
    if !errors.is_empty() {
        transition.last_error = Some(errors.join("; "));
    }
    if let Some(retry_at) = retry_at {
        summary.waiting += 1;
        transition.not_before = retry_at;
        return;
    }
    let has_errors = !errors.is_empty();
    transition.delivery = match (has_errors && transition.delivered_to.is_empty(), is_digested) {
        (true, _) => DeliveryState::GivenUp,
        (false, true) => DeliveryState::Digested,
        (false, false) => DeliveryState::Sent,
    };
    if has_errors {
        summary.given_up += 1;
        tracing::error!(
            alert = transition.id,
            error = transition.last_error,
            "alert given up: not all channels accepted it"
        );
    }
}
