//! Logs errors of one kind once: a warning or an error from the same place with the same message and the same cause is
//! printed once a minute, and the others of that minute are counted. What differs only in a run or a path is one kind.

use std::collections::HashMap;
use std::fmt::{Debug, Write};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Time in which errors of one kind are logged once. Chosen: an error that lasts is still seen in any log of minutes.
const SPAN: Duration = Duration::from_secs(60);

/// Events of one kind without a cause that are printed in this time. Chosen: a few runs are each named; a flood is not.
const WITHOUT_CAUSE_MAX: u64 = 20;

/// Kinds that are remembered at most; all are forgotten above it. Chosen, not measured.
const KINDS_MAX: usize = 1_000;

/// Texts of the system for an exhausted limit of open files: EMFILE and ENFILE (glibc, and musl's for both), without
/// their first letter, which messages write small.
const LIMIT_TEXTS: [&str; 3] = ["oo many open files", "o file descriptors available", "oo many open files in system"];

#[derive(Default)]
pub(crate) struct RepeatedErrors {
    kinds: Mutex<HashMap<u64, Kind>>,
}

struct Kind {
    since: Instant,
    printed: u64,
    suppressed: u64,
}

/// When an error named the limit of open files last.
static LIMIT_REACHED_AT: Mutex<Option<Instant>> = Mutex::new(None);

/// Whether an error named the limit of open files within this time.
pub(crate) fn reached_open_files_within(span: Duration) -> bool {
    let at = *LIMIT_REACHED_AT.lock().unwrap_or_else(PoisonError::into_inner);
    at.is_some_and(|at| at.elapsed() < span)
}

/// Collects what makes the kind of an event: its message and its cause.
#[derive(Default)]
struct KindText {
    message: String,
    cause: String,
}

impl Visit for KindText {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            "error" | "why" => write!(self.cause, "{value:?}"),
            _ => Ok(()),
        };
    }
}

impl RepeatedErrors {
    /// Whether to print an event of this kind now; and the number of events that were left out since the last one.
    fn admit(&self, kind: u64, printed_max: u64, now: Instant) -> (bool, u64) {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if kinds.len() >= KINDS_MAX {
            kinds.clear();
        }
        let kind = kinds.entry(kind).or_insert(Kind { since: now, printed: 0, suppressed: 0 });
        let mut left_out = 0;
        if now.duration_since(kind.since) >= SPAN {
            left_out = kind.suppressed;
            *kind = Kind { since: now, printed: 0, suppressed: 0 };
        }
        if kind.printed < printed_max {
            kind.printed += 1;
            return (true, left_out);
        }
        kind.suppressed += 1;
        (false, 0)
    }
}

impl<S: Subscriber> Layer<S> for RepeatedErrors {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN {
            return true;
        }
        let mut text = KindText::default();
        event.record(&mut text);
        let names_limit = LIMIT_TEXTS.iter().any(|limit| text.cause.contains(limit) || text.message.contains(limit));
        if names_limit {
            *LIMIT_REACHED_AT.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        let mut hasher = DefaultHasher::new();
        (metadata.file(), metadata.line(), &text.message, &text.cause).hash(&mut hasher);
        let printed_max = if names_limit || !text.cause.is_empty() { 1 } else { WITHOUT_CAUSE_MAX };
        let (printed, left_out) = self.admit(hasher.finish(), printed_max, Instant::now());
        if left_out > 0 {
            crate::failure::print_error_line(&format!("{left_out} more like the next were not logged"));
        }
        printed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_one_kind_are_printed_once_a_minute_and_counted() {
        let errors = RepeatedErrors::default();
        let start = Instant::now();
        assert_eq!((0..1_000).filter(|_| errors.admit(1, 1, start).0).count(), 1);
        assert_eq!(errors.admit(2, 1, start), (true, 0));
        assert_eq!(errors.admit(1, 1, start + SPAN), (true, 999));
    }
}
