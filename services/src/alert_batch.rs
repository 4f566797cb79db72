//! Sends the alerts of one channel that became due together: few as single messages, many as one digest per group.
//! Called by [`crate::alerts::tick`], and by each channel's task of `up`. Never claims or stores an alert.

use std::collections::BTreeMap;

use domain::alert::Transition;
use domain::ports::{PortError, Ports};
use domain::run::{Run, RunKey};
use jiff::Timestamp;

use crate::alert_message;
use crate::alert_rates::{GroupLimits, plan_by_group};
use crate::alerts::AlertWorker;
use crate::settings::{self, ALERT_RATE, AlertRate};
use crate::{Result, error::CONFLICTS_MAX};

/// Limits of the messages of one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Alerts due together that are sent as single messages; more become digests. Chosen: an operator reads five.
    pub singles_max: usize,
    /// Messages in one minute by all workers together; what exceeds them becomes a digest. Chosen: an operator cannot
    /// read more. Amazon SNS suspends a mail subscription at ten messages a second.
    pub messages_per_minute_max: u32,
    /// Digests in one minute beyond those messages. When they are used up, alerts wait for the next minute.
    pub digests_per_minute_max: u32,
    /// Whether the limits above are those of each group, because subscribers can choose groups. No message then has
    /// alerts of two groups.
    pub by_group: Option<GroupLimits>,
}

impl Default for BatchLimits {
    fn default() -> BatchLimits {
        BatchLimits { singles_max: 5, messages_per_minute_max: 10, digests_per_minute_max: 1, by_group: None }
    }
}

impl BatchLimits {
    /// Limits for channels whose subscribers choose groups, with at most this number of messages to a channel in one
    /// call.
    pub fn by_group(messages_per_call_max: u32) -> BatchLimits {
        let by_group = Some(GroupLimits { messages_per_call_max, ..GroupLimits::default() });
        BatchLimits { by_group, ..BatchLimits::default() }
    }
}

/// A message of a batch; alerts are numbered by their place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlannedMessage {
    /// One alert.
    Single(usize),
    /// Several alerts in one message.
    Digest(Vec<usize>),
}

impl PlannedMessage {
    /// One message for these alerts.
    pub(crate) fn of(indexes: Vec<usize>) -> PlannedMessage {
        match indexes.as_slice() {
            [index] => PlannedMessage::Single(*index),
            _ => PlannedMessage::Digest(indexes),
        }
    }

    fn members(&self) -> &[usize] {
        match self {
            PlannedMessage::Single(index) => std::slice::from_ref(index),
            PlannedMessage::Digest(indexes) => indexes,
        }
    }
}

/// Plans the messages of alerts that are due together, whose groups are `groups`: up to `singles_max` single ones, more
/// as one digest per group. The only alert of its group stays single.
pub fn plan_messages(groups: &[&str], singles_max: usize) -> Vec<PlannedMessage> {
    if groups.len() <= singles_max {
        return (0..groups.len()).map(PlannedMessage::Single).collect();
    }
    let mut by_group: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, group) in groups.iter().enumerate() {
        by_group.entry(group).or_default().push(index);
    }
    by_group.into_values().map(PlannedMessage::of).collect()
}

/// What the limit per minute allows.
enum Allowance {
    Planned,
    OneDigest,
    NextMinute(Timestamp),
}

/// How the sending of one alert to one channel went.
#[derive(Debug)]
pub enum Delivery {
    /// The channel accepted it as a message of its own.
    Sent,
    /// The channel accepted it in a digest.
    Digested,
    /// The limit per minute is used up until this instant.
    Waits(Timestamp),
    /// The channel did not accept it.
    Failed(PortError),
    /// It was not sent, because the channel had failed before it.
    Unsent,
}

/// Sends a batch to a channel. Returns the result of each alert, in the order of the batch. After an error that can
/// pass, the rest of the batch is not sent: a channel that hangs costs one timeout, not one for each alert.
///
/// # Errors
/// Returns the port's error; nothing was sent then.
pub async fn send_batch(
    ports: &Ports,
    worker: &AlertWorker<'_>,
    channel: &str,
    batch: &[&Transition],
    now: Timestamp,
) -> Result<Vec<Delivery>> {
    let names_bytes_max = worker.notifier.reason_bytes_max(channel);
    let plan = match &worker.limits.by_group {
        None => plan_for_channel(ports, &worker.limits, channel, batch, now).await?,
        Some(limits) => plan_by_group(ports, &worker.limits, limits, channel, batch, names_bytes_max, now).await?,
    };
    let BatchPlan { mut messages, mut deliveries } = plan;
    // An alert that failed before must not keep the others waiting again.
    messages.sort_by_key(|message| message.members().iter().map(|index| batch[*index].tries_of(channel)).max());
    let runs = load_runs(ports, batch, &messages).await?;
    for message in messages {
        let alert = match &message {
            PlannedMessage::Single(index) => {
                let run = run_key(batch[*index]).and_then(|run_key| runs.get(&run_key));
                alert_message::build_alert(batch[*index], run, worker.links)
            }
            PlannedMessage::Digest(indexes) => {
                let members: Vec<&Transition> = indexes.iter().map(|index| batch[*index]).collect();
                alert_message::build_digest(&members, worker.links, names_bytes_max)
            }
        };
        let sent = worker.notifier.notify(channel, &alert).await;
        let is_over = matches!(sent, Err(PortError::Retry(_)));
        for index in message.members() {
            deliveries[*index] = match (&sent, &message) {
                (Ok(()), PlannedMessage::Single(_)) => Delivery::Sent,
                (Ok(()), PlannedMessage::Digest(_)) => Delivery::Digested,
                (Err(PortError::Retry(why)), _) => Delivery::Failed(PortError::Retry(why.clone())),
                (Err(PortError::Permanent(why)), _) => Delivery::Failed(PortError::Permanent(why.clone())),
            };
        }
        if is_over {
            break;
        }
    }
    Ok(deliveries)
}

