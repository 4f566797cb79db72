//! Sends alerts: one queue and one task for each channel, so that a channel that hangs delays no other. What becomes
//! due within [`WINDOW`] is sent together, and a retry at its own time. What a channel answered is stored at once. An
//! alert stays claimed while a channel has yet to answer; what is left at the end is due at the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::alert::Transition;
use domain::ports::Ports;
use jiff::Timestamp;
use services::Links;
use services::alert_batch::{BatchLimits, Delivery, send_batch};
use services::alert_delivery::{ChannelHealth, awaited_channels, conclude, record_delivery};
use services::alerts::{self, AlertSummary, AlertWorker, ClaimedAlerts};
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

/// A retry that is later than this waits in the store. Chosen: the first two retries are exact; memory stays bounded.
const KEPT_MAX: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Alerts {
    /// The claimed transitions that are not settled, by id.
    open: BTreeMap<String, OpenAlert>,
    /// By channel: the transitions to send.
    queues: BTreeMap<String, Vec<Queued>>,
    /// Ids of open alerts with answers that are not stored.
    unstored: BTreeSet<String>,
    /// Outdated reminders whose result is not stored.
    overtaken: Vec<Transition>,
    health: ChannelHealth,
    /// Nothing more is sent: all claims end.
    is_ending: bool,
}

struct OpenAlert {
    transition: Transition,
    /// Channels to which it is being sent.
    in_flight: BTreeSet<String>,
    is_digested: bool,
}

/// An alert in the queue of a channel.
struct Queued {
    id: String,
    /// When it is sent at the latest.
    due: Timestamp,
    /// Sent before, so that it waits for no others.
    is_retry: bool,
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
            let is_new: Vec<Transition> =
                overtaken.into_iter().filter(|transition| !alerts.open.contains_key(&transition.id)).collect();
            alerts.overtaken.extend(is_new);
            for transition in due {
                alerts.add(transition, &self.0.channels);
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
        self.alerts().end_all();
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
            self.send_queued(&channel, is_last).await;
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

    async fn send_queued(&self, channel: &str, is_last: bool) {
        let batch = self.alerts().take_batch(channel, is_last, Timestamp::now());
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
        self.alerts().record(channel, &batch, &deliveries, Timestamp::now());
    }

    async fn send(&self, channel: &str, batch: &[Transition]) -> services::Result<Vec<Delivery>> {
        let Shared { ports, notifier, channels, links, .. } = &*self.0;
        let limits = BatchLimits::default();
        let worker = AlertWorker { notifier: notifier.as_ref(), channels, links, name: WORKER, limits };
        send_batch(ports, &worker, channel, &batch.iter().collect::<Vec<_>>(), Timestamp::now()).await
    }

    /// Stores all answers that are not stored. Alerts that are complete, and those that wait for a late retry, are no
    /// longer open then.
    async fn store_results(&self, now: Timestamp) -> services::Result<()> {
        // No claim until the end: one between storing and forgetting a result would be ignored as open.
        let _turn = self.0.claiming.lock().await;
        let Unstored { ids, overtaken, ended, kept } = self.alerts().take_unstored(&self.0.channels, now);
        let results = [overtaken.as_slice(), &ended].concat();
        let stored = async {
            if !results.is_empty() {
                alerts::store_results(&self.0.ports, WORKER, &results, now).await?;
            }
            alerts::store_progress(&self.0.ports, WORKER, &kept, now).await
        };
        let stored = stored.await;
        let mut alerts = self.alerts();
        match &stored {
            Ok(()) => ended.iter().for_each(|transition| alerts.forget(&transition.id)),
            Err(_) => {
                alerts.unstored.extend(ids);
                alerts.overtaken.extend(overtaken);
            }
        }
        stored
    }
}

/// What [`AlertQueues::store_results`] stores.
struct Unstored {
    ids: BTreeSet<String>,
    overtaken: Vec<Transition>,
    /// Their claims end.
    ended: Vec<Transition>,
    /// Their claims are kept.
    kept: Vec<Transition>,
}

impl Alerts {
    /// Queues a claimed transition. One that is open is only claimed for longer.
    fn add(&mut self, transition: Transition, channels: &[String]) {
        let id = transition.id.clone();
        if self.open.contains_key(&id) {
            return;
        }
        let awaited = awaited_channels(&transition, channels);
        if awaited.is_empty() {
            // Its channels have answered, but that was not recorded as its result.
            self.unstored.insert(id.clone());
        }
        for (channel, retry_at) in awaited {
            // Older builds count the tries of all channels together.
            let is_retry = retry_at.is_some() || transition.tries_of(&channel) > 0;
            let due = match retry_at {
                Some(retry_at) => retry_at,
                None if is_retry => transition.not_before,
                None => transition.not_before.saturating_add(WINDOW).unwrap_or(Timestamp::MAX),
            };
            self.queues.entry(channel).or_default().push(Queued { id: id.clone(), due, is_retry });
        }
        self.open.insert(id, OpenAlert { transition, in_flight: BTreeSet::new(), is_digested: false });
    }

