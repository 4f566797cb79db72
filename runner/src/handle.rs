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
use sinks::config::SinkConfig;
use sinks::feed::Lag;
use sinks::losses::Losses;
use sinks::status::SinkStatus;

use crate::local_run::{LocalRun, lock};
use crate::removed_sinks::{RemovedSink, list_removed};
use crate::runner_state::RunnerState;
use crate::sink_records::ResetError;
use crate::sink_table::{SinkChanges, set_sinks};
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

    /// Why a run that has not started waits here: for other runs, for resources, a limit or a required sink.
    pub fn waiting_reason(&self, run_id: &RunId) -> Option<String> {
        let run = {
            let runs = lock(&self.shared.runs);
            runs.range((run_id.clone(), 0)..=(run_id.clone(), u32::MAX)).next_back().map(|(_, run)| run.clone())
        };
        let Some(run) = run else {
            // A run without a directory waits in the queue of orders.
            let busy = self.shared.waiting_reason(None);
            return busy.or_else(|| self.shared.cached_blocking_reason_for_all());
        };
        if run.header().is_some() {
            return None;
        }
        let is_waiting = lock(&self.shared.admission).is_waiting(&run.key());
        if is_waiting { self.shared.waiting_reason(Some(run.job().needs)) } else { run.waits_for() }
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
        self.shared.sink_statuses()
    }

    /// The sinks that lack lines of this run, with their lag.
    pub fn undelivered(&self, run_id: &RunId) -> Vec<(String, Lag)> {
        self.shared.sinks.undelivered(run_id)
    }

    /// Uses these rules from now on.
    pub fn set_packs(&self, packs: Arc<Packs>) {
        self.shared.set_packs(packs);
    }

    /// Uses these sinks from now on, without waiting for any of them: a sink whose configuration is the same goes on, a
    /// changed one continues from its cursor once its connection has ended.
    pub async fn set_sinks(&self, configs: Vec<SinkConfig>) -> SinkChanges {
        set_sinks(&self.shared, configs).await
    }

    /// The sinks that are no longer configured, as long as output is kept that they could lack.
    pub fn removed_sinks(&self) -> Vec<RemovedSink> {
        list_removed(&self.shared)
    }

    /// Sets the counters of lost lines of one sink, or of all, to 0. Returns each name with the counters before.
    ///
    /// # Errors
    /// [`ResetError`]
    pub fn reset_losses(&self, sink: Option<&str>) -> Result<Vec<(String, Losses)>, ResetError> {
        self.shared.sinks.reset_losses(sink)
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
