//! Records what each channel answered to an alert, decides the time of its next send, and logs failures. Called by
//! [`crate::alerts::tick`], and by the channels' tasks of `up`. Never sends or stores anything.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::alert::channel_progress::ChannelProgress;
use domain::alert::{DeliveryState, Transition};
use domain::ports::PortError;
use jiff::Timestamp;

use crate::alert_batch::Delivery;
use crate::alerts::AlertSummary;
use crate::new_runs::saturating_add;

/// Sends of one alert to one channel before it is given up: over half a day with the backoff below.
pub const TRIES_MAX: u32 = 16;

/// The backoff after a failed send: doubled from the first to the longest. Chosen, not measured.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_secs(15);
const BACKOFF_MAX: Duration = Duration::from_secs(3600);

/// The channels that an alert is for and that have not answered finally, with the time of the next send where one has
/// failed before. `all`: the names of all channels. An alert none of whose channels exists goes to all: a wrong name
/// must not silence it.
pub fn awaited_channels(transition: &Transition, all: &[String]) -> Vec<(String, Option<Timestamp>)> {
    let is_wanted = |channel: &&String| transition.channels.contains(channel);
    let named: Vec<&String> = all.iter().filter(is_wanted).collect();
    let wanted = if named.is_empty() { all.iter().collect() } else { named };
    let awaited = wanted.into_iter().filter(|channel| !transition.is_settled_for(channel));
    awaited.map(|channel| (channel.clone(), transition.retry_at(channel))).collect()
}

/// Records the answer of one channel. Returns the time of the next send to it; `None` when its answer is final. Logs an
/// alert that the channel will never get.
pub fn record_delivery(
    transition: &mut Transition,
    channel: &str,
    delivery: &Delivery,
    now: Timestamp,
) -> Option<Timestamp> {
    let tries = transition.tries_of(channel);
    let mut progress = transition.progress.remove(channel).unwrap_or_default();
    progress.retry_at = match delivery {
        Delivery::Sent | Delivery::Digested => {
            progress.error = None;
            transition.delivered_to.push(channel.to_owned());
            None
        }
        Delivery::Waits(until) => Some(*until),
        Delivery::Unsent => Some(saturating_add(now, BACKOFF_MIN)),
        Delivery::Failed(error) => {
            progress.tries = tries + 1;
            progress.error = Some(error.to_string());
            let backoff = BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(tries)).min(BACKOFF_MAX);
            let is_final = matches!(error, PortError::Permanent(_)) || progress.tries >= TRIES_MAX;
            if is_final {
                tracing::error!(alert = transition.id, channel, tries = progress.tries, %error, "alert given up");
            }
            (!is_final).then(|| saturating_add(now, backoff))
        }
    };
    let retry_at = progress.retry_at;
    transition.tries = transition.tries.max(progress.tries);
    if progress != ChannelProgress::default() {
        transition.progress.insert(channel.to_owned(), progress);
    }
    retry_at
}

/// Marks a transition as sent or given up if each of its channels has answered finally; otherwise, it becomes due at
/// the earliest next send. `all`: the names of all channels.
pub fn conclude(transition: &mut Transition, all: &[String], is_digested: bool, summary: &mut AlertSummary) {
    let unknown = unknown_channels(transition, all);
    let failed = transition.progress.iter().filter_map(|(channel, progress)| {
        let error = progress.error.as_ref()?;
        Some(format!("{channel}: {error}"))
    });
    let errors: Vec<String> = unknown.into_iter().chain(failed).collect();
    let awaited = awaited_channels(transition, all);
    if !errors.is_empty() {
        transition.last_error = Some(errors.join("; "));
    }
    let next = awaited.iter().map(|(_, retry_at)| retry_at.unwrap_or(transition.not_before)).min();
    if let Some(next) = next {
        summary.waiting += 1;
        transition.not_before = next;
        return;
    }
    transition.delivery = match (transition.delivered_to.is_empty(), is_digested) {
        (true, _) => DeliveryState::GivenUp,
        (false, true) => DeliveryState::Digested,
        (false, false) => DeliveryState::Sent,
    };
    summary.given_up += u32::from(!errors.is_empty());
}

/// The errors of the channels that the alert names and that do not exist.
fn unknown_channels(transition: &Transition, all: &[String]) -> Vec<String> {
    let unknown = transition.channels.iter().filter(|channel| !all.contains(channel));
    unknown.map(|channel| format!("{channel}: no channel {channel}; configured: {}", all.join(", "))).collect()
}

/// The channels whose latest message failed. Logs the first failure of each, and its recovery.
#[derive(Debug, Default)]
pub struct ChannelHealth {
    failing: BTreeSet<String>,
}

impl ChannelHealth {
    /// Logs a change of the channel. `deliveries`: the results of one batch.
    pub fn observe(&mut self, channel: &str, deliveries: &[Delivery]) {
        for delivery in deliveries {
            match delivery {
                Delivery::Failed(error) => {
                    let is_first = self.failing.insert(channel.to_owned());
                    // A permanent error is logged with the alert that is given up.
                    if is_first && matches!(error, PortError::Retry(_)) {
                        tracing::warn!(channel, %error, "alert channel failed; retrying");
                    }
                }
                Delivery::Sent | Delivery::Digested => {
                    if self.failing.remove(channel) {
                        tracing::info!(channel, "alert channel works again");
                    }
                }
                Delivery::Waits(_) | Delivery::Unsent => {}
            }
        }
    }
}
