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

pub struct LocalRun {
    pub directory: RunDirectory,
    pub accepted: Accepted,
    /// Made once, when it is known whether and when the job started.
    header: OnceLock<Arc<RunHeader>>,
    /// Made once, when all output is matched and the run is judged. Nothing is written to the spool any more.
    finished: OnceLock<FinishedRecord>,
    /// Something changed in the directory or in the spool.
    pub wake: Notify,
    changed: AtomicBool,
    grown: AtomicBool,
    /// The sinks that were given this run, of the list of that version.
    fed: Mutex<(u64, BTreeSet<String>)>,
    /// How far the furthest reader is.
    read_position: Mutex<Position>,
}

/// Plain data behind a lock that a panic left: still good.
pub fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LocalRun {
    pub fn new(directory: RunDirectory, accepted: Accepted) -> LocalRun {
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

    pub fn key(&self) -> AttemptKey {
        (self.accepted.order.run_id.clone(), self.accepted.order.attempt)
    }

    pub fn run_id(&self) -> &RunId {
        &self.accepted.order.run_id
    }

    pub fn job(&self) -> &domain::job::Job {
        &self.accepted.order.job
    }

    pub fn header(&self) -> Option<&Arc<RunHeader>> {
        self.header.get()
    }

    /// The header, made of what is known by now if it was not made before.
    pub fn make_header(&self, runner: &str, host: &str, started: Option<&Started>, at: Timestamp) -> &Arc<RunHeader> {
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

    pub fn finished(&self) -> Option<&FinishedRecord> {
        self.finished.get()
    }

    pub fn set_finished(&self, record: FinishedRecord) {
        let _ = self.finished.set(record);
    }

    /// Something in the directory is new.
    pub fn note_change(&self) {
        self.changed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Whether the directory has changed since this was last asked.
    pub fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    /// The spool has grown.
    pub fn note_growth(&self) {
        self.grown.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Whether it has grown since this was last asked.
    pub fn take_grown(&self) -> bool {
        self.grown.swap(false, Ordering::AcqRel)
    }

    /// The sinks of this version of the list that were given this run; to be added to under the lock.
    pub fn lock_fed_sinks(&self, version: u64) -> MutexGuard<'_, (u64, BTreeSet<String>)> {
        let mut fed = locked(&self.fed);
        if fed.0 != version {
            *fed = (version, BTreeSet::new());
        }
        fed
    }

    /// The sinks that were given this run.
    pub fn fed_sinks(&self) -> BTreeSet<String> {
        locked(&self.fed).1.clone()
    }

    pub fn note_read_position(&self, place: Position) {
        let mut seen = locked(&self.read_position);
        *seen = place.max(*seen);
    }

    /// How far the furthest reader is.
    pub fn read_position(&self) -> Position {
        *locked(&self.read_position)
    }

    pub fn started(&self) -> io::Result<Option<Started>> {
        read_json(&self.directory.started())
    }

    pub fn exit(&self) -> io::Result<Option<Exit>> {
        read_json(&self.directory.exit())
    }
}
