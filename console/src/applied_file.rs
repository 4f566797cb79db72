//! `/api/apply`: makes the stored jobs equal to those of a file. A client that accepts lines gets the progress, and the
//! result as the last line, so no timeout of an answer limits the size of a file.

use std::collections::BTreeMap;
use std::{fmt, io};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use domain::job::JobKey;
use domain::job_list::{JobList, ListedJob};
use domain::units::format_count;
use jiff::Timestamp;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use services::commands::{self, AppliedFile, ApplyOptions, Difference, Progress};
use tokio::sync::mpsc;

use crate::Console;
use crate::caller::Caller;
use crate::fault::{ApiFault, ApiResult, Json};
use crate::jobs::{check_names, parse_job};
use crate::logs::Chunks;

/// Jobs of one request. Chosen, not measured; the body limit is usually reached first.
const APPLY_JOBS_MAX: usize = 200_000;

/// Lines of progress that wait for the client; further ones are left out. Chosen, not measured.
const PROGRESS_WAITING_MAX: usize = 16;

/// The media type of an answer with progress: one JSON object per line.
pub const LINES: &str = "application/x-ndjson";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApplyRequest {
    jobs: ReadJobs,
    /// Name of the file, equal in each call for the same file.
    source: String,
    /// Former names of its jobs, by name. A stored job with such a name is renamed.
    #[serde(default)]
    former_names: BTreeMap<String, Vec<String>>,
    /// Names under which earlier builds stored jobs of the file.
    #[serde(default)]
    former_sources: Vec<String>,
    #[serde(default)]
    prune: bool,
    #[serde(default)]
    dry_run: bool,
}

/// A job that gets another name.
#[derive(Debug, Serialize)]
pub(crate) struct RenamedRecord {
    from: String,
    to: String,
}

/// Jobs as `group/name`.
#[derive(Debug, Serialize)]
pub(crate) struct DifferenceRecord {
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
    /// No longer in the file, and kept because `prune` is false.
    left: Vec<String>,
    /// Came from another file or from none until now.
    taken_over: Vec<String>,
    /// Stored with another name until now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    renamed: Vec<RenamedRecord>,
    unchanged: usize,
    dry_run: bool,
}

/// Jobs that are checked while the request is read, so that no second copy of the file is in memory; or the first
/// fault.
#[derive(Debug)]
pub(crate) struct ReadJobs(ApiResult<JobList>);

impl<'de> Deserialize<'de> for ReadJobs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ReadJobs, D::Error> {
        deserializer.deserialize_seq(JobsVisitor)
    }
}

struct JobsVisitor;

impl<'de> Visitor<'de> for JobsVisitor {
    type Value = ReadJobs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of jobs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut records: A) -> Result<ReadJobs, A::Error> {
        let (mut jobs, mut count) = (Ok(JobList::default()), 0);
        while let Some(record) = records.next_element::<Value>()? {
            count += 1;
            if let Ok(list) = &mut jobs {
                match parse_job(record) {
                    Ok(job) => list.push(job),
                    Err(fault) => jobs = Err(fault),
                }
            }
        }
        if count > APPLY_JOBS_MAX {
            jobs = Err(ApiFault::bad_request(format!("{count} jobs are more than {APPLY_JOBS_MAX}; split the file")));
        }
        Ok(ReadJobs(jobs))
    }
}

impl DifferenceRecord {
    fn new(difference: Difference, dry_run: bool) -> DifferenceRecord {
        let names = |keys: Vec<JobKey>| keys.iter().map(ToString::to_string).collect();
        let renamed = difference.renamed.iter();
        DifferenceRecord {
            added: names(difference.added),
            changed: names(difference.changed),
            removed: names(difference.removed),
            left: names(difference.kept),
            taken_over: names(difference.taken_over),
            renamed: renamed.map(|(from, to)| RenamedRecord { from: from.to_string(), to: to.to_string() }).collect(),
            unchanged: difference.unchanged,
            dry_run,
        }
    }
}

