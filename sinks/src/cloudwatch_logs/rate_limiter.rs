//! Spaces calls within the quotas of an account: all runners share them, and many start jobs at the same minute. Called
//! before each call that creates something.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// Longest delay of the first call of a burst. Chosen: spreads the calls of runners that start at the same instant.
const BURST_JITTER: Duration = Duration::from_millis(500);

/// Spaces calls evenly, with jitter.
pub(super) struct RateLimiter {
    every: Duration,
    next: Mutex<Option<Instant>>,
}

impl RateLimiter {
    pub(super) fn new(per_second: u32) -> RateLimiter {
        RateLimiter { every: Duration::from_secs(1) / per_second, next: Mutex::new(None) }
    }

    pub(super) async fn wait(&self, random: fn() -> u64) {
        let share = |most: Duration| most.mul_f64((random() >> 11) as f64 / (1u64 << 53) as f64);
        let mut next = self.next.lock().await;
        let now = Instant::now();
        let at = match *next {
            Some(at) if at > now => at,
            _ => now + share(BURST_JITTER),
        };
        *next = Some(at + self.every + share(self.every / 4));
        drop(next);
        sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// SplitMix64 (Steele, Lea, Flood 2014), with the same seed in every test process.
    fn random() -> u64 {
        static STATE: AtomicU64 = AtomicU64::new(20_261_123);
        let state = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, SeqCst);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The most calls within any second.
    fn busiest(turns: &[Instant]) -> usize {
        let within = |from: Instant| turns.iter().filter(|at| **at >= from && at.duration_since(from) < SECOND).count();
        turns.iter().map(|from| within(*from)).max().unwrap_or_default()
    }

    #[tokio::test(start_paused = true)]
    async fn no_second_exceeds_its_share_of_the_quota_even_across_minutes() {
        for per_second in [25, 5, 2] {
            let limiter = RateLimiter::new(per_second);
            let mut turns = Vec::new();
            // A burst that ends in one minute, one at the start of the next, and one during that.
            for wait in [0, 40, 60_000, 1] {
                tokio::time::sleep(Duration::from_millis(wait)).await;
                for _ in 0..3 * per_second {
                    limiter.wait(random).await;
                    turns.push(Instant::now());
                }
            }
            assert!(busiest(&turns) <= per_second as usize, "{} of {per_second}", busiest(&turns));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn runners_that_start_at_the_same_instant_spread_their_calls() {
        const RUNNERS: u32 = 200;
        let mut first_turns = tokio::task::JoinSet::new();
        let minute = Instant::now();
        for _ in 0..RUNNERS {
            first_turns.spawn(async move {
                RateLimiter::new(25).wait(random).await;
                minute.elapsed()
            });
        }
        let waits = first_turns.join_all().await;
        assert!(waits.iter().all(|wait| *wait <= BURST_JITTER + Duration::from_millis(1)), "{waits:?}");
        // With an even spread each fifth of the jitter has its share of the runners.
        for fifth in 0..5 {
            let from = BURST_JITTER / 5 * fifth;
            let within = waits.iter().filter(|wait| **wait >= from && **wait < from + BURST_JITTER / 5).count();
            assert!(within > RUNNERS as usize / 10, "{within} runners from {from:?} on");
        }
    }
}
