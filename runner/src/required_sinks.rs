//! Required sinks: no run starts while a required sink for its output is unreachable. Called by the intake before it
//! takes an order, and by the supervision of a run before it starts a keeper.
//!
//! A sink with undelivered output reports its own failures. An idle sink is probed, and only when a run is due to
//! start. Sinks that are not required never hold a run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::job::Job;
use sinks::config::SinkConfig;
use tokio::time::Instant;

use crate::local_run::lock;
use crate::runner_state::RunnerState;

/// How long the result of a probe is used. Chosen: 1,000 runs at once cause one probe.
pub(crate) const PROBE_MAX_AGE: Duration = Duration::from_secs(2);

/// The probes, by sink.
#[derive(Default)]
pub(crate) struct RequiredSinks {
    probes: Mutex<BTreeMap<String, Arc<Probe>>>,
}

#[derive(Default)]
struct Probe {
    /// Held while the sink is probed.
    turn: tokio::sync::Mutex<()>,
    last: Mutex<Option<ProbeResult>>,
}

#[derive(Clone)]
struct ProbeResult {
    at: Instant,
    /// The configuration that was probed; a reload can change it under the same name.
    config: SinkConfig,
    result: Result<(), String>,
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
    pub(crate) fn cached_blocking_reason(&self) -> Option<String> {
        self.cached_reason(|_| true)
    }

    fn cached_reason(&self, wanted: impl Fn(&SinkConfig) -> bool) -> Option<String> {
        let probes = lock(&self.required_sinks.probes);
        self.sinks.required().into_iter().filter(|config| wanted(config)).find_map(|config| {
            let last = lock(&probes.get(&config.name)?.last).clone()?;
            Some(unreachable_text(&config.name, &last.result.err()?))
        })
    }

    /// As [`RunnerState::cached_blocking_reason`], of sinks that hold every run.
    pub(crate) fn cached_blocking_reason_for_all(&self) -> Option<String> {
        self.cached_reason(|config| config.when.groups.is_empty() && config.when.jobs.is_empty())
    }

    pub(crate) fn has_required_sinks(&self) -> bool {
        !self.sinks.required().is_empty()
    }

    async fn first_unreachable(&self, wanted: impl Fn(&SinkConfig) -> bool) -> Option<String> {
        for config in self.sinks.required().into_iter().filter(|config| wanted(config)) {
            if let Err(message) = self.probe(&config.name).await {
                return Some(unreachable_text(&config.name, &message));
            }
        }
        None
    }

    /// The state of the sink, probed again when the last result is too old. Concurrent callers wait for the same probe,
    /// and for no other sink's.
    async fn probe(&self, name: &str) -> Result<(), String> {
        let probe = lock(&self.required_sinks.probes).entry(name.to_owned()).or_default().clone();
        let _turn = probe.turn.lock().await;
        let Some((config, failing)) = self.sinks.failing(name) else { return Ok(()) };
        let before = lock(&probe.last).clone();
        if let Some(before) = &before
            && before.at.elapsed() < PROBE_MAX_AGE
            && before.config == config
        {
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
        *lock(&probe.last) = Some(ProbeResult { at: Instant::now(), config, result: result.clone() });
        result
    }
}

fn unreachable_text(name: &str, message: &str) -> String {
    format!("the required sink `{name}` is unreachable: {message}")
}
