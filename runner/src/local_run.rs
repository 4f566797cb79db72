//! One attempt on this machine, as the runner's tasks share it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use domain::line::Position;
use domain::run::{AttemptKey, RunId};
use jiff::Timestamp;
use keeper::directory::{RunDirectory, read_json};
use keeper::records::{Accepted, Exit, Started, StopRequest};
use sinks::feed::{FinishedRecord, OutputEndedRecord, RunHeader};
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) struct LocalRun {
    pub directory: RunDirectory,
    pub accepted: Accepted,
    /// Set once, when it is known whether and when the job started.
    header: OnceLock<Arc<RunHeader>>,
    /// Set once, when the run is judged. The spool does not grow after this, unless its output is open.
    finished: OnceLock<FinishedRecord>,
    /// Set once, for a run with open output: the spool does not grow after this.
    output_ended: OnceLock<OutputEndedRecord>,
    /// When this process first knew of the run.
    seen_at: Instant,
    /// When the run's limit passes, once its start is known.
    limit_at: OnceLock<Instant>,
    stop: Mutex<Option<RequestedStop>>,
    /// When killing a keeper that does not act failed.
    kill_failed_at: Mutex<Option<Instant>>,
    /// Set while it waits for other runs because of a limit of the machine: the reason of a start that came too late.
    pub delayed_by: OnceLock<String>,
    /// What its start waits for now.
    waits_for: Mutex<Option<String>>,
    /// Its reports were sent again, because its order was received again.
    pub reported_again: AtomicBool,
    /// Notified when the directory or the spool has changed.
    pub wake: Notify,
    changed: AtomicBool,
    mailing: AtomicBool,
    grown: AtomicBool,
    /// The sinks that have this run, each with the number of its engine.
    fed: Mutex<BTreeMap<String, u64>>,
    /// The only sinks that it is due to; None: all. Set for a run of `exec`.
    due: Mutex<Option<BTreeSet<String>>>,
    /// Position of the reader that is furthest ahead.
    read_position: Mutex<Position>,
}

/// A stop request for the keeper, as this process knows it.
#[derive(Clone, Debug)]
struct RequestedStop {
    at: Instant,
    by: String,
    grace_max: Option<Duration>,
}

/// Locks plain data. A panic while the lock was held does not make it invalid.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The monotonic instant of a time that has passed; now for one in the future or before the boot.
fn instant_of(at: Timestamp) -> Instant {
    let now = Instant::now();
    let passed = Duration::try_from(Timestamp::now().duration_since(at)).unwrap_or_default();
    now.checked_sub(passed).unwrap_or(now)
}

impl LocalRun {
    pub(crate) fn new(directory: RunDirectory, accepted: Accepted) -> LocalRun {
        // Written by an earlier runner. The request counts from when it was written, so that a limit that had passed
        // by then is what ended the run.
        let stop = read_json::<StopRequest>(&directory.stop()).ok().flatten().map(|request| RequestedStop {
            at: instant_of(request.at),
            by: request.by,
            grace_max: request.grace_max_ms.map(Duration::from_millis),
        });
        LocalRun {
            output_ended: OnceLock::new(),
            reported_again: AtomicBool::new(false),
            seen_at: Instant::now(),
            limit_at: OnceLock::new(),
            stop: Mutex::new(stop),
            kill_failed_at: Mutex::default(),
            directory,
            accepted,
            header: OnceLock::new(),
            finished: OnceLock::new(),
            delayed_by: OnceLock::new(),
            waits_for: Mutex::default(),
            wake: Notify::new(),
            changed: AtomicBool::new(true),
            mailing: AtomicBool::new(false),
            grown: AtomicBool::new(true),
            fed: Mutex::default(),
            due: Mutex::default(),
            read_position: Mutex::new(Position::START),
        }
    }

    pub(crate) fn key(&self) -> AttemptKey {
        (self.accepted.order.run_id.clone(), self.accepted.order.attempt)
    }

    pub(crate) fn run_id(&self) -> &RunId {
        &self.accepted.order.run_id
    }

    /// What its start waits for now; `None` when for nothing.
    pub(crate) fn waits_for(&self) -> Option<String> {
        lock(&self.waits_for).clone()
    }

    pub(crate) fn set_waits_for(&self, reason: Option<String>) {
        *lock(&self.waits_for) = reason;
    }

    pub(crate) fn job(&self) -> &domain::job::Job {
        &self.accepted.order.job
    }

    pub(crate) fn header(&self) -> Option<&Arc<RunHeader>> {
        self.header.get()
    }

    /// Returns the header. If none is set, builds it from the given facts.
    pub(crate) fn make_header(
        &self,
        runner: &str,
        host: &str,
        started: Option<&Started>,
        at: Timestamp,
    ) -> &Arc<RunHeader> {
        self.header.get_or_init(|| {
            let order = &self.accepted.order;
            Arc::new(RunHeader {
                run_id: order.run_id.clone(),
                group: order.job.group.clone(),
                job: order.job.name.clone(),
                attempt: order.attempt,
                host: host.to_owned(),
                runner: runner.to_owned(),
                pid: started.map(|started| started.pid),
                nominal: order.nominal,
                trigger: order.trigger,
                command: order.job.command.to_string(),
                started_at: started.map_or(at, |started| started.started_at),
            })
        })
    }

    pub(crate) fn finished(&self) -> Option<&FinishedRecord> {
        self.finished.get()
    }

    pub(crate) fn set_finished(&self, record: FinishedRecord) {
        let _ = self.finished.set(record);
    }

