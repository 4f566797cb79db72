//! Repeats calls to AWS that failed for a moment: the one place for DynamoDB, SQS, SNS, SSM and KMS. Used by the
//! clients of this crate; the SDK itself repeats nothing.
//!
//! A throttled call is repeated until the process's deadline, at the pace of its partition. Any other failure is
//! repeated for seconds, because it may be an outage.

mod pace;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::SdkError;
use tokio::time::Instant;

use crate::fault::Cause;
use pace::Paces;

/// How long a call that fails is repeated in a process with a deadline. Chosen: a service that fails for longer has an
/// outage, and the other duties of the process need time too.
const RETRY_FOR: Duration = Duration::from_secs(10);

/// [`RETRY_FOR`] in a process without a deadline, whose caller repeats the duty or waits for an answer. Chosen, not
/// measured.
const RETRY_FOR_WITHOUT_DEADLINE: Duration = Duration::from_secs(2);

/// [`RETRY_FOR`] after the deadline, when only the progress is stored. Chosen: the reserve has time for ten of them.
const RETRY_FOR_AFTER_DEADLINE: Duration = Duration::from_secs(1);

/// How long a throttled call is repeated in a process without a deadline. Chosen: DynamoDB splits a busy partition
/// within minutes; a user waits for seconds.
const THROTTLED_FOR_WITHOUT_DEADLINE: Duration = Duration::from_secs(20);

/// Largest delay before the second attempt; doubled for each later one. Chosen: a new connection takes about as long.
const DELAY: Duration = Duration::from_millis(25);

/// [`DELAY`] after a throttle. Chosen, not measured.
const THROTTLED_DELAY: Duration = Duration::from_millis(50);

/// Largest delay before any attempt. Chosen: a partition that accepts calls again is used within a second.
const DELAY_MAX: Duration = Duration::from_secs(1);

/// How the calls of a process are repeated. Clones share deadline and paces.
#[derive(Clone, Default)]
pub struct Retries {
    deadline: Arc<Mutex<Option<Instant>>>,
    paces: Arc<Paces>,
}

impl fmt::Debug for Retries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retries").field("deadline", &self.deadline()).finish_non_exhaustive()
    }
}

/// The result of a call after its last attempt.
#[derive(Debug)]
pub(crate) struct Called<T, E> {
    pub result: Result<T, E>,
    /// An earlier attempt got no answer, or a server fault: it may have been executed.
    pub may_be_done: bool,
}

/// The error of an attempt.
pub(crate) trait Attempted {
    /// Whether the service answered that it did not execute the attempt.
    fn is_refused(&self) -> bool;
}

impl<E> Attempted for SdkError<E, HttpResponse> {
    fn is_refused(&self) -> bool {
        let status = self.raw_response().map(|response| response.status().as_u16());
        matches!(self, SdkError::ServiceError(_)) && status.is_some_and(|status| status < 500)
    }
}

impl Retries {
    /// Sets the instant until which calls of this process are repeated; later calls are made once, or for 1 s. A Lambda
    /// sets it for each event. `None`: each call is repeated for seconds.
    pub fn set_deadline(&self, deadline: Option<std::time::Instant>) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline.map(Instant::from_std);
    }

    fn deadline(&self) -> Option<Instant> {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a call until it succeeds, fails for another reason than a transient one, or its time is over.
    /// `partition`: the DynamoDB partition that it writes.
    pub(crate) async fn call<T, E, F>(
        &self,
        partition: Option<&str>,
        cause_of: impl Fn(&E) -> Cause + Send,
        attempt: impl Fn() -> F + Send,
    ) -> Called<T, E>
    where
        T: Send,
        E: Attempted + Send,
        F: Future<Output = Result<T, E>> + Send,
    {
        let mut backoff = self.backoff();
        let mut may_be_done = false;
        loop {
            backoff.wait_for_pace(partition).await;
            let error = match attempt().await {
                Ok(done) => {
                    self.note_accepted(partition);
                    return Called { result: Ok(done), may_be_done };
                }
                Err(error) => error,
            };
            if !backoff.wait_after(cause_of(&error), partition).await {
                return Called { result: Err(error), may_be_done };
            }
            may_be_done |= !error.is_refused();
        }
    }

    /// The attempts of a call that its caller repeats, such as a batch with an undone part.
    pub(crate) fn backoff(&self) -> Backoff<'_> {
        Backoff { retries: self, began_at: Instant::now(), failed_at: None, delay: Duration::ZERO }
    }

    /// The partition accepted a call: its pace rises.
    pub(crate) fn note_accepted(&self, partition: Option<&str>) {
        if let Some(partition) = partition {
            self.paces.raise(partition, Instant::now());
        }
    }
}

/// Decides after each failure of one call whether and when it is repeated.
pub(crate) struct Backoff<'r> {
    retries: &'r Retries,
    began_at: Instant,
    failed_at: Option<Instant>,
    /// The largest delay before the last attempt.
    delay: Duration,
}

