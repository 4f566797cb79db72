//! The runner as a whole: what runs beside what, and how it ends.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::ports::{Beat, Reports};
use domain::run::{AttemptKey, Outcome, RunId};
use jiff::Timestamp;
use keeper::directory::{Durability, RunDirectory, open_private, write_json};
use keeper::output::{Output, Shown};
use keeper::records::{Refusal, RefusalKind, StopRequest};
use keeper::spawn::wake_keeper;
use rules::Packs;
use rustix::fs::{FlockOperation, flock};
use sinks::engine::Engine;
use sinks::feed::Lag;
use sinks::status::SinkStatus;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::attend::{attend, refuse};
use crate::intake::{admit_always, take_orders};
use crate::local::{LocalRun, locked};
use crate::options::{OnShutdown, Options, Ports};
use crate::outbox::{Outbox, OutboxTasks};
use crate::recover::recover;
use crate::retention::sweep_always;
use crate::shared::Shared;

#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    #[error("another runner uses the state directory {0}; stop it, or give this one its own with --state")]
    InUse(PathBuf),
    #[error("the state directory {0} cannot be used: {1}")]
    State(PathBuf, io::Error),
}

/// A runner that is ready to run.
pub struct Runner {
    shared: Arc<Shared>,
    ports: Ports,
    outbox_tasks: OutboxTasks,
    _in_use: std::fs::File,
}

/// Asks a runner, from anywhere in its process.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// A run as this machine knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalInfo {
    pub run_id: RunId,
    pub attempt: u32,
    pub group: String,
    pub job: String,
    pub accepted_at: Timestamp,
    pub pid: Option<u32>,
    pub started_at: Option<Timestamp>,
    /// None while it waits or runs.
    pub outcome: Option<Outcome>,
}

/// Runs until `shutdown`; see [`Runner`].
///
/// # Errors
/// When the state directory cannot be used. Nothing that happens later ends a runner.
pub async fn run(options: Options, ports: Ports, shutdown: CancellationToken) -> Result<(), RunnerError> {
    Runner::new(options, ports)?.run(shutdown).await;
    Ok(())
}

/// Makes the state directory this process's own until the file is dropped.
///
/// # Errors
/// When somebody else has it, or it cannot be made.
pub fn occupy(state: &std::path::Path) -> Result<std::fs::File, RunnerError> {
    let fails = |error: io::Error| RunnerError::State(state.to_owned(), error);
    std::fs::create_dir_all(state).map_err(fails)?;
    let lock = open_private(&state.join("runner.lock")).map_err(fails)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        // Whoever had it before may have removed it with its directory: then this is the lock of nothing.
        Ok(()) if is_at(&lock, &state.join("runner.lock")) => Ok(lock),
        Ok(()) => Err(RunnerError::InUse(state.to_owned())),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(RunnerError::InUse(state.to_owned())),
        Err(errno) => Err(fails(errno.into())),
    }
}

fn is_at(file: &std::fs::File, path: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let same = |one: std::fs::Metadata, other: std::fs::Metadata| (one.dev(), one.ino()) == (other.dev(), other.ino());
    file.metadata().is_ok_and(|file| std::fs::metadata(path).is_ok_and(|path| same(file, path)))
}

impl Runner {
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the state directory cannot be used.
    pub fn new(mut options: Options, ports: Ports) -> Result<Runner, RunnerError> {
        let fails = |state: &PathBuf, error| RunnerError::State(state.clone(), error);
        let state = options.state.clone();
        let in_use = occupy(&state)?;
        // Keepers live in `/`.
        options.state = std::fs::canonicalize(&state).map_err(|error| fails(&state, error))?;
        let (outbox, outbox_tasks) =
            Outbox::open(options.state.join("outbox")).map_err(|error| fails(&state, error))?;
        let shared = Shared::new(options, Some(outbox)).map_err(|error| fails(&state, error))?;
        Ok(Runner { shared: Arc::new(shared), ports, outbox_tasks, _in_use: in_use })
    }

    pub fn handle(&self) -> Handle {
        Handle { shared: self.shared.clone() }
    }

