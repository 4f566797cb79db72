//! The task of one sink: read a little of every run in turn, encode, send, learn what arrived, commit cursors. After any
//! failure everything unconfirmed goes back to its feed; then nothing is read until the sink works again, so a dead sink
//! costs a timer and no memory. What people should know of all this is told in `delivery/health_events.rs`.

mod health_events;

#[cfg(test)]
mod model_tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use domain::line::Position;
use domain::run::RunId;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::SinkConfig;
use crate::encode::{BatchCounts, BatchWriter, Encoding};
use crate::engine::{AttemptKey, EngineShared, Environment, FeedHandle, locked};
use crate::error::{ErrorClass, SinkError, SinkResult};
use crate::feed::Next;
use crate::record::RecordId;
use crate::sink::Sink;

/// Cursors are stored at most so often: one sync each, not one a batch.
const COMMIT_INTERVAL: Duration = Duration::from_millis(250);
/// Every feed is looked at so often even when nobody woke it.
const RECHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Turns that are sent and not confirmed. More are not read: each costs some 80 bytes here.
const UNCONFIRMED_MAX: usize = 65_536;
/// The least wait between attempts, however small the jitter.
const BACKOFF_MIN: Duration = Duration::from_millis(10);

pub(crate) struct Delivery<S: Sink> {
    sink: S,
    config: Arc<SinkConfig>,
    environment: Environment,
    shared: Arc<EngineShared>,
    feeds: HashMap<u64, FeedState<S::Run>>,
    id_of_attempt: HashMap<AttemptKey, u64>,
    next_id: u64,
    /// Slots that may have something to read, in the order of their turns.
    ready: VecDeque<u64>,
    unconfirmed: VecDeque<Turn>,
    /// How many of them, from the first, the other side has taken already.
    accepted_turns: usize,
    /// What the batch being filled holds: slot and place of each record.
    sent_records: Vec<(u64, RecordId)>,
    /// Where in `sent_records` that batch begins.
    filled_from: usize,
    /// Slots whose confirmed position is not yet stored.
    dirty: BTreeSet<u64>,
    /// Batches sent on this connection.
    sent: u64,
    flushes: Vec<oneshot::Sender<()>>,
    committed_at: Instant,
    rechecked_at: Instant,
    loss_sent_at: Option<Instant>,
    failures: u32,
}

struct FeedState<R> {
    key: AttemptKey,
    feed: FeedHandle,
    run: R,
    wanted: bool,
    reading: Reading,
    /// Turns not yet confirmed.
    outstanding: usize,
    confirmed: Option<Position>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Stands in `ready`.
    Ready,
    Pending,
    Done,
}

/// What was read in one turn: confirmed when its batch is.
struct Turn {
    feed_id: u64,
    batch: u64,
    end: Position,
    counts: BatchCounts,
}

impl<S: Sink> Delivery<S> {
    pub fn new(sink: S, config: Arc<SinkConfig>, environment: Environment, shared: Arc<EngineShared>) -> Delivery<S> {
        Delivery {
            sink,
            config,
            environment,
            shared,
            feeds: HashMap::new(),
            id_of_attempt: HashMap::new(),
            next_id: 0,
            ready: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            accepted_turns: 0,
            sent_records: Vec::new(),
            filled_from: 0,
            dirty: BTreeSet::new(),
            sent: 0,
            flushes: Vec::new(),
            committed_at: Instant::now(),
            rechecked_at: Instant::now(),
            loss_sent_at: None,
            failures: 0,
        }
    }

