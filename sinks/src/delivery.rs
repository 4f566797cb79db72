//! The task of one sink. It reads a part of every run in turn, encodes and sends it, checks what the receiver has
//! confirmed, and stores cursors. After a failure it rewinds every unconfirmed feed to its cursor and reads nothing
//! until the sink works again, so a failing sink costs a timer and no memory. Started by `engine`; never starts or
//! judges a run.

mod cursors;
mod fill;
mod health_events;
mod retries;

#[cfg(test)]
mod model_tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use domain::line::Position;
use domain::run::{AttemptKey, RunId};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::config::SinkConfig;
use crate::encode::BatchCounts;
use crate::engine::{EngineShared, Environment, FeedHandle, locked};
use crate::error::{ErrorClass, SinkError, SinkResult};
use crate::record::RecordId;
use crate::sink::{Place, Sink};
use retries::Attempt;

/// Cursors are stored at most once in this time. Chosen: one sync for many batches, and a crash of the runner sends at
/// most 250 ms of confirmed lines twice.
const COMMIT_INTERVAL: Duration = Duration::from_millis(250);
/// Every feed is read at least this often, also without a call of `wake`. Chosen, not measured: a lost wake-up delays a
/// line by 5 s.
const RECHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Turns (reads of a feed) that are sent and not confirmed; at this number, reading pauses. Chosen: each takes about 80
/// bytes here, so 10 MB; over TCP, where a turn is confirmed after 10 s, 13,000 turns a second.
const UNCONFIRMED_MAX: usize = 131_072;

pub(crate) struct Delivery<S: Sink> {
    sink: S,
    config: Arc<SinkConfig>,
    environment: Environment,
    shared: Arc<EngineShared>,
    feeds: HashMap<u64, FeedState<S::Run>>,
    id_of_attempt: HashMap<AttemptKey, u64>,
    next_id: u64,
    /// Ids of the feeds that may have something to read, in the order of their turns.
    ready: VecDeque<u64>,
    /// Ids of the feeds whose run waits for an answer, which holds no other run.
    waiting: Vec<u64>,
    unconfirmed: VecDeque<Turn>,
    /// Number of turns at the front of `unconfirmed` that the receiver has accepted.
    accepted_turns: usize,
    /// Feed id and record id of each record in the batch being filled, and in an earlier batch that the sink still
    /// holds.
    sent_records: Vec<(u64, RecordId)>,
    /// Index in `sent_records` of the first record of the batch being filled.
    filled_from: usize,
    /// Ids of the feeds whose confirmed position is not stored yet.
    dirty: BTreeSet<u64>,
    /// Batches sent since the last connect.
    sent: u64,
    flushes: Vec<oneshot::Sender<()>>,
    committed_at: Instant,
    rechecked_at: Instant,
    loss_sent_at: Option<Instant>,
    /// The last attempt to store the counters of lost lines failed.
    loss_store_fails: bool,
    failures: u32,
    attempt: Attempt,
}

struct FeedState<R> {
    key: AttemptKey,
    feed: FeedHandle,
    run: R,
    wanted: bool,
    reading: Reading,
    /// Turns that are read and not confirmed.
    outstanding: usize,
    confirmed: Option<Position>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Its id is in `ready`.
    Ready,
    Pending,
    /// Its id is in `waiting`.
    Waiting,
    Done,
}

/// The records that one read of a feed returned. Confirmed together with their batch.
struct Turn {
    feed_id: u64,
    batch: u64,
    end: Position,
    place: Place,
    counts: BatchCounts,
}

