//! Moves cursors past confirmed records, and rewinds the other feeds after a failure. Called by the delivery task.

use std::collections::BTreeSet;
use std::sync::Arc;

use domain::line::Position;
use tokio::time::Instant;

use super::{Delivery, Reading};
use crate::encode::BatchCounts;
use crate::engine::locked;
use crate::error::{SinkError, SinkResult};
use crate::sink::Sink;

impl<S: Sink> Delivery<S> {
    /// Removes the confirmed turns from `unconfirmed` and counts their lines as delivered.
    pub(super) fn take_confirmed(&mut self) -> SinkResult<()> {
        if self.unconfirmed.is_empty() && self.waiting.is_empty() {
            return Ok(());
        }
        let confirmed = self.sink.confirmed_batches(self.sent)?;
        self.note_named_refusals();
        let accepted = self.sink.accepted_batches().max(confirmed);
        if accepted > 0 {
            self.note_accepted();
        }
        while let Some(turn) = self.unconfirmed.get(self.accepted_turns)
            && turn.batch <= accepted
        {
            if let Some(state) = self.feeds.get(&turn.feed_id) {
                locked(&state.feed).accepted = turn.end;
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
        if self.sink.has_waiting_runs() {
            // The sink as a whole is not known to work.
            self.confirm_apart(&mut total);
            self.count_delivered(&total);
        } else if any {
            self.note_delivered(&total);
        }
        self.resume_answered();
        Ok(())
    }

    /// Removes the turns that the receiver has, although an answer for another run is missing.
    fn confirm_apart(&mut self, total: &mut BatchCounts) {
        for turn in std::mem::take(&mut self.unconfirmed) {
            match self.feeds.get_mut(&turn.feed_id) {
                Some(state) if self.sink.accepted_place(&state.run) >= turn.place => {
                    total.add(&turn.counts);
                    state.outstanding -= 1;
                    state.confirmed = Some(turn.end);
                    self.dirty.insert(turn.feed_id);
                }
                _ => self.unconfirmed.push_back(turn),
            }
        }
        self.accepted_turns = 0;
    }

    /// Reads again the runs whose answer has arrived.
    fn resume_answered(&mut self) {
        for id in std::mem::take(&mut self.waiting) {
            match self.feeds.get_mut(&id) {
                Some(state) if state.reading != Reading::Waiting => {}
                Some(state) if self.sink.is_waiting(&state.run) => self.waiting.push(id),
                Some(state) => {
                    state.reading = Reading::Ready;
                    self.ready.push_back(id);
                }
                None => {}
            }
        }
    }

    /// Removes the turns of runs that the receiver has completely, although records of other runs before them failed.
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
    pub(super) async fn commit_cursors(&mut self) -> SinkResult<()> {
        self.committed_at = Instant::now();
        self.store_losses();
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
                    tracing::error!(sink = %self.config.name, run_id = %state.key.0, %error, "cannot store a cursor; retrying");
                    let now = (self.environment.now)();
                    locked(&self.shared.health).note_error(&SinkError::retry(message), now);
                }
            }
        }
        Ok(())
    }

    /// Stores the counters of lost lines if they have changed.
    pub(super) fn store_losses(&mut self) {
        match self.shared.store_losses() {
            Ok(()) => self.loss_store_fails = false,
            Err(error) if self.loss_store_fails => {
                tracing::debug!(sink = %self.config.name, %error, "storing the counters of a sink failed again");
            }
            Err(error) => {
                self.loss_store_fails = true;
                tracing::error!(sink = %self.config.name, %error, "cannot store the counters of lost lines; retrying");
            }
        }
    }

    /// Forgets a run once `run.finished` is confirmed and its cursor is stored.
    pub(super) fn close_if_done(&mut self, id: u64) {
        let done = self
            .feeds
            .get(&id)
            .is_some_and(|state| state.reading == Reading::Done && state.outstanding == 0 && state.confirmed.is_none());
        if done && let Some(state) = self.feeds.remove(&id) {
            self.id_of_attempt.remove(&state.key);
            let mut feeds = locked(&self.shared.feeds);
            // A feed added again under the same key is another feed.
            if feeds.get(&state.key).is_some_and(|feed| Arc::ptr_eq(feed, &state.feed)) {
                feeds.remove(&state.key);
            }
        }
    }

    /// After a failure: stores the cursors of confirmed records and rewinds every other feed to its cursor.
    pub(super) async fn rewind_unconfirmed(&mut self) {
        if let Err(error) = self.take_confirmed() {
            tracing::debug!(sink = %self.config.name, %error, "cannot determine the last confirmed batch; sending from the stored cursor");
        }
        let refused = self.sink.refused();
        self.note_refused(&refused);
        self.note_named_refusals();
        self.confirm_complete_runs();
        if let Err(error) = self.commit_cursors().await {
            tracing::warn!(sink = %self.config.name, %error, "cannot store cursors; retrying");
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
            tracked.accepted = Position::START;
            drop(tracked);
            state.outstanding = 0;
            state.confirmed = None;
            if state.reading != Reading::Ready {
                state.reading = Reading::Ready;
                self.ready.push_back(id);
            }
        }
    }
}
