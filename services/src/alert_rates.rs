//! Plans the messages of a channel whose subscribers choose groups, as on AWS: by group, within the limits of the group
//! and of the channel, which all workers share. Called by [`crate::alert_batch`].

use std::collections::BTreeMap;

use domain::alert::Transition;
use domain::ports::Ports;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::alert_batch::{BatchLimits, BatchPlan, Delivery, PlannedMessage, minute_of};
use crate::{Result, error::CONFLICTS_MAX, settings};

/// Limits of a channel over all groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLimits {
    /// Messages of the channel in one minute; beyond, each group gets its digests. Chosen: one a second, a fifth of
    /// what is published to a topic of SNS.
    pub channel_messages_per_minute_max: u32,
    /// What becomes due within this number of seconds after a message of its group shares messages.
    pub window_seconds: i64,
    /// Messages to the channel in one call; the rest is due at the end of the window. Five a second are published, so
    /// that a process with a timeout has a limit below it.
    pub messages_per_call_max: u32,
}

impl Default for GroupLimits {
    fn default() -> GroupLimits {
        GroupLimits { channel_messages_per_minute_max: 60, window_seconds: 10, messages_per_call_max: 250 }
    }
}

/// `alert_rates:CHANNEL`: the messages of a channel in the current minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChannelRates {
    /// Minutes since 1970.
    pub(crate) minute: i64,
    pub(crate) messages: u32,
    /// Groups with messages in this minute or in an open window.
    pub(crate) groups: BTreeMap<String, GroupRate>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupRate {
    pub(crate) messages: u32,
    pub(crate) digests: u32,
    /// Second of the first message of the window.
    pub(crate) window: i64,
    /// Alerts sent in the window.
    pub(crate) in_window: usize,
}

pub(crate) const ALERT_RATES: &str = "alert_rates";

/// Plans the messages of a batch, and counts them.
///
/// # Errors
/// Returns the port's error; nothing was counted then.
pub(crate) async fn plan_by_group(
    ports: &Ports,
    limits: &BatchLimits,
    channel_limits: &GroupLimits,
    channel: &str,
    batch: &[&Transition],
    names_bytes_max: usize,
    now: Timestamp,
) -> Result<BatchPlan> {
    let mut groups: BTreeMap<&str, Vec<Vec<usize>>> = BTreeMap::new();
    for (index, transition) in batch.iter().enumerate() {
        groups.entry(transition.group.as_str()).or_default().push(vec![index]);
    }
    for parts in groups.values_mut() {
        *parts = split_digest(batch, parts.concat(), names_bytes_max);
    }
    for _ in 0..CONFLICTS_MAX {
        let mut rates = settings::read::<ChannelRates>(ports, format!("{ALERT_RATES}:{channel}")).await?;
        rates.value.advance(channel_limits, now);
        let plan = rates.value.take(limits, channel_limits, &groups, batch.len(), now);
        if plan.messages.is_empty() || rates.write(ports).await? {
            return Ok(plan);
        }
    }
    let (_, next) = minute_of(now);
    let deliveries = batch.iter().map(|_| Delivery::Waits(next)).collect();
    Ok(BatchPlan { messages: Vec::new(), deliveries })
}

/// Divides the alerts of a group, so that one message can name all its jobs.
fn split_digest(batch: &[&Transition], indexes: Vec<usize>, names_bytes_max: usize) -> Vec<Vec<usize>> {
    let room = names_bytes_max.saturating_sub(HEAD_BYTES);
    let (mut parts, mut bytes) = (vec![Vec::new()], 0);
    for index in indexes {
        let name_bytes = batch[index].group.len() + batch[index].job.len() + SEPARATOR_BYTES;
        if bytes + name_bytes > room && bytes > 0 {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += name_bytes;
        if let Some(part) = parts.last_mut() {
            part.push(index);
        }
    }
    parts
}

/// Bytes of a digest's text beside the names: its head and the count of each kind.
const HEAD_BYTES: usize = 2048;

/// The slash within the name of a job, and what separates it from the next.
const SEPARATOR_BYTES: usize = 3;

impl ChannelRates {
    /// Begins a new minute, and forgets what no longer counts.
    fn advance(&mut self, limits: &GroupLimits, now: Timestamp) {
        let (minute, _) = minute_of(now);
        if self.minute == minute {
            return;
        }
        (self.minute, self.messages) = (minute, 0);
        self.groups.retain(|_, group| group.window_is_open(limits, now));
        for group in self.groups.values_mut() {
            (group.messages, group.digests) = (0, 0);
        }
    }

    /// Decides about each group. `groups`: the alerts of each, divided into what one message can name.
    fn take(
        &mut self,
        limits: &BatchLimits,
        channel_limits: &GroupLimits,
        groups: &BTreeMap<&str, Vec<Vec<usize>>>,
        alerts: usize,
        now: Timestamp,
    ) -> BatchPlan {
        let (_, next_minute) = minute_of(now);
        let mut plan = BatchPlan { messages: Vec::new(), deliveries: Vec::new() };
        plan.deliveries.resize_with(alerts, || Delivery::Unsent);
        for (name, parts) in groups {
            let count = parts.iter().map(Vec::len).sum::<usize>();
            let mut group = self.groups.get(*name).cloned().unwrap_or_default();
            if !group.window_is_open(channel_limits, now) {
                (group.window, group.in_window) = (now.as_second(), 0);
            } else if group.in_window + count > limits.singles_max {
                let end = Timestamp::from_second(group.window + channel_limits.window_seconds);
                wait_until(&mut plan, parts.iter().flatten(), end.unwrap_or(next_minute));
                continue;
            }
            let messages: Vec<PlannedMessage> = match count <= limits.singles_max {
                true => parts.iter().flatten().map(|index| PlannedMessage::Single(*index)).collect(),
                false => parts.iter().cloned().map(PlannedMessage::of).collect(),
            };
            let wanted = messages.len() as u32;
            if plan.messages.len() as u32 + wanted > channel_limits.messages_per_call_max {
                let later = now.saturating_add(jiff::SignedDuration::from_secs(channel_limits.window_seconds));
                wait_until(&mut plan, parts.iter().flatten(), later.unwrap_or(next_minute));
                continue;
            }
            let is_within = self.messages + wanted <= channel_limits.channel_messages_per_minute_max
                && group.messages + wanted <= limits.messages_per_minute_max;
            if is_within {
                self.messages += wanted;
                group.messages += wanted;
                group.in_window += count;
                plan.messages.extend(messages);
            } else if group.digests < limits.digests_per_minute_max {
                group.digests += 1;
                group.in_window += count;
                let (first, rest) = parts.split_at(1);
                plan.messages.extend(first.iter().cloned().map(PlannedMessage::of));
                wait_until(&mut plan, rest.iter().flatten(), next_minute);
            } else {
                wait_until(&mut plan, parts.iter().flatten(), next_minute);
                continue;
            }
            self.groups.insert((*name).to_owned(), group);
        }
        plan
    }
}

fn wait_until<'p>(plan: &mut BatchPlan, indexes: impl Iterator<Item = &'p usize>, until: Timestamp) {
    for index in indexes {
        plan.deliveries[*index] = Delivery::Waits(until);
    }
}

impl GroupRate {
    fn window_is_open(&self, limits: &GroupLimits, now: Timestamp) -> bool {
        (self.window..self.window + limits.window_seconds).contains(&now.as_second())
    }
}
