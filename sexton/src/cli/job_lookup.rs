//! Finds the job or the run that an argument means: `GROUP/NAME`, a name that only one group has, or the latest run of
//! a job.

use std::collections::BTreeSet;

use domain::fault::nearest_name;
use domain::job::JobKey;
use domain::run::Run;
use serde_json::Value;

use crate::cli::runs::{parse_run, unexpected_answer};
use crate::client::{ApiRequest, Client};
use crate::failure::Failure;
use crate::print::parse_job_key;

/// Runs that are searched for the latest one that started. Chosen: scheduled and skipped ones come before it.
const SEARCHED_RUNS_MAX: u64 = 100;

/// The remedy where no name is near.
const LISTED: &str = "`sexton jobs` lists all jobs as GROUP/NAME";

/// Groups that a message names.
const NAMED_GROUPS_MAX: usize = 5;

/// A job as an argument names it.
pub(crate) enum NamedJob {
    Key(JobKey),
    /// A name without a group.
    Name(String),
}

impl NamedJob {
    /// # Errors
    /// Exit 2 if the text has a `/` and is no `GROUP/NAME`.
    pub(crate) fn parse(text: &str) -> Result<NamedJob, Failure> {
        match text.contains('/') {
            true => parse_job_key(text).map(NamedJob::Key),
            false => Ok(NamedJob::Name(text.to_owned())),
        }
    }

    /// # Errors
    /// Exit 2 if no group, or more than one, has a job of this name.
    pub(crate) async fn find(self, client: &Client) -> Result<JobKey, Failure> {
        match self {
            NamedJob::Key(key) => Ok(key),
            NamedJob::Name(name) => find_by_name(client, &name).await,
        }
    }
}

async fn find_by_name(client: &Client, text: &str) -> Result<JobKey, Failure> {
    // A server of an older version ignores `name`.
    let named = stored_keys(client, ApiRequest::get(&["jobs"]).with("name", Some(text))).await?;
    let named: Vec<&JobKey> = named.iter().filter(|key| key.name == text).collect();
    match named.as_slice() {
        [key] => Ok((*key).clone()),
        [] => {
            let all = stored_keys(client, ApiRequest::get(&["jobs"])).await?;
            let near = nearest_name(text, all.iter().map(|key| key.name.as_str()));
            let near = near.and_then(|name| all.iter().find(|key| key.name == name));
            let remedy = near.map_or_else(|| LISTED.to_owned(), |key| format!("did you mean {key}?"));
            Err(Failure::usage(format!("no group has a job `{text}`; {remedy}")))
        }
        several => {
            let shown: Vec<String> = several.iter().take(NAMED_GROUPS_MAX).map(ToString::to_string).collect();
            let more = if several.len() > shown.len() { ", ..." } else { "" };
            Err(Failure::usage(format!(
                "{} groups have a job `{text}`; write one of {}{more}",
                several.len(),
                shown.join(", ")
            )))
        }
    }
}

async fn stored_keys(client: &Client, request: ApiRequest<'_>) -> Result<Vec<JobKey>, Failure> {
    let answer = client.send(request).await?;
    let Some(jobs) = answer.get("jobs").and_then(Value::as_array) else { return Err(unexpected_answer("jobs")) };
    let text = |job: &Value, field: &str| job.get(field).and_then(Value::as_str).map(str::to_owned);
    Ok(jobs.iter().filter_map(|job| Some(JobKey::new(text(job, "group")?, text(job, "name")?))).collect())
}

/// The sentence about a job that is not stored; `None` when it is.
pub(crate) async fn unknown_job(client: &Client, key: &JobKey) -> Result<Option<String>, Failure> {
    let all = stored_keys(client, ApiRequest::get(&["jobs"])).await?;
    if all.contains(key) {
        return Ok(None);
    }
    let wanted = key.to_string();
    let texts: Vec<String> = all.iter().map(ToString::to_string).collect();
    // The right name in the wrong group comes first.
    let of_name = all.iter().find(|other| other.name == key.name).map(ToString::to_string);
    let near = of_name.or_else(|| nearest_name(&wanted, texts.iter().map(String::as_str)).map(str::to_owned));
    let remedy = near.map_or_else(|| LISTED.to_owned(), |near| format!("did you mean {near}?"));
    Ok(Some(format!("no job {key}; {remedy}")))
}

/// Replaces the failure of a request about a job that is not stored by a sentence with the nearest name.
pub(crate) async fn with_nearest_job(client: &Client, key: &JobKey, failure: Failure) -> Failure {
    match failure {
        Failure::Usage(messages) => match unknown_job(client, key).await {
            Ok(Some(words)) => Failure::usage(words),
            _ => Failure::Usage(messages),
        },
        failure => failure,
    }
}

/// The sentence about a group without a stored job; `None` when it has one.
pub(crate) async fn unknown_group(client: &Client, group: &str) -> Result<Option<String>, Failure> {
    let all = stored_keys(client, ApiRequest::get(&["jobs"])).await?;
    let groups: BTreeSet<&str> = all.iter().map(|key| key.group.as_str()).collect();
    if groups.contains(group) {
        return Ok(None);
    }
    let near = nearest_name(group, groups.iter().copied()).map(|near| format!("did you mean {near}?"));
    // A job may be meant, too.
    let job = all.iter().find(|key| key.name == group).map(|key| format!("did you mean the job {key}?"));
    let known = || match groups.len() {
        0 => "no job is stored".to_owned(),
        1..=NAMED_GROUPS_MAX => format!("groups with jobs: {}", groups.iter().copied().collect::<Vec<_>>().join(", ")),
        _ => LISTED.to_owned(),
    };
    Ok(Some(format!("no job is in a group `{group}`; {}", job.or(near).unwrap_or_else(known))))
}

/// Returns the latest run of a job that has started.
///
/// # Errors
/// Exit 2 if none of its latest runs has started.
pub(crate) async fn latest_started_run(client: &Client, key: &JobKey) -> Result<Run, Failure> {
    let request = ApiRequest::get(&["runs"])
        .with("group", Some(&key.group))
        .with("job", Some(&key.name))
        .with("limit", Some(SEARCHED_RUNS_MAX));
    let answer = client.send(request).await?;
    let Some(runs) = answer.get("runs").and_then(Value::as_array) else { return Err(unexpected_answer("runs")) };
    for record in runs {
        let run = parse_run(record)?;
        if run.started_at.is_some() {
            return Ok(run);
        }
    }
    if let Some(words) = unknown_job(client, key).await? {
        return Err(Failure::usage(words));
    }
    Err(Failure::usage(format!("no run of {key} has started; `sexton jobs` lists jobs with their next firing")))
}