impl<S: Sink> Delivery<S> {
    pub(crate) fn new(
        sink: S,
        config: Arc<SinkConfig>,
        environment: Environment,
        shared: Arc<EngineShared>,
    ) -> Delivery<S> {
        Delivery {
            sink,
            config,
            environment,
            shared,
            feeds: HashMap::new(),
            id_of_attempt: HashMap::new(),
            next_id: 0,
            ready: VecDeque::new(),
            waiting: Vec::new(),
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
            loss_store_fails: false,
            failures: 0,
            attempt: Attempt::default(),
        }
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                let error = self.deliver().await;
                self.attempt.end((self.environment.steady_now)());
                self.rewind_unconfirmed().await;
                let retry_at = self.next_retry(error.class);
                self.note_failure(&error, retry_at);
                self.back_off(retry_at).await;
            }
        })
        .await;
        // So that the next engine does not send confirmed records again.
        if self.take_confirmed().is_ok()
            && let Err(error) = self.commit_cursors().await
        {
            tracing::warn!(sink = %self.config.name, %error, "cannot store cursors at shutdown; the next start sends their records again");
        }
        self.store_losses();
        locked(&self.shared.health).stopped = true;
    }

    /// Delivers until a step fails.
    async fn deliver(&mut self) -> SinkError {
        loop {
            if let Err(error) = self.step().await {
                return error;
            }
        }
    }

    async fn step(&mut self) -> SinkResult<()> {
        self.apply_inbox();
        if self.shared.settle.is_cancelled() {
            return self.finish_flush().await;
        }
        if !self.sink.is_connected() {
            self.drop_idle_feeds();
        }
        if !self.ready.is_empty() && self.unconfirmed.len() < UNCONFIRMED_MAX {
            if !self.sink.is_connected() {
                self.attempt.begin();
                match self.shared.settle.run_until_cancelled(self.sink.connect()).await {
                    Some(connected) => connected?,
                    None => {
                        self.sink.disconnect();
                        return Ok(());
                    }
                }
                self.attempt.note_connected((self.environment.steady_now)());
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
        if self.ready.is_empty() && self.unconfirmed.is_empty() && self.waiting.is_empty() {
            self.note_nothing_left();
        }
        if self.committed_at.elapsed() >= COMMIT_INTERVAL {
            self.commit_cursors().await?;
        }
        if !self.ready.is_empty() && self.unconfirmed.len() < UNCONFIRMED_MAX {
            // Reading and sending may complete without waiting. Yield, so that other tasks of this thread run.
            tokio::task::yield_now().await;
            return Ok(());
        }
        if !self.flushes.is_empty() && self.ready.is_empty() {
            return self.finish_flush().await;
        }
        self.wait_for_work().await
    }

    /// Ends the connection to confirm what was sent, stores the cursors and answers the flushes. A settling sink does
    /// nothing else.
    async fn finish_flush(&mut self) -> SinkResult<()> {
        if !self.unconfirmed.is_empty() || !self.waiting.is_empty() {
            self.sink.drain().await?;
            let refused = self.sink.refused();
            self.note_refused(&refused);
            self.take_confirmed()?;
            self.sink.disconnect();
            self.clear_sent();
            self.sent = 0;
            if !self.ready.is_empty() {
                // Runs that waited for an answer may have more records.
                return Ok(());
            }
        }
        self.commit_cursors().await?;
        // A flush is done only when every cursor is stored; the next wake-up retries.
        if self.dirty.is_empty() {
            for done in self.flushes.drain(..) {
                // The caller may have stopped waiting.
                let _ = done.send(());
            }
            if !self.shared.settle.is_cancelled() {
                return Ok(());
            }
        }
        self.wait_for_work().await
    }

    /// Waits for new lines, a flush, the next commit, or the end of the connection.
    async fn wait_for_work(&mut self) -> SinkResult<()> {
        let waiting = !self.unconfirmed.is_empty() || !self.dirty.is_empty() || !self.waiting.is_empty();
        let tick = if waiting { COMMIT_INTERVAL } else { RECHECK_INTERVAL };
        tokio::select! {
            () = self.shared.notify.notified() => Ok(()),
            () = sleep(tick) => Ok(()),
            error = self.sink.wait_closed() => {
                if self.unconfirmed.is_empty() && error.class != ErrorClass::Misconfigured {
                    // The receiver may end an idle connection: no line is at risk, and the next line reconnects.
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
}

fn mark_ready<R>(id: u64, state: &mut FeedState<R>, ready: &mut VecDeque<u64>) {
    if state.reading == Reading::Pending {
        state.reading = Reading::Ready;
        ready.push_back(id);
    }
}
