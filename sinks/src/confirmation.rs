//! The batches of one connection that are not confirmed yet, and the rule that confirms them. Called by `stream`. Pure:
//! time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A batch is confirmed when the connection is still open this long after the peer's kernel acknowledged it. A
/// connection that has stood for less proves nothing by its end. Chosen: HAProxy ends a connection without a backend
/// after 3 retries, one a second, and a receiver that freezes for some seconds and is killed had read nothing.
pub(crate) const HOLD: Duration = Duration::from_secs(10);

pub(crate) struct Confirmation {
    opened_at: Instant,
    /// Batches sent on this connection.
    sent: u64,
    confirmed: u64,
    unconfirmed: VecDeque<SentBatch>,
    /// Number of batches at the front of `unconfirmed` that the peer's kernel has acknowledged.
    acknowledged: usize,
}

struct SentBatch {
    /// Bytes written to the socket up to the end of the batch.
    end: u64,
    acknowledged_at: Option<Instant>,
}

impl Confirmation {
    pub(crate) fn new(opened_at: Instant) -> Confirmation {
        Confirmation { opened_at, sent: 0, confirmed: 0, unconfirmed: VecDeque::new(), acknowledged: 0 }
    }

    /// `end`: bytes written to the socket up to the end of this batch.
    pub(crate) fn note_sent(&mut self, end: u64) {
        self.sent += 1;
        self.unconfirmed.push_back(SentBatch { end, acknowledged_at: None });
    }

    /// `bytes`: how many of the written bytes the peer's kernel has.
    pub(crate) fn note_acknowledged(&mut self, bytes: u64, now: Instant) {
        while let Some(batch) = self.unconfirmed.get_mut(self.acknowledged)
            && batch.end <= bytes
        {
            batch.acknowledged_at = Some(now);
            self.acknowledged += 1;
        }
    }

    /// Whether [`Confirmation::confirm_due`] would confirm a batch.
    pub(crate) fn has_due(&self, now: Instant) -> bool {
        self.unconfirmed.front().is_some_and(|batch| batch.is_due(now))
    }

    /// Confirms by time. Call it only if the connection was found open at `now` or later.
    pub(crate) fn confirm_due(&mut self, now: Instant) {
        while self.has_due(now) {
            self.unconfirmed.pop_front();
            self.acknowledged -= 1;
            self.confirmed += 1;
        }
    }

    /// Confirms everything: the peer has ended the connection in answer to the sink's own end.
    pub(crate) fn confirm_all(&mut self) {
        self.unconfirmed.clear();
        self.acknowledged = 0;
        self.confirmed = self.sent;
    }

    /// Whether the end of the connection, in answer to the sink's own, would confirm its batches.
    pub(crate) fn has_stood(&self, now: Instant) -> bool {
        self.age(now) >= HOLD
    }

    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.opened_at)
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.unconfirmed.is_empty()
    }

    /// Whether the peer's kernel has acknowledged every batch.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.acknowledged == self.unconfirmed.len()
    }

    pub(crate) fn confirmed_batches(&self) -> u64 {
        self.confirmed
    }

    /// Batches that the peer's kernel has acknowledged, confirmed ones included.
    pub(crate) fn accepted_batches(&self) -> u64 {
        self.confirmed + self.acknowledged as u64
    }
}

impl SentBatch {
    fn is_due(&self, now: Instant) -> bool {
        self.acknowledged_at.is_some_and(|at| now.saturating_duration_since(at) >= HOLD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_confirmed_ten_seconds_after_its_acknowledgement_and_not_earlier() {
        let opened_at = Instant::now();
        let at = |ms| opened_at + Duration::from_millis(ms);
        let mut batches = Confirmation::new(opened_at);
        batches.note_sent(100);
        batches.note_sent(250);
        batches.note_acknowledged(249, at(1000));
        assert_eq!((batches.accepted_batches(), batches.is_acknowledged()), (1, false));
        batches.note_acknowledged(250, at(4000));
        assert!(batches.is_acknowledged() && !batches.has_due(at(10_999)));
        for (ms, confirmed) in [(10_999, 0), (11_000, 1), (13_999, 1), (14_000, 2)] {
            batches.confirm_due(at(ms));
            assert_eq!(batches.confirmed_batches(), confirmed, "after {ms} ms");
        }
        assert!(batches.is_complete());
        assert_eq!(batches.accepted_batches(), 2);
        batches.note_sent(300);
        batches.confirm_due(at(60_000));
        assert_eq!(batches.confirmed_batches(), 2, "not acknowledged");
        batches.confirm_all();
        assert_eq!(batches.confirmed_batches(), 3);
    }

    #[test]
    fn a_young_connection_proves_nothing() {
        let opened_at = Instant::now();
        let batches = Confirmation::new(opened_at);
        assert!(!batches.has_stood(opened_at + Duration::from_millis(9_999)));
        assert!(batches.has_stood(opened_at + HOLD));
        assert_eq!(batches.age(opened_at - Duration::from_secs(1)), Duration::ZERO, "a clock that went back");
    }
}
