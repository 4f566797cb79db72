//! The runner as a whole: its tasks, and its shutdown.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use domain::ports::Reports;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::handle::Handle;
use crate::heartbeat::{check_name, send_heartbeats};
use crate::identity::load_id;
use crate::intake::{admit_when_possible, take_orders};
use crate::options::{Options, Ports};
use crate::outbox::{Outbox, OutboxTasks};
use crate::recover::recover;
use crate::removed_sinks::record_earlier_removals;
use crate::retention::sweep_periodically;
use crate::runner_state::RunnerState;
use crate::shutdown;
use crate::sink_records::SinkRecords;
use crate::state_lock::{RunnerError, lock_state_directory};

/// A runner that is ready to run.
pub struct Runner {
    shared: Arc<RunnerState>,
    ports: Ports,
    outbox_tasks: OutboxTasks,
    _in_use: std::fs::File,
}

/// Runs until `shutdown`; see [`Runner`].
///
/// # Errors
/// When the state directory cannot be used. No later error ends a runner.
pub async fn run(options: Options, ports: Ports, shutdown: CancellationToken) -> Result<(), RunnerError> {
    Runner::new(options, ports)?.run(shutdown).await;
    Ok(())
}

impl Runner {
    /// Locks and opens the state directory. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the state directory cannot be used.
    pub fn new(mut options: Options, ports: Ports) -> Result<Runner, RunnerError> {
        let failed = |state: &PathBuf, error| RunnerError::State(state.clone(), error);
        let state = options.state.clone();
        let in_use = lock_state_directory(&state)?;
        // The working directory of keepers is `/`.
        options.state = std::fs::canonicalize(&state).map_err(|error| failed(&state, error))?;
        options.id = Some(load_id(&options.state).map_err(|error| failed(&state, error))?);
        let (outbox, outbox_tasks) =
            Outbox::open(options.state.join("outbox")).map_err(|error| failed(&state, error))?;
        let records = SinkRecords::open(&options.state, std::mem::take(&mut options.known_sinks))
            .map_err(|error| failed(&state, error))?;
        let shared = RunnerState::new(options, Some(outbox), records).map_err(|error| failed(&state, error))?;
        Ok(Runner { shared: Arc::new(shared), ports, outbox_tasks, _in_use: in_use })
    }

    /// Sends a first heartbeat.
    ///
    /// # Errors
    /// When another runner with the same name is alive.
    pub async fn check_name(&self) -> Result<(), RunnerError> {
        check_name(&self.shared, &self.ports).await
    }

    /// Access to this runner for other tasks.
    pub fn handle(&self) -> Handle {
        Handle::new(self.shared.clone())
    }

    /// Resumes earlier runs, takes orders, and runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let shared = self.shared;
        let stop_sending = CancellationToken::new();
        let sending = tokio::spawn(self.outbox_tasks.run(self.ports.reports.clone(), stop_sending.clone()));
        let mut tasks = JoinSet::new();
        serve_watch(&shared, &mut tasks);
        tasks.spawn(send_heartbeats(shared.clone(), self.ports.clone()));
        // Takes seconds with tens of thousands of runs, so it must not block a thread of the runtime.
        let task_state = shared.clone();
        let recovered = tokio::task::spawn_blocking(move || {
            recover(&task_state)?;
            record_earlier_removals(&task_state);
            Ok(())
        });
        let recovered = recovered.await;
        if let Err(error) = recovered.unwrap_or_else(|error| Err(io::Error::other(error))) {
            tracing::error!(%error, "cannot resume earlier runs; their directories are unchanged, and the next start retries");
        }
        tasks.spawn(admit_when_possible(shared.clone()));
        tasks.spawn(sweep_periodically(shared.clone()));
        take_orders(shared.clone(), self.ports.clone(), shutdown).await;
        shutdown::end(&shared).await;
        stop_sending.cancel();
        if let Err(error) = sending.await {
            tracing::error!(%error, "outbox task failed; the next start sends its reports");
        }
        tasks.shutdown().await;
    }
}

/// Wakes runs and sinks when their files change.
pub(crate) fn serve_watch(shared: &Arc<RunnerState>, tasks: &mut JoinSet<()>) {
    let shared = shared.clone();
    tasks.spawn(async move {
        let woken = shared.clone();
        shared.watch.serve(move |run| woken.wake_readers(run)).await;
    });
}

/// Sends the reports of an outbox, for a process without orders.
pub(crate) fn send_reports(
    tasks: OutboxTasks,
    reports: Arc<dyn Reports>,
    stop: CancellationToken,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(tasks.run(reports, stop))
}
