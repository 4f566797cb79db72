//! When a sink retries, and what proves that it works again. Called by the delivery task.

use std::time::{Duration, Instant as SteadyInstant};

use tokio::time::{Instant, sleep_until};

use super::{Delivery, Reading};
use crate::confirmation::HOLD;
use crate::engine::locked;
use crate::error::ErrorClass;
use crate::feed::Peek;
use crate::sink::Sink;

/// The shortest wait before a retry. Chosen: with full jitter the drawn wait may be 0, which would be a busy loop.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// A receiver that ended the last connection is known to work again when the next one has lasted longer than that one,
/// by this time. Chosen: more than the retries of a proxy without a server differ.
const PROOF_MARGIN: Duration = Duration::from_secs(1);

/// The present connection, or the attempt to connect, and what the last one proves.
#[derive(Default)]
pub(super) struct Attempt {
    is_connecting: bool,
    connected_at: Option<SteadyInstant>,
    /// How long the next connection must last before an accepted batch proves that the sink works.
    proof: Duration,
}

impl Attempt {
    pub(super) fn begin(&mut self) {
        (self.is_connecting, self.connected_at) = (true, None);
    }

    pub(super) fn note_connected(&mut self, now: SteadyInstant) {
        (self.is_connecting, self.connected_at) = (false, Some(now));
    }

    /// Notes a failure. A receiver that refused the connection works as soon as it accepts something. One that accepted
    /// and soon ended the connection, like a proxy without a server, must keep the next one for longer.
    pub(super) fn end(&mut self, now: SteadyInstant) {
        let lasted = self.connected_at.take().map(|at| now.saturating_duration_since(at));
        self.proof = match lasted {
            Some(lasted) if lasted >= HOLD => PROOF_MARGIN,
            Some(lasted) => (lasted + PROOF_MARGIN).min(HOLD),
            None => Duration::ZERO,
        };
    }

    /// Whether the last failure was that of connecting.
    pub(super) fn is_unreachable(&self) -> bool {
        self.is_connecting
    }

    fn has_proof(&self, now: SteadyInstant) -> bool {
        self.connected_at.is_some_and(|at| now.saturating_duration_since(at) >= self.proof)
    }
}

impl<S: Sink> Delivery<S> {
    /// Removes feeds without anything to read from the front of `ready`: a sink connects only for output.
    pub(super) fn drop_idle_feeds(&mut self) {
        while let Some(id) = self.ready.front().copied() {
            let peek = self.feeds.get(&id).map(|state| locked(&state.feed).feed.peek());
            if peek == Some(Peek::Item) {
                return;
            }
            self.ready.pop_front();
            if let (Some(peek), Some(state)) = (peek, self.feeds.get_mut(&id)) {
                state.reading = if peek == Peek::Done { Reading::Done } else { Reading::Pending };
            }
            self.close_if_done(id);
        }
    }

    /// The receiver has accepted a batch, although it may still lose it.
    pub(super) fn note_accepted(&mut self) {
        if self.failures == 0 {
            return;
        }
        if let Some(failing) = &mut locked(&self.shared.health).failing {
            failing.is_accepting = true;
        }
        // The backoff stays until a batch is confirmed: a connection that ends again and again is retried less often.
        if self.attempt.has_proof((self.environment.steady_now)()) {
            self.note_recovered();
        }
    }

    /// Every available record is confirmed, or its run was removed: nothing is retried any more.
    pub(super) fn note_nothing_left(&mut self) {
        let is_retrying = || locked(&self.shared.health).failing.is_some_and(|span| span.class == ErrorClass::Retry);
        if self.failures > 0 && is_retrying() {
            self.failures = 0;
            self.note_recovered();
        }
    }

    /// The time of the next retry: exponential backoff with full jitter, from the longest wait if an operator must act.
    pub(super) fn next_retry(&mut self, class: ErrorClass) -> Instant {
        let retry = self.config.retry;
        let most = match class {
            ErrorClass::Misconfigured => retry.max,
            _ => retry.initial.saturating_mul(1 << self.failures.min(20)).min(retry.max),
        };
        self.failures += 1;
        let share = ((self.environment.random)() >> 11) as f64 / (1u64 << 53) as f64;
        Instant::now() + most.mul_f64(share).max(BACKOFF_MIN)
    }

    /// Waits before the next retry. A flush that arrives during the wait ends it, and so does a request to retry now:
    /// the sink retries once at once. A settling sink does not wait.
    pub(super) async fn back_off(&mut self, until: Instant) {
        let waiting_flushes = self.flushes.len();
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                () = self.shared.settle.cancelled() => return,
                () = self.shared.retry.notified() => return,
                () = self.shared.notify.notified() => {
                    self.apply_inbox();
                    // The last run with output may have been removed: nothing is retried then.
                    if self.flushes.len() > waiting_flushes || self.ready.is_empty() {
                        return;
                    }
                }
            }
        }
    }
}