    pub(crate) fn output_ended(&self) -> Option<&OutputEndedRecord> {
        self.output_ended.get()
    }

    pub(crate) fn set_output_ended(&self, record: OutputEndedRecord) {
        let _ = self.output_ended.set(record);
        self.note_change();
    }

    /// Whether the run has ended, and another process still has its output open.
    pub(crate) fn has_open_output(&self) -> bool {
        self.finished().is_some_and(|record| record.output_open) && self.output_ended().is_none()
    }

    /// Whether the caller is the first to mail the output.
    pub(crate) fn begin_mailing(&self) -> bool {
        !self.mailing.swap(true, Ordering::AcqRel)
    }

    /// Whether the run and its output have ended.
    pub(crate) fn is_over(&self) -> bool {
        self.finished().is_some() && !self.has_open_output()
    }

    /// End of the run, or of its output where that was later.
    pub(crate) fn over_at(&self) -> Option<Timestamp> {
        let output_ended_at = self.output_ended().map(|record| record.ended_at);
        output_ended_at.or(self.finished().map(|record| record.finished_at)).filter(|_| self.is_over())
    }

    /// The seq of the last line that is known to exist.
    pub(crate) fn last_known_seq(&self) -> u64 {
        let read = self.read_position().seq.saturating_sub(1);
        match (self.finished(), self.output_ended()) {
            (_, Some(ended)) => ended.last_seq,
            (Some(finished), None) if finished.output_open => finished.last_seq.max(read),
            (Some(finished), None) => finished.last_seq,
            (None, None) => read,
        }
    }

    /// When this process first knew of the run.
    pub(crate) fn seen_at(&self) -> Instant {
        self.seen_at
    }

    /// When the run's limit passes; `compute` is called until it returns it.
    pub(crate) fn limit_at(&self, compute: impl FnOnce() -> Option<Instant>) -> Option<Instant> {
        match self.limit_at.get() {
            Some(at) => Some(*at),
            None => compute().map(|at| *self.limit_at.get_or_init(|| at)),
        }
    }

    /// Notes a stop request that was written for the keeper. The first one counts, with the shortest grace.
    pub(crate) fn note_stop(&self, by: &str, grace_max: Option<Duration>) {
        let mut stop = lock(&self.stop);
        match &mut *stop {
            Some(earlier) => {
                let ends = grace_max.map(|max| earlier.at.elapsed() + max);
                earlier.grace_max = earlier.grace_max.into_iter().chain(ends).min();
            }
            None => *stop = Some(RequestedStop { at: Instant::now(), by: by.to_owned(), grace_max }),
        }
        drop(stop);
        self.wake.notify_one();
    }

    /// When this process first knew of a stop request.
    pub(crate) fn stop_requested(&self) -> Option<Instant> {
        lock(&self.stop).as_ref().map(|stop| stop.at)
    }

    /// Who requested the stop.
    pub(crate) fn stop_requester(&self) -> String {
        lock(&self.stop).as_ref().map(|stop| stop.by.clone()).unwrap_or_default()
    }

    /// The time between TERM and KILL of this run.
    pub(crate) fn stop_grace(&self) -> Duration {
        let max = lock(&self.stop).as_ref().and_then(|stop| stop.grace_max);
        max.map_or(self.job().kill_grace, |max| max.min(self.job().kill_grace))
    }

    /// When the grace of a stop ends at the latest, for a stop whose grace is limited.
    pub(crate) fn stop_by(&self) -> Option<Instant> {
        lock(&self.stop).as_ref().and_then(|stop| Some(stop.at + stop.grace_max?))
    }

    pub(crate) fn kill_failed_at(&self) -> Option<Instant> {
        *lock(&self.kill_failed_at)
    }

    pub(crate) fn note_kill_failed(&self) {
        *lock(&self.kill_failed_at) = Some(Instant::now());
    }

    /// Notes a change in the directory.
    pub(crate) fn note_change(&self) {
        self.changed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Whether the directory has changed since the last call.
    pub(crate) fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    /// Notes that the spool has grown.
    pub(crate) fn note_growth(&self) {
        self.grown.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Whether the spool has grown since the last call.
    pub(crate) fn take_grown(&self) -> bool {
        self.grown.swap(false, Ordering::AcqRel)
    }

    /// Locks the sinks that have this run, each with the number of its engine.
    pub(crate) fn lock_fed_sinks(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        lock(&self.fed)
    }

    /// The sinks that have this run.
    pub(crate) fn fed_sinks(&self) -> BTreeSet<String> {
        lock(&self.fed).keys().cloned().collect()
    }

    /// Whether the run is due to a sink with this name.
    pub(crate) fn is_due_to(&self, sink: &str) -> bool {
        lock(&self.due).as_ref().is_none_or(|names| names.contains(sink))
    }

    /// Sets the only sinks that the run is due to; None: all.
    pub(crate) fn set_due(&self, names: Option<BTreeSet<String>>) {
        *lock(&self.due) = names;
    }

    pub(crate) fn note_read_position(&self, place: Position) {
        let mut seen = lock(&self.read_position);
        *seen = place.max(*seen);
    }

    /// Position of the reader that is furthest ahead.
    pub(crate) fn read_position(&self) -> Position {
        *lock(&self.read_position)
    }

    pub(crate) fn started(&self) -> io::Result<Option<Started>> {
        read_json(&self.directory.started())
    }

    pub(crate) fn exit(&self) -> io::Result<Option<Exit>> {
        read_json(&self.directory.exit())
    }
}
