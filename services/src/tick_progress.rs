//! The progress of the scheduler: what its ticks have processed, and which instants the next tick reads.

use std::time::Duration;

use domain::ports::Ports;
use jiff::Timestamp;

use crate::error::CONFLICTS_MAX;
use crate::new_runs::{saturating_add, saturating_sub};
use crate::settings::{self, SCHEDULER, SchedulerState};
use crate::{Error, Result};

/// How far before its cursor a tick reads again, for entries that another scheduler or an edit wrote late. Chosen, not
/// measured.
pub const LOOKBACK: Duration = Duration::from_secs(600);

/// Largest difference between the clocks of two machines at which a tick still finds late entries. Chosen: with NTP
/// they differ by milliseconds. With a larger difference, the sweep finds the entries.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(20);

/// [`LOOKBACK`] of the first tick of an installation. Chosen, not measured.
pub const FIRST_LOOKBACK: Duration = Duration::from_secs(86_400);

/// When a tick last completed; `None` before the first one.
///
/// # Errors
/// Returns the port's error.
pub async fn ticked_at(ports: &Ports) -> Result<Option<Timestamp>> {
    Ok(settings::read::<SchedulerState>(ports, SCHEDULER).await?.value.ticked_at)
}

/// Lets the next tick read the entries from `at` on again: an entry of the past was put.
pub(crate) async fn read_again_from(ports: &Ports, at: Timestamp) -> Result<()> {
    for _ in 0..CONFLICTS_MAX {
        let mut state = settings::read::<SchedulerState>(ports, SCHEDULER).await?;
        if state.value.cursor.is_none_or(|cursor| cursor <= at) {
            return Ok(());
        }
        state.value.cursor = Some(at);
        if state.write(ports).await? {
            return Ok(());
        }
    }
    Err(Error::Conflict("the setting `scheduler`".to_owned()))
}

/// Every firing before this instant was processed; `None` before the first tick.
pub(crate) async fn processed_until(ports: &Ports) -> Result<Option<Timestamp>> {
    let state = settings::read::<SchedulerState>(ports, SCHEDULER).await?.value;
    Ok(state.cursor.map(|cursor| state.ticked_at.map_or(cursor, |ticked_at| ticked_at.min(cursor))))
}

/// A range of instants whose entries a tick reads, both ends included.
pub(crate) struct Window {
    pub(crate) from: Timestamp,
    pub(crate) until: Timestamp,
    /// Reads only entries that were written since then: earlier ones are processed.
    pub(crate) written_since: Option<Timestamp>,
}

/// The ranges that a tick reads: first entries written late, for instants before the last tick; then those due since
/// it.
pub(crate) fn windows_due(state: &SchedulerState, now: Timestamp) -> Vec<Window> {
    let Some(cursor) = state.cursor else {
        return vec![Window { from: saturating_sub(now, FIRST_LOOKBACK), until: now, written_since: None }];
    };
    let (cursor, from) = (cursor.min(now), saturating_sub(cursor.min(now), LOOKBACK));
    let Some(ticked_at) = state.ticked_at.filter(|ticked_at| *ticked_at <= now) else {
        return vec![Window { from, until: now, written_since: None }];
    };
    // A completed tick processed its own instant too.
    let done_until = if ticked_at == cursor { cursor } else { saturating_sub(cursor, Duration::from_nanos(1)) };
    let written_since = Some(saturating_sub(ticked_at, CLOCK_SKEW_MAX));
    vec![
        Window { from, until: done_until, written_since },
        Window { from: saturating_add(done_until, Duration::from_nanos(1)), until: now, written_since: None },
    ]
}
