//! Sends alerts: one queue and one task for each channel, so that a channel that hangs delays no other. What becomes
//! due within [`WINDOW`] is sent together. Transitions stay claimed in the store until each of their channels has
//! answered; a channel that has not answered at the end is left to the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::alert::Transition;
use domain::ports::Ports;
use jiff::Timestamp;
use services::Links;
use services::alert_batch::{BatchLimits, Delivery, send_batch};
use services::alerts::{self, AlertSummary, AlertWorker, ClaimedAlerts, channels_of};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::notifier::ChannelNotifier;

/// Alerts that become due within this time are sent together; none waits longer for others.
const WINDOW: Duration = Duration::from_secs(10);

/// How long the end waits for the channels. Chosen: less than service managers wait; the next start sends the rest.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Name of this worker in claims. Only one `up` at a time has the store.
const WORKER: &str = "up";

/// The queues of all channels. Clones share them.
#[derive(Clone)]
pub(super) struct AlertQueues(Arc<Shared>);

struct Shared {
    ports: Ports,
    notifier: Arc<ChannelNotifier>,
    channels: Vec<String>,
    links: Links,
    alerts: Mutex<Alerts>,
    /// Held while the store is claimed from or settled.
    claiming: tokio::sync::Mutex<()>,
    /// By channel: wakes its task.
    wakers: BTreeMap<String, Notify>,
    close: CancellationToken,
}

#[derive(Default)]
struct Alerts {
    /// The claimed transitions that are not settled, by id.
    open: BTreeMap<String, OpenAlert>,
    /// By channel: the ids of transitions to send.
    queues: BTreeMap<String, Vec<String>>,
    /// Results that are not stored yet.
    settled: Vec<Transition>,
}

struct OpenAlert {
    transition: Transition,
    /// Channels without an answer.
    awaited: BTreeSet<String>,
    deliveries: Vec<(String, Delivery)>,
}

impl AlertQueues {
    pub(super) fn new(ports: Ports, notifier: Arc<ChannelNotifier>, links: Links) -> AlertQueues {
        let channels = notifier.channel_names();
        let wakers = channels.iter().map(|channel| (channel.clone(), Notify::new())).collect();
        AlertQueues(Arc::new(Shared {
            ports,
            notifier,
            channels,
            links,
            alerts: Mutex::default(),
            claiming: tokio::sync::Mutex::default(),
            wakers,
            close: CancellationToken::new(),
        }))
    }

    /// Starts the task of each channel.
    pub(super) fn start(&self) -> Vec<JoinHandle<()>> {
        let run = |channel: &String| tokio::spawn(self.clone().run_channel(channel.clone()));
        self.0.channels.iter().map(run).collect()
    }

    /// Claims what is due and queues it for its channels; stores the results that are complete.
    ///
    /// # Errors
    /// Returns the error of the store; the next call retries.
    pub(super) async fn advance(&self, now: Timestamp) -> services::Result<()> {
        {
            let _turn = self.0.claiming.lock().await;
            let ClaimedAlerts { overtaken, due } = alerts::claim_due(&self.0.ports, WORKER, now).await?;
            let mut alerts = self.alerts();
            alerts.settled.extend(overtaken);
            for transition in due {
                alerts.add(transition, &self.0.channels, now);
            }
        }
        self.0.wakers.values().for_each(Notify::notify_one);
        self.store_results(now).await
    }

    /// Sends what is queued without waiting for more, until [`CLOSE_TIMEOUT`], and stores all results. Alerts that a
    /// channel has not accepted stay due.
    pub(super) async fn close(&self, tasks: Vec<JoinHandle<()>>) {
        self.0.close.cancel();
        let aborts: Vec<_> = tasks.iter().map(JoinHandle::abort_handle).collect();
        let all = async {
            for task in tasks {
                // A panic was logged where it happened.
                let _ended = task.await;
            }
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, all).await.is_err() {
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
            tracing::warn!("a channel did not answer; the next start sends its alerts");
        }
        let now = Timestamp::now();
        self.alerts().settle_all(&self.0.channels, now);
        if let Err(error) = self.store_results(now).await {
            tracing::warn!(%error, "storing the results of alerts failed; the next start sends them again");
        }
    }

    fn alerts(&self) -> MutexGuard<'_, Alerts> {
        self.0.alerts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run_channel(self, channel: String) {
        loop {
            let wait = self.alerts().wait_of(&channel, Timestamp::now());
            let is_last = tokio::select! {
                () = self.0.close.cancelled() => true,
                () = self.wake(&channel) => continue,
                () = sleep_or_never(wait) => false,
            };
            // Alerts that became due during the wait are sent in the same batch.
            if let Err(error) = self.advance(Timestamp::now()).await {
                tracing::warn!(%error, "cannot claim alerts; retrying");
            }
            self.send_queued(&channel).await;
            if let Err(error) = self.store_results(Timestamp::now()).await {
                tracing::warn!(%error, "cannot store the results of alerts; retrying");
            }
            if is_last {
                return;
            }
        }
    }

    async fn wake(&self, channel: &str) {
        match self.0.wakers.get(channel) {
            Some(waker) => waker.notified().await,
            None => std::future::pending().await,
        }
    }

