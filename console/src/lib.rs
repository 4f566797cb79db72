//! The JSON API over HTTP, for the subcommands of `sexton`, scripts and web pages. `sexton up` serves it, and so does a
//! Lambda on AWS; `--aws` calls the same router inside the command's process.
//!
//! Every request except `/api/health` needs the token as `Authorization: Bearer`. Every fault is `{"error": "..."}`.
//! Handlers decode, call a service or a port, and encode.
//!
//! | type | purpose |
//! |---|---|
//! | [`Console`] | the dependencies of the handlers: ports, logs, sinks, token, clock |
//! | [`router`] | all routes of an installation |
//! | [`RunnerConsole`], [`runner_router`] | the routes of a single runner: its sinks and metrics |
//! | [`serve`], [`ServerLimits`] | serves either router over TCP, with limits |
//! | [`Peer`] | the address of a client |
//! | [`Logs`], [`Sinks`], [`Health`] | what the process that serves the API knows of output, sinks and the store |
//!
//! This crate decides nothing: rules and state changes are in `services`. It never reads a runner's disk itself.
//!
//! # Routes
//!
//! | path | |
//! |---|---|
//! | `GET /api/health` | status, version, and whether all watched files are in use; 503 while the store is broken |
//! | `GET /api/sources` | the state of each watched file |
//! | `GET /api/status` | `overview.rs`: what is bad, what runs, what is next, what is behind |
//! | `GET /api/jobs?group=&name=&bad=`, `GET PUT DELETE /api/jobs/{group}/{name}` | `jobs.rs` |
//! | `POST /api/jobs/{group}/{name}/pause`, `.../resume`, `.../run` | `jobs.rs` |
//! | `POST /api/apply` | `applied_file.rs` |
//! | `GET /api/runs`, `GET /api/runs/{id}?wait=`, `POST .../stop` | `runs.rs` |
//! | `GET /api/runs/{id}/logs?stream=&timestamps=&follow=` | `logs.rs` |
//! | `POST /api/reports` | `runs.rs` |
//! | `GET POST /api/maintenance`, `GET /api/ledger`, `/api/sinks`, `/api/alerts` | `overview.rs` |
//! | `POST /api/sinks/reset` | `overview.rs` |
//! | `GET /metrics` | `metrics.rs`: Prometheus text, with the same token |

#![warn(missing_docs)]

mod access;
mod applied_file;
mod caller;
mod fault;
mod http_server;
mod jobs;
mod logs;
mod metrics;
mod overview;
mod runner;
mod runs;
mod wrong_tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};
use domain::job::Job;
use domain::ports::Ports;
use domain::run::{Run, RunId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use applied_file::LINES;
pub use caller::{Peer, USER_HEADER};
pub use http_server::{ServerLimits, serve};
pub use logs::{LogChunks, LogOutput, LogQuery, REMOVED_LINES};
pub use runner::{RunnerConsole, runner_router};

/// Largest body of a request that carries many records: a whole file of jobs, or reports. Chosen: a crontab of 100,000
/// lines has about 50 MB as JSON.
pub const BODY_BYTES_MAX: usize = 128 << 20;

/// Largest body of a request with one job: arguments and environment of a process have 2 MiB by default (execve(2)), a
/// quarter of its stack.
const JOB_BODY_BYTES_MAX: usize = 2 << 20;

/// Largest body of any other request: a few short fields.
const SMALL_BODY_BYTES_MAX: usize = 64 << 10;

/// Reads the output of runs from the place where it is kept.
#[async_trait]
pub trait Logs: Send + Sync {
    /// Returns the output of a run, byte for byte; with `follow` until the run ends. `None`: no output of it is kept
    /// here.
    ///
    /// # Errors
    /// One lower-case sentence.
    async fn read(&self, run: &Run, query: LogQuery) -> Result<Option<LogOutput>, String>;
}

/// A sink that has not yet accepted all lines of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undelivered {
    /// Name of the sink.
    pub sink: String,
    /// Lines that the sink has not accepted.
    pub lines: u64,
    /// Their bytes in the spool, where each line has a head of about 40 bytes.
    pub bytes: u64,
}

/// Why the counters of sinks were not reset. One lower-case sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResetFault {
    /// No sink has this name.
    Unknown(String),
    /// The counters cannot be stored.
    Failed(String),
}

/// Reports the delivery state of the sinks.
#[async_trait]
pub trait Sinks: Send + Sync {
    /// Returns one JSON object per sink, as its delivery engine reports it.
    async fn status(&self) -> Vec<serde_json::Value>;

    /// Sets the counters of dropped lines and refused records of one sink, or of all, to 0. Returns one JSON object per
    /// sink with the counters before.
    ///
    /// # Errors
    /// [`ResetFault`]; always where the sinks are those of other processes.
    async fn reset(&self, _sink: Option<&str>) -> Result<Vec<serde_json::Value>, ResetFault> {
        let message =
            "each runner counts the losses of its own sinks; run `sexton sinks --reset --state DIR` on its machine";
        Err(ResetFault::Unknown(message.to_owned()))
    }

    /// Returns why a run that has not started waits on this machine; none when it waits for nothing here.
    async fn waiting_reason(&self, _run_id: &RunId) -> Option<String> {
        None
    }

    /// Returns the sinks that lack lines of this run; none when the runners are other processes, whose sinks are
    /// unknown here.
    async fn undelivered(&self, _run_id: &RunId) -> Vec<Undelivered> {
        Vec::new()
    }
}