/// The messages of a batch, and the result of each alert as far as it is known: what is in no message waits.
pub(crate) struct BatchPlan {
    pub(crate) messages: Vec<PlannedMessage>,
    pub(crate) deliveries: Vec<Delivery>,
}

async fn plan_for_channel(
    ports: &Ports,
    limits: &BatchLimits,
    channel: &str,
    batch: &[&Transition],
    now: Timestamp,
) -> Result<BatchPlan> {
    let groups: Vec<&str> = batch.iter().map(|transition| transition.group.as_str()).collect();
    let mut messages = plan_messages(&groups, limits.singles_max);
    let mut deliveries: Vec<Delivery> = batch.iter().map(|_| Delivery::Unsent).collect();
    match take_allowance(ports, limits, channel, messages.len() as u32, now).await? {
        Allowance::Planned => {}
        Allowance::OneDigest => messages = vec![PlannedMessage::Digest((0..batch.len()).collect())],
        Allowance::NextMinute(minute) => {
            messages.clear();
            deliveries.fill_with(|| Delivery::Waits(minute));
        }
    }
    Ok(BatchPlan { messages, deliveries })
}

/// Takes from this minute's allowance of the channel, which all workers share.
async fn take_allowance(
    ports: &Ports,
    limits: &BatchLimits,
    channel: &str,
    wanted: u32,
    now: Timestamp,
) -> Result<Allowance> {
    let (minute, next) = minute_of(now);
    for _ in 0..CONFLICTS_MAX {
        let mut rate = settings::read::<AlertRate>(ports, format!("{ALERT_RATE}:{channel}")).await?;
        if rate.value.minute != minute {
            rate.value = AlertRate { minute, ..AlertRate::default() };
        }
        let allowance = if rate.value.messages + wanted <= limits.messages_per_minute_max {
            rate.value.messages += wanted;
            Allowance::Planned
        } else if rate.value.digests < limits.digests_per_minute_max {
            rate.value.digests += 1;
            Allowance::OneDigest
        } else {
            return Ok(Allowance::NextMinute(next));
        };
        if rate.write(ports).await? {
            return Ok(allowance);
        }
    }
    Ok(Allowance::NextMinute(next))
}

/// The number of the minute, and the instant at which the next one begins.
pub(crate) fn minute_of(now: Timestamp) -> (i64, Timestamp) {
    let minute = now.as_second().div_euclid(60);
    (minute, Timestamp::from_second((minute + 1) * 60).unwrap_or(Timestamp::MAX))
}

fn run_key(transition: &Transition) -> Option<RunKey> {
    Some(RunKey::new(&transition.group, transition.run_id.clone()?))
}

/// The runs of the single messages.
async fn load_runs(ports: &Ports, batch: &[&Transition], messages: &[PlannedMessage]) -> Result<BTreeMap<RunKey, Run>> {
    let key_of = |message: &PlannedMessage| match message {
        PlannedMessage::Single(index) => run_key(batch[*index]),
        PlannedMessage::Digest(_) => None,
    };
    let run_keys: Vec<RunKey> = messages.iter().filter_map(key_of).collect();
    if run_keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    let found = ports.runs.get(&run_keys).await?;
    Ok(found.into_iter().map(|stored| (stored.record.run_key(), stored.record)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_alerts_are_single_and_more_are_one_digest_for_each_group() {
        use PlannedMessage::{Digest, Single};
        assert_eq!(plan_messages(&[], 5), []);
        assert_eq!(plan_messages(&["a", "b", "a"], 5), [Single(0), Single(1), Single(2)]);
        assert_eq!(plan_messages(&["a"; 5], 5).len(), 5);
        assert_eq!(plan_messages(&["a"; 6], 5), [Digest((0..6).collect())]);
        let groups = ["b", "a", "b", "c", "a", "a"];
        assert_eq!(plan_messages(&groups, 5), [Digest(vec![1, 4, 5]), Digest(vec![0, 2]), Single(3)]);
        assert_eq!(plan_messages(&["a", "b"], 0), [Single(0), Single(1)]);
    }
}
