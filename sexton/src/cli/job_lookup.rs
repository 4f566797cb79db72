//! Finds the job or the run that an argument means: `GROUP/NAME`, a name that only one group has, or the latest run of
//! a job.

use domain::job::JobKey;
use domain::run::Run;
use serde_json::Value;

use crate::cli::runs::{parse_run, unexpected_answer};
use crate::client::{ApiRequest, Client};
use crate::failure::Failure;
use crate::print::parse_job_key;

/// Runs that are searched for the latest one that started. Chosen: scheduled and skipped ones come before it.
const SEARCHED_RUNS_MAX: u64 = 100;

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
    let answer = client.send(ApiRequest::get(&["jobs"]).with("name", Some(text))).await?;
    let Some(jobs) = answer.get("jobs").and_then(Value::as_array) else { return Err(unexpected_answer("jobs")) };
    // A server of an older version ignores `name`.
    let is_named = |job: &&Value| job.get("name").and_then(Value::as_str) == Some(text);
    let groups: Vec<&str> =
        jobs.iter().filter(is_named).filter_map(|job| job.get("group").and_then(Value::as_str)).collect();
    match groups.as_slice() {
        [group] => Ok(JobKey::new(*group, text)),
        [] => Err(Failure::usage(format!("no group has a job `{text}`; write GROUP/NAME as printed by `sexton jobs`"))),
        several => {
            let shown: Vec<String> =
                several.iter().take(NAMED_GROUPS_MAX).map(|group| format!("{group}/{text}")).collect();
            let more = if several.len() > shown.len() { ", ..." } else { "" };
            Err(Failure::usage(format!(
                "{} groups have a job `{text}`; write one of {}{more}",
                several.len(),
                shown.join(", ")
            )))
        }
    }
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
    Err(Failure::usage(format!("no run of {key} has started; `sexton jobs` lists jobs with their next firing")))
}
