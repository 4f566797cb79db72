//! `/api/jobs` and `/api/apply`: the jobs, one job and what can be done to it, and a whole file of them.

use axum::extract::{Path, State};
use domain::job::{Job, JobKey};
use domain::jobs_file::fields;
use domain::ports::{Cursor, StoredJob};
use domain::run::Run;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use services::commands::{self, Apply};

use crate::Console;
use crate::fault::{ApiFault, ApiResult, Json, Query};

/// Jobs read from the store at a time.
const PAGE_JOBS: usize = 1000;
/// Jobs of one file.
const APPLY_JOBS_MAX: usize = 200_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    group: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct JobList {
    jobs: Vec<JobRecord>,
}

/// A job as it is stored, with what follows from it.
#[derive(Debug, Serialize)]
pub struct JobRecord {
    #[serde(flatten)]
    job: Option<Job>,
    /// Group and name of a job whose record cannot be read.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    key: Option<JobKey>,
    /// Why the record cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
    /// When it fires next; null when it does not.
    next: Option<Timestamp>,
}

impl JobRecord {
    fn of(stored: StoredJob, now: Timestamp) -> JobRecord {
        match stored.job {
            Ok(job) => JobRecord { next: next_firing(&job, now), job: Some(job), key: None, fault: None },
            Err(says) => JobRecord { job: None, key: Some(stored.key), fault: Some(says), next: None },
        }
    }
}

fn next_firing(job: &Job, now: Timestamp) -> Option<Timestamp> {
    let resumes = match &job.paused {
        None => now,
        Some(pause) => pause.until?.max(now),
    };
    let schedule = fields::schedule(job, Timestamp::UNIX_EPOCH).ok().filter(|_| job.enabled)?;
    schedule.next_after(resumes).map(|firing| firing.at)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseRequest {
    until: Option<Timestamp>,
    #[serde(default)]
    why: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    jobs: Vec<Job>,
    /// The file, by the same name at each call.
    source: String,
    #[serde(default)]
    prune: bool,
    #[serde(default)]
    dry_run: bool,
}

/// Jobs as `group/name`.
#[derive(Debug, Serialize)]
pub struct DifferenceRecord {
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
    /// No longer in the file, and kept, as nobody asked to prune.
    left: Vec<String>,
    /// Of another file, or of none, until now.
    taken_over: Vec<String>,
    unchanged: usize,
    dry_run: bool,
}

pub async fn list(State(console): State<Console>, Query(query): Query<ListQuery>) -> ApiResult<Json<JobList>> {
    let (now, mut jobs) = (console.now(), Vec::new());
    let mut after: Option<Cursor> = None;
    loop {
        let page = console.ports.jobs.list(query.group.as_deref(), after.as_ref(), PAGE_JOBS).await?;
        jobs.extend(page.records.into_iter().map(|stored| JobRecord::of(stored, now)));
        after = page.next;
        if after.is_none() {
            return Ok(Json(JobList { jobs }));
        }
    }
}

pub async fn show(State(console): State<Console>, Path(path): Path<(String, String)>) -> ApiResult<Json<JobRecord>> {
    let stored = commands::get(&console.ports, &key_of(path)).await?;
    Ok(Json(JobRecord::of(stored, console.now())))
}

pub async fn put(
    State(console): State<Console>,
    Path(path): Path<(String, String)>,
    Json(job): Json<Job>,
) -> ApiResult<Json<Job>> {
    let key = key_of(path);
    if job.key() != key {
        return Err(ApiFault::question(format!(
            "the job calls itself {}, and the address {key}; make them the same",
            job.key()
        )));
    }
    let job = commands::put(&console.ports, &job, console.now()).await?;
    (console.nudge)();
    Ok(Json(job))
}

pub async fn remove(
    State(console): State<Console>,
    Path(path): Path<(String, String)>,
) -> ApiResult<Json<serde_json::Value>> {
    let key = key_of(path);
    commands::remove(&console.ports, &key, console.now()).await?;
    Ok(Json(serde_json::json!({ "removed": key.to_string() })))
}

pub async fn pause(
    State(console): State<Console>,
    Path(path): Path<(String, String)>,
    Json(request): Json<PauseRequest>,
) -> ApiResult<Json<Job>> {
    let now = console.now();
    Ok(Json(commands::pause(&console.ports, &key_of(path), request.until, &request.why, now).await?))
}

pub async fn resume(State(console): State<Console>, Path(path): Path<(String, String)>) -> ApiResult<Json<Job>> {
    let job = commands::resume(&console.ports, &key_of(path), console.now()).await?;
    (console.nudge)();
    Ok(Json(job))
}

pub async fn run(State(console): State<Console>, Path(path): Path<(String, String)>) -> ApiResult<Json<Run>> {
    let run = commands::run_now(&console.ports, &key_of(path), (console.random)(), console.now()).await?;
    (console.nudge)();
    Ok(Json(run))
}

/// All or nothing where the file is faulty: every job is checked before the first is stored.
pub async fn apply(
    State(console): State<Console>,
    Json(request): Json<ApplyRequest>,
) -> ApiResult<Json<DifferenceRecord>> {
    if request.source.is_empty() {
        return Err(ApiFault::question("`source` is empty; name the file that the jobs come from"));
    }
    if request.jobs.len() > APPLY_JOBS_MAX {
        let count = request.jobs.len();
        return Err(ApiFault::question(format!("{count} jobs are more than {APPLY_JOBS_MAX}; split the file")));
    }
    let how = Apply { prune: request.prune, dry_run: request.dry_run };
    let difference = commands::apply(&console.ports, &request.source, &request.jobs, how, console.now()).await?;
    (console.nudge)();
    let names = |keys: Vec<JobKey>| keys.iter().map(ToString::to_string).collect();
    Ok(Json(DifferenceRecord {
        added: names(difference.added),
        changed: names(difference.changed),
        removed: names(difference.removed),
        left: names(difference.left),
        taken_over: names(difference.taken_over),
        unchanged: difference.unchanged.len(),
        dry_run: request.dry_run,
    }))
}

fn key_of((group, name): (String, String)) -> JobKey {
    JobKey::new(group, name)
}
