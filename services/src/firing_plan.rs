//! What is to be done about the firings of one job that have come due. Pure: the scheduler carries it out.

use std::collections::VecDeque;
use std::time::Duration;

use domain::job::{CatchUp, Job};
use domain::run::Trigger;
use domain::schedule::Schedule;
use jiff::Timestamp;

use crate::maintenance::Windows;
use crate::new_runs::{earlier, since};

/// A firing that is dealt with this much late simply runs: a tick was slow, or a machine rebooted quickly.
pub const LATE_MAX: Duration = Duration::from_secs(120);

/// Records made for firings that were slept through, per job and wake-up; older firings are counted in one reason.
pub const CATCH_UP_RECORDS_MAX: usize = 100;

/// Firings counted one by one; beyond, the reason says "more than".
pub const FIRINGS_COUNTED_MAX: usize = 100_000;

/// What the scheduler knows when it looks at a job.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'s> {
    pub now: Timestamp,
    /// When it last ticked, if it ever did.
    pub ticked_at: Option<Timestamp>,
    pub windows: &'s Windows,
}

/// One run that is to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intended {
    pub nominal: Timestamp,
    pub intent: Intent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    Start(Trigger),
    /// Waits for the end of a maintenance window.
    Hold(String),
    Skip(String),
    Miss(String),
}

/// The runs for all firings from `from` (included) to now, oldest first.
pub fn plan(job: &Job, schedule: &Schedule, from: Timestamp, situation: &Situation<'_>) -> Vec<Intended> {
    let (firings, uncounted) = due_firings(schedule, from, situation.now);
    let late = |nominal: Timestamp| since(nominal, situation.now) > LATE_MAX;
    let oldest_counted = firings.front().copied();
    let slept_through = firings.iter().any(|nominal| late(*nominal) && blocked(job, *nominal, situation).is_none());
    let newest = firings.iter().rev().copied().find(|nominal| blocked(job, *nominal, situation).is_none());
    let mut intended = Vec::with_capacity(firings.len());
    for nominal in firings {
        let intent = match blocked(job, nominal, situation) {
            Some(intent) => intent,
            None => match job.catch_up {
                CatchUp::Once if slept_through => once(nominal, newest, situation),
                CatchUp::All if late(nominal) => Intent::Start(Trigger::CatchUp),
                CatchUp::Skip if late(nominal) => Intent::Miss(slept(nominal, situation)),
                _ => Intent::Start(Trigger::Schedule),
            },
        };
        intended.push(Intended { nominal, intent });
    }
    if uncounted > 0
        && let Some(oldest) = oldest_counted
    {
        count_older(&mut intended, oldest, uncounted, situation);
    }
    intended
}

/// The newest firings, at most [`CATCH_UP_RECORDS_MAX`], oldest first, and how many older ones there were (no more than
/// [`FIRINGS_COUNTED_MAX`] are looked at).
fn due_firings(schedule: &Schedule, from: Timestamp, now: Timestamp) -> (VecDeque<Timestamp>, usize) {
    let before = earlier(from, Duration::from_nanos(1));
    let due = |after| schedule.firings(after).map(|firing| firing.at).take_while(|at| *at <= now);
    let (newest, count) = newest_of(due(before).take(FIRINGS_COUNTED_MAX));
    if count < FIRINGS_COUNTED_MAX {
        let older = count - newest.len();
        return (newest, older);
    }
    // So many that only those count that are not late yet.
    let (newest, _) = newest_of(due(before.max(earlier(now, LATE_MAX))));
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
fn blocked(job: &Job, nominal: Timestamp, situation: &Situation<'_>) -> Option<Intent> {
    if let Some(pause) = &job.paused
        && pause.until.is_none_or(|until| nominal < until)
    {
        let why = if pause.why.is_empty() { String::new() } else { format!(": {}", pause.why) };
        return Some(Intent::Skip(format!("paused since {}{why}", pause.since)));
    }
    let window = situation.windows.blocking(&job.group, nominal, situation.now)?;
    Some(match window.catch_up {
        CatchUp::Skip => Intent::Skip(window.says()),
        CatchUp::Once | CatchUp::All => Intent::Hold(window.says()),
    })
}

fn once(nominal: Timestamp, newest: Option<Timestamp>, situation: &Situation<'_>) -> Intent {
    match newest {
        Some(newest) if newest != nominal => {
            Intent::Skip(format!("caught up by the run of {newest}; {}", slept(nominal, situation)))
        }
        _ => Intent::Start(Trigger::CatchUp),
    }
}

/// Why a firing was not fired in time.
fn slept(nominal: Timestamp, situation: &Situation<'_>) -> String {
    match situation.ticked_at {
        Some(ticked_at) if since(ticked_at, situation.now) > LATE_MAX => {
            format!("the scheduler was down from {ticked_at} to {}", situation.now)
        }
        _ => format!("the scheduler came to the firing of {nominal} only at {}", situation.now),
    }
}

/// One record, of the oldest firing that has one, stands for those that have none.
fn count_older(intended: &mut [Intended], oldest: Timestamp, older: usize, situation: &Situation<'_>) {
    let Some(first) = intended.first_mut() else { return };
    let more = if older >= FIRINGS_COUNTED_MAX { "more than " } else { "" };
    let counted = format!("{}; it stands for {more}{older} earlier firings too", slept(oldest, situation));
    first.intent = match &first.intent {
        Intent::Skip(reason) => Intent::Skip(format!("{reason}; it stands for {more}{older} earlier firings too")),
        _ => Intent::Miss(counted),
    };
}
