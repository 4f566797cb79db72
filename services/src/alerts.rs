//! Stored transitions become messages. Called in a loop, by any number of workers: each transition is claimed by one.
//!
//! More alerts than people read in a minute become one digest; nothing is ever sent faster than the limits below. A
//! channel that fails is tried again, later and later, and given up after [`TRIES_MAX`]; the store says so.

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

/// Alerts told one by one in a minute, over all workers; what is beyond becomes a digest. Ours: more than that nobody
/// reads. Amazon SNS suspends a mail subscription at ten messages a second.
pub const MESSAGES_PER_MINUTE_MAX: u32 = 10;

/// Digests in one minute; beyond, alerts wait for the next minute.
pub const DIGESTS_PER_MINUTE_MAX: u32 = 1;

/// Transitions claimed at once, hence alerts in one digest.
const CLAIM_MAX: usize = 500;

/// How long a claim lasts. A worker that dies meanwhile leaves its transitions to another.
const CLAIM_LEASE: Duration = Duration::from_secs(300);

/// Tries before a message is given up: over half a day with the waits below.
pub const TRIES_MAX: u32 = 16;

/// Tries to note what was sent. Ours: enough for a call that fails now and then; a store that is away will be away for
/// minutes, and people are then told again.
const STORE_TRIES_MAX: usize = 3;

/// Waits between tries: doubled from the first to the longest.
const BACKOFF_MIN: Duration = Duration::from_secs(15);
const BACKOFF_MAX: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertSummary {
    /// Messages sent, one a channel.
    pub sent: u32,
    /// Alerts that went into digests.
    pub digested: u32,
    /// Reminders that were no longer true.
    pub overtaken: u32,
    /// Alerts that wait: for the next minute, or for their channel.
    pub waiting: u32,
    pub given_up: u32,
}

/// Where alerts go.
pub struct AlertWorker<'s> {
    pub notifier: &'s dyn Notifier,
    /// All channels there are; an alert that names none goes to all.
    pub channels: &'s [String],
    pub links: &'s Links,
    /// Tells workers apart.
    pub name: &'s str,
}

/// Sends what is to be told.
///
/// # Errors
/// A port's. A channel's fault is no error here: it is stored with the alert.
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

/// Stores what became of the claimed transitions: `settled` ones, and those that were `due` with their next reminders. Doing
/// it again is harmless; what is not stored is sent again.
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

/// A bad definition is told once a day for as long as it is the same fault.
pub(crate) fn bad_job_transition(key: &JobKey, message: &str, now: Timestamp) -> Transition {
    // FNV-1a: the name of a transition must be the same in every build.
    let fault = message
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let day = now.as_second().div_euclid(86_400);
    let reason = format!("the job cannot fire: {message}");
    Transition::new(format!("bad_job:{key}:{fault:016x}:{day}"), AlertKind::BadJob, key, reason, now)
}

/// Asks of each reminder whether it is still true; moves the state of those that are. Returns those overtaken, and the
/// rest.
async fn check_reminders(
    ports: &Ports,
    claimed: Vec<Transition>,
    now: Timestamp,
) -> Result<(Vec<Transition>, Vec<Transition>)> {
    let (mut overtaken, mut due) = (Vec::new(), Vec::new());
    for mut transition in claimed {
        // One that was tried before has moved the state already.
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

/// Puts the next reminder of each job that people were told to be bad.
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

/// One digest a channel.
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

/// The channels that are still to be told.
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
        let message = format!("there is no channel {channel}; configured are: {}", worker.channels.join(", "));
        return Err((channel.to_owned(), PortError::Permanent(message)));
    }
    worker.notifier.notify(channel, alert).await.map_err(|error| (channel.to_owned(), error))
}

/// Marks a transition as told when all its channels have it (or never will), else for another try.
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
    tracing::error!(alert = transition.id, error = transition.last_error, "an alert could not be delivered");
}