    async fn send_queued(&self, channel: &str) {
        let batch = self.alerts().take_batch(channel);
        if batch.is_empty() {
            return;
        }
        let (queues, name, sent) = (self.clone(), channel.to_owned(), batch.clone());
        // A panic of a channel must not end its task.
        let sending = tokio::spawn(async move { queues.send(&name, &sent).await });
        let abort_on_drop = AbortOnDrop(sending.abort_handle());
        let deliveries = match sending.await {
            Ok(Ok(deliveries)) => deliveries,
            Ok(Err(error)) => {
                tracing::warn!(channel, %error, "cannot send alerts; retrying");
                batch.iter().map(|_| Delivery::Unsent).collect()
            }
            Err(error) => {
                tracing::error!(channel, %error, "internal error while sending alerts; retrying");
                batch.iter().map(|_| Delivery::Unsent).collect()
            }
        };
        drop(abort_on_drop);
        let now = Timestamp::now();
        let given_up = self.alerts().record(channel, &batch, deliveries, &self.0.channels, now);
        if given_up > 0 {
            tracing::error!(alerts = given_up, "alerts given up: not all channels accepted them");
        }
    }

    async fn send(&self, channel: &str, batch: &[Transition]) -> services::Result<Vec<Delivery>> {
        let Shared { ports, notifier, channels, links, .. } = &*self.0;
        let limits = BatchLimits::default();
        let worker = AlertWorker { notifier: notifier.as_ref(), channels, links, name: WORKER, limits };
        send_batch(ports, &worker, channel, &batch.iter().collect::<Vec<_>>(), Timestamp::now()).await
    }

    async fn store_results(&self, now: Timestamp) -> services::Result<()> {
        // No claim until the end: one between storing and forgetting a result would be ignored as open.
        let _turn = self.0.claiming.lock().await;
        let results = std::mem::take(&mut self.alerts().settled);
        if results.is_empty() {
            return Ok(());
        }
        let stored = alerts::store_results(&self.0.ports, WORKER, &results, now).await;
        let mut alerts = self.alerts();
        match &stored {
            Ok(()) => results.iter().for_each(|transition| drop(alerts.open.remove(&transition.id))),
            Err(_) => alerts.settled.extend(results),
        }
        stored
    }
}

impl Alerts {
    /// Queues a claimed transition. One that is open is only claimed for longer.
    fn add(&mut self, transition: Transition, channels: &[String], now: Timestamp) {
        if self.open.contains_key(&transition.id) {
            return;
        }
        let id = transition.id.clone();
        let awaited: BTreeSet<String> = channels_of(&transition, channels).into_iter().collect();
        for channel in &awaited {
            self.queues.entry(channel.clone()).or_default().push(id.clone());
        }
        self.open.insert(id.clone(), OpenAlert { transition, awaited, deliveries: Vec::new() });
        // Its channels have it, but that was not recorded as its result.
        self.settle_if_complete(&id, channels, now);
    }

    /// The time until the queue of the channel is sent; none while it is empty.
    fn wait_of(&self, channel: &str, now: Timestamp) -> Option<Duration> {
        let queue = self.queues.get(channel)?;
        let due = queue.iter().filter_map(|id| self.open.get(id)).map(|alert| alert.transition.not_before).min()?;
        let waited = Duration::try_from(now.duration_since(due)).unwrap_or_default();
        Some(WINDOW.saturating_sub(waited))
    }

    fn take_batch(&mut self, channel: &str) -> Vec<Transition> {
        let ids = self.queues.remove(channel).unwrap_or_default();
        ids.iter().filter_map(|id| self.open.get(id)).map(|alert| alert.transition.clone()).collect()
    }

    /// Records what the channel answered. Returns the number of alerts that were given up.
    fn record(
        &mut self,
        channel: &str,
        batch: &[Transition],
        deliveries: Vec<Delivery>,
        channels: &[String],
        now: Timestamp,
    ) -> u32 {
        let mut given_up = 0;
        for (transition, delivery) in batch.iter().zip(deliveries) {
            if let Some(alert) = self.open.get_mut(&transition.id) {
                alert.awaited.remove(channel);
                alert.deliveries.push((channel.to_owned(), delivery));
                given_up += self.settle_if_complete(&transition.id, channels, now);
            }
        }
        given_up
    }

    fn settle_if_complete(&mut self, id: &str, channels: &[String], now: Timestamp) -> u32 {
        let Some(alert) = self.open.get_mut(id).filter(|alert| alert.awaited.is_empty()) else { return 0 };
        let mut transition = alert.transition.clone();
        let mut summary = AlertSummary::default();
        let deliveries = std::mem::take(&mut alert.deliveries);
        alerts::record_deliveries(&mut transition, channels, deliveries, &mut summary, now);
        self.settled.push(transition);
        summary.given_up
    }

    /// Ends all open alerts: channels that have not answered get them after the next start.
    fn settle_all(&mut self, channels: &[String], now: Timestamp) {
        let settled: BTreeSet<String> = self.settled.iter().map(|transition| transition.id.clone()).collect();
        let open: Vec<String> = self.open.keys().filter(|id| !settled.contains(*id)).cloned().collect();
        for id in open {
            if let Some(alert) = self.open.get_mut(&id) {
                let unanswered = std::mem::take(&mut alert.awaited);
                alert.deliveries.extend(unanswered.into_iter().map(|channel| (channel, Delivery::Waits(now))));
            }
            self.settle_if_complete(&id, channels, now);
        }
    }
}

async fn sleep_or_never(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// Ends a task when its caller is aborted.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
