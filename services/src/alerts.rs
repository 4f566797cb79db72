//! Sends stored transitions as alerts. Any number of workers can call [`tick`] in a loop, or, as `up` does, claim, send
//! to each channel and store by themselves. One worker claims each transition.
//!
//! [`alert_batch`](crate::alert_batch) decides which alerts share a message,
//! [`alert_delivery`](crate::alert_delivery) when a channel that failed is retried. The answer of each channel is
//! stored before the next one is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::alert::{AlertKind, DeliveryState, Occurrence, Status, Transition, decide};
use domain::job::JobKey;
use domain::ports::{AlertStep, Notifier, PortError, Ports, StateChange};
use jiff::Timestamp;

use crate::alert_batch::{BatchLimits, Delivery, send_batch};
use crate::alert_delivery::{BACKOFF_MIN, ChannelHealth, awaited_channels, conclude, record_delivery};
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

/// Calls that try to store the results. Chosen: enough for a single failed call. When the store is down for minutes,
/// the alerts are sent a second time.
const STORE_TRIES_MAX: usize = 3;

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
    /// Alerts that at least one channel refused permanently, or failed to accept
    /// [`TRIES_MAX`](crate::alert_delivery::TRIES_MAX) times.
    pub given_up: u32,
}

/// A sender of alerts.
pub struct AlertWorker<'s> {
    /// Sends one alert to one channel.
    pub notifier: &'s dyn Notifier,
    /// The names of all channels, for [`Notifier::route`].
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
    let routes = find_routes(worker, &due, &mut failed).await;
    let mut health = ChannelHealth::default();
    let mut digested = BTreeSet::new();
    let channels: BTreeSet<&String> = routes.iter().flatten().collect();
    let mut others = channels.clone();
    for channel in channels {
        others.remove(channel);
        let is_due = |index: &usize| is_due_for(&due[*index], channel, &routes[*index], now);
        let indexes: Vec<usize> = (0..due.len()).filter(is_due).collect();
        if indexes.is_empty() {
            continue;
        }
        let batch: Vec<&Transition> = indexes.iter().map(|index| &due[*index]).collect();
        let results = send_batch(ports, worker, channel, &batch, now).await.unwrap_or_else(|error| {
            failed.get_or_insert(error);
            batch.iter().map(|_| Delivery::Unsent).collect()
        });
        health.observe(channel, &results);
        for (index, delivery) in indexes.iter().zip(&results) {
            summary.sent += u32::from(matches!(delivery, Delivery::Sent | Delivery::Digested));
            if matches!(delivery, Delivery::Digested) {
                digested.insert(*index);
            }
            record_delivery(&mut due[*index], channel, delivery, now);
        }
        // This process can end before the next channel answers.
        let is_awaited =
            |index: &usize| others.iter().any(|other| is_due_for(&due[*index], other, &routes[*index], now));
        let unfinished: Vec<Transition> =
            indexes.into_iter().filter(is_awaited).map(|index| due[index].clone()).collect();
        if let Err(error) = store_progress(ports, worker.name, &unfinished, now).await {
            failed.get_or_insert(error);
        }
    }
    summary.digested = digested.len() as u32;
    for (index, transition) in due.iter_mut().enumerate() {
        match routes[index].as_slice() {
            [] => transition.not_before = saturating_add(now, BACKOFF_MIN),
            route => conclude(transition, route, digested.contains(&index), &mut summary),
        }
    }
    store_results(ports, worker.name, &[overtaken, due].concat(), now).await?;
    failed.map_or(Ok(summary), Err)
}

/// The channels of each alert; none where they cannot be found now.
async fn find_routes(worker: &AlertWorker<'_>, due: &[Transition], failed: &mut Option<Error>) -> Vec<Vec<String>> {
    let mut known: BTreeMap<(&str, &[String]), Vec<String>> = BTreeMap::new();
    for transition in due {
        let key = (transition.group.as_str(), transition.channels.as_slice());
        if known.contains_key(&key) {
            continue;
        }
        let route = worker.notifier.route(key.0, key.1, worker.channels).await.unwrap_or_else(|error| {
            tracing::warn!(group = key.0, %error, "cannot find the channels of an alert; retrying");
            failed.get_or_insert(error.into());
            Vec::new()
        });
        known.insert(key, route);
    }
    let route_of =
        |transition: &Transition| known[&(transition.group.as_str(), transition.channels.as_slice())].clone();
    due.iter().map(route_of).collect()
}

fn is_due_for(transition: &Transition, channel: &str, route: &[String], now: Timestamp) -> bool {
    let awaited = awaited_channels(transition, route);
    awaited.iter().any(|(name, retry_at)| name == channel && retry_at.is_none_or(|at| at <= now))
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
            ports.alerts.settle(worker, results, None).await?;
            Ok(())
        };
        match stored.await {
            Err(Error::Port(PortError::Retry(_))) if tries < STORE_TRIES_MAX => tries += 1,
            stored => return stored,
        }
    }
}

/// Stores what the channels of claimed transitions have answered so far, and extends the claims.
///
/// # Errors
/// Returns the port's error; the answers are stored with the results.
pub async fn store_progress(ports: &Ports, worker: &str, unfinished: &[Transition], now: Timestamp) -> Result<()> {
    if unfinished.is_empty() {
        return Ok(());
    }
    Ok(ports.alerts.settle(worker, unfinished, Some(saturating_add(now, CLAIM_LEASE))).await?)
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
        if !transition.reminder {
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
        // An earlier claim of this reminder has advanced the state, and ended before the reminder was sent everywhere.
        let is_advanced = stored.record.alerted_at.is_some_and(|at| at.as_second() >= reminder_due(transition));
        if is_advanced && stored.record.status == Status::Bad && !stored.record.flapping {
            return Ok(stored.record.kind.map(|kind| (kind, stored.record.streak)));
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

/// The second at which a reminder became due: the end of its id. `not_before` is also that of a retry.
fn reminder_due(transition: &Transition) -> i64 {
    let due = transition.id.rsplit(':').next().and_then(|due| due.parse().ok());
    due.unwrap_or_else(|| transition.not_before.as_second())
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
            progress: BTreeMap::new(),
            last_error: None,
            ..transition.clone()
        });
    }
    if !transitions.is_empty() {
        ports.alerts.raise(&AlertStep { state: None, transitions }).await?;
    }
    Ok(())
}
