//! Builds runs, orders and due entries from jobs. Pure.

use std::time::Duration;

use domain::job::Job;
use domain::jobs_file::fields;
use domain::order::{FORMAT_VERSION, Order};
use domain::plan::next_start;
use domain::ports::Due;
use domain::run::{Run, RunId, Trigger};
use domain::schedule::Schedule;
use jiff::{SignedDuration, Timestamp};

/// Latest start of a run whose job sets no `start_within`. Chosen: every run ends, even when its group has no runner.
pub(crate) const START_WITHIN_DEFAULT: Duration = Duration::from_secs(86_400);

/// A job's schedule. `@every` of a job without an anchor (written into the table by hand) counts from 1970.
pub(crate) fn schedule_of(job: &Job) -> Result<Schedule, String> {
    fields::schedule(job, Timestamp::UNIX_EPOCH)
}

/// The due entry of the job's first start after an instant; `None` when it is disabled, or never fires again.
pub(crate) fn next_due_entry(job: &Job, schedule: &Schedule, after: Timestamp) -> Option<Due> {
    if !job.enabled {
        return None;
    }
    let (_, at) = next_start(job, schedule, after)?;
    Some(Due { at, key: job.key(), timing: job.timing() })
}

pub(crate) fn saturating_add(at: Timestamp, span: Duration) -> Timestamp {
    SignedDuration::try_from(span).ok().and_then(|span| at.checked_add(span).ok()).unwrap_or(Timestamp::MAX)
}

pub(crate) fn saturating_sub(at: Timestamp, span: Duration) -> Timestamp {
    SignedDuration::try_from(span).ok().and_then(|span| at.checked_sub(span).ok()).unwrap_or(Timestamp::MIN)
}

/// The time from `from` to `now`; zero when `from` is later.
pub(crate) fn elapsed_since(from: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(from)).unwrap_or(Duration::ZERO)
}

/// The latest start of an attempt that may start at `from`.
pub(crate) fn start_by(job: &Job, from: Timestamp) -> Timestamp {
    saturating_add(from, job.start_within.unwrap_or(START_WITHIN_DEFAULT))
}

/// When a firing is due: its nominal time plus the job's delay.
pub(crate) fn due_at(job: &Job, nominal: Timestamp) -> Timestamp {
    saturating_add(nominal, job.delay())
}

/// The run of a firing, to be started.
pub(crate) fn new_run(job: &Job, nominal: Timestamp, trigger: Trigger, now: Timestamp) -> Run {
    let mut run = Run::new(RunId::scheduled(&job.key(), nominal), &job.key(), nominal, trigger, now);
    let from = if trigger == Trigger::Schedule { due_at(job, nominal) } else { now };
    run.start_by = Some(start_by(job, from));
    run
}

/// The order for the run's current attempt.
pub(crate) fn new_order(run: &Run, job: &Job, now: Timestamp) -> Order {
    Order {
        version: FORMAT_VERSION,
        run_id: run.run_id.clone(),
        attempt: run.attempt,
        nominal: run.nominal,
        trigger: run.trigger,
        issued_at: now,
        not_before: run.not_before.filter(|not_before| *not_before > now),
        start_by: run.start_by,
        job: job.clone(),
    }
}