/// Whether a watched file is in use as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    /// The file, as jobs name it in `source`.
    pub source: String,
    /// What the file defines: `jobs`, `sinks` or `rules`.
    pub kind: String,
    /// What is in use equals the file.
    pub in_sync: bool,
    /// Why not, for operators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// Returns the state of every watched file; none where the process watches no files.
pub type Sources = Arc<dyn Fn() -> Vec<SourceState> + Send + Sync>;

/// A store that does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreFault {
    /// One sentence that names no path, job or host: callers without the token read it.
    pub summary: String,
    /// The error, with the file.
    pub detail: String,
    /// When it was found.
    pub since: Timestamp,
}

/// Reports whether the store works, for `/api/health`.
pub trait Health: Send + Sync {
    /// Returns what is wrong with the store now.
    fn store_fault(&self) -> Option<StoreFault>;
}

/// A store that another party watches, as on AWS.
impl Health for () {
    fn store_fault(&self) -> Option<StoreFault> {
        None
    }
}

/// Returns the current time. Tests pass one that they step.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Returns one sentence for each name in a job that does not exist: a rule pack, an alert channel.
pub type JobCheck = Arc<dyn Fn(&Job) -> Vec<String> + Send + Sync>;

/// A rule pack of a job, and why it was chosen.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PackReason {
    /// Name of the pack.
    pub pack: String,
    /// A clause like "runs python3".
    pub reason: String,
}

/// Returns the rule packs that a job names, or `auto` chooses by its command.
pub type PackChoice = Arc<dyn Fn(&Job) -> Vec<PackReason> + Send + Sync>;

/// Finds alert channels that do not exist, where that needs calls.
#[async_trait]
pub trait ChannelNames: Send + Sync {
    /// Returns one sentence for each of these names that does not exist, by name.
    async fn unknown(&self, names: &BTreeSet<String>) -> BTreeMap<String, String>;
}

/// The channels are known to [`JobCheck`], or not at all.
#[async_trait]
impl ChannelNames for () {
    async fn unknown(&self, _: &BTreeSet<String>) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}

/// Stops a run whose runner is in this process; the text names the requester.
pub type StopNow = Arc<dyn Fn(&RunId, &str) + Send + Sync>;

/// The dependencies of the handlers. Cheap to clone.
#[derive(Clone)]
pub struct Console {
    /// The store and the queues.
    pub ports: Ports,
    /// The output of runs.
    pub logs: Arc<dyn Logs>,
    /// The sinks of this process.
    pub sinks: Arc<dyn Sinks>,
    /// The files that this process watches.
    pub sources: Sources,
    /// The state of the store.
    pub health: Arc<dyn Health>,
    /// The bearer token; an empty one refuses every request.
    pub token: Arc<str>,
    /// The current time.
    pub clock: Clock,
    /// Six random bytes, for the name of a manual run.
    pub random: Arc<dyn Fn() -> [u8; 6] + Send + Sync>,
    /// Checks the names in a job that is stored; none where they are not known.
    pub check_job: JobCheck,
    /// Names the rule packs of a job, with the packs of this process.
    pub choose_packs: PackChoice,
    /// Checks the alert channels of jobs that are stored, where [`JobCheck`] does not know them.
    pub channels: Arc<dyn ChannelNames>,
    /// Called when an entry may be due before the scheduler's next tick.
    pub nudge: Arc<dyn Fn() + Send + Sync>,
    /// Called with the run and the requester after a stop request was stored. Stops the run at once where its runner
    /// is in this process; any other runner reads the request with its heartbeat.
    pub stop_now: StopNow,
}

impl Console {
    fn now(&self) -> Timestamp {
        (self.clock)()
    }
}

/// All routes of an installation.
pub fn router(console: Console) -> Router {
    let access = access::Access::new(console.token.clone());
    let body_max = DefaultBodyLimit::max;
    let job = get(jobs::show).put(jobs::put).delete(jobs::remove);
    let guarded = Router::new()
        .route("/jobs", get(jobs::list))
        .route("/jobs/{group}/{name}", job.layer(body_max(JOB_BODY_BYTES_MAX)))
        .route("/jobs/{group}/{name}/pause", post(jobs::pause))
        .route("/jobs/{group}/{name}/resume", post(jobs::resume))
        .route("/jobs/{group}/{name}/run", post(jobs::run))
        .route("/apply", post(applied_file::apply).layer(body_max(BODY_BYTES_MAX)))
        .route("/runs", get(runs::list))
        .route("/runs/{run_id}", get(runs::show))
        .route("/runs/{run_id}/stop", post(runs::stop))
        .route("/runs/{run_id}/logs", get(logs::read))
        .route("/reports", post(runs::report).layer(body_max(BODY_BYTES_MAX)))
        .route("/maintenance", get(overview::list_maintenance).post(overview::maintenance))
        .route("/status", get(overview::status))
        .route("/ledger", get(overview::ledger))
        .route("/sinks", get(overview::sinks))
        .route("/sinks/reset", post(overview::reset_sinks))
        .route("/sources", get(overview::sources))
        .route("/alerts", get(overview::alerts))
        .layer(middleware::from_fn_with_state(access.clone(), access::check))
        .route("/health", get(overview::health));
    let measured = Router::new()
        .route("/metrics", get(metrics::metrics))
        .layer(middleware::from_fn_with_state(access, access::check));
    Router::new()
        .nest("/api", guarded)
        .merge(measured)
        .fallback(fault::no_such_path)
        .method_not_allowed_fallback(fault::no_such_method)
        .layer(body_max(SMALL_BODY_BYTES_MAX))
        .with_state(console)
}
