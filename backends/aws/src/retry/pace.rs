//! The rate at which a throttled partition is written: lowered by each throttle, raised by each accepted write. A
//! partition that was never throttled has no pace.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Writes a second after the first throttle. Chosen: half of what a partition accepts (DynamoDB developer guide,
/// partitions: 1000 write units a second).
const RATE_FIRST: f64 = 500.0;

/// The lowest rate. Chosen: a partition that accepts nothing is tried once a second.
const RATE_MIN: f64 = 1.0;

/// Factor of a throttle. Chosen: a tenth of the rate is reached within three seconds.
const LOWERED: f64 = 0.85;

/// Throttles within this time are one, because calls are concurrent. Chosen: several times the duration of a call.
const LOWERED_ONCE_IN: Duration = Duration::from_millis(200);

/// Rise of the rate in one second at that rate. Chosen: from nothing to what a partition accepts in 20 s.
const RISE: f64 = 50.0;

/// A pace ends this long after the last throttle. Chosen: DynamoDB has then used its burst, or split the partition.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// The paces of all throttled partitions.
#[derive(Debug, Default)]
pub(crate) struct Paces {
    by_partition: Mutex<HashMap<String, Pace>>,
}

#[derive(Debug)]
struct Pace {
    /// Writes a second.
    rate: f64,
    lowered_at: Instant,
    /// The turn of the next write.
    next: Instant,
}

impl Paces {
    /// When the next write to the partition may be sent; `None`: at once.
    pub(super) fn take_turn(&self, partition: &str, now: Instant) -> Option<Instant> {
        let mut paces = self.by_partition.lock().unwrap_or_else(PoisonError::into_inner);
        let pace = paces.get_mut(partition)?;
        let turn = pace.next.max(now);
        pace.next = turn + Duration::from_secs_f64(1.0 / pace.rate);
        Some(turn)
    }

    /// The partition was throttled.
    pub(super) fn lower(&self, partition: &str, now: Instant) {
        let mut paces = self.by_partition.lock().unwrap_or_else(PoisonError::into_inner);
        paces.retain(|_, pace| now < pace.lowered_at + KEPT_FOR);
        match paces.get_mut(partition) {
            None => {
                tracing::warn!(partition, "partition is throttled; slowing down its writes");
                paces.insert(partition.to_owned(), Pace { rate: RATE_FIRST, lowered_at: now, next: now });
            }
            Some(pace) if now < pace.lowered_at + LOWERED_ONCE_IN => {}
            Some(pace) => {
                pace.rate = (pace.rate * LOWERED).max(RATE_MIN);
                pace.lowered_at = now;
            }
        }
    }

    /// The partition accepted a write.
    pub(super) fn raise(&self, partition: &str, now: Instant) {
        let mut paces = self.by_partition.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pace) = paces.get_mut(partition) else { return };
        if now >= pace.lowered_at + KEPT_FOR {
            paces.remove(partition);
            return;
        }
        pace.rate += RISE / pace.rate;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A partition that accepts a third of what is requested: writes are delayed, most are accepted, and its neighbour
    /// is not delayed.
    #[test]
    fn a_pace_follows_what_the_partition_accepts() {
        let paces = Paces::default();
        let began_at = Instant::now();
        let (accepted_per_second, mut tokens, mut now) = (100.0, 100.0, began_at);
        let (mut accepted, mut throttled) = (0, 0);
        while accepted < 3000 {
            let turn = paces.take_turn("runs db", now).unwrap_or(now).max(now) + Duration::from_millis(1);
            tokens = (tokens + (turn - now).as_secs_f64() * accepted_per_second).min(accepted_per_second);
            now = turn;
            if tokens >= 1.0 {
                tokens -= 1.0;
                accepted += 1;
                paces.raise("runs db", now);
            } else {
                throttled += 1;
                paces.lower("runs db", now);
            }
            assert_eq!(paces.take_turn("runs web", now), None);
        }
        let took = (now - began_at).as_secs();
        assert!((28..45).contains(&took), "{took} s for 3000 writes at 100 a second");
        assert!(throttled < 1000, "{throttled} throttled writes");
    }
}
