//! A runner with its sinks and rules: started, given other sinks and rules when their files change, ended. Called by `up` and
//! by `sexton runner`; never asks where orders come from.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use async_trait::async_trait;
use console::Undelivered;
use domain::run::RunId;
use rules::Packs;
use runner::{Handle, Options, Runner};
use sinks::config::SinkConfig;
use sinks::engine::{Engine, Environment};
use sinks::status::{SinkEvent, SinkStatus};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::configuration::{load_packs, pack_files};
use crate::failure::{Failure, print_error_line};
use crate::file_watch::{FileWatch, POLL_INTERVAL};
use crate::setup::{Setup, SinksSource, sink_line};
use crate::state::StateDirectory;

/// Troubles on their way into the log; a sink sends one per trouble.
const EVENTS_MAX: usize = 1000;

/// The rules that are in force now.
#[derive(Clone)]
pub struct SharedPacks(Arc<RwLock<Arc<Packs>>>);

impl SharedPacks {
    pub fn current(&self) -> Arc<Packs> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, packs: Arc<Packs>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = packs;
    }
}

pub struct LocalRunner {
    handle: Handle,
    packs: SharedPacks,
    sink_lines: Vec<String>,
    events: mpsc::Sender<SinkEvent>,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl LocalRunner {
    /// Must be called inside a tokio runtime. `options` are given the set-up's rules and sinks; what the sinks have to say
    /// is received by the caller.
    ///
    /// # Errors
    /// When a sink cannot be started, or the runner's directory cannot be used.
    pub fn start(
        setup: &mut Setup,
        mut options: Options,
        ports: runner::Ports,
    ) -> Result<(LocalRunner, mpsc::Receiver<SinkEvent>), Failure> {
        let (events, sink_events) = mpsc::channel(EVENTS_MAX);
        let packs = Arc::new(std::mem::take(&mut setup.packs));
        options.packs = packs.clone();
        options.sinks = start_sinks(&setup.sinks, &events)?;
        let runner = Runner::new(options, ports).map_err(|error| Failure::failed(error.to_string()))?;
        let (handle, stop) = (runner.handle(), CancellationToken::new());
        let task = tokio::spawn(runner.run(stop.clone()));
        let local_runner = LocalRunner {
            handle,
            packs: SharedPacks(Arc::new(RwLock::new(packs))),
            sink_lines: setup.sinks.iter().map(sink_line).collect(),
            events,
            stop,
            task: Mutex::new(Some(task)),
        };
        Ok((local_runner, sink_events))
    }

    pub fn packs(&self) -> SharedPacks {
        self.packs.clone()
    }

    /// Where output goes, for people.
    pub fn sink_lines(&self) -> &[String] {
        &self.sink_lines
    }

    /// Takes no more orders, leaves what runs to its keepers, gives sinks their last while. Says how many runs go on.
    pub async fn shut_down(&self) -> usize {
        self.stop.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the runner did not end well; running jobs go on all the same");
        }
        self.running_count()
    }

    /// Applies the sinks file and the rule packs whenever they change, until `stop`. A faulty file changes nothing.
    pub async fn reload_on_change(
        self: Arc<Self>,
        sinks: SinksSource,
        rules: Vec<PathBuf>,
        state: StateDirectory,
        stop: CancellationToken,
    ) {
        let mut sinks_watch = FileWatch::new(sinks.file.clone());
        let mut pack_paths = pack_files(&rules).unwrap_or_default();
        let mut packs_watch = FileWatch::new(pack_paths.clone());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
            if !sinks_watch.take_changed().is_empty() {
                match sinks.load(&state).and_then(|configs| self.start_sinks(&configs)) {
                    Ok(engines) => {
                        self.handle.set_sinks(engines).await;
                        print_error_line("the sinks file changed: its sinks are in use");
                    }
                    Err(failure) => print_reload_failure(&failure, "the sinks stay as they were"),
                }
            }
            // A directory of packs may have got another file, or lost one.
            let paths = pack_files(&rules).unwrap_or_else(|_| pack_paths.clone());
            let other_files = paths != pack_paths;
            if !packs_watch.take_changed().is_empty() || other_files {
                if other_files {
                    packs_watch = FileWatch::new(paths.clone());
                    pack_paths = paths;
                }
                match load_packs(&rules) {
                    Ok(packs) => {
                        let packs = Arc::new(packs);
                        self.handle.set_packs(packs.clone());
                        self.packs.set(packs);
                        print_error_line("the rules changed: they are in use");
                    }
                    Err(failure) => print_reload_failure(&failure, "the rules stay as they were"),
                }
            }
        }
    }

    pub fn sink_statuses(&self) -> Vec<SinkStatus> {
        self.handle.sinks()
    }

    /// Runs that have begun and not ended.
    pub fn running_count(&self) -> usize {
        self.handle.runs().iter().filter(|run| run.outcome.is_none() && run.started_at.is_some()).count()
    }

    fn start_sinks(&self, configs: &[SinkConfig]) -> Result<Vec<Engine>, Failure> {
        start_sinks(configs, &self.events)
    }
}

fn print_reload_failure(failure: &Failure, message: &str) {
    failure.print();
    print_error_line(message);
}

/// What a person reads when the command that had a runner has ended.
pub fn stopped_message(remaining: usize, command: &str) -> String {
    match remaining {
        0 => "stopped; nothing is running".to_owned(),
        1 => format!("stopped; 1 run goes on, and the next `{command}` on this state directory finds it"),
        remaining => {
            format!("stopped; {remaining} runs go on, and the next `{command}` on this state directory finds them")
        }
    }
}

/// The engines of these sinks, in their order. They connect only when there is something to deliver.
///
/// # Errors
/// Exit 2 when this build has no such sink.
pub fn start_sinks(configs: &[SinkConfig], events: &mpsc::Sender<SinkEvent>) -> Result<Vec<Engine>, Failure> {
    let start = |config: &SinkConfig| {
        Engine::start(config.clone(), Environment::real(events.clone()))
            .map_err(|error| Failure::usage(format!("sink `{}`: {}", config.name, error.says)))
    };
    configs.iter().map(start).collect()
}

/// Says what people should hear of a sink; `sexton sinks` shows the numbers.
pub async fn log_sink_events(mut sink_events: mpsc::Receiver<SinkEvent>) {
    while let Some(event) = sink_events.recv().await {
        log_sink_event(&event);
    }
}

pub fn log_sink_event(event: &SinkEvent) {
    match event {
        SinkEvent::Trouble(trouble) => tracing::warn!(
            sink = trouble.sink,
            since = %trouble.since,
            "a sink is in trouble ({}); its lines are kept: {}",
            trouble.class.name(),
            trouble.error
        ),
        SinkEvent::Recovered { sink, since } => tracing::info!(sink, %since, "a sink takes lines again"),
    }
}

#[async_trait]
impl console::Sinks for LocalRunner {
    async fn status(&self) -> Vec<serde_json::Value> {
        let statuses = self.sink_statuses();
        // A status is plain data: it always has a form in JSON.
        statuses.into_iter().filter_map(|status| serde_json::to_value(status).ok()).collect()
    }

    async fn undelivered(&self, run_id: &RunId) -> Vec<Undelivered> {
        let lags = self.handle.undelivered(run_id).into_iter();
        lags.map(|(sink, lag)| Undelivered { sink, lines: lag.lines, bytes: lag.bytes }).collect()
    }
}
