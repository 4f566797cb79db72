//! Fills a sink's batch with a little of every run in turn. Called by the delivery task; the only reader of feeds.

use tokio::time::{Instant, sleep_until};

use super::{Delivery, Reading, Turn};
use crate::encode::{BatchWriter, Encoding};
use crate::engine::locked;
use crate::error::SinkError;
use crate::feed::Next;
use crate::sink::Sink;

impl<S: Sink> Delivery<S> {
    /// Reads every ready feed in turn until the batch is full or no feed has more. A batch that is not full waits for
    /// more lines up to `batch.timeout`.
    pub(super) async fn fill_batch(&mut self) {
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
            let wait = self.sink.filled_bytes() > 0
                && self.flushes.is_empty()
                && Instant::now() < deadline
                && !self.shared.settle.is_cancelled();
            if !wait {
                break;
            }
            tokio::select! {
                () = self.shared.notify.notified() => self.apply_inbox(),
                () = sleep_until(deadline) => {}
            }
        }
        if self.sink.filled_bytes() == 0 {
            // No record of these turns is sent (unwanted or dropped), so they are confirmed with the batch before.
            self.unconfirmed.range_mut(first_turn..).for_each(|turn| turn.batch = self.sent);
        }
    }

    /// Forgets the records of the sent batch. A sink may hold back records of that batch, never of an earlier one.
    pub(super) fn clear_sent(&mut self) {
        if self.sink.filled_bytes() == 0 {
            self.sent_records.clear();
        } else {
            self.sent_records.drain(..self.filled_from);
        }
        self.filled_from = self.sent_records.len();
    }

    /// Reads and encodes one turn of a run; returns the number of encoded records.
    fn read_turn(&mut self, id: u64) -> usize {
        let Some(state) = self.feeds.get_mut(&id) else { return 0 };
        if self.sink.is_waiting(&state.run) {
            state.reading = Reading::Waiting;
            self.waiting.push(id);
            return 0;
        }
        let read = locked(&state.feed).feed.read(self.sink.read_bytes_max());
        match read {
            Ok(Next::Item { item, end }) => {
                let now = (self.environment.now)();
                let encoding = Encoding::new(&self.config, now, &self.environment.clock, state.wanted);
                let writer = BatchWriter { sink: &mut self.sink, feed_id: id, sent_records: &mut self.sent_records };
                let counts = encoding.encode_item(writer, &state.run, &item);
                state.outstanding += 1;
                self.ready.push_back(id);
                let events = counts.events;
                let place = self.sink.place(&state.run);
                self.unconfirmed.push_back(Turn { feed_id: id, batch: self.sent + 1, end, place, counts });
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
                tracing::error!(sink = %self.config.name, run_id = %state.key.0, %error, "cannot read a spool; retrying");
                let now = (self.environment.now)();
                locked(&self.shared.health).note_error(&SinkError::retry(message), now);
                0
            }
        }
    }
}
