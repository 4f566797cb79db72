//! A runner with its sinks and rules: starts it, replaces sinks and rules, and stops it. Used by `up` and by `sexton
//! runner`; the caller chooses the ports, and `reload` reads the files.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use async_trait::async_trait;
use console::{ResetFault, Undelivered};
use domain::run::RunId;
use rules::Packs;
use runner::{Handle, OnShutdown, Options, RemovedSink, ResetError, Runner, SinkChanges};
use sinks::config::SinkConfig;
use sinks::engine::Environment;
use sinks::losses::Losses;
use sinks::status::{SinkEvent, SinkStatus};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, print_error_line};
use crate::process_one;
use crate::setup::{Setup, sink_line};

/// Sink events that wait to be logged. Chosen: a sink sends one per failure and one per recovery.
const EVENTS_MAX: usize = 1000;

/// The current rules, replaced when they are reloaded.
#[derive(Clone)]
pub(crate) struct SharedPacks(Arc<RwLock<Arc<Packs>>>);

impl SharedPacks {
    pub(crate) fn current(&self) -> Arc<Packs> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, packs: Arc<Packs>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = packs;
    }
}

pub(crate) struct LocalRunner {
    handle: Handle,
    packs: SharedPacks,
    sink_lines: Vec<String>,
    stop: CancellationToken,
    on_shutdown: OnShutdown,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl LocalRunner {
    /// Starts a runner with the rules and sinks of `setup`; the caller receives the events of the sinks.
    ///
    /// # Errors
    /// Fails if the runner's directory cannot be used, or if `needs_name` and another
    /// runner with the same name is alive.
    pub(crate) async fn start(
        setup: &mut Setup,
        mut options: Options,
        ports: runner::Ports,
        needs_name: bool,
    ) -> Result<(LocalRunner, mpsc::Receiver<SinkEvent>), Failure> {
        let (events, sink_events) = mpsc::channel(EVENTS_MAX);
        let packs = Arc::new(std::mem::take(&mut setup.packs));
        let on_shutdown = options.on_shutdown;
        options.packs = packs.clone();
        options.sinks.clone_from(&setup.sinks);
        options.has_all_sinks = setup.has_all_sinks;
        options.known_sinks = std::mem::take(&mut setup.known_sinks);
        options.sink_environment = Environment::real(events);
        let runner = Runner::new(options, ports).map_err(|error| Failure::failed(error.to_string()))?;
        if needs_name {
            runner.check_name().await.map_err(|error| Failure::failed(error.to_string()))?;
        }
        let (handle, stop) = (runner.handle(), CancellationToken::new());
        let task = tokio::spawn(runner.run(stop.clone()));
        let local_runner = LocalRunner {
            handle,
            packs: SharedPacks(Arc::new(RwLock::new(packs))),
            sink_lines: setup.sinks.iter().map(sink_line).collect(),
            stop,
            on_shutdown,
            task: Mutex::new(Some(task)),
        };
        Ok((local_runner, sink_events))
    }

    pub(crate) fn packs(&self) -> SharedPacks {
        self.packs.clone()
    }

    /// One line about each sink, printed at the start.
    pub(crate) fn sink_lines(&self) -> &[String] {
        &self.sink_lines
    }

    /// Whether a shutdown leaves running jobs to their keepers.
    pub(crate) fn leaves_jobs(&self) -> bool {
        self.on_shutdown == OnShutdown::Leave
    }

    /// Prints that a shutdown begins, and what happens to running jobs.
    pub(crate) fn print_stopping(&self) {
        let jobs = match self.on_shutdown {
            OnShutdown::Leave => "",
            OnShutdown::Drain => ", and running jobs are awaited",
            OnShutdown::Stop => ", and running jobs get TERM",
        };
        print_error_line(&format!(
            "stopping: no new runs are started{jobs}; send the signal again to exit immediately"
        ));
    }

    /// Takes no more orders, leaves, awaits or stops running jobs, and gives the sinks time to deliver. Returns the
    /// number of runs that continue.
    pub(crate) async fn shut_down(&self) -> usize {
        self.stop.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "runner task failed; running jobs continue");
        }
        self.running_count()
    }

    /// Uses these sinks from now on. Waits for none of them.
    pub(crate) async fn use_sinks(&self, configs: Vec<SinkConfig>) -> SinkChanges {
        self.handle.set_sinks(configs).await
    }

    /// The sinks that are no longer configured.
    pub(crate) fn removed_sinks(&self) -> Vec<RemovedSink> {
        self.handle.removed_sinks()
    }

    /// Replaces the rules, also of running jobs.
    pub(crate) fn use_packs(&self, packs: Arc<Packs>) {
        self.handle.set_packs(packs.clone());
        self.packs.set(packs);
    }

    pub(crate) fn sink_statuses(&self) -> Vec<SinkStatus> {
        self.handle.sinks()
    }

    /// Stops a run that is on this machine, without waiting for a heartbeat.
    pub(crate) fn stop_run(&self, run_id: &RunId, by: &str) {
        self.handle.stop(run_id, by);
    }

    /// What runs wait for because of a limit of this machine.
    pub(crate) fn limit_reached(&self) -> Option<String> {
        self.handle.limit_reached()
    }

    /// The number of runs that have started and not ended.
    pub(crate) fn running_count(&self) -> usize {
        self.handle.runs().iter().filter(|run| run.outcome.is_none() && run.started_at.is_some()).count()
    }
}

