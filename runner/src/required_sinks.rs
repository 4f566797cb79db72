//! Required sinks: no run starts while a required sink for its output is unreachable. Called by the intake before it
//! takes an order, and by the supervision of a run before it starts a keeper.
//!
//! A sink with undelivered output reports its own failures; while it holds a run, it retries about once a second.
//! An idle sink is probed, and only when a run is due to start. Sinks that are not required never hold a run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::job::Job;
use jiff::Timestamp;
use sinks::config::SinkConfig;
use sinks::status::{SinkState, SinkStatus};
use tokio::time::Instant;

use crate::local_run::lock;
use crate::runner_state::RunnerState;

/// How long the result of a probe is used. Chosen: 1,000 runs at once cause one probe.
const REACHABLE_MAX_AGE: Duration = Duration::from_secs(2);

/// The same for an unreachable sink. Bounds the attempts: at most one a second and sink, for any number of held runs.
const UNREACHABLE_MAX_AGE: Duration = Duration::from_secs(1);

/// How long a failed probe counts as the sink's state. Chosen: a held run probes about once a second, and a probe of a
/// host that does not answer lasts up to 10 s.
const HOLDING_MAX_AGE: Duration = Duration::from_secs(15);

/// Longest wait for the attempt of a sink that fails. Chosen: a receiver that is back accepts a batch in less.
const ATTEMPT_TIME: Duration = Duration::from_secs(1);

/// A held run is checked again after this time and a random part of it. Chosen: it starts about 1 s after the sink
/// works again, and runners that hold runs do not retry in step.
const HELD_POLL: Duration = Duration::from_millis(500);

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
    /// The failure of the sink that this result knows of.
    failure: Option<u64>,
    /// Start of the series of failures that this result belongs to.
    failing_since: Option<Timestamp>,
}

impl ProbeResult {
    /// Whether the result still holds, for a sink with this configuration and this last failure.
    fn is_fresh(&self, config: &SinkConfig, failure: Option<u64>) -> bool {
        let age_max = if self.result.is_ok() { REACHABLE_MAX_AGE } else { UNREACHABLE_MAX_AGE };
        let has_failed_since = self.result.is_ok() && failure.is_some() && failure != self.failure;
        self.config == *config && self.at.elapsed() < age_max && !has_failed_since
    }
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

    /// State and lag of every sink. A required sink that holds runs fails, also where it has nothing to send.
    pub(crate) fn sink_statuses(&self) -> Vec<SinkStatus> {
        let mut statuses = self.sinks.statuses();
        let probes = lock(&self.required_sinks.probes);
        for status in statuses.iter_mut().filter(|status| status.state == SinkState::Working) {
            let last = probes.get(&status.name).and_then(|probe| lock(&probe.last).clone());
            let recent = last.filter(|last| last.at.elapsed() < HOLDING_MAX_AGE);
            let Some(ProbeResult { result: Err(message), failing_since, .. }) = recent else { continue };
            status.state = SinkState::Retrying;
            status.last_error = Some(message);
            status.last_error_at = Some(Timestamp::now());
            status.failing_since = failing_since;
        }
        statuses
    }

    pub(crate) fn has_required_sinks(&self) -> bool {
        !self.sinks.required().is_empty()
    }

    /// Waits before a held run, or order, is checked again.
    pub(crate) async fn wait_while_held(&self) {
        let share = ((self.options.sink_environment.random)() >> 11) as f64 / (1_u64 << 53) as f64;
        tokio::time::sleep(HELD_POLL + HELD_POLL.mul_f64(share)).await;
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
        let Some(config) = self.sinks.config(name) else { return Ok(()) };
        let before = lock(&probe.last).clone();
        if let Some(before) = before.as_ref().filter(|before| before.is_fresh(&config, self.sinks.failure(name))) {
            return before.result.clone();
        }
        let result = match self.sinks.failing(name) {
            Some(engine) => {
                engine.retry_now(ATTEMPT_TIME).await;
                engine.failure().map_or(Ok(()), Err)
            }
            None => sinks::probe::probe(&config).await,
        };
        let failing_since = before.and_then(|before| before.failing_since);
        match (&result, failing_since.is_some()) {
            (Err(message), false) => {
                tracing::warn!(sink = name, "required sink unreachable; runs are held: {message}");
            }
            (Ok(()), true) => tracing::info!(sink = name, "required sink reachable again; held runs start"),
            _ => {}
        }
        let failing_since = result.is_err().then(|| failing_since.unwrap_or_else(Timestamp::now));
        let (at, failure) = (Instant::now(), self.sinks.failure(name));
        *lock(&probe.last) = Some(ProbeResult { at, config, result: result.clone(), failure, failing_since });
        result
    }
}

fn unreachable_text(name: &str, message: &str) -> String {
    format!("the required sink `{name}` is unreachable: {message}")
}
