//! What a runner that stands alone serves: how far its sinks are, for `sexton sinks`, and its numbers for Prometheus. Jobs and
//! runs are the installation's; whoever asks here for them is told where they are.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router, middleware};
use serde_json::{Value, json};

use crate::fault::ApiFault;
use crate::metrics::{Page, TEXT_FORMAT, write_sinks};
use crate::{Sinks, access, overview};

/// What the handlers work with. Cheap to clone.
#[derive(Clone)]
pub struct RunnerConsole {
    /// The runner's name.
    pub runner: Arc<str>,
    pub sinks: Arc<dyn Sinks>,
    /// How many runs it has running.
    pub running: Arc<dyn Fn() -> usize + Send + Sync>,
    pub token: Arc<str>,
}

/// All routes.
pub fn runner_router(console: RunnerConsole) -> Router {
    Router::new()
        .route("/api/sinks", get(sinks))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn_with_state(console.token.clone(), access::check))
        .route("/api/health", get(overview::health))
        .fallback(not_found)
        .with_state(console)
}

async fn sinks(State(console): State<RunnerConsole>) -> Json<Value> {
    Json(json!({ "sinks": console.sinks.status().await }))
}

async fn metrics(State(console): State<RunnerConsole>) -> impl IntoResponse {
    let mut page = Page::default();
    page.family("sexton_runner_running", "gauge", "Runs that a runner has running.");
    page.sample("sexton_runner_running", &[("runner", &console.runner)], (console.running)() as f64);
    write_sinks(&mut page, &console.sinks.status().await);
    ([(CONTENT_TYPE, TEXT_FORMAT)], page.text)
}

async fn not_found(uri: Uri) -> ApiFault {
    let path = uri.path();
    ApiFault::not_found(format!(
        "there is nothing at {path}: this is a runner, which knows its own sinks only; ask the installation, with --aws"
    ))
}
