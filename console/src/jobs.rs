//! `/api/jobs`: lists and changes jobs, one at a time.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::{Path, State};
use domain::fault::nearest_name;
use domain::job::{Job, JobKey, Pause};
use domain::ports::Cursor;
use domain::run::Run;
use domain::units::format_duration;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use services::commands;
use services::current_state::{self, BadJob, Failing, JobWithFailing, next_firing};
use services::maintenance::{self, Window, Windows};

use crate::caller::Caller;
use crate::fault::{ApiFault, ApiResult, Json, Query};
use crate::{Console, PackReason, SourceState};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    group: Option<String>,
    /// Only jobs of this name, of any group.
    name: Option<String>,
    /// Only jobs that fail.
    #[serde(default)]
    bad: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct JobList {
    jobs: Vec<JobRecord>,
    /// With `bad`, also the jobs of `sexton exec` that fail: they have no definition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exec: Vec<BadJob>,
    /// Files with jobs that differ from the stored ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    out_of_sync: Vec<SourceState>,
}

/// A stored job, its next firing, and whether it fails.
#[derive(Debug, Serialize)]
pub(crate) struct JobRecord {
    #[serde(flatten)]
    job: Option<Job>,
    /// Group and name of a job whose record cannot be read.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    key: Option<JobKey>,
    /// Why the record cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
    /// The next nominal time; null when there is none.
    next: Option<Timestamp>,
    /// How long after its nominal time each run starts, where the job has a `random_delay`.
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<String>,
    /// Its present series of failures.
    #[serde(skip_serializing_if = "Option::is_none")]
    bad: Option<Failing>,
    /// The maintenance window that keeps its schedule from starting runs now.
    #[serde(skip_serializing_if = "Option::is_none")]
    maintenance: Option<Window>,
    /// The rule packs that judge its output, each with the reason; only in the answer about one job.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    packs: Vec<PackReason>,
}

