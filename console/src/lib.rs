//! The API: JSON over HTTP for `sexton`'s subcommands, scripts and pages. Served by `sexton up`.
//!
//! Every question but `/api/health` needs the token as `Authorization: Bearer`. Every fault is `{"error": "..."}` with a
//! status that says whose it is. Handlers decode, call a service or a port, encode; nothing is decided here, and nothing
//! is read from a runner's disk but through [`Logs`] and [`Sinks`].
//!
//! | path | |
//! |---|---|
//! | `GET /api/health` | alive, and of which version |
//! | `GET /api/jobs`, `GET PUT DELETE /api/jobs/{group}/{name}`, `POST .../pause`, `.../resume`, `.../run` | `jobs.rs` |
//! | `POST /api/apply` | `jobs.rs` |
//! | `GET /api/runs`, `GET /api/runs/{id}?wait=`, `POST .../stop` | `runs.rs` |
//! | `GET /api/runs/{id}/logs?stream=&timestamps=&follow=` | `logs.rs` |
//! | `POST /api/reports` | `runs.rs` |
//! | `POST /api/maintenance`, `GET /api/ledger`, `/api/sinks`, `/api/alerts` | `overview.rs` |
//! | `GET /metrics` | `metrics.rs`: Prometheus text, with the same token |
//!
//! A runner that stands alone serves what it knows itself: `runner.rs`.

mod access;
mod fault;
mod jobs;
mod logs;
mod metrics;
mod overview;
mod runner;
mod runs;

use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};
use domain::ports::Ports;
use domain::run::{Run, RunId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use logs::{LogChunks, LogOutput, LogQuery, REMOVED_LINES};
pub use runner::{RunnerConsole, runner_router};

/// Bytes of a question's body. Ours: a crontab of a hundred thousand lines fits.
pub const BODY_BYTES_MAX: usize = 32 << 20;

/// The output of runs, as whoever keeps it gives it out.
#[async_trait]
pub trait Logs: Send + Sync {
    /// The output of a run, byte for byte; with `follow` until the run is over. `None`: no output of it is kept here.
    ///
    /// # Errors
    /// One lower-case sentence.
    async fn read(&self, run: &Run, query: LogQuery) -> Result<Option<LogOutput>, String>;
}

/// A sink that has not taken all of a run yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undelivered {
    pub sink: String,
    pub lines: u64,
    /// In the spool, where each line has a head of some 40 bytes.
    pub bytes: u64,
}

/// How far the sinks are.
#[async_trait]
pub trait Sinks: Send + Sync {
    /// One JSON object a sink, as its engine tells it.
    async fn status(&self) -> Vec<serde_json::Value>;

    /// The sinks that lack lines of this run. None where the runners are elsewhere, and nothing is known of theirs.
    async fn undelivered(&self, _run_id: &RunId) -> Vec<Undelivered> {
        Vec::new()
    }
}

/// What tells the time; tests step it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What the handlers work with. Cheap to clone.
#[derive(Clone)]
pub struct Console {
    pub ports: Ports,
    pub logs: Arc<dyn Logs>,
    pub sinks: Arc<dyn Sinks>,
    pub token: Arc<str>,
    pub clock: Clock,
    /// Six bytes that name a run which nobody scheduled.
    pub random: Arc<dyn Fn() -> [u8; 6] + Send + Sync>,
    /// Called when something may be due earlier than the scheduler's loop believes.
    pub nudge: Arc<dyn Fn() + Send + Sync>,
}

impl Console {
    fn now(&self) -> Timestamp {
        (self.clock)()
    }
}

/// All routes.
pub fn router(console: Console) -> Router {
    let guarded = Router::new()
        .route("/jobs", get(jobs::list))
        .route("/jobs/{group}/{name}", get(jobs::show).put(jobs::put).delete(jobs::remove))
        .route("/jobs/{group}/{name}/pause", post(jobs::pause))
        .route("/jobs/{group}/{name}/resume", post(jobs::resume))
        .route("/jobs/{group}/{name}/run", post(jobs::run))
        .route("/apply", post(jobs::apply))
        .route("/runs", get(runs::list))
        .route("/runs/{run_id}", get(runs::show))
        .route("/runs/{run_id}/stop", post(runs::stop))
        .route("/runs/{run_id}/logs", get(logs::read))
        .route("/reports", post(runs::report))
        .route("/maintenance", post(overview::maintenance))
        .route("/ledger", get(overview::ledger))
        .route("/sinks", get(overview::sinks))
        .route("/alerts", get(overview::alerts))
        .layer(middleware::from_fn_with_state(console.token.clone(), access::check))
        .route("/health", get(overview::health));
    let measured = Router::new()
        .route("/metrics", get(metrics::metrics))
        .layer(middleware::from_fn_with_state(console.token.clone(), access::check));
    Router::new()
        .nest("/api", guarded)
        .merge(measured)
        .fallback(fault::no_such_path)
        .method_not_allowed_fallback(fault::no_such_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(console)
}