    /// Takes up what is there, takes orders, and runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let shared = self.shared;
        let stop_sending = CancellationToken::new();
        let sending = tokio::spawn(self.outbox_tasks.run(self.ports.reports.clone(), stop_sending.clone()));
        let mut beside = JoinSet::new();
        serve_watch(&shared, &mut beside);
        beside.spawn(beat_always(shared.clone(), self.ports.clone()));
        // Seconds, where there are tens of thousands: not on a thread that others need.
        let of_recovery = shared.clone();
        let recovered = tokio::task::spawn_blocking(move || recover(&of_recovery)).await;
        if let Err(error) = recovered.unwrap_or_else(|error| Err(io::Error::other(error))) {
            tracing::error!(%error, "earlier runs cannot be taken up; none is forgotten, the next start tries again");
        }
        beside.spawn(admit_always(shared.clone()));
        beside.spawn(sweep_always(shared.clone()));
        take_orders(shared.clone(), self.ports.clone(), shutdown).await;
        match shared.options.on_shutdown {
            OnShutdown::Leave => shared.leave.cancel(),
            OnShutdown::Drain => until_idle(&shared).await,
        }
        shared.attending.close();
        shared.attending.wait().await;
        flush(&shared).await;
        stop_sending.cancel();
        if let Err(error) = sending.await {
            tracing::error!(%error, "the outbox ended badly; what it holds is sent by the next runner");
        }
        beside.shutdown().await;
    }
}

/// Wakes runs and sinks when something changes on disk.
pub fn serve_watch(shared: &Arc<Shared>, beside: &mut JoinSet<()>) {
    let shared = shared.clone();
    beside.spawn(async move {
        let woken = shared.clone();
        shared.watch.serve(move |run| woken.wake_readers(run)).await;
    });
}

async fn until_idle(shared: &Shared) {
    loop {
        let changed = shared.admission_changed.notified();
        if locked(&shared.runs).values().all(|run| run.finished().is_some()) {
            return;
        }
        changed.await;
    }
}

/// Gives sinks and collector a last while; what they do not take stays on disk.
pub async fn flush(shared: &Shared) {
    let limit = shared.options.flush_limit;
    if let Some(outbox) = &shared.outbox
        && tokio::time::timeout(limit, outbox.flushed()).await.is_err()
    {
        tracing::warn!("not all reports could be sent; they are sent at the next start");
    }
    end_sinks(shared.take_sinks(), limit).await;
}

async fn end_sinks(sinks: Vec<Engine>, limit: Duration) {
    let mut ending = JoinSet::new();
    for sink in sinks {
        ending.spawn(async move {
            if !sink.flush(limit).await {
                tracing::warn!(
                    sink = sink.name(),
                    "not everything could be delivered; the rest follows at the next start"
                );
            }
            sink.shutdown().await;
        });
    }
    while ending.join_next().await.is_some() {}
}

/// Says that this runner lives, and stops what somebody asked to stop.
async fn beat_always(shared: Arc<Shared>, ports: Ports) {
    let handle = Handle { shared: shared.clone() };
    let mut told = false;
    loop {
        let held = shared.known_to_be_held().await;
        let beat = Beat {
            runner: shared.options.runner.clone(),
            host: shared.options.host.clone(),
            groups: shared.options.groups.clone(),
            at: Timestamp::now(),
            running: locked(&shared.runs).values().filter(|run| run.finished().is_none()).count() as u32,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            held,
        };
        match ports.claims.beat(&beat).await {
            Ok(stops) => {
                told = false;
                for run_id in &stops {
                    handle.stop(run_id, "the scheduler");
                }
            }
            Err(error) if told => tracing::debug!(%error, "still no beat"),
            Err(error) => {
                tracing::warn!(%error, "the ledger cannot be told that this runner lives; it is tried again");
                told = true;
            }
        }
        let options = &shared.options;
        let interval = if beat.running > 0 { options.beat_interval } else { options.idle_beat_interval };
        tokio::time::sleep(interval).await;
    }
}

impl Handle {
    pub(crate) fn of(shared: Arc<Shared>) -> Handle {
        Handle { shared }
    }

    /// Every attempt of which this machine has a directory.
    pub fn runs(&self) -> Vec<LocalInfo> {
        locked(&self.shared.runs).values().map(|run| info(run)).collect()
    }