impl JobRecord {
    fn new((stored, bad): JobWithFailing, windows: &Windows, now: Timestamp) -> JobRecord {
        let maintenance = windows.active_window(&stored.key.group, now).cloned();
        match stored.job {
            Ok(job) => JobRecord {
                next: next_firing(&job, windows, now),
                maintenance,
                delay: Some(job.delay()).filter(|delay| !delay.is_zero()).map(format_duration),
                job: Some(job),
                key: None,
                fault: None,
                bad,
                packs: Vec::new(),
            },
            Err(message) => JobRecord {
                job: None,
                key: Some(stored.key),
                fault: Some(message),
                next: None,
                delay: None,
                bad,
                maintenance,
                packs: Vec::new(),
            },
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PauseRequest {
    until: Option<Timestamp>,
    #[serde(default)]
    why: String,
}

pub(crate) async fn list(State(console): State<Console>, Query(query): Query<ListQuery>) -> ApiResult<Json<JobList>> {
    let (now, mut jobs) = (console.now(), Vec::new());
    let windows = maintenance::read(&console.ports).await?;
    let is_wanted = |(stored, failing): &JobWithFailing| {
        query.name.as_ref().is_none_or(|name| *name == stored.key.name) && (!query.bad || failing.is_some())
    };
    let mut after: Option<Cursor> = None;
    loop {
        let (page, next) = current_state::list_jobs(&console.ports, query.group.as_deref(), after.as_ref()).await?;
        jobs.extend(page.into_iter().filter(is_wanted).map(|job| JobRecord::new(job, &windows, now)));
        after = next;
        if after.is_none() {
            let mut out_of_sync = (console.sources)();
            out_of_sync.retain(|state| !state.in_sync && state.kind == "jobs");
            let mut exec = if query.bad { current_state::failing_exec_jobs(&console.ports).await? } else { Vec::new() };
            exec.retain(|job| {
                query.name.as_ref().is_none_or(|name| *name == job.key.name)
                    && query.group.as_ref().is_none_or(|group| *group == job.key.group)
            });
            return Ok(Json(JobList { jobs, exec, out_of_sync }));
        }
    }
}

pub(crate) async fn show(
    State(console): State<Console>,
    Path(path): Path<(String, String)>,
) -> ApiResult<Json<JobRecord>> {
    let stored = commands::get(&console.ports, &job_key(path)).await?;
    let state = console.ports.alerts.state(&stored.key).await?;
    let windows = maintenance::read(&console.ports).await?;
    let packs = stored.job.as_ref().map(|job| (console.choose_packs)(job)).unwrap_or_default();
    let record = JobRecord::new((stored, Failing::of(&state.record)), &windows, console.now());
    Ok(Json(JobRecord { packs, ..record }))
}

pub(crate) async fn put(
    State(console): State<Console>,
    caller: Caller,
    Path(path): Path<(String, String)>,
    Json(record): Json<Value>,
) -> ApiResult<Json<Job>> {
    let key = job_key(path);
    let job = parse_job(record)?;
    if job.key() != key {
        return Err(ApiFault::bad_request(format!(
            "the body names the job {}, but the path names {key}; make them equal",
            job.key()
        )));
    }
    check_names(&console, [job.clone()]).await?;
    let job = commands::put(&console.ports, &job, console.now()).await?;
    caller.log(format_args!("job {key} stored"));
    (console.nudge)();
    Ok(Json(job))
}

/// Unknown names that one fault lists; the others are counted. Chosen: more do not fit on a screen.
const NAMES_LISTED_MAX: usize = 20;

/// Checks the rule packs and alert channels of jobs.
///
/// # Errors
/// 422 with one line for each unknown name.
pub(crate) async fn check_names(console: &Console, jobs: impl IntoIterator<Item = Job>) -> ApiResult<()> {
    let mut unknown: Vec<String> = Vec::new();
    // Many jobs name the same few channels.
    let mut named: BTreeMap<String, BTreeSet<JobKey>> = BTreeMap::new();
    for job in jobs {
        let problems = (console.check_job)(&job).into_iter();
        unknown.extend(problems.map(|problem| format!("job {}: {problem}", job.key())));
        for channel in &job.alert.channels {
            named.entry(channel.clone()).or_default().insert(job.key());
        }
    }
    if !named.is_empty() {
        let absent = console.channels.unknown(&named.keys().cloned().collect()).await;
        for (channel, problem) in absent {
            let keys = named.remove(&channel).unwrap_or_default();
            unknown.extend(keys.into_iter().map(|key| format!("job {key}: {problem}")));
        }
    }
    if unknown.is_empty() {
        return Ok(());
    }
    let more = unknown.len().saturating_sub(NAMES_LISTED_MAX);
    unknown.truncate(NAMES_LISTED_MAX);
    unknown.extend((more > 0).then(|| format!("and {more} more unknown names")));
    Err(ApiFault::unprocessable(unknown.join("\n")))
}

pub(crate) async fn remove(
    State(console): State<Console>,
    caller: Caller,
    Path(path): Path<(String, String)>,
) -> ApiResult<Json<Value>> {
    let key = job_key(path);
    commands::remove(&console.ports, &key, console.now()).await?;
    caller.log(format_args!("job {key} removed"));
    Ok(Json(serde_json::json!({ "removed": key.to_string() })))
}

pub(crate) async fn pause(
    State(console): State<Console>,
    caller: Caller,
    Path(path): Path<(String, String)>,
    Json(request): Json<PauseRequest>,
) -> ApiResult<Json<Job>> {
    let (key, now) = (job_key(path), console.now());
    check_until(request.until, now)?;
    let PauseRequest { until, why } = request;
    let pause = Pause { since: now, until, why, by: Some(caller.by()) };
    let paused = end_and_reason(until, &pause.why);
    let job = commands::pause(&console.ports, &key, pause).await?;
    caller.log(format_args!("job {key} paused{paused}"));
    Ok(Json(job))
}

/// Checks the automatic end of a pause or of a maintenance window.
///
/// # Errors
/// 400 when it is not in the future: such a pause would have no effect.
pub(crate) fn check_until(until: Option<Timestamp>, now: Timestamp) -> ApiResult<()> {
    match until.filter(|until| *until <= now) {
        Some(until) => {
            let until = in_seconds(until);
            Err(ApiFault::bad_request(format!("`until` is {until}, which has passed; name a later instant")))
        }
        None => Ok(()),
    }
}

/// Checks the span of nominal times of a query.
///
/// # Errors
/// 400 when its start is not before its end: no run can be in it.
pub(crate) fn check_span(since: Option<Timestamp>, until: Option<Timestamp>) -> ApiResult<()> {
    match since.zip(until).filter(|(since, until)| since >= until) {
        Some((since, until)) => {
            let (since, until) = (in_seconds(since), in_seconds(until));
            Err(ApiFault::bad_request(format!("`since` is {since}, which is not before `until`, {until}; swap them")))
        }
        None => Ok(()),
    }
}

fn in_seconds(at: Timestamp) -> impl std::fmt::Display {
    at.strftime("%Y-%m-%dT%H:%M:%SZ")
}

/// The end and the reason of a pause or of a maintenance window, for the log.
pub(crate) fn end_and_reason(until: Option<Timestamp>, why: &str) -> String {
    let until = until.map_or_else(String::new, |until| format!(" until {until}"));
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    format!("{until}{why}")
}

pub(crate) async fn resume(
    State(console): State<Console>,
    caller: Caller,
    Path(path): Path<(String, String)>,
) -> ApiResult<Json<Job>> {
    let key = job_key(path);
    let job = commands::resume(&console.ports, &key, console.now()).await?;
    caller.log(format_args!("job {key} resumed"));
    (console.nudge)();
    Ok(Json(job))
}

pub(crate) async fn run(
    State(console): State<Console>,
    caller: Caller,
    Path(path): Path<(String, String)>,
) -> ApiResult<Json<Run>> {
    let key = job_key(path);
    let run = commands::run_now(&console.ports, &key, (console.random)(), console.now()).await?;
    caller.log(format_args!("run {} of job {key} started", run.run_id));
    (console.nudge)();
    Ok(Json(run))
}

fn job_key((group, name): (String, String)) -> JobKey {
    JobKey::new(group, name)
}

/// The fields of a job, and those that the server adds: clients may send back what they have read.
const FIELDS: &[&str] = &[
    "group",
    "name",
    "schedule",
    "zone",
    "command",
    "argv",
    "enabled",
    "user",
    "cwd",
    "env",
    "stdin",
    "timeout",
    "kill_grace",
    "start_within",
    "random_delay",
    "quiet_limit",
    "late_output_limit",
    "min_duration",
    "max_duration",
    "min_lines",
    "concurrency",
    "max_open",
    "catch_up",
    "success_exit_codes",
    "retries",
    "needs",
    "rules",
    "alert",
    "mail",
    "description",
    "owner",
    "anchor",
    "paused",
    "source",
    "seed",
    "next",
    "delay",
    "bad",
    "maintenance",
    "packs",
];

/// Parses a job. An unknown field is a fault, as in a file.
pub(crate) fn parse_job(record: Value) -> ApiResult<Job> {
    let unknown = record.as_object().and_then(|fields| fields.keys().find(|name| !FIELDS.contains(&name.as_str())));
    if let Some(name) = unknown {
        let near = nearest_name(name, FIELDS.iter().copied())
            .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        return Err(ApiFault::unprocessable(format!("a job has no field `{name}`{near}")));
    }
    serde_json::from_value(record).map_err(|error| ApiFault::unprocessable(format!("this is not a job: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_a_job_is_known_and_another_names_the_nearest() {
        // A job with every field, from the test of the stored formats.
        let golden = include_str!("../../domain/tests/golden/job.json");
        let job = parse_job(serde_json::from_str(golden).expect("JSON")).expect("a job");
        let written = serde_json::to_value(&job).expect("written");
        assert!(parse_job(written).is_ok());
        let fault = parse_job(serde_json::json!({ "schedul": "@daily" })).expect_err("refused");
        assert!(format!("{fault:?}").contains("did you mean `schedule`?"), "{fault:?}");
    }
}
