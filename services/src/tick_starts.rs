//! When ticks of the scheduler began. Decides whether the scheduler was down at a firing, or only slow: a tick that
//! failed began too.

use std::time::Duration;

use domain::ports::Ports;
use jiff::Timestamp;

use crate::Result;
use crate::firing_plan::LATE_MAX;
use crate::new_runs::{elapsed_since, saturating_add};
use crate::settings::{self, TICK_STARTS, TickStartsState};

/// A beginning is not stored when the last stored one is younger. Chosen: on one machine, a tick may begin each second.
const STORED_EVERY: Duration = Duration::from_secs(10);

/// Periods that are kept. Chosen: a scheduler that is down once a day is known for three weeks; the latest start of a
/// run is a day after its firing by default.
const PERIODS_MAX: usize = 20;

/// The times in which a tick began at least every [`LATE_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TickStarts {
    /// Oldest first: the first and the last beginning.
    periods: Vec<(Timestamp, Timestamp)>,
}

impl TickStarts {
    /// Whether a tick began within [`LATE_MAX`] after the instant.
    pub fn began_after(&self, due: Timestamp) -> bool {
        let is_near = |first: Timestamp| elapsed_since(due, first) <= LATE_MAX;
        self.periods.iter().any(|(first, last)| due <= *last && is_near(*first))
    }

    fn add(&mut self, now: Timestamp) {
        // From a clock that was ahead.
        self.periods.retain(|(first, _)| *first <= saturating_add(now, LATE_MAX));
        let gap_max = LATE_MAX + STORED_EVERY;
        match self.periods.last_mut() {
            Some((_, last)) if elapsed_since(*last, now) <= gap_max => *last = now,
            _ => self.periods.push((now, now)),
        }
        let surplus = self.periods.len().saturating_sub(PERIODS_MAX);
        self.periods.drain(..surplus);
    }
}

/// Stores that a tick begins. Returns all beginnings.
///
/// # Errors
/// Returns the port's error.
pub(crate) async fn record(ports: &Ports, now: Timestamp) -> Result<TickStarts> {
    let mut state = settings::read::<TickStartsState>(ports, TICK_STARTS).await?;
    let stored = state.value.periods.last().map(|(_, last)| *last);
    let mut starts = TickStarts { periods: state.value.periods };
    starts.add(now);
    if stored.is_none_or(|stored| stored > now || elapsed_since(stored, now) >= STORED_EVERY) {
        state.value = TickStartsState { periods: starts.periods.clone() };
        // A conflict is ignored: another scheduler stored its own beginning.
        state.write(ports).await?;
    }
    Ok(starts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_began_after_a_firing_or_the_scheduler_was_down() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let mut starts = TickStarts::default();
        (0..5).for_each(|minute| starts.add(at(minute * 60)));
        (60..62).for_each(|minute| starts.add(at(minute * 60)));
        assert_eq!(starts.periods, [(at(0), at(240)), (at(3600), at(3660))]);
        for (due, began) in [(-121, false), (-120, true), (100, true), (240, true), (241, false)] {
            assert_eq!(starts.began_after(at(due)), began, "{due}");
        }
        for (due, began) in [(3479, false), (3480, true), (3660, true), (3661, false)] {
            assert_eq!(starts.began_after(at(due)), began, "{due}");
        }
        // A clock that was an hour ahead is right again.
        starts.add(at(600));
        assert_eq!(starts.periods, [(at(0), at(240)), (at(600), at(600))]);
    }
}
