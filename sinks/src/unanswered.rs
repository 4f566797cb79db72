//! The calls to a server that have no answer yet, for the state `waiting` of a sink. Written by sinks whose protocol
//! has answers, read by the engine's status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::engine::locked;

/// A call of this age is shown. Chosen: a working server answers sooner.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct UnansweredCalls(Mutex<Started>);

#[derive(Debug, Default)]
struct Started {
    next: u64,
    calls: BTreeMap<u64, (Timestamp, Instant)>,
}

/// A call that is being made; its drop ends it, answered or not.
pub(crate) struct Call {
    calls: Arc<UnansweredCalls>,
    number: u64,
}

impl UnansweredCalls {
    pub(crate) fn begin(self: &Arc<Self>) -> Call {
        let mut started = locked(&self.0);
        let number = started.next;
        started.next += 1;
        started.calls.insert(number, (Timestamp::now(), Instant::now()));
        Call { calls: self.clone(), number }
    }

    /// Start of the oldest call that has waited for longer than [`SHOWN_AFTER`].
    pub(crate) fn since(&self) -> Option<Timestamp> {
        let started = locked(&self.0);
        let (at, began) = started.calls.first_key_value()?.1;
        (began.elapsed() >= SHOWN_AFTER).then_some(*at)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        locked(&self.calls.0).calls.remove(&self.number);
    }
}
