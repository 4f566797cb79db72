//! Sends alerts through the configured channels; without channels, writes them to Sexton's own log.

use async_trait::async_trait;
use channels::Channels;
use domain::alert::wording::{headline, reason};
use domain::alert::{Alert, AlertKind, Transition};
use domain::job::JobKey;
use domain::ports::{Notifier, PortResult};
use jiff::Timestamp;
use keeper::crash;
use services::Links;
use services::alert_message::build_alert;

/// Name of the channel that is used when none is configured: alerts are logged.
const LOG_CHANNEL: &str = "log";

pub(crate) struct ChannelNotifier {
    channels: Channels,
}

impl ChannelNotifier {
    pub(crate) fn new(channels: Channels) -> ChannelNotifier {
        ChannelNotifier { channels }
    }

    pub(crate) fn channels(&self) -> &Channels {
        &self.channels
    }

    pub(crate) fn channel_names(&self) -> Vec<String> {
        let names: Vec<String> = self.channels.names().map(str::to_owned).collect();
        if names.is_empty() { vec![LOG_CHANNEL.to_owned()] } else { names }
    }
}

/// Sends an alert about a system job through every channel, without a record in the store. Returns whether a channel
/// accepted it.
pub(crate) async fn send_without_store(
    notifier: &ChannelNotifier,
    key: &JobKey,
    id: &str,
    reason: &str,
    now: Timestamp,
) -> bool {
    let transition = Transition::new(id.to_owned(), AlertKind::Failed, key, reason, now);
    let alert = build_alert(&transition, None, &Links::default());
    let mut sent = false;
    for channel in notifier.channel_names() {
        match notifier.notify(&channel, &alert).await {
            Ok(()) => sent = true,
            Err(error) => tracing::error!(%error, channel, job = %key, "cannot send an alert"),
        }
    }
    sent
}

#[async_trait]
impl Notifier for ChannelNotifier {
    async fn notify(&self, channel: &str, alert: &Alert) -> PortResult<()> {
        if channel == LOG_CHANNEL && self.channels.names().next().is_none() {
            tracing::warn!(kind = alert.kind.name(), "alert: {}: {}", headline(alert), reason(alert));
            return Ok(());
        }
        crash::point("telling");
        let sent = self.channels.send(channel, alert).await;
        crash::point("alerted");
        sent
    }
}
