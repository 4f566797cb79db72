//! What is to be done about the firings of one job that have come due. Pure: the scheduler carries it out.

use std::collections::VecDeque;
use std::time::Duration;

use domain::job::{CatchUp, Job};
use domain::run::Trigger;
use domain::schedule::Schedule;
use jiff::Timestamp;

use crate::maintenance::Windows;
use crate::new_runs::{elapsed_since, saturating_sub};

/// A firing that is dealt with this much late simply runs: a tick was slow, or a machine rebooted quickly.
pub const LATE_MAX: Duration = Duration::from_secs(120);

/// Records made for firings that were slept through, per job and wake-up; older firings are counted in one reason.
pub const CATCH_UP_RECORDS_MAX: usize = 100;

/// Firings counted one by one; beyond, the reason says "more than".
pub const FIRINGS_COUNTED_MAX: usize = 100_000;

/// What the scheduler knows when it looks at a job.
#[derive(Clone, Copy, Debug)]
pub struct FiringContext<'s> {
    pub now: Timestamp,
    /// When it last ticked, if it ever did.
    pub ticked_at: Option<Timestamp>,
    pub windows: &'s Windows,
}

/// One run that is to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRun {
    pub nominal: Timestamp,
    pub action: PlannedAction,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlannedAction {
    Start(Trigger),
    /// Waits for the end of a maintenance window.
    Hold(String),
    Skip(String),
    Miss(String),
}

/// The runs for all firings from `from` (included) to now, oldest first.
pub fn plan_runs(job: &Job, schedule: &Schedule, from: Timestamp, context: &FiringContext<'_>) -> Vec<PlannedRun> {
    let (firings, uncounted) = due_firings(schedule, from, context.now);
    let late = |nominal: Timestamp| elapsed_since(nominal, context.now) > LATE_MAX;
    let oldest_counted = firings.front().copied();
    let any_late = firings.iter().any(|nominal| late(*nominal) && blocked_by(job, *nominal, context).is_none());
    let newest = firings.iter().rev().copied().find(|nominal| blocked_by(job, *nominal, context).is_none());
    let mut planned = Vec::with_capacity(firings.len());
    for nominal in firings {
        let action = match blocked_by(job, nominal, context) {
            Some(action) => action,
            None => match job.catch_up {
                CatchUp::Once if any_late => catch_up_once(nominal, newest, context),
                CatchUp::All if late(nominal) => PlannedAction::Start(Trigger::CatchUp),
                CatchUp::Skip if late(nominal) => PlannedAction::Miss(late_reason(nominal, context)),
                _ => PlannedAction::Start(Trigger::Schedule),
            },
        };
        planned.push(PlannedRun { nominal, action });
    }
    if uncounted > 0
        && let Some(oldest) = oldest_counted
    {
        count_older_firings(&mut planned, oldest, uncounted, context);
    }
    planned
}

/// The newest firings, at most [`CATCH_UP_RECORDS_MAX`], oldest first, and how many older ones there were (no more than
/// [`FIRINGS_COUNTED_MAX`] are looked at).
fn due_firings(schedule: &Schedule, from: Timestamp, now: Timestamp) -> (VecDeque<Timestamp>, usize) {
    let before = saturating_sub(from, Duration::from_nanos(1));
    let due = |after| schedule.firings(after).map(|firing| firing.at).take_while(|at| *at <= now);
    let (newest, count) = newest_of(due(before).take(FIRINGS_COUNTED_MAX));
    if count < FIRINGS_COUNTED_MAX {
        let older = count - newest.len();
        return (newest, older);
    }
    // So many that only those count that are not late yet.
    let (newest, _) = newest_of(due(before.max(saturating_sub(now, LATE_MAX))));
    (newest, count)
}

fn newest_of(firings: impl Iterator<Item = Timestamp>) -> (VecDeque<Timestamp>, usize) {
    let mut newest = VecDeque::new();
    let mut count = 0;
    for at in firings {
        if newest.len() == CATCH_UP_RECORDS_MAX {
            newest.pop_front();
        }
        newest.push_back(at);
        count += 1;
    }
    (newest, count)
}

/// Why a firing is not fired at all.
fn blocked_by(job: &Job, nominal: Timestamp, context: &FiringContext<'_>) -> Option<PlannedAction> {
    if let Some(pause) = &job.paused
        && pause.until.is_none_or(|until| nominal < until)
    {
        let why = if pause.why.is_empty() { String::new() } else { format!(": {}", pause.why) };
        return Some(PlannedAction::Skip(format!("paused since {}{why}", pause.since)));
    }
    let window = context.windows.blocking_window(&job.group, nominal, context.now)?;
    Some(match window.catch_up {
        CatchUp::Skip => PlannedAction::Skip(window.reason()),
        CatchUp::Once | CatchUp::All => PlannedAction::Hold(window.reason()),
    })
}

fn catch_up_once(nominal: Timestamp, newest: Option<Timestamp>, context: &FiringContext<'_>) -> PlannedAction {
    match newest {
        Some(newest) if newest != nominal => {
            PlannedAction::Skip(format!("caught up by the run of {newest}; {}", late_reason(nominal, context)))
        }
        _ => PlannedAction::Start(Trigger::CatchUp),
    }
}

/// Why a firing was not fired in time.
fn late_reason(nominal: Timestamp, context: &FiringContext<'_>) -> String {
    match context.ticked_at {
        Some(ticked_at) if elapsed_since(ticked_at, context.now) > LATE_MAX => {
            format!("the scheduler was down from {ticked_at} to {}", context.now)
        }
        _ => format!("the scheduler came to the firing of {nominal} only at {}", context.now),
    }
}

/// One record, of the oldest firing that has one, stands for those that have none.
fn count_older_firings(planned: &mut [PlannedRun], oldest: Timestamp, older: usize, context: &FiringContext<'_>) {
    let Some(first) = planned.first_mut() else { return };
    let more = if older >= FIRINGS_COUNTED_MAX { "more than " } else { "" };
    let counted = format!("{}; it stands for {more}{older} earlier firings too", late_reason(oldest, context));
    first.action = match &first.action {
        PlannedAction::Skip(reason) => {
            PlannedAction::Skip(format!("{reason}; it stands for {more}{older} earlier firings too"))
        }
        _ => PlannedAction::Miss(counted),
    };
}