    /// Asks the keeper to stop the job, or withdraws it when it has not begun; says whether there was anything to stop.
    /// Idempotent.
    pub fn stop(&self, run_id: &RunId, by: &str) -> bool {
        let runs: Vec<(AttemptKey, Arc<LocalRun>)> = locked(&self.shared.runs)
            .iter()
            .filter(|((id, _), run)| id == run_id && run.finished().is_none())
            .map(|(key, run)| (key.clone(), run.clone()))
            .collect();
        for (key, run) in &runs {
            if locked(&self.shared.admission).withdraw(key) {
                let says = format!("stopped by {by} before it began");
                let refused = refuse(&self.shared, run, Refusal { why: RefusalKind::Stopped, says });
                locked(&self.shared.admission).resume(run.job().needs);
                self.shared.attending.spawn(attend(self.shared.clone(), refused));
                continue;
            }
            if !run.directory.stop().exists() {
                let request = StopRequest { at: Timestamp::now(), by: by.to_owned() };
                if let Err(error) = write_json(&run.directory.stop(), &request, Durability::Cache) {
                    tracing::error!(%error, %run_id, "a stop cannot be handed to the keeper");
                }
            }
            wake_keeper(&run.directory);
        }
        !runs.is_empty()
    }

    /// The output of the newest attempt, or of one.
    pub fn output(
        &self,
        run_id: &RunId,
        attempt: Option<u32>,
        stream: Option<domain::line::Stream>,
        shown: Shown,
    ) -> Option<Output> {
        let directory = self.directory(run_id, attempt)?;
        Some(Output::open(directory, stream, shown))
    }

    pub fn directory(&self, run_id: &RunId, attempt: Option<u32>) -> Option<RunDirectory> {
        let runs = locked(&self.shared.runs);
        let mut attempts = runs.range((run_id.clone(), 0)..=(run_id.clone(), u32::MAX)).map(|(_, run)| run);
        let run = match attempt {
            Some(attempt) => attempts.find(|run| run.accepted.order.attempt == attempt),
            None => attempts.next_back(),
        };
        run.map(|run| run.directory.clone())
    }

    /// Returns when some spool has grown or some run has ended after this call.
    pub async fn changed(&self) {
        self.shared.grown.notified().await;
    }

    pub fn sinks(&self) -> Vec<SinkStatus> {
        self.shared.with_sinks(|sinks| sinks.iter().map(Engine::status).collect())
    }

    /// The sinks that lack lines of this run, with what they lack.
    pub fn undelivered(&self, run_id: &RunId) -> Vec<(String, Lag)> {
        let lags = |sink: &Engine| Some((sink.name().to_owned(), sink.lag_of(run_id))).filter(|(_, lag)| lag.lines > 0);
        self.shared.with_sinks(|sinks| sinks.iter().filter_map(lags).collect())
    }

    /// Other rules from now on.
    pub fn set_packs(&self, packs: Arc<Packs>) {
        self.shared.set_packs(packs);
    }

    /// Other sinks from now on. Those of the same name go on from their cursors; a new one gets everything that is still
    /// here.
    pub async fn set_sinks(&self, sinks: Vec<Engine>) {
        end_sinks(self.shared.take_sinks(), self.shared.options.flush_limit).await;
        self.shared.set_sinks(sinks);
        let runs: Vec<Arc<LocalRun>> = locked(&self.shared.runs).values().cloned().collect();
        runs.iter().for_each(|run| self.shared.add_feeds(run));
    }
}

fn info(run: &LocalRun) -> LocalInfo {
    let header = run.header();
    LocalInfo {
        run_id: run.run_id().clone(),
        attempt: run.accepted.order.attempt,
        group: run.job().group.clone(),
        job: run.job().name.clone(),
        accepted_at: run.accepted.accepted_at,
        pid: header.and_then(|header| header.pid),
        started_at: header.filter(|header| header.pid.is_some()).map(|header| header.started_at),
        outcome: run.finished().map(|record| record.outcome),
    }
}

/// Sends what an outbox holds, for a runner without orders.
pub(crate) fn send_reports(
    tasks: OutboxTasks,
    reports: Arc<dyn Reports>,
    stop: CancellationToken,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(tasks.run(reports, stop))
}