    /// The time until the queue of the channel is sent; none while it is empty.
    fn wait_of(&self, channel: &str, now: Timestamp) -> Option<Duration> {
        let due = self.queues.get(channel)?.iter().map(|queued| queued.due).min()?;
        Some(Duration::try_from(due.duration_since(now)).unwrap_or_default())
    }

    /// The alerts to send to the channel now: retries whose time has come, and the new ones when the first of them has
    /// waited for [`WINDOW`], or at the end.
    fn take_batch(&mut self, channel: &str, is_last: bool, now: Timestamp) -> Vec<Transition> {
        let Some(queue) = self.queues.get_mut(channel) else { return Vec::new() };
        let is_window_over = is_last || queue.iter().any(|queued| !queued.is_retry && queued.due <= now);
        let is_ready = |queued: &mut Queued| queued.due <= now || (is_window_over && !queued.is_retry);
        let taken: Vec<Queued> = queue.extract_if(.., is_ready).collect();
        let mut batch = Vec::with_capacity(taken.len());
        for Queued { id, .. } in taken {
            if let Some(alert) = self.open.get_mut(&id) {
                alert.in_flight.insert(channel.to_owned());
                batch.push(alert.transition.clone());
            }
        }
        batch
    }

    /// Records what the channel answered, and queues what it did not accept for its next time.
    fn record(&mut self, channel: &str, batch: &[Transition], deliveries: &[Delivery], now: Timestamp) {
        self.health.observe(channel, deliveries);
        for (Transition { id, .. }, delivery) in batch.iter().zip(deliveries) {
            let Some(alert) = self.open.get_mut(id) else { continue };
            alert.in_flight.remove(channel);
            alert.is_digested |= matches!(delivery, Delivery::Digested);
            self.unstored.insert(id.clone());
            if let Some(due) = record_delivery(&mut alert.transition, channel, delivery, now) {
                let queued = Queued { id: id.clone(), due, is_retry: true };
                self.queues.entry(channel.to_owned()).or_default().push(queued);
            }
        }
    }

    fn take_unstored(&mut self, channels: &[String], now: Timestamp) -> Unstored {
        let ids = std::mem::take(&mut self.unstored);
        let (mut ended, mut kept) = (Vec::new(), Vec::new());
        for id in &ids {
            let Some(alert) = self.open.get(id) else { continue };
            let mut result = alert.transition.clone();
            let awaited = awaited_channels(&result, channels);
            let kept_until = now.saturating_add(KEPT_MAX).unwrap_or(Timestamp::MAX);
            let is_late = |retry_at: &Option<Timestamp>| retry_at.is_some_and(|at| at > kept_until);
            let can_wait = alert.in_flight.is_empty() && awaited.iter().all(|(_, retry_at)| is_late(retry_at));
            if can_wait || self.is_ending {
                conclude(&mut result, channels, alert.is_digested, &mut AlertSummary::default());
                ended.push(result);
            } else {
                kept.push(result);
            }
        }
        Unstored { ids, overtaken: std::mem::take(&mut self.overtaken), ended, kept }
    }

    /// Forgets an alert whose claim has ended.
    fn forget(&mut self, id: &str) {
        self.open.remove(id);
        self.queues.values_mut().for_each(|queue| queue.retain(|queued| queued.id != id));
    }

    /// Ends all open alerts: channels that have not answered get them after the next start.
    fn end_all(&mut self) {
        self.is_ending = true;
        self.unstored.extend(self.open.keys().cloned());
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
