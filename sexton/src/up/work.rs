//! The runner of an `up`, with its sinks and rules: started, given other sinks and rules when their files change, ended.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use domain::ports::Ports;
use jiff::Timestamp;
use rules::Packs;
use runner::{Handle, Runner};
use sinks::config::SinkConfig;
use sinks::engine::{Engine, Environment};
use sinks::status::SinkEvent;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::sink_alerts;
use super::watch::{LOOK_INTERVAL, Watch};
use crate::configuration::{load_packs, pack_files};
use crate::failure::{Failure, tell_line};
use crate::machine;
use crate::setup::{Setup, load_sinks, sink_line};
use crate::state::State;

/// Troubles on their way into the log; a sink sends one per trouble.
const EVENTS_MAX: usize = 1000;

/// Sinks are looked at this often, for alerts: small against any `alert_after` that people choose.
const SINKS_INTERVAL: Duration = Duration::from_secs(2);

/// The rules that are in force now.
#[derive(Clone)]
pub struct SharedPacks(Arc<RwLock<Arc<Packs>>>);

impl SharedPacks {
    pub fn now(&self) -> Arc<Packs> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, packs: Arc<Packs>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = packs;
    }
}

pub struct Work {
    handle: Handle,
    packs: SharedPacks,
    sink_lines: Vec<String>,
    events: mpsc::Sender<SinkEvent>,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Work {
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When a sink cannot be started, or the runner's directory cannot be used.
    pub fn start(setup: &mut Setup, ports: &Ports) -> Result<Work, Failure> {
        let (events, troubles) = mpsc::channel(EVENTS_MAX);
        tokio::spawn(raise_troubles(troubles, ports.clone()));
        let packs = Arc::new(std::mem::take(&mut setup.packs));
        let mut options = machine::runner_options(&setup.configuration.runner, setup.state.runner())?;
        options.packs = packs.clone();
        options.sinks = start_sinks(&setup.sinks, &events)?;
        let ports = runner::Ports {
            orders: ports.orders.clone(),
            claims: ports.claims.clone(),
            reports: ports.reports.clone(),
        };
        let runner = Runner::new(options, ports).map_err(|error| Failure::bad(error.to_string()))?;
        let (handle, stop) = (runner.handle(), CancellationToken::new());
        let task = tokio::spawn(runner.run(stop.clone()));
        Ok(Work {
            handle,
            packs: SharedPacks(Arc::new(RwLock::new(packs))),
            sink_lines: setup.sinks.iter().map(sink_line).collect(),
            events,
            stop,
            task: Mutex::new(Some(task)),
        })
    }

    pub fn packs(&self) -> SharedPacks {
        self.packs.clone()
    }

    /// Where output goes, for people.
    pub fn sink_lines(&self) -> &[String] {
        &self.sink_lines
    }

    /// Takes no more orders, leaves what runs to its keepers, gives sinks their last while. Says how many runs go on.
    pub async fn end(&self) -> usize {
        self.stop.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the runner did not end well; running jobs go on all the same");
        }
        self.handle.runs().iter().filter(|run| run.outcome.is_none() && run.started_at.is_some()).count()
    }

    /// Applies the sinks file and the rule packs whenever they change, until `stop`. A faulty file changes nothing.
    pub async fn watch(
        self: Arc<Self>,
        sinks_file: Option<PathBuf>,
        rules: Vec<PathBuf>,
        state: State,
        stop: CancellationToken,
    ) {
        let mut sinks_watch = Watch::new(sinks_file.clone());
        let mut pack_paths = pack_files(&rules).unwrap_or_default();
        let mut packs_watch = Watch::new(pack_paths.clone());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            if !sinks_watch.changed().is_empty() {
                match load_sinks(sinks_file.as_deref(), &state).and_then(|configs| self.start_sinks(&configs)) {
                    Ok(engines) => {
                        self.handle.set_sinks(engines).await;
                        tell_line("the sinks file changed: its sinks are in use");
                    }
                    Err(failure) => unchanged(&failure, "the sinks stay as they were"),
                }
            }
            // A directory of packs may have got another file, or lost one.
            let paths = pack_files(&rules).unwrap_or_else(|_| pack_paths.clone());
            let other_files = paths != pack_paths;
            if !packs_watch.changed().is_empty() || other_files {
                if other_files {
                    packs_watch = Watch::new(paths.clone());
                    pack_paths = paths;
                }
                match load_packs(&rules) {
                    Ok(packs) => {
                        let packs = Arc::new(packs);
                        self.handle.set_packs(packs.clone());
                        self.packs.set(packs);
                        tell_line("the rules changed: they are in use");
                    }
                    Err(failure) => unchanged(&failure, "the rules stay as they were"),
                }
            }
        }
    }

    /// Makes alerts of sinks that lag or cannot work, until `stop`.
    pub async fn watch_sinks(self: Arc<Self>, ports: Ports, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(SINKS_INTERVAL) => {}
            }
            if let Err(error) = sink_alerts::look(&ports, &self.handle.sinks(), Timestamp::now()).await {
                tracing::warn!(%error, "troubles of sinks could not be stored as alerts; tried again");
            }
        }
    }

    fn start_sinks(&self, configs: &[SinkConfig]) -> Result<Vec<Engine>, Failure> {
        start_sinks(configs, &self.events)
    }
}

fn unchanged(failure: &Failure, says: &str) {
    failure.tell();
    tell_line(says);
}

/// The engines of these sinks, in their order. They connect only when there is something to deliver.
///
/// # Errors
/// Exit 2 when this build has no such sink.
pub fn start_sinks(configs: &[SinkConfig], events: &mpsc::Sender<SinkEvent>) -> Result<Vec<Engine>, Failure> {
    let start = |config: &SinkConfig| {
        Engine::start(config.clone(), Environment::real(events.clone()))
            .map_err(|error| Failure::wrong(format!("sink `{}`: {}", config.name, error.says)))
    };
    configs.iter().map(start).collect()
}

/// Says what people should hear of a sink; `sexton sinks` shows the numbers.
pub async fn tell_troubles(mut troubles: mpsc::Receiver<SinkEvent>) {
    while let Some(event) = troubles.recv().await {
        tell(&event);
    }
}

/// The same, and what is lost for good is an alert.
async fn raise_troubles(mut troubles: mpsc::Receiver<SinkEvent>, ports: Ports) {
    while let Some(event) = troubles.recv().await {
        tell(&event);
        if let SinkEvent::Trouble(trouble) = &event
            && let Err(error) = sink_alerts::tell_loss(&ports, trouble, Timestamp::now()).await
        {
            tracing::warn!(sink = trouble.sink, %error, "a loss could not be stored as an alert; it is only in this log");
        }
    }
}

fn tell(event: &SinkEvent) {
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
impl console::Sinks for Work {
    async fn status(&self) -> Vec<serde_json::Value> {
        let statuses = self.handle.sinks();
        // A status is plain data: it always has a form in JSON.
        statuses.into_iter().filter_map(|status| serde_json::to_value(status).ok()).collect()
    }
}