    pub async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                let error = self.deliver().await;
                self.rewind_unconfirmed().await;
                self.note_failure(&error);
                self.back_off(error.class).await;
            }
        })
        .await;
        // What the other side is known to have need not be sent again.
        if self.take_confirmed().is_ok()
            && let Err(error) = self.commit_cursors().await
        {
            tracing::warn!(sink = %self.config.name, %error, "cursors could not be stored at the end");
        }
        locked(&self.shared.health).stopped = true;
    }

    /// Delivers until something fails.
    async fn deliver(&mut self) -> SinkError {
        loop {
            if let Err(error) = self.step().await {
                return error;
            }
        }
    }

    async fn step(&mut self) -> SinkResult<()> {
        self.apply_inbox();
        if !self.ready.is_empty() && self.unconfirmed.len() < UNCONFIRMED_MAX {
            if !self.sink.is_connected() {
                self.sink.connect().await?;
                self.sent = 0;
            }
            self.fill_batch().await;
            if self.sink.filled_bytes() > 0 {
                let refused = self.sink.send().await?;
                self.sent += 1;
                self.note_refused(&refused);
            }
            self.clear_sent();
        }
        self.take_confirmed()?;
        if self.committed_at.elapsed() >= COMMIT_INTERVAL {
            self.commit_cursors().await?;
        }
        if !self.ready.is_empty() && self.unconfirmed.len() < UNCONFIRMED_MAX {
            // Others on this thread have their turn, too: reading and sending may never have to wait.
            tokio::task::yield_now().await;
            return Ok(());
        }
        if !self.flushes.is_empty() && self.ready.is_empty() {
            return self.finish_flush().await;
        }
        self.wait_for_work().await
    }

    async fn finish_flush(&mut self) -> SinkResult<()> {
        if !self.unconfirmed.is_empty() {
            self.sink.drain().await?;
            let refused = self.sink.refused();
            self.note_refused(&refused);
            self.take_confirmed()?;
            self.sink.disconnect();
            self.clear_sent();
            self.sent = 0;
        }
        self.commit_cursors().await?;
        // A cursor that could not be stored is not flushed; it is tried again.
        if self.dirty.is_empty() {
            for done in self.flushes.drain(..) {
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
            }
            return Ok(());
        }
        self.wait_for_work().await
    }

    /// Waits for something to do.
    async fn wait_for_work(&mut self) -> SinkResult<()> {
        let waiting = !self.unconfirmed.is_empty() || !self.dirty.is_empty();
        let tick = if waiting { COMMIT_INTERVAL } else { RECHECK_INTERVAL };
        tokio::select! {
            () = self.shared.notify.notified() => Ok(()),
            () = sleep(tick) => Ok(()),
            error = self.sink.wait_closed() => {
                if self.unconfirmed.is_empty() {
                    // An idle connection may end: nothing is at stake, the next line makes another.
                    self.sink.disconnect();
                    self.sent = 0;
                    return Ok(());
                }
                Err(error)
            }
        }
    }

    fn apply_inbox(&mut self) {
        let inbox = std::mem::take(&mut *locked(&self.shared.inbox));
        for (key, feed) in inbox.added {
            self.add_feed(key, feed);
        }
        for run_id in &inbox.woken {
            self.wake_run(run_id);
        }
        for key in inbox.removed {
            if let Some(id) = self.id_of_attempt.remove(&key) {
                self.remove_feed(id);
            }
        }
        self.flushes.extend(inbox.flushes);
        self.flushes.retain(|flush| !flush.is_closed());
        if self.rechecked_at.elapsed() >= RECHECK_INTERVAL {
            self.rechecked_at = Instant::now();
            for (id, state) in &mut self.feeds {
                mark_ready(*id, state, &mut self.ready);
            }
        }
    }

    fn add_feed(&mut self, key: AttemptKey, feed: FeedHandle) {
        let header = locked(&feed).feed.header().clone();
        let state = FeedState {
            key: key.clone(),
            feed,
            run: self.sink.open(&header),
            wanted: self.config.when.wants_job(&header.group, &header.job),
            reading: Reading::Ready,
            outstanding: 0,
            confirmed: None,
        };
        let id = self.next_id;
        self.next_id += 1;
        self.feeds.insert(id, state);
        if let Some(replaced) = self.id_of_attempt.insert(key, id) {
            self.remove_feed(replaced);
        }
        self.ready.push_back(id);
    }

    fn remove_feed(&mut self, id: u64) {
        self.feeds.remove(&id);
        self.dirty.remove(&id);
        self.ready.retain(|ready| *ready != id);
    }

    fn wake_run(&mut self, run_id: &RunId) {
        let attempts = (run_id.clone(), 0)..=(run_id.clone(), u32::MAX);
        let ids: Vec<u64> = locked(&self.shared.feeds)
            .range(attempts)
            .filter_map(|(key, _)| self.id_of_attempt.get(key).copied())
            .collect();
        for id in ids {
            if let Some(state) = self.feeds.get_mut(&id) {
                mark_ready(id, state, &mut self.ready);
            }
        }
    }

    /// Fills the batch: a turn for each run that has something, until the batch is full or nothing is left, and waits for
    /// more when `batch.timeout` says so.
    async fn fill_batch(&mut self) {
        let deadline = Instant::now() + self.config.batch.timeout;
        let first_turn = self.unconfirmed.len();
        let mut events = 0;
        loop {
            while let Some(id) = self.ready.pop_front() {
                events += self.read_turn(id);
                if self.sink.filled_bytes() >= self.config.batch.max_bytes || events >= self.config.batch.max_events {
                    return;
                }
            }
            let wait = self.sink.filled_bytes() > 0 && self.flushes.is_empty() && Instant::now() < deadline;
            if !wait {
                break;
            }
            tokio::select! {
                () = self.shared.notify.notified() => self.apply_inbox(),
                () = sleep_until(deadline) => {}
            }
        }
        if self.sink.filled_bytes() == 0 {
            // Nothing of these turns is to be sent: they are through when what was sent before is.
            self.unconfirmed.range_mut(first_turn..).for_each(|turn| turn.batch = self.sent);
        }
    }

    /// After a batch: a sink may hold back of that one, never of one before.
    fn clear_sent(&mut self) {
        if self.sink.filled_bytes() == 0 {
            self.sent_records.clear();
        } else {
            self.sent_records.drain(..self.filled_from);
        }
        self.filled_from = self.sent_records.len();
    }

    /// Reads and encodes one turn of a run; how many events that made.
    fn read_turn(&mut self, id: u64) -> usize {
        let Some(state) = self.feeds.get_mut(&id) else { return 0 };
        let read = locked(&state.feed).feed.read(self.sink.read_bytes_max());
        match read {
            Ok(Next::Item { item, end }) => {
                let now = (self.environment.now)();
                let encoding = Encoding::new(&self.config, now, state.wanted);
                let writer = BatchWriter { sink: &mut self.sink, feed_id: id, sent_records: &mut self.sent_records };
                let counts = encoding.encode_item(writer, &state.run, &item);
                state.outstanding += 1;
                self.ready.push_back(id);
                let events = counts.events;
                self.unconfirmed.push_back(Turn { feed_id: id, batch: self.sent + 1, end, counts });
                events
            }
            Ok(Next::Pending) => {
                state.reading = Reading::Pending;
                0
            }
            Ok(Next::Done) => {
                state.reading = Reading::Done;
                self.close_if_done(id);
                0
            }
            Err(error) => {
                state.reading = Reading::Pending;
                let message = format!("cannot read the spool of run {}: {error}", state.key.0);
                tracing::error!(sink = %self.config.name, run_id = %state.key.0, %error, "cannot read a spool");
                let now = (self.environment.now)();
                locked(&self.shared.health).note_error(&SinkError::retry(message), now);
                0
            }
        }
    }

    /// Takes out of `unconfirmed` what the sink has.
    fn take_confirmed(&mut self) -> SinkResult<()> {
        if self.unconfirmed.is_empty() {
            return Ok(());
        }
        let confirmed = self.sink.confirmed_batches()?;
        let arrived = self.sink.accepted_batches().max(confirmed);
        while let Some(turn) = self.unconfirmed.get(self.accepted_turns)
            && turn.batch <= arrived
        {
            if let Some(state) = self.feeds.get(&turn.feed_id) {
                locked(&state.feed).arrived = turn.end;
            }
            self.accepted_turns += 1;
        }
        let mut total = BatchCounts::default();
        let mut any = false;
        while self.unconfirmed.front().is_some_and(|turn| turn.batch <= confirmed) {
            let Some(turn) = self.unconfirmed.pop_front() else { break };
            self.accepted_turns -= 1;
            any = true;
            total.add(&turn.counts);
            if let Some(state) = self.feeds.get_mut(&turn.feed_id) {
                state.outstanding -= 1;
                state.confirmed = Some(turn.end);
                self.dirty.insert(turn.feed_id);
            }
        }
        if any {
            self.note_delivered(&total);
        }
        Ok(())
    }

    /// Takes out of `unconfirmed` the runs that the sink has all of, though another one's records stand before them.
    fn confirm_complete_runs(&mut self) {
        let mut total = BatchCounts::default();
        for turn in std::mem::take(&mut self.unconfirmed) {
            match self.feeds.get_mut(&turn.feed_id) {
                Some(state) if self.sink.is_complete(&state.run) => {
                    total.add(&turn.counts);
                    state.outstanding -= 1;
                    state.confirmed = Some(turn.end);
                    self.dirty.insert(turn.feed_id);
                }
                _ => self.unconfirmed.push_back(turn),
            }
        }
        self.accepted_turns = 0;
        self.count_delivered(&total);
    }

    /// Stores the confirmed positions.
    async fn commit_cursors(&mut self) -> SinkResult<()> {
        self.committed_at = Instant::now();
        if self.dirty.is_empty() {
            return Ok(());
        }
        self.sink.sync().await?;
        for id in std::mem::take(&mut self.dirty) {
            let Some(state) = self.feeds.get_mut(&id) else { continue };
            let Some(position) = state.confirmed else { continue };
            let stored = locked(&state.feed).feed.commit(position);
            match stored {
                Ok(()) => {
                    state.confirmed = None;
                    self.close_if_done(id);
                }
                Err(error) => {
                    self.dirty.insert(id);
                    let message = format!("cannot store the cursor of run {}: {error}", state.key.0);
                    tracing::error!(sink = %self.config.name, run_id = %state.key.0, %error, "cannot store a cursor");
                    let now = (self.environment.now)();
                    locked(&self.shared.health).note_error(&SinkError::retry(message), now);
                }
            }
        }
        Ok(())
    }

    /// Forgets a run that is delivered to its end.
    fn close_if_done(&mut self, id: u64) {
        let through = self
            .feeds
            .get(&id)
            .is_some_and(|state| state.reading == Reading::Done && state.outstanding == 0 && state.confirmed.is_none());
        if through && let Some(state) = self.feeds.remove(&id) {
            self.id_of_attempt.remove(&state.key);
            let mut feeds = locked(&self.shared.feeds);
            // A feed added anew under the same name is another one.
            if feeds.get(&state.key).is_some_and(|feed| Arc::ptr_eq(feed, &state.feed)) {
                feeds.remove(&state.key);
            }
        }
    }

    /// After a failure: stores what is confirmed, and lets every other feed begin again at its durable cursor.
    async fn rewind_unconfirmed(&mut self) {
        if let Err(error) = self.take_confirmed() {
            tracing::debug!(sink = %self.config.name, %error, "what was confirmed last cannot be known");
        }
        let refused = self.sink.refused();
        self.note_refused(&refused);
        self.confirm_complete_runs();
        if let Err(error) = self.commit_cursors().await {
            tracing::warn!(sink = %self.config.name, %error, "cursors could not be stored");
        }
        self.sink.disconnect();
        self.clear_sent();
        self.sent = 0;
        self.accepted_turns = 0;
        let touched: BTreeSet<u64> = self.unconfirmed.drain(..).map(|turn| turn.feed_id).collect();
        for id in touched.into_iter().chain(std::mem::take(&mut self.dirty)) {
            let Some(state) = self.feeds.get_mut(&id) else { continue };
            let mut tracked = locked(&state.feed);
            tracked.feed.rewind();
            tracked.arrived = Position::START;
            drop(tracked);
            state.outstanding = 0;
            state.confirmed = None;
            if state.reading != Reading::Ready {
                state.reading = Reading::Ready;
                self.ready.push_back(id);
            }
        }
    }

    /// Waits before the next attempt: exponential, full jitter; longest at once where a person must act. A flush may try
    /// once without waiting.
    async fn back_off(&mut self, class: ErrorClass) {
        let retry = self.config.retry;
        let most = match class {
            ErrorClass::Misconfigured => retry.max,
            _ => retry.initial.saturating_mul(1 << self.failures.min(20)).min(retry.max),
        };
        self.failures += 1;
        let share = ((self.environment.random)() >> 11) as f64 / (1u64 << 53) as f64;
        let until = Instant::now() + most.mul_f64(share).max(BACKOFF_MIN);
        let waiting_flushes = self.flushes.len();
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                () = self.shared.notify.notified() => {
                    self.apply_inbox();
                    if self.flushes.len() > waiting_flushes {
                        return;
                    }
                }
            }
        }
    }
}

fn mark_ready<R>(id: u64, state: &mut FeedState<R>, ready: &mut VecDeque<u64>) {
    if state.reading == Reading::Pending {
        state.reading = Reading::Ready;
        ready.push_back(id);
    }
}
