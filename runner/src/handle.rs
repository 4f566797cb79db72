//! Queries and commands to a runner from other tasks of its process: runs, output, sinks, stop, reload.

use std::sync::Arc;
use std::time::Duration;

use domain::run::{Outcome, RunId};
use jiff::Timestamp;
use keeper::directory::{Durability, RunDirectory, write_json};
use keeper::output::{LineFormat, Output};
use keeper::records::{Refusal, RefusalKind, StopRequest};
use keeper::spawn::wake_keeper;
use rules::Packs;
use sinks::engine::Engine;
use sinks::feed::Lag;
use sinks::status::SinkStatus;

use crate::local_run::{LocalRun, lock};
use crate::runner_state::RunnerState;
use crate::supervise::{refuse, supervise};

/// Access to a runner from any task of its process.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<RunnerState>,
}

/// An attempt that has a directory on this machine.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalInfo {
    /// The run.
    pub run_id: RunId,
    /// From 1.
    pub attempt: u32,
    /// The job's group.
    pub group: String,
    /// The job's name.
    pub job: String,
    /// When the order was stored on this machine.
    pub accepted_at: Timestamp,
    /// The job's process. None before the start.
    pub pid: Option<u32>,
    /// None before the start.
    pub started_at: Option<Timestamp>,
    /// None while the run waits or is running.
    pub outcome: Option<Outcome>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<RunnerState>) -> Handle {
        Handle { shared }
    }

    /// Every attempt that has a directory on this machine.
    pub fn runs(&self) -> Vec<LocalInfo> {
        lock(&self.shared.runs).values().map(|run| info(run)).collect()
    }

    /// Requests a stop from the keeper, or cancels a run that was not started. Of a run that has ended, it stops the
    /// processes that still have its output open. Returns whether there was anything to stop. Idempotent.
    pub fn stop(&self, run_id: &RunId, by: &str) -> bool {
        let of_run = (run_id.clone(), 0)..=(run_id.clone(), u32::MAX);
        let runs: Vec<Arc<LocalRun>> = lock(&self.shared.runs).range(of_run).map(|(_, run)| run.clone()).collect();
        self.stop_runs(runs, by, None)
    }

    /// Stops every run here that has started and not ended, with a grace of at most `grace_max`.
    pub(crate) fn stop_started(&self, by: &str, grace_max: Option<Duration>) {
        let mut runs: Vec<Arc<LocalRun>> = lock(&self.shared.runs).values().cloned().collect();
        runs.retain(|run| !lock(&self.shared.admission).is_waiting(&run.key()));
        self.stop_runs(runs, by, grace_max);
    }

    fn stop_runs(&self, mut runs: Vec<Arc<LocalRun>>, by: &str, grace_max: Option<Duration>) -> bool {
        // After the limit of its late output, a run's keeper still has its processes.
        runs.retain(|run| run.finished().is_none() || run.directory.has_keeper().unwrap_or(false));
        for run in &runs {
            let (key, run_id) = (run.key(), run.run_id());
            if lock(&self.shared.admission).cancel(&key) {
                let message = format!("stopped by {by} before it started");
                let refused = refuse(&self.shared, run, Refusal { why: RefusalKind::Stopped, message });
                lock(&self.shared.admission).count_running(run.job().needs);
                self.shared.supervisors.spawn(supervise(self.shared.clone(), refused));
                continue;
            }
            if grace_max.is_some() || !run.directory.stop().exists() {
                let grace_max_ms = grace_max.map(|grace| grace.as_millis() as u64);
                let request = StopRequest { at: Timestamp::now(), by: by.to_owned(), grace_max_ms };
                if let Err(error) = write_json(&run.directory.stop(), &request, Durability::Cache) {
                    tracing::error!(%error, %run_id, "cannot write a stop request for the keeper");
                }
            }
            run.note_stop(by, grace_max);
            wake_keeper(&run.directory);
        }
        !runs.is_empty()
    }

    /// Why a run that has not started waits here: a limit of this machine.
    pub fn waiting_reason(&self, run_id: &RunId) -> Option<String> {
        let running = lock(&self.shared.admission).running_at_limit()?;
        let runs = lock(&self.shared.runs);
        let mut attempts = runs.range((run_id.clone(), 0)..=(run_id.clone(), u32::MAX)).map(|(_, run)| run);
        // A run without a directory waits in the queue of orders.
        let has_started = attempts.next_back().is_some_and(|run| run.delayed_by.get().is_none());
        (!has_started).then(|| self.shared.open_files.waiting_reason(running))
    }

    /// The limit of this machine that as many runs as possible are active by, so that further runs wait.
    pub fn limit_reached(&self) -> Option<String> {
        let admission = lock(&self.shared.admission);
        let running = admission.running_at_limit()?;
        Some(self.shared.open_files.limit_reached(running))
    }

    /// The output of one attempt, or of the newest with `attempt` None.
    pub fn output(
        &self,
        run_id: &RunId,
        attempt: Option<u32>,
        stream: Option<domain::line::Stream>,
        format: LineFormat,
    ) -> Option<Output> {
        let directory = self.directory(run_id, attempt)?;
        Some(Output::open(directory, stream, format))
    }

    /// The directory of one attempt, or of the newest with `attempt` None.
    pub fn directory(&self, run_id: &RunId, attempt: Option<u32>) -> Option<RunDirectory> {
        let runs = lock(&self.shared.runs);
        let mut attempts = runs.range((run_id.clone(), 0)..=(run_id.clone(), u32::MAX)).map(|(_, run)| run);
        let run = match attempt {
            Some(attempt) => attempts.find(|run| run.accepted.order.attempt == attempt),
            None => attempts.next_back(),
        };
        run.map(|run| run.directory.clone())
    }

    /// Returns when a spool has grown or a run has ended after this call.
    pub async fn changed(&self) {
        self.shared.grown.notified().await;
    }

    /// State and lag of every sink.
    pub fn sinks(&self) -> Vec<SinkStatus> {
        self.shared.with_sinks(|sinks| sinks.iter().map(Engine::status).collect())
    }

    /// The sinks that lack lines of this run, with their lag.
    pub fn undelivered(&self, run_id: &RunId) -> Vec<(String, Lag)> {
        let lags = |sink: &Engine| Some((sink.name().to_owned(), sink.lag_of(run_id))).filter(|(_, lag)| lag.lines > 0);
        self.shared.with_sinks(|sinks| sinks.iter().filter_map(lags).collect())
    }

    /// Uses these rules from now on.
    pub fn set_packs(&self, packs: Arc<Packs>) {
        self.shared.set_packs(packs);
    }

    /// Replaces the sinks. A sink with the same name continues from its cursor; a new sink gets everything that is
    /// still on disk.
    pub async fn set_sinks(&self, sinks: Vec<Engine>) {
        self.shared.end_sinks(self.shared.options.flush_limit).await;
        self.shared.set_sinks(sinks);
        let runs: Vec<Arc<LocalRun>> = lock(&self.shared.runs).values().cloned().collect();
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
