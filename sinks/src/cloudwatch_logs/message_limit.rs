//! The longest message of an event. An endpoint that is not the service's own may accept less, and its refusal names
//! the limit. Learned by `put`, used by the encoding of lines from the next connection on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::cloudwatch_logs::batch::{EVENT_OVERHEAD_BYTES, MESSAGE_BYTES_MAX};

/// The limit of the service until April 2025, in bytes with the overhead of an event; some endpoints still have it.
const OLD_EVENT_BYTES_MAX: usize = 262_144;
/// A smaller number in a refusal is no limit of an event. Chosen: an event of this size holds hardly a line.
const EVENT_BYTES_MIN: usize = 1024;

#[derive(Clone, Debug)]
pub(super) struct MessageLimit(Arc<Limits>);

#[derive(Debug)]
struct Limits {
    learned: AtomicUsize,
    /// One value per connection: the numbers of a line's parts depend on it.
    used: AtomicUsize,
}

impl MessageLimit {
    pub(super) fn new() -> MessageLimit {
        let limits = Limits { learned: MESSAGE_BYTES_MAX.into(), used: MESSAGE_BYTES_MAX.into() };
        MessageLimit(Arc::new(limits))
    }

    /// In bytes, as the service counts them.
    pub(super) fn bytes(&self) -> usize {
        self.0.used.load(Relaxed)
    }

    /// Uses what was learned.
    pub(super) fn apply(&self) {
        self.0.used.store(self.0.learned.load(Relaxed), Relaxed);
    }

    /// Learns from the refusal of one event with this many bytes. Returns the new limit of an event in bytes; `None`
    /// when the size of the event is not its fault, or is no news.
    pub(super) fn learn(&self, refusal: &str, event_bytes: usize) -> Option<usize> {
        let limit = limit_in(refusal, event_bytes)?;
        let message_bytes = limit - EVENT_OVERHEAD_BYTES;
        (self.0.learned.fetch_min(message_bytes, Relaxed) > message_bytes).then_some(limit)
    }
}

/// The limit that a refusal names, like `Log event too large: 300000 bytes exceeds limit of 262144`, or the old limit
/// of the service when it names only the reason.
fn limit_in(refusal: &str, event_bytes: usize) -> Option<usize> {
    let text = refusal.to_ascii_lowercase();
    let reasons = ["too large", "too long", "too big", "exceed", "limit", "maximum", "length", " 413"];
    if !reasons.iter().any(|reason| text.contains(reason)) {
        return None;
    }
    let named = numbers(&text).filter(|bytes| (EVENT_BYTES_MIN..event_bytes).contains(bytes)).min();
    named.or((event_bytes > OLD_EVENT_BYTES_MAX).then_some(OLD_EVENT_BYTES_MAX))
}

/// The numbers of a text, in bytes where a unit follows.
fn numbers(text: &str) -> impl Iterator<Item = usize> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = rest.find(|c: char| c.is_ascii_digit())?;
        let from = rest.get(start..)?;
        let end = from.find(|c: char| !c.is_ascii_digit() && c != ',').unwrap_or(from.len());
        let (digits, after) = from.split_at(end);
        rest = after;
        let number = digits.replace(',', "").parse::<usize>().unwrap_or(usize::MAX);
        let unit = after.trim_start();
        let is_unit = |name: &str| {
            let next = unit.strip_prefix(name).and_then(|next| next.chars().next());
            unit.starts_with(name) && next.is_none_or(|next| !next.is_alphanumeric())
        };
        let factor = match () {
            () if ["kb", "kib", "k"].into_iter().any(is_unit) => 1024,
            () if ["mb", "mib", "m"].into_iter().any(is_unit) => 1 << 20,
            () => 1,
        };
        Some(number.saturating_mul(factor))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_limit_of_its_endpoint() {
        for (refusal, event_bytes, limit) in [
            (
                "InvalidParameterException: Log event too large: 300026 bytes exceeds limit of 262144",
                300_100,
                Some(262_144),
            ),
            ("Log event too large: 300026 bytes exceeds limit of 262144", 250_000, None),
            ("Member must have length less than or equal to 262144", 400_000, Some(262_144)),
            ("the maximum size of event 7 is 256 KB", 400_000, Some(262_144)),
            ("event exceeds 65,536 bytes", 400_000, Some(65_536)),
            ("events are limited to 1MiB", 2_000_000, Some(1 << 20)),
            ("event too large", 400_000, Some(262_144)),
            ("answered PutLogEvents with 413: <html>nginx</html>", 400_000, Some(262_144)),
            ("event too large", 200_000, None),
            ("Log event is not valid", 400_000, None),
        ] {
            assert_eq!(limit_in(refusal, event_bytes), limit, "{refusal}");
        }
    }

    #[test]
    fn a_limit_is_used_from_the_next_connection_on_and_learned_once() {
        let limit = MessageLimit::new();
        assert_eq!(limit.learn("exceeds limit of 262144", 300_000), Some(262_144));
        assert_eq!(limit.learn("exceeds limit of 262144", 300_000), None);
        assert_eq!(limit.bytes(), MESSAGE_BYTES_MAX);
        limit.apply();
        assert_eq!(limit.bytes(), 262_118);
    }
}
