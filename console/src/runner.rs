//! The API of a single runner: the delivery lag of its sinks, for `sexton sinks`, and its metrics. Jobs and runs belong
//! to the installation; a request for them gets a 404 that names `--aws`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde_json::{Value, json};

use crate::fault::{self, ApiFault, ApiResult};
use crate::metrics::{Page, TEXT_FORMAT, write_sinks, write_sources};
use crate::{Sinks, Sources, access, overview};

/// The dependencies of the handlers. Cheap to clone.
#[derive(Clone)]
pub struct RunnerConsole {
    /// The runner's name.
    pub runner: Arc<str>,
    /// Its sinks.
    pub sinks: Arc<dyn Sinks>,
    /// Its sinks file and rule packs.
    pub sources: Sources,
    /// Number of its running runs.
    pub running: Arc<dyn Fn() -> usize + Send + Sync>,
    /// The bearer token.
    pub token: Arc<str>,
}

/// All routes of a single runner.
pub fn runner_router(console: RunnerConsole) -> Router {
    Router::new()
        .route("/api/sinks", get(sinks))
        .route("/api/sinks/reset", post(reset_sinks))
        .route("/api/sources", get(sources))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn_with_state(access::Access::new(console.token.clone()), access::check))
        .route("/api/health", get(health))
        .fallback(not_found)
        .with_state(console)
}

async fn health(State(console): State<RunnerConsole>) -> Json<Value> {
    Json(overview::describe_health(&(console.sources)()))
}

async fn sources(State(console): State<RunnerConsole>) -> Json<Value> {
    Json(json!({ "sources": (console.sources)() }))
}

async fn sinks(State(console): State<RunnerConsole>) -> Json<Value> {
    Json(json!({ "sinks": console.sinks.status().await }))
}

async fn reset_sinks(
    State(console): State<RunnerConsole>,
    fault::Json(request): fault::Json<overview::ResetRequest>,
) -> ApiResult<fault::Json<Value>> {
    overview::reset_losses(&*console.sinks, request).await
}

async fn metrics(State(console): State<RunnerConsole>) -> impl IntoResponse {
    let mut page = Page::default();
    page.family("sexton_runner_running", "gauge", "Running runs of a runner.");
    page.sample("sexton_runner_running", &[("runner", &console.runner)], (console.running)() as f64);
    write_sinks(&mut page, &console.sinks.status().await);
    write_sources(&mut page, &(console.sources)());
    ([(CONTENT_TYPE, TEXT_FORMAT)], page.text)
}

async fn not_found(uri: Uri) -> ApiFault {
    let path = uri.path();
    ApiFault::not_found(format!(
        "no such path {path}: this server is a runner and knows only its own sinks; use --aws to query the installation"
    ))
}
