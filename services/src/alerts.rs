//! Sends stored transitions as alerts. Called in a loop by any number of workers; one worker claims each transition.
//!
//! More alerts than the limits below allow become one digest. A failed alert is retried with a growing delay and given
//! up after [`TRIES_MAX`] sends; the store keeps its last error.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::alert::{Alert, AlertKind, DeliveryState, Occurrence, Transition, decide};
use domain::job::JobKey;
use domain::ports::{AlertStep, Notifier, PortError, Ports, StateChange};
use domain::run::{Run, RunKey};
use jiff::Timestamp;

use crate::alert_message::{self, Links};
use crate::new_runs::saturating_add;
use crate::run_end::load_jobs;
use crate::settings::{self, ALERT_RATE, AlertRate};
use crate::{Error, Result, error::CONFLICTS_MAX};

/// Single alerts sent in one minute by all workers together; the others become a digest. Chosen: an operator cannot
/// read more. Amazon SNS suspends a mail subscription at ten messages a second.
pub const MESSAGES_PER_MINUTE_MAX: u32 = 10;

/// Digests sent in one minute. When they are used up, alerts wait for the next minute.
pub const DIGESTS_PER_MINUTE_MAX: u32 = 1;

/// Transitions claimed in one call, so also the most alerts in a digest. Chosen, not measured.
const CLAIM_MAX: usize = 500;

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
}

/// Claims the transitions that are due and sends them.
///
/// # Errors
/// Returns the port's error; transitions whose result is not stored are sent again later. The error of a channel is
/// stored with its alert instead.
pub async fn tick(ports: &Ports, worker: &AlertWorker<'_>, now: Timestamp) -> Result<AlertSummary> {
    let mut summary = AlertSummary::default();
    let claimed = ports.alerts.claim(worker.name, now, saturating_add(now, CLAIM_LEASE), CLAIM_MAX).await?;
    if claimed.is_empty() {
        return Ok(summary);
    }
    let (settled, mut due) = check_reminders(ports, claimed, now).await?;
    summary.overtaken = settled.len() as u32;
    match take_allowance(ports, &due, now).await? {
        Allowance::Single => send_single(ports, worker, &mut due, &mut summary, now).await?,
        Allowance::Digest => send_digest(worker, &mut due, &mut summary, now).await,
        Allowance::NextMinute(minute) => {
            summary.waiting = due.len() as u32;
            due.iter_mut().for_each(|transition| transition.not_before = minute);
        }
    }
    let mut tries = 1;
    loop {
        match store_results(ports, worker, &settled, &due, now).await {
            Err(Error::Port(PortError::Retry(_))) if tries < STORE_TRIES_MAX => tries += 1,
            stored => return stored.map(|()| summary),
        }
    }
}

/// Stores the results of the claimed transitions, `settled` and `due`, and the next reminders of the `due` ones.
/// Repeating it is harmless. A transition whose result is not stored is sent again.
async fn store_results(
    ports: &Ports,
    worker: &AlertWorker<'_>,
    settled: &[Transition],
    due: &[Transition],
    now: Timestamp,
) -> Result<()> {
    raise_reminders(ports, due, now).await?;
    ports.alerts.settle(worker.name, &[settled, due].concat()).await?;
    Ok(())
}

/// The alert about an invalid job: at most one a day for the same fault.
pub(crate) fn bad_job_transition(key: &JobKey, message: &str, now: Timestamp) -> Transition {
    // FNV-1a, because the id of a transition must be the same in every build.
    let fault = message
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let day = now.as_second().div_euclid(86_400);
    let reason = format!("the job cannot fire: {message}");
    Transition::new(format!("bad_job:{key}:{fault:016x}:{day}"), AlertKind::BadJob, key, reason, now)
}

