//! Waits for a condition by polling. Called by every test that waits.

use std::thread;
use std::time::{Duration, Instant};

/// A generous deadline for anything that takes milliseconds on an idle machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Pause between two checks of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Returns as soon as `condition` holds; panics when it does not hold within `deadline`.
#[track_caller]
pub fn wait_until(deadline: Duration, condition: impl FnMut() -> bool) {
    assert!(holds_within(deadline, condition), "the condition did not hold within {deadline:?}");
}

/// Returns the first value that `found` gives; panics with `what` after [`DEADLINE`]. Polls every 2 ms, because some
/// callers wait for a process that runs for only a few milliseconds.
#[track_caller]
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "{what} did not come within {DEADLINE:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether `condition` held at some point within `deadline`.
pub(crate) fn holds_within(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() >= deadline {
            return false;
        }
        thread::sleep(POLL_INTERVAL);
    }
}
