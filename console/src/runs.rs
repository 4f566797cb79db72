//! `/api/runs` and `/api/reports`: lists, shows and stops runs, and accepts the reports of `sexton exec`.

use std::time::Duration;

use axum::extract::{Path, State};
use domain::event::Event;
use domain::ports::{Cursor, RunFilter, RunQuery, Stored};
use domain::run::{Outcome, Run, RunId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::caller::Caller;
use crate::fault::{ApiFault, ApiResult, Json, Query};
use crate::jobs::check_span;
use crate::{Console, PackReason, Undelivered};

/// Runs per page by default.
const PAGE_RUNS_DEFAULT: usize = 100;
/// Most runs per page: with excerpts, a few MiB.
const PAGE_RUNS_MAX: usize = 1000;

/// Longest wait of one request for the end of a run. Chosen: below the usual timeout of proxies (60 s).
const WAIT_MAX: Duration = Duration::from_secs(50);
/// Poll interval of the run's record during that wait. Chosen, not measured.
const WAIT_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Most reports per request. Chosen, not measured.
const REPORTS_MAX: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    group: Option<String>,
    job: Option<String>,
    outcome: Option<Outcome>,
    /// Only runs that have not ended.
    #[serde(default)]
    open: bool,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// A run, and the sinks that lack lines of it.
#[derive(Debug, Serialize)]
pub(crate) struct RunAnswer {
    #[serde(flatten)]
    run: Run,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    undelivered: Vec<Undelivered>,
    /// Why the packs of the run were chosen, by the job as it is now; only in the answer about one run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pack_reasons: Vec<PackReason>,
}

#[derive(Debug, Serialize)]
pub(crate) struct RunPage {
    runs: Vec<RunAnswer>,
    /// Start of the next page; null on the last page.
    cursor: Option<Cursor>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShowQuery {
    /// Seconds to wait for the end of the run.
    #[serde(default)]
    wait: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReportsRequest {
    events: Vec<Event>,
}

/// Lists runs, newest first.
pub(crate) async fn list(State(console): State<Console>, Query(query): Query<ListQuery>) -> ApiResult<Json<RunPage>> {
    if query.job.is_some() && query.group.is_none() {
        return Err(ApiFault::bad_request("`job` needs `group`; give both"));
    }
    check_span(query.since, query.until)?;
    let which = match (query.outcome, query.open) {
        (Some(_), true) => return Err(ApiFault::bad_request("an open run has no outcome; give `outcome` or `open`")),
        (Some(outcome), false) => RunFilter::Ended(outcome),
        (None, true) => RunFilter::Open,
        (None, false) => RunFilter::All,
    };
    let (group, job) = (query.group, query.job);
    let wanted = RunQuery { group, job, filter: which, since: query.since, until: query.until, run_id: None };
    let most = query.limit.unwrap_or(PAGE_RUNS_DEFAULT).clamp(1, PAGE_RUNS_MAX);
    let cursor = query.cursor.map(Cursor);
    let page = console.ports.runs.list(&wanted, cursor.as_ref(), most).await?;
    let mut runs = Vec::with_capacity(page.records.len());
    for stored in page.records {
        runs.push(run_answer(&console, stored.record).await);
    }
    Ok(Json(RunPage { runs, cursor: page.next }))
}

/// A run with what this process knows of it.
pub(crate) async fn run_answer(console: &Console, mut run: Run) -> RunAnswer {
    if run.is_open() && run.started_at.is_none() && run.reason.is_none() {
        let not_before = run.not_before.filter(|not_before| *not_before > console.now());
        run.reason = match not_before {
            Some(at) => Some(format!("waits until {at} for attempt {}", run.attempt)),
            None => console.sinks.waiting_reason(&run.run_id).await,
        };
    }
    let undelivered = console.sinks.undelivered(&run.run_id).await;
    RunAnswer { run, undelivered, pack_reasons: Vec::new() }
}

pub(crate) async fn show(
    State(console): State<Console>,
    Path(run_id): Path<String>,
    Query(query): Query<ShowQuery>,
) -> ApiResult<Json<RunAnswer>> {
    let wait = Duration::from_secs(query.wait).min(WAIT_MAX);
    let started = tokio::time::Instant::now();
    loop {
        let run = find_run(&console, &run_id).await?;
        if !run.is_open() || started.elapsed() >= wait {
            let pack_reasons = pack_reasons(&console, &run).await;
            return Ok(Json(RunAnswer { pack_reasons, ..run_answer(&console, run).await }));
        }
        tokio::time::sleep(WAIT_POLL_INTERVAL).await;
    }
}

/// Why each pack of the run was chosen. A record has names only, so the reasons are those of the job as it is now.
async fn pack_reasons(console: &Console, run: &Run) -> Vec<PackReason> {
    if run.packs.is_empty() {
        return Vec::new();
    }
    let stored = services::commands::get(&console.ports, &run.key()).await.ok();
    let job = stored.and_then(|stored| stored.job.ok());
    let mut reasons = job.map(|job| (console.choose_packs)(&job)).unwrap_or_default();
    reasons.retain(|reason| run.packs.contains(&reason.pack));
    reasons
}

pub(crate) async fn stop(
    State(console): State<Console>,
    caller: Caller,
    Path(run_id): Path<String>,
) -> ApiResult<Json<Run>> {
    let run_id = parse_run_id(&run_id)?;
    let run = services::commands::stop(&console.ports, &run_id, &caller.text(), console.now()).await?;
    (console.stop_now)(&run_id, &caller.text());
    caller.log(format_args!("stop of run {run_id} of job {} requested", run.key()));
    Ok(Json(run))
}

/// Accepts reports of runs that another scheduler started (`sexton exec`). Sending a report twice is harmless.
pub(crate) async fn report(
    State(console): State<Console>,
    Json(reported): Json<ReportsRequest>,
) -> ApiResult<Json<serde_json::Value>> {
    let count = reported.events.len();
    if count > REPORTS_MAX {
        return Err(ApiFault::bad_request(format!(
            "{count} reports are more than {REPORTS_MAX}; send them in several calls"
        )));
    }
    if let Some(event) = reported.events.iter().find(|event| !RunId::is_valid(event.run_id.as_str())) {
        return Err(invalid_run_id(event.run_id.as_str()));
    }
    console.ports.reports.send(&reported.events).await?;
    Ok(Json(serde_json::json!({ "accepted": count })))
}

/// # Errors
/// 400 when the text is not a run id, 404 when there is no such run.
pub(crate) async fn find_run(console: &Console, run_id: &str) -> ApiResult<Run> {
    let run_id = parse_run_id(run_id)?;
    let found = console.ports.runs.list(&RunQuery::by_id(&run_id), None, 1).await?;
    match found.records.into_iter().next() {
        Some(Stored { record, .. }) => Ok(record),
        None => Err(ApiFault::not_found(format!("no run {run_id}; `sexton runs` lists the kept runs"))),
    }
}

fn parse_run_id(run_id: &str) -> ApiResult<RunId> {
    if RunId::is_valid(run_id) { Ok(RunId(run_id.to_owned())) } else { Err(invalid_run_id(run_id)) }
}

fn invalid_run_id(text: &str) -> ApiFault {
    ApiFault::bad_request(format!("`{text}` is not a run id; write it like 20261123T075000Z-3f9a1c0e7b2d"))
}
