//! All firings of many jobs in a window, in order of time. Used by `sexton plan`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use jiff::{SignedDuration, Timestamp};

use crate::fault::{Fault, Faults};
use crate::job::Job;
use crate::jobs_file::fields;
use crate::schedule::{Firing, Schedule};

/// The firings of a window. Memory is one firing per job, for a window of any length.
pub struct Plan<'j> {
    to: Timestamp,
    timed: Vec<Timed<'j>>,
    /// The next firing of each job; firings at the same instant are in the order of the jobs.
    due: BinaryHeap<Reverse<(Timestamp, usize)>>,
}

struct Timed<'j> {
    job: &'j Job,
    schedule: Schedule,
    next: Option<Firing>,
}

/// The first firing of a job whose run starts after an instant, and that start: the nominal time plus the job's delay.
/// No firing before the job was first stored.
pub fn next_start(job: &Job, schedule: &Schedule, after: Timestamp) -> Option<(Firing, Timestamp)> {
    let delay = SignedDuration::try_from(job.delay()).ok()?;
    let stored_at = job.anchor.filter(|stored_at| *stored_at <= after);
    let before_stored = stored_at.and_then(|at| at.checked_sub(SignedDuration::from_nanos(1)).ok());
    let nominal_after = after.checked_sub(delay).unwrap_or(Timestamp::MIN);
    let firing = schedule.next_after(before_stored.map_or(nominal_after, |at| at.max(nominal_after)).min(after))?;
    let start = firing.at.checked_add(delay).unwrap_or(Timestamp::MAX);
    Some((firing, start))
}

/// Plans from `from` (included) to `to` (excluded), so that adjacent windows neither overlap nor leave a gap. Disabled
/// jobs do not fire. A `rate()` or `@every` of a job that was never stored counts from `from`.
///
/// # Errors
/// One fault for each job whose schedule or zone is invalid.
pub fn plan(jobs: &[Job], from: Timestamp, to: Timestamp) -> Result<Plan<'_>, Faults> {
    let mut faults = Vec::new();
    let mut timed = Vec::with_capacity(jobs.len());
    for job in jobs.iter().filter(|job| job.enabled) {
        match fields::schedule(job, from) {
            Ok(schedule) => timed.push(Timed { job, schedule, next: None }),
            Err(message) => {
                let file = job.source.as_deref().unwrap_or_default();
                faults.push(Fault::new(file, 0, job.key().to_string(), message));
            }
        }
    }
    if !faults.is_empty() {
        return Err(Faults(faults));
    }
    // Schedules return firings strictly after an instant; the window includes its start.
    let before = from.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(from);
    let mut plan = Plan { to, timed, due: BinaryHeap::new() };
    for index in 0..plan.timed.len() {
        plan.push(index, before);
    }
    Ok(plan)
}

impl Plan<'_> {
    fn push(&mut self, index: usize, after: Timestamp) {
        let timed = &mut self.timed[index];
        timed.next = timed.schedule.next_after(after).filter(|firing| firing.at < self.to);
        self.due.extend(timed.next.as_ref().map(|firing| Reverse((firing.at, index))));
    }
}

impl<'j> Iterator for Plan<'j> {
    type Item = (&'j Job, Firing);

    fn next(&mut self) -> Option<(&'j Job, Firing)> {
        let Reverse((at, index)) = self.due.pop()?;
        let firing = self.timed[index].next.take()?;
        self.push(index, at);
        Some((self.timed[index].job, firing))
    }
}
