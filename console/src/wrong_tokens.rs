//! Counts requests with a wrong token, for one log line a minute and address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Delay of the answer to a wrong token. Requests with the right token never wait for it. Chosen: it slows down guesses
/// and is short for a person who mistyped.
pub(crate) const ANSWER_DELAY: Duration = Duration::from_secs(1);

/// At most one log line for an address in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Addresses that are counted apart; all others share one count. Chosen: bounds the memory.
const ADDRESSES_MAX: usize = 1000;

#[derive(Default)]
pub(crate) struct WrongTokens(Mutex<HashMap<Option<IpAddr>, Count>>);

struct Count {
    logged_at: Instant,
    /// Since then, not logged.
    requests: u64,
}

impl WrongTokens {
    /// Counts a request, and logs when the last line about its address is older than a minute.
    pub(crate) fn note(&self, address: Option<IpAddr>) {
        let Some((address, requests)) = self.count(address, Instant::now()) else { return };
        let from = address.map_or_else(|| "other addresses".to_owned(), |address| address.to_string());
        match requests {
            1 => tracing::warn!(from, "refused a request with a wrong token"),
            _ => tracing::warn!(from, requests, "refused requests with a wrong token"),
        }
    }

    /// The address and the number of requests to log now.
    fn count(&self, address: Option<IpAddr>, now: Instant) -> Option<(Option<IpAddr>, u64)> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |count: &Count| now.duration_since(count.logged_at) >= LOG_INTERVAL;
        if counts.len() >= ADDRESSES_MAX && !counts.contains_key(&address) {
            counts.retain(|_, count| !is_old(count) || count.requests > 0);
        }
        let address = address.filter(|_| counts.len() < ADDRESSES_MAX || counts.contains_key(&address));
        let Some(count) = counts.get_mut(&address) else {
            counts.insert(address, Count { logged_at: now, requests: 0 });
            return Some((address, 1));
        };
        count.requests += 1;
        if !is_old(count) {
            return None;
        }
        count.logged_at = now;
        Some((address, std::mem::take(&mut count.requests)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u32) -> Option<IpAddr> {
        Some(IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0000 + last)))
    }

    #[test]
    fn an_address_is_logged_once_a_minute_with_the_number_of_its_requests() {
        let (wrong, start) = (WrongTokens::default(), Instant::now());
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(wrong.count(address(1), later(0)), Some((address(1), 1)));
        assert_eq!(wrong.count(address(1), later(1)), None);
        assert_eq!(wrong.count(address(2), later(1)), Some((address(2), 1)));
        assert_eq!(wrong.count(address(1), later(59)), None);
        assert_eq!(wrong.count(address(1), later(60)), Some((address(1), 3)));
        assert_eq!(wrong.count(address(1), later(61)), None);
    }

    #[test]
    fn many_addresses_use_bounded_memory_and_few_lines() {
        let (wrong, now) = (WrongTokens::default(), Instant::now());
        let lines = (0..50_000).filter_map(|last| wrong.count(address(last), now)).count();
        assert_eq!(lines, ADDRESSES_MAX + 1);
        assert!(wrong.0.lock().expect("not poisoned").len() <= ADDRESSES_MAX + 1);
    }
}