/// Checks whether each reminder is still true, and advances the state of the job if it is. Returns the outdated ones,
/// and the rest.
async fn check_reminders(
    ports: &Ports,
    claimed: Vec<Transition>,
    now: Timestamp,
) -> Result<(Vec<Transition>, Vec<Transition>)> {
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
    Ok((overtaken, due))
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

enum Allowance {
    Single,
    Digest,
    NextMinute(Timestamp),
}

/// Takes from this minute's allowance, which all workers share.
async fn take_allowance(ports: &Ports, due: &[Transition], now: Timestamp) -> Result<Allowance> {
    let minute = now.as_second().div_euclid(60);
    let next = Timestamp::from_second((minute + 1) * 60).unwrap_or(Timestamp::MAX);
    for _ in 0..CONFLICTS_MAX {
        let mut rate = settings::read::<AlertRate>(ports, ALERT_RATE).await?;
        if rate.value.minute != minute {
            rate.value = AlertRate { minute, ..AlertRate::default() };
        }
        let wanted = due.len() as u32;
        let allowance = if rate.value.messages + wanted <= MESSAGES_PER_MINUTE_MAX {
            rate.value.messages += wanted;
            Allowance::Single
        } else if rate.value.digests < DIGESTS_PER_MINUTE_MAX {
            rate.value.digests += 1;
            Allowance::Digest
        } else {
            return Ok(Allowance::NextMinute(next));
        };
        if rate.write(ports).await? {
            return Ok(allowance);
        }
    }
    Ok(Allowance::NextMinute(next))
}

async fn send_single(
    ports: &Ports,
    worker: &AlertWorker<'_>,
    due: &mut [Transition],
    summary: &mut AlertSummary,
    now: Timestamp,
) -> Result<()> {
    let run_of = |transition: &Transition| Some(RunKey::new(&transition.group, transition.run_id.clone()?));
    let run_keys: Vec<RunKey> = due.iter().filter_map(run_of).collect();
    let runs: BTreeMap<RunKey, Run> = match run_keys.is_empty() {
        true => BTreeMap::new(),
        false => {
            let found = ports.runs.get(&run_keys).await?;
            found.into_iter().map(|stored| (stored.record.run_key(), stored.record)).collect()
        }
    };
    for transition in due {
        let run = run_of(transition).and_then(|run_key| runs.get(&run_key));
        let alert = alert_message::build_alert(transition, run, worker.links);
        let mut errors = Vec::new();
        for channel in channels_of(transition, worker.channels) {
            match notify(worker, &channel, &alert).await {
                Ok(()) => {
                    summary.sent += 1;
                    transition.delivered_to.push(channel);
                }
                Err(error) => errors.push(error),
            }
        }
        record_result(transition, DeliveryState::Sent, errors, summary, now);
    }
    Ok(())
}

/// Sends one digest to each channel.
async fn send_digest(worker: &AlertWorker<'_>, due: &mut [Transition], summary: &mut AlertSummary, now: Timestamp) {
    let wanted: Vec<Vec<String>> = due.iter().map(|transition| channels_of(transition, worker.channels)).collect();
    let channels: BTreeSet<String> = wanted.iter().flatten().cloned().collect();
    let mut errors: Vec<Vec<(String, PortError)>> = due.iter().map(|_| Vec::new()).collect();
    for channel in channels {
        let indexes: Vec<usize> = (0..due.len()).filter(|index| wanted[*index].contains(&channel)).collect();
        let alert = {
            let members: Vec<&Transition> = indexes.iter().map(|index| &due[*index]).collect();
            alert_message::build_digest(&members, worker.links)
        };
        match notify(worker, &channel, &alert).await {
            Ok(()) => {
                summary.sent += 1;
                for index in indexes {
                    due[index].delivered_to.push(channel.clone());
                }
            }
            Err((_, error)) => {
                for index in indexes {
                    let same = match &error {
                        PortError::Retry(message) => PortError::Retry(message.clone()),
                        PortError::Permanent(message) => PortError::Permanent(message.clone()),
                    };
                    errors[index].push((channel.clone(), same));
                }
            }
        }
    }
    for (transition, errors) in due.iter_mut().zip(errors) {
        summary.digested += u32::from(errors.is_empty());
        record_result(transition, DeliveryState::Digested, errors, summary, now);
    }
}

/// The channels that do not have the alert yet.
fn channels_of(transition: &Transition, all: &[String]) -> Vec<String> {
    let wanted = if transition.channels.is_empty() { all } else { &transition.channels };
    wanted.iter().filter(|channel| !transition.delivered_to.contains(channel)).cloned().collect()
}

async fn notify(
    worker: &AlertWorker<'_>,
    channel: &str,
    alert: &Alert,
) -> std::result::Result<(), (String, PortError)> {
    if !worker.channels.iter().any(|known| known == channel) {
        let message = format!("no channel {channel}; configured: {}", worker.channels.join(", "));
        return Err((channel.to_owned(), PortError::Permanent(message)));
    }
    worker.notifier.notify(channel, alert).await.map_err(|error| (channel.to_owned(), error))
}

/// Marks a transition as sent if each of its channels has it or refused it permanently; otherwise schedules a retry.
fn record_result(
    transition: &mut Transition,
    delivery: DeliveryState,
    errors: Vec<(String, PortError)>,
    summary: &mut AlertSummary,
    now: Timestamp,
) {
    let message: Vec<String> = errors.iter().map(|(channel, error)| format!("{channel}: {error}")).collect();
    if !message.is_empty() {
        transition.last_error = Some(message.join("; "));
    }
    let again = errors.iter().any(|(_, error)| matches!(error, PortError::Retry(_)));
    if errors.is_empty() {
        transition.delivery = delivery;
        return;
    }
    transition.tries += 1;
    if again && transition.tries < TRIES_MAX {
        summary.waiting += 1;
        let factor = 2_u32.saturating_pow(transition.tries - 1);
        transition.not_before = saturating_add(now, BACKOFF_MIN.saturating_mul(factor).min(BACKOFF_MAX));
        return;
    }
    summary.given_up += 1;
    transition.delivery = if transition.delivered_to.is_empty() { DeliveryState::GivenUp } else { delivery };
    tracing::error!(
        alert = transition.id,
        error = transition.last_error,
        "alert given up: not all channels accepted it"
    );
}
