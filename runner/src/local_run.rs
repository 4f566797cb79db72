//! One attempt on this machine, as the runner's tasks share it.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use domain::line::Position;
use domain::run::{AttemptKey, RunId};
use jiff::Timestamp;
use keeper::directory::{RunDirectory, read_json};
use keeper::records::{Accepted, Exit, Started};
use sinks::feed::{FinishedRecord, RunHeader};
use tokio::sync::Notify;

pub(crate) struct LocalRun {
    pub directory: RunDirectory,
    pub accepted: Accepted,
    /// Set once, when it is known whether and when the job started.
    header: OnceLock<Arc<RunHeader>>,
    /// Set once, when all output is matched and the run is judged. The spool does not grow after this.
    finished: OnceLock<FinishedRecord>,
    /// Notified when the directory or the spool has changed.
    pub wake: Notify,
    changed: AtomicBool,
    grown: AtomicBool,
    /// The sinks that have this run, with the version of the list of sinks.
    fed: Mutex<(u64, BTreeSet<String>)>,
    /// Position of the reader that is furthest ahead.
    read_position: Mutex<Position>,
}

/// Locks plain data. A panic while the lock was held does not make it invalid.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LocalRun {
    pub(crate) fn new(directory: RunDirectory, accepted: Accepted) -> LocalRun {
        LocalRun {
            directory,
            accepted,
            header: OnceLock::new(),
            finished: OnceLock::new(),
            wake: Notify::new(),
            changed: AtomicBool::new(true),
            grown: AtomicBool::new(true),
            fed: Mutex::default(),
            read_position: Mutex::new(Position::START),
        }
    }

    pub(crate) fn key(&self) -> AttemptKey {
        (self.accepted.order.run_id.clone(), self.accepted.order.attempt)
    }

    pub(crate) fn run_id(&self) -> &RunId {
        &self.accepted.order.run_id
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

    /// Locks the set of sinks that have this run; a set of an older version of the list is cleared.
    pub(crate) fn lock_fed_sinks(&self, version: u64) -> MutexGuard<'_, (u64, BTreeSet<String>)> {
        let mut fed = lock(&self.fed);
        if fed.0 != version {
            *fed = (version, BTreeSet::new());
        }
        fed
    }

    /// The sinks that have this run.
    pub(crate) fn fed_sinks(&self) -> BTreeSet<String> {
        lock(&self.fed).1.clone()
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