impl Backoff<'_> {
    /// Waits until the partition's pace permits a write, at most until the deadline.
    pub(crate) async fn wait_for_pace(&self, partition: Option<&str>) {
        let Some(turn) = partition.and_then(|partition| self.retries.paces.take_turn(partition, Instant::now())) else {
            return;
        };
        let latest = self.retries.deadline().unwrap_or(self.began_at + THROTTLED_FOR_WITHOUT_DEADLINE);
        tokio::time::sleep_until(turn.min(latest)).await;
    }

    /// Waits before the next attempt. Returns `false` when there is none.
    pub(crate) async fn wait_after(&mut self, cause: Cause, partition: Option<&str>) -> bool {
        let now = Instant::now();
        let failed_at = *self.failed_at.get_or_insert(now);
        let until = match (cause, self.retries.deadline()) {
            (Cause::Throttled, deadline) => deadline.unwrap_or(self.began_at + THROTTLED_FOR_WITHOUT_DEADLINE),
            (Cause::Transient, None) => failed_at + RETRY_FOR_WITHOUT_DEADLINE,
            (Cause::Transient, Some(deadline)) if now < deadline => deadline.min(failed_at + RETRY_FOR),
            (Cause::Transient, Some(_)) => failed_at + RETRY_FOR_AFTER_DEADLINE,
            (Cause::Denied | Cause::Absent | Cause::Invalid, _) => return false,
        };
        if let (Cause::Throttled, Some(partition)) = (cause, partition) {
            self.retries.paces.lower(partition, now);
        }
        let first = if cause == Cause::Throttled { THROTTLED_DELAY } else { DELAY };
        self.delay = (self.delay * 2).clamp(first, DELAY_MAX);
        let delay = self.delay.mul_f64(random_part());
        if now + delay >= until {
            return false;
        }
        tokio::time::sleep(delay).await;
        true
    }
}

/// From 0 to 1.
fn random_part() -> f64 {
    let mut bytes = [0; 4];
    // Without random numbers, the whole delay.
    aws_lc_rs::rand::fill(&mut bytes).map_or(1.0, |()| f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    struct Failed(Cause);

    impl Attempted for Failed {
        fn is_refused(&self) -> bool {
            self.0 != Cause::Transient
        }
    }

    /// Calls something that fails a number of times; returns the attempts, and the result.
    async fn attempts(retries: &Retries, cause: Cause, failures: u32) -> (u32, Called<(), Failed>) {
        let made = AtomicU32::new(0);
        let attempt = || {
            let number = made.fetch_add(1, Ordering::Relaxed);
            async move { if number < failures { Err(Failed(cause)) } else { Ok(()) } }
        };
        let partition = (cause == Cause::Throttled).then_some("runs db");
        let called = retries.call(partition, |error: &Failed| error.0, attempt).await;
        (made.load(Ordering::Relaxed), called)
    }

    #[tokio::test(start_paused = true)]
    async fn a_transient_failure_is_repeated_and_a_permanent_one_is_not() {
        let retries = Retries::default();
        let (made, called) = attempts(&retries, Cause::Transient, 3).await;
        assert!(made == 4 && called.result.is_ok() && called.may_be_done);
        let (made, called) = attempts(&retries, Cause::Throttled, 3).await;
        assert!(made == 4 && called.result.is_ok() && !called.may_be_done, "a throttled call was not executed");
        for cause in [Cause::Denied, Cause::Absent, Cause::Invalid] {
            let (made, called) = attempts(&retries, cause, 3).await;
            assert!(made == 1 && called.result.is_err(), "{cause:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_call_does_not_give_up_before_the_deadline() {
        let retries = Retries::default();
        let began_at = Instant::now();
        retries.set_deadline(Some((began_at + Duration::from_secs(50)).into_std()));
        let (_, called) = attempts(&retries, Cause::Throttled, u32::MAX).await;
        let took = began_at.elapsed();
        assert!(called.result.is_err() && took <= Duration::from_secs(50), "{took:?}");
        assert!(took >= Duration::from_secs(48), "{took:?}");
        // After the deadline, there is time for the progress alone.
        let (made, _) = attempts(&retries, Cause::Throttled, u32::MAX).await;
        assert!(made <= 2, "{made} attempts after the deadline");
        let began_at = Instant::now();
        attempts(&retries, Cause::Transient, u32::MAX).await;
        assert!(began_at.elapsed() <= Duration::from_secs(1));
        // An outage ends a call before the deadline.
        retries.set_deadline(Some((Instant::now() + Duration::from_secs(50)).into_std()));
        let began_at = Instant::now();
        attempts(&retries, Cause::Transient, u32::MAX).await;
        assert!((Duration::from_secs(8)..=Duration::from_secs(10)).contains(&began_at.elapsed()));
    }
}
