//! `/api/health`, `/api/status`, `/api/maintenance`, `/api/ledger`, `/api/sinks`, `/api/alerts`: the state of the whole
//! installation.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use domain::alert::Transition;
use domain::job::CatchUp;
use domain::jobs_file::fields::check_group;
use domain::ledger::Ledger;
use domain::ports::Cursor;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use services::{commands, current_state};

use crate::caller::Caller;
use crate::fault::{ApiFault, ApiResult, Json, Query};
use crate::jobs::{check_span, check_until, end_and_reason};
use crate::runs::run_answer;
use crate::{Console, ResetFault, Sinks, SourceState, access};

const PAGE_ALERTS_DEFAULT: usize = 100;
const PAGE_ALERTS_MAX: usize = 1000;

/// Status, version, and whether all watched files are in use as they are. A file that is not is no failure: what ran
/// before still runs.
pub(crate) fn describe_health(sources: &[SourceState]) -> Value {
    let in_sync = sources.iter().all(|state| state.in_sync);
    json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION"), "sources_in_sync": in_sync })
}

/// The state of every watched file.
pub(crate) async fn sources(State(console): State<Console>) -> Json<Value> {
    Json(json!({ "sources": (console.sources)() }))
}

/// Needs no token, so it names no file; 503 while the store does not work. The token adds the error with its file.
pub(crate) async fn health(State(console): State<Console>, headers: HeaderMap) -> (StatusCode, Json<Value>) {
    let mut answer = describe_health(&(console.sources)());
    let Some(fault) = console.health.store_fault() else { return (StatusCode::OK, Json(answer)) };
    answer["status"] = "broken".into();
    answer["reason"] = fault.summary.clone().into();
    answer["error"] = fault.summary.into();
    answer["since"] = json!(fault.since);
    if access::has_token(&headers, &console.token) {
        answer["detail"] = fault.detail.into();
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(answer))
}

/// What is bad, what runs, what is next and what is behind.
pub(crate) async fn status(State(console): State<Console>) -> ApiResult<Json<Value>> {
    let now = console.now();
    let state = current_state::read(&console.ports, now).await?;
    let mut open = Vec::with_capacity(state.open.len());
    for run in &state.open {
        open.push(run_answer(&console, run.clone()).await);
    }
    let mut answer = json!(state);
    answer["open"] = json!(open);
    answer["at"] = json!(now);
    answer["version"] = env!("CARGO_PKG_VERSION").into();
    answer["sinks"] = console.sinks.status().await.into();
    answer["sources"] = json!((console.sources)());
    if let Some(fault) = console.health.store_fault() {
        answer["store_fault"] = json!({ "reason": fault.detail, "since": fault.since });
    }
    Ok(Json(answer))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MaintenanceRequest {
    on: bool,
    group: Option<String>,
    until: Option<Timestamp>,
    #[serde(default)]
    why: String,
    /// Policy for firings during the window; default `skip`. With `until` and `why`, only where `on`.
    catch_up: Option<CatchUp>,
}

/// Lists the windows that have not ended.
pub(crate) async fn list_maintenance(State(console): State<Console>) -> ApiResult<Json<Value>> {
    Ok(Json(json!({ "windows": commands::maintenance_windows(&console.ports, console.now()).await? })))
}

pub(crate) async fn maintenance(
    State(console): State<Console>,
    caller: Caller,
    Json(request): Json<MaintenanceRequest>,
) -> ApiResult<Json<Value>> {
    let (now, group) = (console.now(), request.group.as_deref());
    let mut ended = 0;
    let scope = group.map_or_else(|| "all groups".to_owned(), |group| format!("group {group}"));
    if let Some(group) = group {
        check_group(group).map_err(ApiFault::bad_request)?;
    }
    if request.on {
        check_until(request.until, now)?;
        let catch_up = request.catch_up.unwrap_or_default();
        commands::begin_maintenance(&console.ports, group, request.until, &request.why, &caller.by(), catch_up, now)
            .await?;
        let details = end_and_reason(request.until, &request.why);
        caller.log(format_args!("maintenance of {scope} started{details}"));
    } else {
        if request.until.is_some() || request.catch_up.is_some() || !request.why.is_empty() {
            let message =
                "`until`, `why` and `catch_up` belong to the start of a window; leave them out where `on` is false";
            return Err(ApiFault::bad_request(message));
        }
        ended = commands::end_maintenance(&console.ports, group, now).await?;
        caller.log(format_args!("maintenance of {scope} ended"));
    }
    (console.nudge)();
    let windows = commands::maintenance_windows(&console.ports, now).await?;
    Ok(Json(json!({ "on": request.on, "group": group, "ended": ended, "windows": windows })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WindowQuery {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
pub(crate) struct LedgerRecord {
    #[serde(flatten)]
    ledger: Ledger,
    adds_up: bool,
}

pub(crate) async fn ledger(
    State(console): State<Console>,
    Query(query): Query<WindowQuery>,
) -> ApiResult<Json<LedgerRecord>> {
    check_span(query.since, query.until)?;
    let ledger = commands::ledger(&console.ports, query.since, query.until).await?;
    Ok(Json(LedgerRecord { adds_up: ledger.adds_up(), ledger }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResetRequest {
    /// Absent: all sinks.
    sink: Option<String>,
}

/// Resets the counters of lost lines.
pub(crate) async fn reset_sinks(
    State(console): State<Console>,
    Json(request): Json<ResetRequest>,
) -> ApiResult<Json<Value>> {
    reset_losses(&*console.sinks, request).await
}

pub(crate) async fn reset_losses(sinks: &dyn Sinks, request: ResetRequest) -> ApiResult<Json<Value>> {
    match sinks.reset(request.sink.as_deref()).await {
        Ok(reset) => Ok(Json(json!({ "reset": reset }))),
        Err(ResetFault::Unknown(message)) => Err(ApiFault::not_found(message)),
        Err(ResetFault::Failed(message)) => Err(ApiFault::internal(message)),
    }
}

pub(crate) async fn sinks(State(console): State<Console>) -> Json<Value> {
    Json(json!({ "sinks": console.sinks.status().await }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AlertsQuery {
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct AlertPage {
    alerts: Vec<Transition>,
    /// Start of the next page; null on the last page.
    cursor: Option<Cursor>,
}

/// Lists alerts with the state of their delivery, newest first.
pub(crate) async fn alerts(
    State(console): State<Console>,
    Query(query): Query<AlertsQuery>,
) -> ApiResult<Json<AlertPage>> {
    let most = query.limit.unwrap_or(PAGE_ALERTS_DEFAULT).clamp(1, PAGE_ALERTS_MAX);
    let page = console.ports.alerts.list(query.cursor.map(Cursor).as_ref(), most).await?;
    Ok(Json(AlertPage { alerts: page.records, cursor: page.next }))
}
