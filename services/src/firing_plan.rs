//! Decides which runs the due firings of one job become. Pure; the scheduler executes the plan.

use std::collections::VecDeque;
use std::time::Duration;

use domain::job::{CatchUp, Job};
use domain::restored::RestoredLedger;
use domain::run::Trigger;
use domain::schedule::Schedule;
use jiff::Timestamp;

use crate::maintenance::Windows;
use crate::new_runs::{due_at, elapsed_since, saturating_sub, start_by};
use crate::tick_starts::TickStarts;

/// A firing that is at most this late starts normally: a tick was slow, or a machine rebooted quickly. The scheduler
/// was down at a firing after which no tick began within this time. Chosen, not measured.
pub const LATE_MAX: Duration = Duration::from_secs(120);

/// Runs recorded for late firings, per job and tick; older firings are counted in one reason. Chosen, not measured.
pub const CATCH_UP_RECORDS_MAX: usize = 100;

/// Firings counted one by one; beyond, the reason reads "more than". Chosen, not measured.
pub const FIRINGS_COUNTED_MAX: usize = 100_000;

/// The state in which a job's firings are planned.
#[derive(Clone, Copy, Debug)]
pub struct FiringContext<'s> {
    /// The time of the tick.
    pub now: Timestamp,
    /// When the scheduler last completed a tick.
    pub ticked_at: Option<Timestamp>,
    /// All maintenance windows.
    pub windows: &'s Windows,
    /// When ticks began.
    pub starts: &'s TickStarts,
    /// The entries were put after a tick had processed their instants: they are late although no tick was slow.
    pub put_late: bool,
    /// The job returned to its file a short time ago.
    pub absence: Option<Absence>,
    /// The gap of a ledger that was restored from a copy: its firings may have been started.
    pub restored: Option<RestoredLedger>,
}

/// The time in which a job was missing from its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Absence {
    /// When the job was removed.
    pub from: Timestamp,
    /// When it returned.
    pub until: Timestamp,
}

/// A run to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRun {
    /// The nominal time of the firing.
    pub nominal: Timestamp,
    /// What to do with it.
    pub action: PlannedAction,
}

/// What the scheduler does with a firing; the text is the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlannedAction {
    /// Starts.
    Start(Trigger),
    /// Starts late, because ticks were slow or failed.
    StartLate(String),
    /// Is held until the end of a maintenance window.
    Hold(String),
    /// Is recorded as skipped.
    Skip(String),
    /// Is recorded as missed.
    Miss(String),
    /// Is recorded as lost: it may have been started before the ledger was restored.
    Lose(String),
}

/// The runs for all firings from `from` (included) to now, oldest first.
pub fn plan_runs(job: &Job, schedule: &Schedule, from: Timestamp, context: &FiringContext<'_>) -> Vec<PlannedRun> {
    // Due entries have the time of the start; nominal times are earlier by the job's delay.
    let nominal_of = |due: Timestamp| saturating_sub(due, job.delay());
    let (firings, uncounted) = due_firings(schedule, nominal_of(from), nominal_of(context.now));
    let is_slow = |nominal: Timestamp| context.was_slow(job, nominal);
    let late = |nominal: Timestamp| is_late(job, nominal, context) && !is_slow(nominal);
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
                _ if is_late(job, nominal, context) && is_slow(nominal) => start_late(job, nominal, context),
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

fn is_late(job: &Job, nominal: Timestamp, context: &FiringContext<'_>) -> bool {
    elapsed_since(due_at(job, nominal), context.now) > LATE_MAX
}

impl FiringContext<'_> {
    /// Whether a tick began in time for the firing, which only this tick reached.
    fn was_slow(&self, job: &Job, nominal: Timestamp) -> bool {
        let is_absent = self.absence.is_some_and(|absence| (absence.from..=absence.until).contains(&nominal));
        !self.put_late && !is_absent && self.starts.began_after(due_at(job, nominal))
    }
}

/// Starts a firing that ticks were too slow for, unless its latest start has passed.
fn start_late(job: &Job, nominal: Timestamp, context: &FiringContext<'_>) -> PlannedAction {
    let reason = format!("the scheduler was slow: it reached the firing of {nominal} only at {}", context.now);
    match start_by(job, due_at(job, nominal)) {
        latest if latest < context.now => {
            PlannedAction::Miss(format!("not started by {latest}, its `start_within`: {reason}"))
        }
        _ => PlannedAction::StartLate(reason),
    }
}

/// The newest firings, at most [`CATCH_UP_RECORDS_MAX`], oldest first, and the number of older ones (at most
/// [`FIRINGS_COUNTED_MAX`] are counted).
fn due_firings(schedule: &Schedule, from: Timestamp, now: Timestamp) -> (VecDeque<Timestamp>, usize) {
    let before = saturating_sub(from, Duration::from_nanos(1));
    let due = |after| schedule.firings(after).map(|firing| firing.at).take_while(|at| *at <= now);
    let (newest, count) = newest_of(due(before).take(FIRINGS_COUNTED_MAX));
    if count < FIRINGS_COUNTED_MAX {
        let older = count - newest.len();
        return (newest, older);
    }
    // Too many to count: only those that are not late yet get runs.
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

/// The action for a firing that a pause, a maintenance window or the restore of the ledger blocks.
fn blocked_by(job: &Job, nominal: Timestamp, context: &FiringContext<'_>) -> Option<PlannedAction> {
    let due = due_at(job, nominal);
    if let Some(restored) = context.restored.filter(|restored| due <= restored.restored_at) {
        return Some(PlannedAction::Lose(restored.reason()));
    }
    if let Some(pause) = &job.paused
        && pause.until.is_none_or(|until| due < until)
    {
        let why = if pause.why.is_empty() { String::new() } else { format!(": {}", pause.why) };
        return Some(PlannedAction::Skip(format!("paused since {}{why}", pause.since)));
    }
    let window = context.windows.blocking_window(&job.group, due, context.now)?;
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

/// Why a firing was not started in time.
fn late_reason(nominal: Timestamp, context: &FiringContext<'_>) -> String {
    match (context.ticked_at, context.absence) {
        (_, Some(absence)) if (absence.from..=absence.until).contains(&nominal) => {
            format!("the job was missing from its file from {} to {}", absence.from, absence.until)
        }
        (Some(ticked_at), _) if elapsed_since(ticked_at, context.now) > LATE_MAX => {
            format!("the scheduler was down from {ticked_at} to {}", context.now)
        }
        _ => format!("the scheduler reached the firing of {nominal} only at {}", context.now),
    }
}

/// The record of the oldest recorded firing also represents the firings without a record.
fn count_older_firings(planned: &mut [PlannedRun], oldest: Timestamp, older: usize, context: &FiringContext<'_>) {
    let Some(first) = planned.first_mut() else { return };
    let more = if older >= FIRINGS_COUNTED_MAX { "more than " } else { "" };
    let counted = format!("{}; also covers {more}{older} earlier firings", late_reason(oldest, context));
    first.action = match &first.action {
        PlannedAction::Skip(reason) => {
            PlannedAction::Skip(format!("{reason}; also covers {more}{older} earlier firings"))
        }
        PlannedAction::Lose(reason) => {
            PlannedAction::Lose(format!("{reason}; also covers {more}{older} earlier firings"))
        }
        _ => PlannedAction::Miss(counted),
    };
}
