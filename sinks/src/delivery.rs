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
use crate::encode::{Encoding, Filling, Tally};
use crate::engine::{Environment, FeedHandle, Key, Shared, locked};
use crate::error::{Class, SinkError, SinkResult};
use crate::feed::Next;
use crate::record::Place;
use crate::sink::Sink;

/// Cursors are stored at most so often: one sync each, not one a batch.
const COMMIT_EVERY: Duration = Duration::from_millis(250);
/// Every feed is looked at so often even when nobody woke it.
const RECHECK: Duration = Duration::from_secs(5);
/// Turns that are sent and not confirmed. More are not read: each costs some 80 bytes here.
const UNCONFIRMED_MAX: usize = 65_536;
/// The least wait between attempts, however small the jitter.
const WAIT_MIN: Duration = Duration::from_millis(10);

pub(crate) struct Delivery<S: Sink> {
    sink: S,
    config: Arc<SinkConfig>,
    environment: Environment,
    shared: Arc<Shared>,
    slots: HashMap<u64, Slot<S::Run>>,
    slot_of: HashMap<Key, u64>,
    next_slot: u64,
    /// Slots that may have something to read, in the order of their turns.
    ready: VecDeque<u64>,
    unconfirmed: VecDeque<Turn>,
    /// How many of them, from the first, the other side has taken already.
    arrived: usize,
    /// What the batch being filled holds: slot and place of each record.
    places: Vec<(u64, Place)>,
    /// Where in `places` that batch begins.
    filled_from: usize,
    /// Slots whose confirmed position is not yet stored.
    dirty: BTreeSet<u64>,
    /// Batches sent on this connection.
    sent: u64,
    flushes: Vec<oneshot::Sender<()>>,
    committed_at: Instant,
    rechecked_at: Instant,
    loss_told_at: Option<Instant>,
    failures: u32,
}

struct Slot<R> {
    key: Key,
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
    slot: u64,
    batch: u64,
    end: Position,
    tally: Tally,
}

impl<S: Sink> Delivery<S> {
    pub fn new(sink: S, config: Arc<SinkConfig>, environment: Environment, shared: Arc<Shared>) -> Delivery<S> {
        Delivery {
            sink,
            config,
            environment,
            shared,
            slots: HashMap::new(),
            slot_of: HashMap::new(),
            next_slot: 0,
            ready: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            arrived: 0,
            places: Vec::new(),
            filled_from: 0,
            dirty: BTreeSet::new(),
            sent: 0,
            flushes: Vec::new(),
            committed_at: Instant::now(),
            rechecked_at: Instant::now(),
            loss_told_at: None,
            failures: 0,
        }
    }

