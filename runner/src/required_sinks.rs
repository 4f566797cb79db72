//! Required sinks: while one of them cannot be reached, no run whose output it wants is started. Asked by the intake before
//! it takes an order, and by whoever attends a run just before its keeper is started.
//!
//! A sink that has undelivered output tells by itself whether it fails; an idle one is reached for, and only when a
//! run wants to start. Sinks that are not required never hold anything up.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::job::Job;
use sinks::config::SinkConfig;
use sinks::engine::Engine;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::runner_state::Shared;

/// What was found out about a sink holds for so long. Ours: a thousand runs at once reach for it once.
pub const FRESH: Duration = Duration::from_secs(2);

#[derive(Default)]
pub struct Gate {
    found: Mutex<BTreeMap<String, Found>>,
}

struct Found {
    at: Instant,
    /// The sink as it was then: one of the same name may be another by now.
    config: SinkConfig,
    result: Result<(), String>,
}

/// A required sink, and what it says of itself while it has something to deliver.
struct Required {
    config: SinkConfig,
    failing: Option<String>,
}

impl Shared {
    /// Why a run of this job must not be started now.
    pub async fn held(&self, job: &Job) -> Option<String> {
        self.first_closed(|config| config.when.wants_job(&job.group, &job.name)).await
    }

    /// Why no run at all may be started now.
    pub async fn all_held(&self) -> Option<String> {
        self.first_closed(|config| config.when.groups.is_empty() && config.when.jobs.is_empty()).await
    }

    /// What holds runs up by what is known, for whoever watches this runner; nothing is reached for.
    pub async fn known_to_be_held(&self) -> Option<String> {
        let found = self.gate.found.lock().await;
        let closed = found.iter().find_map(|(name, found)| Some((name, found.result.as_ref().err()?)));
        closed.map(|(name, says)| unreachable(name, says))
    }

    pub fn has_required_sinks(&self) -> bool {
        self.with_sinks(|sinks| sinks.iter().any(|sink| sink.config().required))
    }

    async fn first_closed(&self, wanted: impl Fn(&SinkConfig) -> bool) -> Option<String> {
        if !self.has_its_sinks() {
            return Some("the sinks are being exchanged".to_owned());
        }
        let names: Vec<String> = self.with_sinks(|sinks| {
            let required = sinks.iter().filter(|sink| sink.config().required && wanted(sink.config()));
            required.map(|sink| sink.name().to_owned()).collect()
        });
        for name in names {
            if let Err(says) = self.reach(&name).await {
                return Some(unreachable(&name, &says));
            }
        }
        None
    }

    /// What is known of the sink, found out anew when that is old. Whoever comes meanwhile waits for the answer.
    async fn reach(&self, name: &str) -> Result<(), String> {
        let mut found = self.gate.found.lock().await;
        let required = self.with_sinks(|sinks| sinks.iter().find(|sink| sink.name() == name).map(required));
        let Some(Required { config, failing }) = required else { return Ok(()) };
        let before = found.get(name);
        if let Some(before) = before.filter(|before| before.at.elapsed() < FRESH && before.config == config) {
            return before.result.clone();
        }
        let result = match failing {
            Some(says) => Err(says),
            None => sinks::probe::probe(&config).await,
        };
        match (&result, before.is_some_and(|before| before.result.is_err())) {
            (Err(says), false) => {
                tracing::warn!(sink = name, "a required sink cannot be reached; runs wait until it can: {says}");
            }
            (Ok(()), true) => tracing::info!(sink = name, "a required sink can be reached again; runs start"),
            _ => {}
        }
        found.insert(name.to_owned(), Found { at: Instant::now(), config, result: result.clone() });
        result
    }
}

fn unreachable(name: &str, says: &str) -> String {
    format!("the required sink `{name}` cannot be reached: {says}")
}

fn required(sink: &Engine) -> Required {
    let status = sink.status();
    // Without anything to deliver nothing would ever tell that it works again.
    let has_work = status.lag_lines > 0 || status.lag_bytes > 0;
    let failing = status.failing_since.filter(|_| has_work);
    let failing = failing.map(|_| status.last_error.unwrap_or_else(|| "its last delivery failed".to_owned()));
    Required { config: sink.config().clone(), failing }
}
