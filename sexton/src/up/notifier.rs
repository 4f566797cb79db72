//! Sends alerts through the configured channels; without channels, writes them to Sexton's own log.

use async_trait::async_trait;
use channels::Channels;
use domain::alert::Alert;
use domain::alert::wording::{headline, reason};
use domain::ports::{Notifier, PortResult};
use keeper::crash;

/// Name of the channel that is used when none is configured: alerts are logged.
const LOG_CHANNEL: &str = "log";

pub(crate) struct ChannelNotifier {
    channels: Channels,
}

impl ChannelNotifier {
    pub(crate) fn new(channels: Channels) -> ChannelNotifier {
        ChannelNotifier { channels }
    }

    pub(crate) fn channel_names(&self) -> Vec<String> {
        let names: Vec<String> = self.channels.names().map(str::to_owned).collect();
        if names.is_empty() { vec![LOG_CHANNEL.to_owned()] } else { names }
    }
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