/// The message after a second signal.
pub(crate) fn exited_message(command: &str) -> String {
    match process_one::is_process_one() {
        true => "exited immediately; running jobs end with the container".to_owned(),
        false => format!("exited immediately; running jobs continue and the next `{command}` resumes them"),
    }
}

/// The last message of `up` and `sexton runner`.
pub(crate) fn stopped_message(remaining: usize, command: &str) -> String {
    match remaining {
        0 => "stopped; nothing is running".to_owned(),
        1 => format!("stopped; 1 run continues, and the next `{command}` on this state directory resumes it"),
        remaining => {
            format!("stopped; {remaining} runs continue, and the next `{command}` on this state directory resumes them")
        }
    }
}

/// Takes the events of sinks where no alert is sent. The delivery itself logs each of them.
pub(crate) async fn discard_sink_events(mut sink_events: mpsc::Receiver<SinkEvent>) {
    while sink_events.recv().await.is_some() {}
}

/// The counters of a sink before they were reset, for the API.
pub(crate) fn reset_record(sink: &str, before: &Losses) -> serde_json::Value {
    serde_json::json!({
        "name": sink,
        "dropped_lines": before.dropped_lines,
        "dropped_bytes": before.dropped_bytes,
        "refused_records": before.refused_records,
    })
}

#[async_trait]
impl console::Sinks for LocalRunner {
    async fn status(&self) -> Vec<serde_json::Value> {
        let statuses = self.sink_statuses();
        // A status is plain data, so the conversion to JSON cannot fail.
        statuses.into_iter().filter_map(|status| serde_json::to_value(status).ok()).collect()
    }

    async fn reset(&self, sink: Option<&str>) -> Result<Vec<serde_json::Value>, ResetFault> {
        match self.handle.reset_losses(sink) {
            Ok(reset) => Ok(reset.iter().map(|(name, losses)| reset_record(name, losses)).collect()),
            Err(error @ ResetError::Unknown { .. }) => Err(ResetFault::Unknown(error.to_string())),
            Err(error @ ResetError::Io(_)) => Err(ResetFault::Failed(error.to_string())),
        }
    }

    async fn waiting_reason(&self, run_id: &RunId) -> Option<String> {
        self.handle.waiting_reason(run_id)
    }

    async fn undelivered(&self, run_id: &RunId) -> Vec<Undelivered> {
        let lags = self.handle.undelivered(run_id).into_iter();
        lags.map(|(sink, lag)| Undelivered { sink, lines: lag.lines, bytes: lag.bytes }).collect()
    }
}