    pub async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                let error = self.deliver().await;
                self.give_back().await;
                self.note_failure(&error);
                self.back_off(error.class).await;
            }
        })
        .await;
        // What the other side is known to have need not be sent again.
        if self.confirm().is_ok()
            && let Err(error) = self.commit().await
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
        self.take_inbox();
        if !self.ready.is_empty() && self.unconfirmed.len() < UNCONFIRMED_MAX {
            if !self.sink.is_connected() {
                self.sink.connect().await?;
                self.sent = 0;
            }
            self.fill().await;
            if self.sink.filled_bytes() > 0 {
                let refused = self.sink.send().await?;
                self.sent += 1;
                self.note_refused(&refused);
            }
            self.forget_places();
        }
        self.confirm()?;
        if self.committed_at.elapsed() >= COMMIT_EVERY {
            self.commit().await?;
        }
        if !self.ready.is_empty() && self.unconfirmed.len() < UNCONFIRMED_MAX {
            // Others on this thread have their turn, too: reading and sending may never have to wait.
            tokio::task::yield_now().await;
            return Ok(());
        }
        if !self.flushes.is_empty() && self.ready.is_empty() {
            return self.finish_flush().await;
        }
        self.idle().await
    }

    async fn finish_flush(&mut self) -> SinkResult<()> {
        if !self.unconfirmed.is_empty() {
            self.sink.drain().await?;
            let refused = self.sink.refused();
            self.note_refused(&refused);
            self.confirm()?;
            self.sink.disconnect();
            self.forget_places();
            self.sent = 0;
        }
        self.commit().await?;
        // A cursor that could not be stored is not flushed; it is tried again.
        if self.dirty.is_empty() {
            for done in self.flushes.drain(..) {
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
            }
            return Ok(());
        }
        self.idle().await
    }

    /// Waits for something to do.
    async fn idle(&mut self) -> SinkResult<()> {
        let waiting = !self.unconfirmed.is_empty() || !self.dirty.is_empty();
        let tick = if waiting { COMMIT_EVERY } else { RECHECK };
        tokio::select! {
            () = self.shared.notify.notified() => Ok(()),
            () = sleep(tick) => Ok(()),
            error = self.sink.broken() => {
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

    fn take_inbox(&mut self) {
        let inbox = std::mem::take(&mut *locked(&self.shared.inbox));
        for (key, feed) in inbox.added {
            self.add(key, feed);
        }
        for run_id in &inbox.woken {
            self.wake(run_id);
        }
        for key in inbox.removed {
            if let Some(slot) = self.slot_of.remove(&key) {
                self.forget(slot);
            }
        }
        self.flushes.extend(inbox.flushes);
        self.flushes.retain(|flush| !flush.is_closed());
        if self.rechecked_at.elapsed() >= RECHECK {
            self.rechecked_at = Instant::now();
            for (id, slot) in &mut self.slots {
                make_ready(*id, slot, &mut self.ready);
            }
        }
    }

    fn add(&mut self, key: Key, feed: FeedHandle) {
        let header = locked(&feed).feed.header().clone();
        let slot = Slot {
            key: key.clone(),
            feed,
            run: self.sink.open(&header),
            wanted: self.config.when.wants_job(&header.group, &header.job),
            reading: Reading::Ready,
            outstanding: 0,
            confirmed: None,
        };
        let id = self.next_slot;
        self.next_slot += 1;
        self.slots.insert(id, slot);
        if let Some(replaced) = self.slot_of.insert(key, id) {
            self.forget(replaced);
        }
        self.ready.push_back(id);
    }

    fn forget(&mut self, id: u64) {
        self.slots.remove(&id);
        self.dirty.remove(&id);
        self.ready.retain(|ready| *ready != id);
    }

    fn wake(&mut self, run_id: &RunId) {
        let attempts = (run_id.clone(), 0)..=(run_id.clone(), u32::MAX);
        let ids: Vec<u64> =
            locked(&self.shared.feeds).range(attempts).filter_map(|(key, _)| self.slot_of.get(key).copied()).collect();
        for id in ids {
            if let Some(slot) = self.slots.get_mut(&id) {
                make_ready(id, slot, &mut self.ready);
            }
        }
    }

    /// Fills the batch: a turn for each run that has something, until the batch is full or nothing is left, and waits for
    /// more when `batch.timeout` says so.
    async fn fill(&mut self) {
        let deadline = Instant::now() + self.config.batch.timeout;
        let first_turn = self.unconfirmed.len();
        let mut events = 0;
        loop {
            while let Some(id) = self.ready.pop_front() {
                events += self.turn(id);
                if self.sink.filled_bytes() >= self.config.batch.max_bytes || events >= self.config.batch.max_events {
                    return;
                }
            }
            let wait = self.sink.filled_bytes() > 0 && self.flushes.is_empty() && Instant::now() < deadline;
            if !wait {
                break;
            }
            tokio::select! {
                () = self.shared.notify.notified() => self.take_inbox(),
                () = sleep_until(deadline) => {}
            }
        }
        if self.sink.filled_bytes() == 0 {
            // Nothing of these turns is to be sent: they are through when what was sent before is.
            self.unconfirmed.range_mut(first_turn..).for_each(|turn| turn.batch = self.sent);
        }
    }

    /// After a batch: a sink may hold back of that one, never of one before.
    fn forget_places(&mut self) {
        if self.sink.filled_bytes() == 0 {
            self.places.clear();
        } else {
            self.places.drain(..self.filled_from);
        }
        self.filled_from = self.places.len();
    }

    /// Reads and encodes one turn of a run; how many events that made.
    fn turn(&mut self, id: u64) -> usize {
        let Some(slot) = self.slots.get_mut(&id) else { return 0 };
        let read = locked(&slot.feed).feed.read(self.sink.turn_bytes());
        match read {
            Ok(Next::Item { item, end }) => {
                let now = (self.environment.now)();
                let encoding = Encoding::new(&self.config, now, slot.wanted);
                let filling = Filling { sink: &mut self.sink, slot: id, places: &mut self.places };
                let tally = encoding.item(filling, &slot.run, &item);
                slot.outstanding += 1;
                self.ready.push_back(id);
                let events = tally.events;
                self.unconfirmed.push_back(Turn { slot: id, batch: self.sent + 1, end, tally });
                events
            }
            Ok(Next::Pending) => {
                slot.reading = Reading::Pending;
                0
            }
            Ok(Next::Done) => {
                slot.reading = Reading::Done;
                self.close_if_through(id);
                0
            }
            Err(error) => {
                slot.reading = Reading::Pending;
                let says = format!("cannot read the spool of run {}: {error}", slot.key.0);
                tracing::error!(sink = %self.config.name, run_id = %slot.key.0, %error, "cannot read a spool");
                let now = (self.environment.now)();
                locked(&self.shared.health).note_error(&SinkError::retry(says), now);
                0
            }
        }
    }

    /// Takes out of `unconfirmed` what the sink has.
    fn confirm(&mut self) -> SinkResult<()> {
        if self.unconfirmed.is_empty() {
            return Ok(());
        }
        let confirmed = self.sink.confirmed()?;
        let arrived = self.sink.arrived().max(confirmed);
        while let Some(turn) = self.unconfirmed.get(self.arrived)
            && turn.batch <= arrived
        {
            if let Some(slot) = self.slots.get(&turn.slot) {
                locked(&slot.feed).arrived = turn.end;
            }
            self.arrived += 1;
        }
        let mut total = Tally::default();
        let mut any = false;
        while self.unconfirmed.front().is_some_and(|turn| turn.batch <= confirmed) {
            let Some(turn) = self.unconfirmed.pop_front() else { break };
            self.arrived -= 1;
            any = true;
            total.add(&turn.tally);
            if let Some(slot) = self.slots.get_mut(&turn.slot) {
                slot.outstanding -= 1;
                slot.confirmed = Some(turn.end);
                self.dirty.insert(turn.slot);
            }
        }
        if any {
            self.note_delivered(&total);
        }
        Ok(())
    }

    /// Takes out of `unconfirmed` the runs that the sink has all of, though another one's records stand before them.
    fn confirm_runs(&mut self) {
        let mut total = Tally::default();
        for turn in std::mem::take(&mut self.unconfirmed) {
            match self.slots.get_mut(&turn.slot) {
                Some(slot) if self.sink.has_all(&slot.run) => {
                    total.add(&turn.tally);
                    slot.outstanding -= 1;
                    slot.confirmed = Some(turn.end);
                    self.dirty.insert(turn.slot);
                }
                _ => self.unconfirmed.push_back(turn),
            }
        }
        self.arrived = 0;
        self.count_delivered(&total);
    }

    /// Stores the confirmed positions.
    async fn commit(&mut self) -> SinkResult<()> {
        self.committed_at = Instant::now();
        if self.dirty.is_empty() {
            return Ok(());
        }
        self.sink.sync().await?;
        for id in std::mem::take(&mut self.dirty) {
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            let Some(position) = slot.confirmed else { continue };
            let stored = locked(&slot.feed).feed.commit(position);
            match stored {
                Ok(()) => {
                    slot.confirmed = None;
                    self.close_if_through(id);
                }
                Err(error) => {
                    self.dirty.insert(id);
                    let says = format!("cannot store the cursor of run {}: {error}", slot.key.0);
                    tracing::error!(sink = %self.config.name, run_id = %slot.key.0, %error, "cannot store a cursor");
                    let now = (self.environment.now)();
                    locked(&self.shared.health).note_error(&SinkError::retry(says), now);
                }
            }
        }
        Ok(())
    }

    /// Forgets a run that is delivered to its end.
    fn close_if_through(&mut self, id: u64) {
        let through = self
            .slots
            .get(&id)
            .is_some_and(|slot| slot.reading == Reading::Done && slot.outstanding == 0 && slot.confirmed.is_none());
        if through && let Some(slot) = self.slots.remove(&id) {
            self.slot_of.remove(&slot.key);
            let mut feeds = locked(&self.shared.feeds);
            // A feed added anew under the same name is another one.
            if feeds.get(&slot.key).is_some_and(|feed| Arc::ptr_eq(feed, &slot.feed)) {
                feeds.remove(&slot.key);
            }
        }
    }

    /// After a failure: stores what is confirmed, and lets every other feed begin again at its durable cursor.
    async fn give_back(&mut self) {
        if let Err(error) = self.confirm() {
            tracing::debug!(sink = %self.config.name, %error, "what was confirmed last cannot be known");
        }
        let refused = self.sink.refused();
        self.note_refused(&refused);
        self.confirm_runs();
        if let Err(error) = self.commit().await {
            tracing::warn!(sink = %self.config.name, %error, "cursors could not be stored");
        }
        self.sink.disconnect();
        self.forget_places();
        self.sent = 0;
        self.arrived = 0;
        let touched: BTreeSet<u64> = self.unconfirmed.drain(..).map(|turn| turn.slot).collect();
        for id in touched.into_iter().chain(std::mem::take(&mut self.dirty)) {
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            let mut tracked = locked(&slot.feed);
            tracked.feed.rewind();
            tracked.arrived = Position::START;
            drop(tracked);
            slot.outstanding = 0;
            slot.confirmed = None;
            if slot.reading != Reading::Ready {
                slot.reading = Reading::Ready;
                self.ready.push_back(id);
            }
        }
    }

    /// Waits before the next attempt: exponential, full jitter; longest at once where a person must act. A flush may try
    /// once without waiting.
    async fn back_off(&mut self, class: Class) {
        let retry = self.config.retry;
        let most = match class {
            Class::Misconfigured => retry.max,
            _ => retry.initial.saturating_mul(1 << self.failures.min(20)).min(retry.max),
        };
        self.failures += 1;
        let share = ((self.environment.random)() >> 11) as f64 / (1u64 << 53) as f64;
        let until = Instant::now() + most.mul_f64(share).max(WAIT_MIN);
        let waiting_flushes = self.flushes.len();
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                () = self.shared.notify.notified() => {
                    self.take_inbox();
                    if self.flushes.len() > waiting_flushes {
                        return;
                    }
                }
            }
        }
    }
}

fn make_ready<R>(id: u64, slot: &mut Slot<R>, ready: &mut VecDeque<u64>) {
    if slot.reading == Reading::Pending {
        slot.reading = Reading::Ready;
        ready.push_back(id);
    }
}
