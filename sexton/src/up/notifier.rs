//! Sends alerts through the configured channels; without channels, writes them to Sexton's own log.

use std::sync::Arc;

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
use tokio::task::JoinSet;

/// Name of the channel that is used when none is configured: alerts are logged.
const LOG_CHANNEL: &str = "log";

pub(crate) struct ChannelNotifier {
    channels: Channels,
    /// Name of this machine.
    host: String,
}

impl ChannelNotifier {
    pub(crate) fn new(channels: Channels) -> ChannelNotifier {
        ChannelNotifier { channels, host: crate::machine::host_name() }
    }

    pub(crate) fn channels(&self) -> &Channels {
        &self.channels
    }

    pub(crate) fn channel_names(&self) -> Vec<String> {
        let names: Vec<String> = self.channels.names().map(str::to_owned).collect();
        if names.is_empty() { vec![LOG_CHANNEL.to_owned()] } else { names }
    }
}

/// An alert that is being sent to all channels at once, without a record in the store.
pub(crate) struct UnstoredAlert {
    /// A channel accepted it.
    pub(crate) is_accepted: bool,
    rest: JoinSet<bool>,
}

impl UnstoredAlert {
    /// Leaves the channels without an answer to their tasks: one that hangs delays no caller.
    pub(crate) fn continue_in_background(mut self) -> bool {
        self.rest.detach_all();
        self.is_accepted
    }

    /// Waits for all channels, because the process exits afterwards.
    pub(crate) async fn finish(self) -> bool {
        self.is_accepted | self.rest.join_all().await.contains(&true)
    }
}

/// Sends an alert about a system job through every channel, without a record in the store. Returns when a channel
/// accepted it, or all have failed.
pub(crate) async fn send_without_store(
    notifier: &Arc<ChannelNotifier>,
    key: &JobKey,
    id: &str,
    reason: &str,
    now: Timestamp,
) -> UnstoredAlert {
    let transition = Transition::new(id.to_owned(), AlertKind::Failed, key, reason, now);
    let alert = Arc::new(build_alert(&transition, None, &Links::default()));
    let mut rest = JoinSet::new();
    for channel in notifier.channel_names() {
        let (notifier, alert) = (notifier.clone(), alert.clone());
        rest.spawn(async move {
            let sent = notifier.notify(&channel, &alert).await;
            if let Err(error) = &sent {
                tracing::error!(%error, channel, job = %alert.job, "cannot send an alert");
            }
            sent.is_ok()
        });
    }
    while let Some(sent) = rest.join_next().await {
        if sent.is_ok_and(|accepted| accepted) {
            return UnstoredAlert { is_accepted: true, rest };
        }
    }
    UnstoredAlert { is_accepted: false, rest }
}

#[async_trait]
impl Notifier for ChannelNotifier {
    async fn notify(&self, channel: &str, alert: &Alert) -> PortResult<()> {
        if channel == LOG_CHANNEL && self.channels.names().next().is_none() {
            tracing::warn!(kind = alert.kind.name(), "alert: {}: {}", headline(alert), reason(alert));
            return Ok(());
        }
        crash::point("telling");
        // One that names no host is about this machine.
        let host = alert.host.clone().or_else(|| Some(self.host.clone()));
        let sent = self.channels.send(channel, &Alert { host, ..alert.clone() }).await;
        crash::point("alerted");
        sent
    }

    fn reason_bytes_max(&self, channel: &str) -> usize {
        self.channels.reason_bytes_max(channel)
    }
}
