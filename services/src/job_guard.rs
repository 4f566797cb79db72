//! A job's state while its firings are planned. It is written together with one run, at the version that was read
//! before the search for open runs: the second of two writers gets a conflict and searches again. It also counts the
//! firings that could not start.

use domain::alert::blocked::{Blocked, block, unblock};
use domain::alert::{AlertKind, JobState, Transition};
use domain::job::{Concurrency, Job};
use domain::ports::{AlertStep, StateChange, Stored};
use domain::run::{Run, RunId, State};
use jiff::{Timestamp, Unit};

/// A job's state as it was read, and the changes to write.
pub(crate) struct JobGuard {
    read: Stored<JobState>,
    next: JobState,
    transitions: Vec<Transition>,
    /// The run to write the changes with.
    carrier: Option<Carrier>,
}

enum Carrier {
    Started(RunId),
    Blocked(RunId),
}

impl JobGuard {
    pub(crate) fn new(read: Stored<JobState>) -> JobGuard {
        let next = read.record.clone();
        JobGuard { read, next, transitions: Vec::new(), carrier: None }
    }

    /// The run that was started last, for a job whose runs may not overlap.
    pub(crate) fn last_started(&self) -> Option<&RunId> {
        self.read.record.last_started.as_ref()
    }

    /// `run` starts. `waits`: another firing of the job still waits, so the job may still be stuck.
    pub(crate) fn start(&mut self, job: &Job, run: &Run, waits: bool, now: Timestamp) {
        let overlaps = job.concurrency == Concurrency::Allow;
        if overlaps && self.next.blocked.is_none() {
            return;
        }
        if !overlaps {
            self.next.last_started = Some(run.run_id.clone());
        }
        if !waits && let Some((blocked, kind)) = unblock(&mut self.next, now) {
            let Blocked { firings, since } = blocked;
            let reason = format!(
                "run {} starts, after {firings} firings in a row since {since} that could not start",
                run.run_id
            );
            self.push(job, run, kind, reason, blocked, now);
        }
        self.carrier = Some(Carrier::Started(run.run_id.clone()));
    }

    /// The firing of `run` could not start because of the other `open` runs of its job.
    pub(crate) fn block(&mut self, job: &Job, run: &Run, open: &[Stored<Run>], now: Timestamp) {
        let kind = block(&mut self.next, run.nominal, now);
        if let (Some(kind), Some(blocked)) = (kind, self.next.blocked) {
            let reason = stuck_reason(job, run, open, blocked);
            self.push(job, run, kind, reason, blocked, now);
        }
        if !matches!(self.carrier, Some(Carrier::Started(_))) {
            self.carrier = Some(Carrier::Blocked(run.run_id.clone()));
        }
    }

    /// What to write together with this run.
    pub(crate) fn alert_step(&self, run: &Run) -> Option<AlertStep> {
        let (Carrier::Started(carrier) | Carrier::Blocked(carrier)) = self.carrier.as_ref()?;
        (*carrier == run.run_id).then(|| AlertStep {
            state: Some(StateChange { key: run.key(), expected: self.read.version, state: self.next.clone() }),
            transitions: self.transitions.clone(),
        })
    }

    fn push(&mut self, job: &Job, run: &Run, kind: AlertKind, reason: String, blocked: Blocked, now: Timestamp) {
        let id =
            format!("{}:{}:{}", run.run_id, run.attempt, if kind == AlertKind::Stuck { "stuck" } else { "not-stuck" });
        let mut transition = Transition::new(id, kind, &run.key(), reason, now);
        transition.run_id = Some(run.run_id.clone());
        transition.nominal = Some(run.nominal);
        transition.since = Some(blocked.since);
        transition.count = blocked.firings;
        transition.channels = job.alert.channels.clone();
        self.transitions.push(transition);
    }
}

/// Why the job is stuck. Names the run that has been open for the longest time: it is the one to look at.
fn stuck_reason(job: &Job, run: &Run, open: &[Stored<Run>], blocked: Blocked) -> String {
    let firings = blocked.firings;
    let verb = if run.is_open() { "wait" } else { "skipped" };
    let mut others: Vec<&Run> = open.iter().map(|stored| &stored.record).collect();
    others.sort_by_key(|other| (other.state < State::Claimed, other.nominal));
    let Some(first) = others.first() else {
        return format!("{firings} firings {verb} since {}", blocked.since);
    };
    let since = match first.started_at.or(first.claimed_at) {
        Some(at) => format!("since {}", at.round(Unit::Second).unwrap_or(at)),
        None => format!("due at {}, has not started", first.nominal),
    };
    let many = match (job.concurrency, others.len()) {
        (Concurrency::Allow, count) => format!("{count} runs open, the oldest"),
        _ => "run".to_owned(),
    };
    format!("{firings} firings {verb}, {many} {} {since}; to end it: sexton stop {}", first.run_id, first.run_id)
}
