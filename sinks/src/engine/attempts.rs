//! The attempts of a failing sink, as its owner sees them: why it fails, a retry before its time, and the last flush
//! before a stop. Called by the runner.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{Engine, locked};
use crate::error::ErrorClass;
use crate::status::{FailureSpan, SinkState};

/// The last attempt of a sink that fails may take this time. Chosen: a receiver that is back accepts a connection and
/// a batch in less.
const LAST_ATTEMPT_TIME: Duration = Duration::from_secs(1);

/// How a flush before a stop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastFlush {
    /// Everything available is confirmed.
    Done,
    /// The sink fails, so waiting longer is useless; the reason.
    Failing(String),
    /// The limit came first, although the sink works.
    TimedOut,
}

impl Engine {
    /// Whether its last attempt failed.
    pub fn is_failing(&self) -> bool {
        locked(&self.shared.health).failing.is_some()
    }

    /// Distinguishes its failures, while the last attempt failed.
    pub fn failure_number(&self) -> Option<u64> {
        self.is_failing().then(|| *self.shared.outcomes.borrow())
    }

    /// Why output waits: the last error, while the sink fails and has output to deliver. A sink without output would
    /// never report its recovery.
    pub fn failure(&self) -> Option<String> {
        if !self.is_failing() {
            return None;
        }
        let status = self.status();
        let has_output = status.lag_lines > 0 || status.lag_bytes > 0 || status.unconfirmed_lines > 0;
        status.failing_since.filter(|_| has_output)?;
        Some(status.last_error.unwrap_or_else(|| "its last delivery failed".to_owned()))
    }

    /// The state, of an engine that has ended the one before its end.
    pub fn last_state(&self) -> SinkState {
        locked(&self.shared.health).last_state().0
    }

    /// Ends the wait before the next retry of a sink that fails. Returns when that attempt has failed or the sink works
    /// again, at the latest after `limit`.
    pub async fn retry_now(&self, limit: Duration) {
        let mut outcomes = self.shared.outcomes.subscribe();
        // Without a permit: a sink that does not wait is not sent on.
        self.shared.retry.notify_waiters();
        // The sender is part of this engine.
        let _ = timeout(limit, outcomes.changed()).await;
    }

    /// As [`Engine::flush`], for the end of the process. Ends early where waiting is useless: the sink was failing and
    /// its one attempt now failed or found no receiver within 1 s; or it fails meanwhile, and no retry in the time that
    /// is left is likely to help.
    pub async fn flush_while_working(&self, limit: Duration) -> LastFlush {
        let end = Instant::now() + limit;
        let (done, flushed) = oneshot::channel();
        let failing = self.wait_until_hopeless(end);
        locked(&self.shared.inbox).flushes.push(done);
        self.shared.notify.notify_one();
        tokio::select! {
            biased;
            flushed = flushed => match flushed {
                Ok(()) => LastFlush::Done,
                Err(_) => LastFlush::Failing("its task has ended".to_owned()),
            },
            () = failing => {
                let error = locked(&self.shared.health).last_error.clone();
                LastFlush::Failing(error.map(|(message, _)| message).unwrap_or_default())
            }
            () = sleep_until(end) => LastFlush::TimedOut,
        }
    }

    /// Counts the failures from this call on.
    fn wait_until_hopeless(&self, end: Instant) -> impl Future<Output = ()> {
        let mut outcomes = self.shared.outcomes.subscribe();
        let was_failing = self.is_failing();
        async move {
            let attempt_end = Instant::now() + LAST_ATTEMPT_TIME;
            if was_failing && timeout_at(attempt_end, outcomes.changed()).await.is_err() {
                match locked(&self.shared.health).failing {
                    Some(failing) if !failing.is_accepting => return,
                    _ => {}
                }
                let _ = outcomes.changed().await;
            } else if !was_failing {
                let _ = outcomes.changed().await;
            }
            for failures in 1.. {
                match locked(&self.shared.health).failing {
                    Some(failing) if was_failing || failures > 1 || is_lasting(&failing, end) => return,
                    _ => {}
                }
                let _ = outcomes.changed().await;
            }
        }
    }
}

/// Whether the failure of a sink that worked until now lasts longer than until `end`.
fn is_lasting(failing: &FailureSpan, end: Instant) -> bool {
    failing.class == ErrorClass::Misconfigured || failing.is_unreachable || failing.retry_at >= end
}