/// A request whose jobs and names are valid.
struct ValidFile {
    jobs: JobList,
    source: String,
    former_sources: Vec<String>,
    options: ApplyOptions,
}

/// Applies all jobs or, when one has a fault, none: every job is checked before the first is stored.
pub(crate) async fn apply(
    State(console): State<Console>,
    caller: Caller,
    headers: HeaderMap,
    Json(request): Json<ApplyRequest>,
) -> ApiResult<Response> {
    let file = read_file(request)?;
    check_names(&console, file.jobs.iter()).await?;
    if !headers.get_all(ACCEPT).iter().any(|accepted| accepted.as_bytes() == LINES.as_bytes()) {
        let record = apply_file(&console, &caller, &file, &|_| {}).await?;
        return Ok(Json(record).into_response());
    }
    let (lines, chunks) = mpsc::channel(PROGRESS_WAITING_MAX);
    // Continues when the client disconnects.
    tokio::spawn(async move {
        let count = file.jobs.len();
        let progress = |processed: usize| {
            // A client that reads slowly misses a line of progress.
            let _full = lines.try_send(line(&json!({ "processed": processed, "jobs": count })));
        };
        let last = match apply_file(&console, &caller, &file, &progress).await {
            Ok(record) => line(&json!({ "difference": record })),
            Err(fault) => line(&fault.to_json()),
        };
        if lines.send(last).await.is_err() {
            tracing::info!(source = file.source, "the client that applied a file has disconnected");
        }
    });
    Ok(([(CONTENT_TYPE, LINES)], Body::from_stream(Chunks(chunks))).into_response())
}

fn line(record: &Value) -> io::Result<Bytes> {
    Ok(format!("{record}\n").into())
}

fn read_file(request: ApplyRequest) -> ApiResult<ValidFile> {
    if request.source.is_empty() {
        return Err(ApiFault::bad_request("`source` is empty; name the file that the jobs come from"));
    }
    Ok(ValidFile {
        jobs: with_former_names(request.jobs.0?, &request.former_names)?,
        source: request.source,
        former_sources: request.former_sources,
        options: ApplyOptions { prune: request.prune, dry_run: request.dry_run },
    })
}

async fn apply_file(
    console: &Console,
    caller: &Caller,
    file: &ValidFile,
    progress: Progress<'_>,
) -> ApiResult<DifferenceRecord> {
    let applied = AppliedFile {
        source: &file.source,
        jobs: &file.jobs,
        former_sources: &file.former_sources,
        replaced_sources: &[],
        other_sources: &[],
    };
    let now: Timestamp = console.now();
    let difference = commands::apply_with_progress(&console.ports, &applied, file.options, now, progress).await?;
    if !file.options.dry_run {
        let (added, changed, removed) = (difference.added.len(), difference.changed.len(), difference.removed.len());
        caller.log(format_args!(
            "file {} applied: {} added, {changed} changed, {removed} removed",
            file.source,
            format_count(added, "job")
        ));
    }
    (console.nudge)();
    Ok(DifferenceRecord::new(difference, file.options.dry_run))
}

fn with_former_names(jobs: JobList, names: &BTreeMap<String, Vec<String>>) -> ApiResult<JobList> {
    let parse = |name: &String| JobKey::parse(name).map_err(ApiFault::bad_request);
    if names.is_empty() {
        return Ok(jobs);
    }
    let mut parsed: BTreeMap<JobKey, Vec<JobKey>> = BTreeMap::new();
    for (name, former) in names {
        parsed.insert(parse(name)?, former.iter().map(parse).collect::<ApiResult<_>>()?);
    }
    let listed = jobs.iter().map(|job| {
        let former_names = parsed.remove(&job.key()).unwrap_or_default();
        ListedJob { job, former_names, in_host_zone: false }
    });
    Ok(listed.collect())
}
