//! The progress of the scheduler: what its ticks have processed, and which instants the next tick reads.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::job::JobKey;
use domain::ports::Ports;
use jiff::Timestamp;

use crate::error::CONFLICTS_MAX;
use crate::firing_plan::LATE_MAX;
use crate::new_runs::{saturating_add, saturating_sub};
use crate::settings::{self, SCHEDULER, SchedulerState, ShardCursor};
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
        let is_read_again = |cursor: &ShardCursor| cursor.at < at || *cursor == ShardCursor { at, job: None };
        if state.value.cursor.is_none_or(|cursor| cursor <= at) && state.value.cursors.values().all(is_read_again) {
            return Ok(());
        }
        state.value.cursor = state.value.cursor.map(|cursor| cursor.min(at));
        for cursor in state.value.cursors.values_mut().filter(|cursor| !is_read_again(cursor)) {
            *cursor = ShardCursor { at, job: None };
        }
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
    /// The first job of `from`, in the order of the index; all when none.
    pub(crate) job: Option<JobKey>,
    pub(crate) until: Timestamp,
    /// Reads only entries that were written since then: earlier ones are processed.
    pub(crate) written_since: Option<Timestamp>,
}

/// The ranges that a tick reads of a shard: entries written late, for instants before the last tick; and those due
/// since it.
pub(crate) fn windows_due(state: &SchedulerState, shard: u32, now: Timestamp) -> (Option<Window>, Window) {
    let Some(cursor) = state.cursor else {
        let from = saturating_sub(now, FIRST_LOOKBACK);
        return (None, Window { from, job: None, until: now, written_since: None });
    };
    let (nanosecond, cursor) = (Duration::from_nanos(1), cursor.min(now));
    // A completed tick processed its own instant too.
    let is_complete = state.ticked_at == Some(cursor);
    let next = if is_complete { saturating_add(cursor, nanosecond) } else { cursor };
    // A cursor far ahead is of a clock that was set back since.
    let stored = state.cursors.get(&shard).filter(|cursor| cursor.at <= saturating_add(now, nanosecond));
    let ShardCursor { at, job } = match stored {
        Some(cursor) => cursor.clone(),
        None => ShardCursor { at: next, job: None },
    };
    let Some(ticked_at) = state.ticked_at.filter(|ticked_at| *ticked_at <= now) else {
        let from = saturating_sub(at.min(now), LOOKBACK);
        return (None, Window { from, job: None, until: now, written_since: None });
    };
    // Entries of a half processed instant may have been written late too.
    let done_until = if job.is_some() { at } else { saturating_sub(at, nanosecond) };
    let late = Window {
        from: saturating_sub(at.min(now), LOOKBACK),
        job: None,
        until: done_until.min(now),
        written_since: Some(saturating_sub(ticked_at, CLOCK_SKEW_MAX)),
    };
    (Some(late), Window { from: at, job, until: now, written_since: None })
}

/// Where the next tick continues in each shard.
#[derive(Debug, Default)]
pub(crate) struct ShardProgress {
    left: BTreeMap<u32, ShardCursor>,
    /// The oldest instant with an entry of an unknown shard.
    left_of_all: Option<Timestamp>,
}

impl ShardProgress {
    /// The next tick continues at this entry of the shard, or at an earlier one that was left before.
    pub(crate) fn leave(&mut self, shard: u32, cursor: ShardCursor) {
        let first = self.left.entry(shard).or_insert_with(|| cursor.clone());
        // Entries of one instant are left in the order of the index.
        if cursor.at < first.at || (cursor.at == first.at && cursor.job.is_none()) {
            *first = cursor;
        }
    }

    /// The next tick continues at this instant in each shard.
    pub(crate) fn leave_all(&mut self, at: Timestamp) {
        self.left_of_all = Some(self.left_of_all.map_or(at, |oldest| oldest.min(at)));
    }

    /// Writes the progress of a tick of `now` into the state. `completed`: all entries were read.
    pub(crate) fn store(mut self, state: &mut SchedulerState, shards: u32, now: Timestamp, completed: bool) {
        if let Some(at) = self.left_of_all {
            (0..shards).for_each(|shard| self.leave(shard, ShardCursor { at, job: None }));
        }
        let oldest = self.left.values().map(|cursor| cursor.at).min();
        let nanosecond = Duration::from_nanos(1);
        // Before the oldest unprocessed entry: a cursor at the instant of its tick counts as processed. An older
        // release knows only this one.
        state.cursor = Some(oldest.map_or(now, |oldest| saturating_sub(oldest.min(now), nanosecond)));
        state.cursors = match oldest {
            None if completed => BTreeMap::new(),
            _ => {
                let complete = ShardCursor { at: saturating_add(now, nanosecond), job: None };
                (0..shards).map(|shard| (shard, self.left.remove(&shard).unwrap_or(complete.clone()))).collect()
            }
        };
        if completed {
            // A stored tick far in the future came from a wrong clock. Replace it once the clock is right again.
            let before = state.ticked_at.filter(|before| *before <= saturating_add(now, LATE_MAX));
            state.ticked_at = Some(before.map_or(now, |before| before.max(now)));
        }
    }
}
