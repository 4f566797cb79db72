//! `jobs` and `job`: shows and changes jobs through the API.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use domain::job::{Job, JobKey};
use domain::jobs_file::fields;
use domain::local_time::localize;
use domain::schedule::{Schedule, ScheduleKind};
use domain::units::format_count;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::exec_on_disk;
use crate::cli::job_lookup::{NamedJob, unknown_group, with_nearest_job};
use crate::client::{ApiRequest, Client, ServerArguments, block_on};
use crate::failure::{Failure, Outcome, SUCCESS, print_error_line};
use crate::instant_arguments::parse_end;
use crate::jobs_source::{JobsSource, Purpose, read_valid_jobs};
use crate::print::{Printer, format_instant, format_pairs, parse_job_key};
use crate::text_table::{Column, Table};

#[derive(Debug, Args)]
pub(crate) struct JobsArguments {
    /// Only jobs of this group
    #[arg(value_name = "GROUP")]
    group: Option<String>,
    /// Only jobs of this group, as the argument GROUP
    #[arg(long = "group", value_name = "G", conflicts_with = "group")]
    group_flag: Option<String>,
    /// Only jobs that are bad: their latest runs failed
    #[arg(long)]
    bad: bool,
    #[command(flatten)]
    server: ServerArguments,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct JobArguments {
    #[command(subcommand)]
    command: JobCommand,
}

#[derive(Debug, Subcommand)]
enum JobCommand {
    /// Show the definition of a job
    Show(OneArguments),
    /// Create or replace a job from a file with exactly one job
    Set(SetArguments),
    /// Delete the job; its history is kept
    Remove(OneArguments),
    /// Pause the job: its schedule starts no new runs
    Pause(PauseArguments),
    /// Resume a paused job
    Resume(OneArguments),
}

#[derive(Debug, Args)]
struct OneArguments {
    /// Job, as GROUP/NAME, or NAME where only one group has it
    job: String,
    #[command(flatten)]
    server: ServerArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct SetArguments {
    /// Job, as GROUP/NAME
    job: String,
    /// Crontab, or jobs file if the name ends in .toml; `-` reads a crontab from standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    #[command(flatten)]
    server: ServerArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct PauseArguments {
    #[command(flatten)]
    one: OneArguments,
    /// Resume automatically at this instant, like 2026-11-23T08:00:00Z, or after this duration, like 2h
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    until: Option<String>,
    /// Reason shown to other users
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
}

/// The columns of the list of jobs.
const COLUMNS: &[Column] = &[
    Column::whole("job"),
    Column::text("schedule"),
    Column::extra("zone", 1),
    Column::state("state"),
    Column::extra("next", 2),
    Column::text("command"),
];

/// Requests the list. Without a server, `--bad` reads the jobs of `exec` from the state directory.
async fn read_list(arguments: &JobsArguments) -> Result<Value, Failure> {
    let group = arguments.group.as_ref().or(arguments.group_flag.as_ref());
    let request = ApiRequest::get(&["jobs"]).with("group", group).with("bad", arguments.bad.then_some(true));
    let answer = match Client::find(&arguments.server).await {
        Ok(client) => client.send(request).await,
        Err(failure) => Err(failure),
    };
    match answer {
        Err(failure @ Failure::Failed(_)) if arguments.bad => {
            let state = exec_on_disk::read_state(&arguments.server, failure)?;
            let mut bad = state.get("bad").and_then(Value::as_array).cloned().unwrap_or_default();
            bad.retain(|job| group.is_none_or(|group| job.get("group").and_then(Value::as_str) == Some(group)));
            Ok(json!({ "jobs": [], "exec": bad, "no_server": state.get("no_server") }))
        }
        answer => answer,
    }
}

/// # Errors
/// Exit 2 if no job is in the group of the arguments.
async fn check_group(arguments: &JobsArguments) -> Result<(), Failure> {
    let Some(group) = arguments.group.as_ref().or(arguments.group_flag.as_ref()) else { return Ok(()) };
    match unknown_group(&Client::find(&arguments.server).await?, group).await? {
        Some(words) => Err(Failure::usage(words)),
        None => Ok(()),
    }
}

/// The row of a job of `exec`, which has no definition.
fn exec_row(record: &Value) -> Vec<String> {
    let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or("?");
    let (name, state) = (format!("{}/{}", text("group"), text("name")), format!("bad: {}", text("kind")));
    [&*name, "by `sexton exec`", "-", &*state, "-", "-"].map(str::to_owned).to_vec()
}

pub(crate) fn list(arguments: JobsArguments) -> Outcome {
    block_on(async {
        let mut answer = read_list(&arguments).await?;
        let Some(Value::Array(jobs)) = answer.get_mut("jobs").map(Value::take) else { return Err(unexpected_answer()) };
        if jobs.is_empty() && answer.get("exec").is_none() && answer.get("no_server").is_none() {
            check_group(&arguments).await?;
        }
        let mut out = Printer::new();
        let mut table = Table::new(COLUMNS);
        for record in &jobs {
            if arguments.json {
                out.print_json(record)?;
                continue;
            }
            let job = match parse_job(record) {
                Ok(job) => job,
                Err(failure) => {
                    table.add_row(unreadable_row(record, &failure));
                    continue;
                }
            };
            let next = record
                .get("next")
                .and_then(Value::as_str)
                .and_then(|text| text.parse().ok())
                .map_or_else(|| no_firing(&job, is_under_maintenance(record)).to_owned(), format_instant);
            let delay =
                record.get("delay").and_then(Value::as_str).map_or_else(String::new, |delay| format!(" +{delay}"));
            table.add_row(vec![
                job.key().to_string(),
                job.schedule.clone(),
                job.zone.clone(),
                job_state(&job, record),
                next + &delay,
                job.command.to_string(),
            ]);
        }
        for record in answer.get("exec").and_then(Value::as_array).into_iter().flatten() {
            if arguments.json { out.print_json(record)? } else { table.add_row(exec_row(record)) }
        }
        if !arguments.json {
            out.print_table(&table)?;
        }
        out.finish()?;
        for state in answer.get("out_of_sync").and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| state.get(name).and_then(Value::as_str).unwrap_or_default();
            print_error_line(&format!("{} differs from the stored jobs: {}", text("source"), text("reason")));
        }
        if let Some(message) = answer.get("no_server").and_then(Value::as_str) {
            return Err(Failure::failed(format!("only the jobs of `sexton exec` are known: {message}")));
        }
        Ok(SUCCESS)
    })
}

fn is_under_maintenance(record: &Value) -> bool {
    record.get("maintenance").is_some_and(Value::is_object)
}

/// The text for a job without a next firing.
fn no_firing(job: &Job, is_under_maintenance: bool) -> &'static str {
    let is_timed = |schedule: Schedule| schedule.kind() == ScheduleKind::Timed;
    let is_on = job.enabled && job.paused.is_none() && !is_under_maintenance;
    match is_on && fields::schedule(job, Timestamp::UNIX_EPOCH).is_ok_and(is_timed) {
        true => "never",
        false => "-",
    }
}

/// The row of a job whose record this build cannot read: its name and the fault.
fn unreadable_row(record: &Value, failure: &Failure) -> Vec<String> {
    let text = |key: &str| record.get(key).and_then(Value::as_str);
    let name = format!("{}/{}", text("group").unwrap_or("?"), text("name").unwrap_or("?"));
    let fault = match (text("fault"), failure) {
        (Some(fault), _) => fault.to_owned(),
        (None, Failure::Usage(messages) | Failure::Failed(messages)) => messages.join("; "),
        (None, Failure::ReaderGone) => String::new(),
    };
    [&*name, "-", "-", "unreadable", "-", &*fault].map(str::to_owned).to_vec()
}

fn job_state(job: &Job, record: &Value) -> String {
    let failing = record.get("bad").and_then(|bad| bad.get("kind")?.as_str()).map(|kind| format!("bad: {kind}"));
    let until = |at: Option<Timestamp>| at.map_or_else(String::new, |at| format!(" until {}", format_instant(at)));
    match &job.paused {
        _ if !job.enabled => "disabled".to_owned(),
        Some(pause) => format!("paused{}", until(pause.until)),
        None if is_under_maintenance(record) => {
            let end = record["maintenance"]["until"].as_str().and_then(|text| text.parse().ok());
            format!("maintenance{}", until(end))
        }
        None => failing.unwrap_or_else(|| "on".to_owned()),
    }
}

pub(crate) fn one(arguments: JobArguments) -> Outcome {
    match arguments.command {
        JobCommand::Show(one) => show(&one),
        JobCommand::Set(set_arguments) => set(&set_arguments),
        JobCommand::Remove(one) => remove(&one),
        JobCommand::Resume(one) => post_action(&one, "resume", json!({}), "resumed"),
        JobCommand::Pause(PauseArguments { one, until, why }) => {
            let until = until.map(|text| parse_end(&text, Timestamp::now())).transpose()?;
            post_action(&one, "pause", json!({ "until": until, "why": why }), "paused")
        }
    }
}

fn show(arguments: &OneArguments) -> Outcome {
    let job = NamedJob::parse(&arguments.job)?;
    block_on(async {
        let client = Client::find(&arguments.server).await?;
        let key = job.find(&client).await?;
        let answer = send_about(&client, &key, ApiRequest::get(&["jobs", &key.group, &key.name])).await?;
        let mut out = Printer::new();
        if arguments.json {
            out.print_json(&answer)?
        } else {
            out.print_bytes(describe(&answer).as_bytes())?
        }
        out.finish()?;
        Ok(SUCCESS)
    })
}

/// Fields of a job that hold instants; others hold the user's own text.
const INSTANTS: [&str; 5] = ["anchor", "next", "paused", "bad", "maintenance"];

fn describe(record: &Value) -> String {
    let Value::Object(values) = record else { return String::new() };
    let job = parse_job(record).ok().filter(|job| {
        no_firing(job, is_under_maintenance(record)) == "never" && values.get("next").is_none_or(Value::is_null)
    });
    let never = job.map(|_| ("next", "never".to_owned()));
    let shown = |value: &Value| match value {
        Value::String(text) => text.clone(),
        span if span.get("since").is_some() && span.get("why").is_some() => span_text(span),
        other => other.to_string(),
    };
    let packs = values.get("packs").and_then(Value::as_array).into_iter().flatten().filter_map(pack_row);
    let rows: Vec<(&str, String)> = values
        .iter()
        .filter(|(name, value)| !value.is_null() && *name != "packs")
        .map(|(name, value)| match INSTANTS.contains(&name.as_str()) {
            true => (name.as_str(), localize(&shown(value)).into_owned()),
            false => (name.as_str(), shown(value)),
        })
        .chain(never)
        .chain(packs)
        .collect();
    format_pairs(&rows)
}

/// A rule pack of a job and why it was chosen.
fn pack_row(entry: &Value) -> Option<(&str, String)> {
    let (pack, reason) = (entry.get("pack")?.as_str()?, entry.get("reason")?.as_str()?);
    Some(("pack", format!("{pack}: {reason}")))
}

/// A pause or a maintenance window: `since T, by user:ops, until T: the reason`.
fn span_text(span: &Value) -> String {
    let part = |name: &str, before: &str| match span.get(name).and_then(Value::as_str) {
        Some(text) if !text.is_empty() => format!("{before}{text}"),
        _ => String::new(),
    };
    ["since", "by", "until"].map(|name| part(name, &format!(", {name} "))).concat().trim_start_matches(", ").to_owned()
        + &part("why", ": ")
}

fn set(arguments: &SetArguments) -> Outcome {
    let key = parse_job_key(&arguments.job)?;
    let source =
        JobsSource { group: Some(key.group.clone()), ..JobsSource::new(arguments.file.clone(), Purpose::Send) };
    let read = read_valid_jobs(&source)?;
    if read.jobs.len() != 1 {
        let found = format_count(read.jobs.len(), "job");
        return Err(Failure::usage(format!("{} contains {found}; `job set` needs a file with exactly one", read.name)));
    }
    let job = read.jobs.job(0);
    let job = Job { group: key.group.clone(), name: key.name.clone(), source: None, seed: None, ..job };
    block_on(async {
        let client = Client::find(&arguments.server).await?;
        let body = serde_json::to_value(&job)
            .map_err(|error| Failure::failed(format!("cannot write the job as JSON: {error}")))?;
        let answer = client.send(ApiRequest::put(&["jobs", &key.group, &key.name], body)).await?;
        print_confirmation(&answer, arguments.json, &format!("{key} stored"))
    })
}

/// Sends a request about a job. Where the job does not exist, the failure names the nearest one.
pub(crate) async fn send_about(client: &Client, key: &JobKey, request: ApiRequest<'_>) -> Result<Value, Failure> {
    match client.send(request).await {
        Err(failure) => Err(with_nearest_job(client, key, failure).await),
        sent => sent,
    }
}

fn post_action(arguments: &OneArguments, verb: &str, body: Value, done: &str) -> Outcome {
    let job = NamedJob::parse(&arguments.job)?;
    block_on(async {
        let client = Client::find(&arguments.server).await?;
        let key = job.find(&client).await?;
        let segments = ["jobs", &key.group, &key.name, verb];
        let answer = send_about(&client, &key, ApiRequest::post(&segments, body)).await?;
        print_confirmation(&answer, arguments.json, &format!("{key} {done}"))
    })
}

fn remove(arguments: &OneArguments) -> Outcome {
    let job = NamedJob::parse(&arguments.job)?;
    block_on(async {
        let client = Client::find(&arguments.server).await?;
        let key = job.find(&client).await?;
        let answer = send_about(&client, &key, ApiRequest::delete(&["jobs", &key.group, &key.name])).await?;
        print_confirmation(&answer, arguments.json, &format!("{key} removed"))
    })
}

pub(crate) fn print_confirmation(answer: &Value, json: bool, message: &str) -> Outcome {
    let mut out = Printer::new();
    if json {
        out.print_json(answer)?
    } else {
        out.print_line(message)?
    }
    out.finish()?;
    Ok(SUCCESS)
}

fn parse_job(record: &Value) -> Result<Job, Failure> {
    serde_json::from_value(record.clone()).map_err(|error| {
        Failure::failed(format!(
            "unexpected answer from the server: not a job ({error}); does it run the same version?"
        ))
    })
}

pub(crate) fn unexpected_answer() -> Failure {
    Failure::failed("unexpected answer from the server: no jobs; does it run the same version?")
}
