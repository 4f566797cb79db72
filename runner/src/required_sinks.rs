//! Required sinks: no run starts while a required sink for its output is unreachable. Called by the intake before it
//! takes an order, and by the supervision of a run before it starts a keeper.
//!
//! A sink with undelivered output reports its own failures. An idle sink is probed, and only when a run is due to
//! start. Sinks that are not required never hold a run.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::job::Job;
use sinks::config::SinkConfig;
use sinks::engine::Engine;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::runner_state::RunnerState;

/// How long the result of a probe is used. Chosen: 1,000 runs at once cause one probe.
pub(crate) const PROBE_MAX_AGE: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(crate) struct RequiredSinks {
    probes: Mutex<BTreeMap<String, ProbeResult>>,
}

struct ProbeResult {
    at: Instant,
    /// The configuration that was probed; a reload can change it under the same name.
    config: SinkConfig,
    result: Result<(), String>,
}

/// A required sink, and its error while it has output to deliver.
struct RequiredSink {
    config: SinkConfig,
    failing: Option<String>,
}

impl RunnerState {
    /// Why a run of this job must not start now.
    pub(crate) async fn blocking_reason(&self, job: &Job) -> Option<String> {
        self.first_unreachable(|config| config.when.wants_job(&job.group, &job.name)).await
    }

    /// Why no run at all may start now.
    pub(crate) async fn blocking_reason_for_all(&self) -> Option<String> {
        self.first_unreachable(|config| config.when.groups.is_empty() && config.when.jobs.is_empty()).await
    }

    /// The reason by the last probes, for the heartbeat; probes nothing.
    pub(crate) async fn cached_blocking_reason(&self) -> Option<String> {
        let found = self.required_sinks.probes.lock().await;
        let closed = found.iter().find_map(|(name, found)| Some((name, found.result.as_ref().err()?)));
        closed.map(|(name, message)| unreachable_text(name, message))
    }

    pub(crate) fn has_required_sinks(&self) -> bool {
        self.with_sinks(|sinks| sinks.iter().any(|sink| sink.config().required))
    }

    async fn first_unreachable(&self, wanted: impl Fn(&SinkConfig) -> bool) -> Option<String> {
        if !self.has_sinks() {
            return Some("the sinks are being replaced".to_owned());
        }
        let names: Vec<String> = self.with_sinks(|sinks| {
            let required = sinks.iter().filter(|sink| sink.config().required && wanted(sink.config()));
            required.map(|sink| sink.name().to_owned()).collect()
        });
        for name in names {
            if let Err(message) = self.probe(&name).await {
                return Some(unreachable_text(&name, &message));
            }
        }
        None
    }

    /// The state of the sink, probed again when the last result is too old. Concurrent callers wait for the same probe.
    async fn probe(&self, name: &str) -> Result<(), String> {
        let mut found = self.required_sinks.probes.lock().await;
        let required = self.with_sinks(|sinks| sinks.iter().find(|sink| sink.name() == name).map(required_sink));
        let Some(RequiredSink { config, failing }) = required else { return Ok(()) };
        let before = found.get(name);
        if let Some(before) = before.filter(|before| before.at.elapsed() < PROBE_MAX_AGE && before.config == config) {
            return before.result.clone();
        }
        let result = match failing {
            Some(message) => Err(message),
            None => sinks::probe::probe(&config).await,
        };
        match (&result, before.is_some_and(|before| before.result.is_err())) {
            (Err(message), false) => {
                tracing::warn!(sink = name, "required sink unreachable; runs are held: {message}");
            }
            (Ok(()), true) => tracing::info!(sink = name, "required sink reachable again; held runs start"),
            _ => {}
        }
        found.insert(name.to_owned(), ProbeResult { at: Instant::now(), config, result: result.clone() });
        result
    }
}

fn unreachable_text(name: &str, message: &str) -> String {
    format!("the required sink `{name}` is unreachable: {message}")
}

fn required_sink(sink: &Engine) -> RequiredSink {
    let status = sink.status();
    // A sink without output to deliver would never report its recovery.
    let has_work = status.lag_lines > 0 || status.lag_bytes > 0;
    let failing = status.failing_since.filter(|_| has_work);
    let failing = failing.map(|_| status.last_error.unwrap_or_else(|| "its last delivery failed".to_owned()));
    RequiredSink { config: sink.config().clone(), failing }
}
