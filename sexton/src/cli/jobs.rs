//! `jobs`, `job`, `apply` and `maintenance`: shows and changes jobs through the API.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use domain::crontab::FormerNames;
use domain::job::{Job, JobKey};
use domain::jobs_file::fields;
use domain::local_time::localize;
use domain::schedule::{Schedule, ScheduleKind};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::apply_progress::send_file;
use crate::client::{ApiRequest, Client, ServerArguments, block_on};
use crate::failure::{Failure, Outcome, SUCCESS, print_error_line};
use crate::jobs_source::{HostZoneJobs, JobsSource, Purpose, ValidJobs, read_valid_jobs};
use crate::print::{Printer, Table, format_instant, format_pairs, parse_instant, parse_job_key};
use crate::source_list::{SourceList, read_valid_files};

#[derive(Debug, Args)]
pub(crate) struct JobsArguments {
    /// Only jobs of this group
    group: Option<String>,
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
    /// Job, as GROUP/NAME
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
    /// Resume automatically at this instant
    #[arg(long, value_name = "T")]
    until: Option<String>,
    /// Reason shown to other users
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArguments {
    /// Crontab, directory of crontabs, or jobs file if the name ends in .toml; `-` reads a crontab from standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Group of the entries that name none
    #[arg(long, value_name = "G")]
    group: Option<String>,
    /// The crontab has a user column, like /etc/crontab
    #[arg(long)]
    system: bool,
    /// Also delete jobs that this file no longer contains
    #[arg(long)]
    prune: bool,
    /// Print the difference without storing it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    server: ServerArguments,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Debug, Args)]
pub(crate) struct MaintenanceArguments {
    /// Start (`on`) or end (`off`) the window
    switch: Switch,
    /// Only jobs of this group [default: all groups]
    #[arg(long, value_name = "G")]
    group: Option<String>,
    /// End automatically at this instant
    #[arg(long, value_name = "T")]
    until: Option<String>,
    /// Reason shown to other users
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
    /// Which firings of the window are made up afterwards [default: `catch_up` of each job]
    #[arg(long, value_parser = ["skip", "once", "all"])]
    catch_up: Option<String>,
    #[command(flatten)]
    server: ServerArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn list(arguments: JobsArguments) -> Outcome {
    block_on(async {
        let client = Client::find(&arguments.server).await?;
        let mut answer = client.send(ApiRequest::get(&["jobs"]).with("group", arguments.group.as_ref())).await?;
        let Some(Value::Array(jobs)) = answer.get_mut("jobs").map(Value::take) else { return Err(unexpected_answer()) };
        let mut out = Printer::new();
        let mut table = Table::new(&["job", "schedule", "zone", "state", "next", "command"]);
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
                .map_or_else(|| no_firing(&job).to_owned(), format_instant);
            let delay =
                record.get("delay").and_then(Value::as_str).map_or_else(String::new, |delay| format!(" +{delay}"));
            table.add_row(vec![
                job.key().to_string(),
                job.schedule.clone(),
                job.zone.clone(),
                job_state(&job),
                next + &delay,
                job.command.to_string(),
            ]);
        }
        if !arguments.json {
            out.print_table(&table)?;
        }
        out.finish()?;
        for state in answer.get("out_of_sync").and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| state.get(name).and_then(Value::as_str).unwrap_or_default();
            print_error_line(&format!("{} differs from the stored jobs: {}", text("source"), text("reason")));
        }
        Ok(SUCCESS)
    })
}

/// The text for a job without a next firing.
fn no_firing(job: &Job) -> &'static str {
    let is_timed = |schedule: Schedule| schedule.kind() == ScheduleKind::Timed;
    let is_on = job.enabled && job.paused.is_none();
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

fn job_state(job: &Job) -> String {
    match &job.paused {
        _ if !job.enabled => "disabled".to_owned(),
        Some(pause) => {
            pause.until.map_or_else(|| "paused".to_owned(), |until| format!("paused until {}", format_instant(until)))
        }
        None => "on".to_owned(),
    }
}

pub(crate) fn one(arguments: JobArguments) -> Outcome {
    match arguments.command {
        JobCommand::Show(one) => show(&one),
        JobCommand::Set(set_arguments) => set(&set_arguments),
        JobCommand::Remove(one) => remove(&one),
        JobCommand::Resume(one) => post_action(&one, "resume", json!({}), "resumed"),
        JobCommand::Pause(PauseArguments { one, until, why }) => {
            let until = until.map(|text| parse_future_instant(&text)).transpose()?;
            post_action(&one, "pause", json!({ "until": until, "why": why }), "paused")
        }
    }
}

fn show(arguments: &OneArguments) -> Outcome {
    let key = parse_job_key(&arguments.job)?;
    block_on(async {
        let client = Client::find(&arguments.server).await?;
        let answer = client.send(ApiRequest::get(&["jobs", &key.group, &key.name])).await?;
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
const INSTANTS: [&str; 3] = ["anchor", "next", "paused"];

fn describe(record: &Value) -> String {
    let Value::Object(values) = record else { return String::new() };
    let job =
        parse_job(record).ok().filter(|job| no_firing(job) == "never" && values.get("next").is_none_or(Value::is_null));
    let never = job.map(|_| ("next", "never".to_owned()));
    let shown = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let rows: Vec<(&str, String)> = values
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| match INSTANTS.contains(&name.as_str()) {
            true => (name.as_str(), localize(&shown(value)).into_owned()),
            false => (name.as_str(), shown(value)),
        })
        .chain(never)
        .collect();
    format_pairs(&rows)
}

fn set(arguments: &SetArguments) -> Outcome {
    let key = parse_job_key(&arguments.job)?;
    let source =
        JobsSource { group: Some(key.group.clone()), ..JobsSource::new(arguments.file.clone(), Purpose::Send) };
    let read = read_valid_jobs(&source)?;
    let [job] = read.jobs.as_slice() else {
        return Err(Failure::usage(format!(
            "{} contains {} jobs; `job set` needs a file with exactly one",
            read.name,
            read.jobs.len()
        )));
    };
    let job = Job { group: key.group.clone(), name: key.name.clone(), source: None, seed: None, ..job.clone() };
    block_on(async {
        let client = Client::find(&arguments.server).await?;
        let body = serde_json::to_value(&job)
            .map_err(|error| Failure::failed(format!("cannot write the job as JSON: {error}")))?;
        let answer = client.send(ApiRequest::put(&["jobs", &key.group, &key.name], body)).await?;
        print_confirmation(&answer, arguments.json, &format!("{key} stored"))
    })
}

fn post_action(arguments: &OneArguments, verb: &str, body: Value, done: &str) -> Outcome {
    let key = parse_job_key(&arguments.job)?;
    block_on(async {
        let client = Client::find(&arguments.server).await?;
        let answer = client.send(ApiRequest::post(&["jobs", &key.group, &key.name, verb], body)).await?;
        print_confirmation(&answer, arguments.json, &format!("{key} {done}"))
    })
}

fn remove(arguments: &OneArguments) -> Outcome {
    let key = parse_job_key(&arguments.job)?;
    block_on(async {
        let client = Client::find(&arguments.server).await?;
        let answer = client.send(ApiRequest::delete(&["jobs", &key.group, &key.name])).await?;
        print_confirmation(&answer, arguments.json, &format!("{key} removed"))
    })
}

fn print_confirmation(answer: &Value, json: bool, message: &str) -> Outcome {
    let mut out = Printer::new();
    if json {
        out.print_json(answer)?
    } else {
        out.print_line(message)?
    }
    out.finish()?;
    Ok(SUCCESS)
}

pub(crate) fn apply(arguments: ApplyArguments) -> Outcome {
    let mail_owners = arguments.server.configuration()?.mail.owner;
    let source = |file: &PathBuf| JobsSource {
        group: arguments.group.clone(),
        system: arguments.system,
        mail_owners,
        ..JobsSource::new(file, Purpose::Send)
    };
    let mut list = SourceList::new(arguments.files.iter().map(source).collect());
    let mut files = read_valid_files(&mut list)?;
    for warning in files.iter().flat_map(|file| &file.warnings.0) {
        print_error_line(&warning.to_string());
    }
    block_on(async {
        let client = Client::find(&arguments.server).await?;
        if arguments.prune && list.has_directories() {
            files.extend(lost_files(&client, &list).await?);
        }
        let mut out = Printer::new();
        for file in &files {
            let body = json!({
                "jobs": file.jobs, "source": file.name, "prune": arguments.prune, "dry_run": arguments.dry_run,
                "former_names": names(&file.former_names), "former_sources": Vec::from_iter(&file.former_source),
            });
            let answer = send_file(&client, body).await?;
            if arguments.json {
                out.print_json(&answer)?;
                continue;
            }
            if files.len() > 1 {
                out.print_line(&format!("{}:", file.name))?;
            }
            out.print_bytes(difference_text(&answer, arguments.dry_run, &file.host_zone).as_bytes())?
        }
        out.finish()?;
        Ok(SUCCESS)
    })
}

/// The files that left a directory: without jobs, so that their stored jobs are deleted.
async fn lost_files(client: &Client, list: &SourceList) -> Result<Vec<ValidJobs>, Failure> {
    let answer = client.send(ApiRequest::get(&["jobs"])).await?;
    let Some(Value::Array(jobs)) = answer.get("jobs") else { return Err(unexpected_answer()) };
    let sources: BTreeSet<&str> = jobs.iter().filter_map(|job| job.get("source")?.as_str()).collect();
    let lost = sources.into_iter().filter(|source| list.has_lost(source));
    Ok(lost.map(|source| ValidJobs { name: source.to_owned(), ..ValidJobs::default() }).collect())
}

/// Former names by name, as the API reads them.
fn names(former_names: &FormerNames) -> BTreeMap<String, Vec<String>> {
    let texts = |names: &[JobKey]| names.iter().map(ToString::to_string).collect();
    former_names.iter().map(|(name, former)| (name.to_string(), texts(former))).collect()
}

/// `+` added, `~` changed, `-` removed, `>` renamed; one job per line, then the counts. A zone that is not in the file
/// is named.
fn difference_text(answer: &Value, dry_run: bool, host_zone: &HostZoneJobs) -> String {
    let list = |name: &str| answer.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut text = String::new();
    let mut counts = Vec::new();
    for (sign, name) in [('+', "added"), ('~', "changed"), ('-', "removed")] {
        let entries = list(name);
        counts.push(format!("{} {name}", entries.len()));
        for entry in entries {
            let key = entry.as_str().or_else(|| entry.get("job").and_then(Value::as_str)).unwrap_or("?");
            let fields = entry.get("fields").and_then(Value::as_array).map_or_else(String::new, |fields| {
                let names: Vec<&str> = fields.iter().filter_map(Value::as_str).collect();
                format!(": {}", names.join(", "))
            });
            let zone =
                host_zone.note_for(key).filter(|_| sign != '-').map_or_else(String::new, |zone| format!(" ({zone})"));
            text.push_str(&format!("{sign} {key}{fields}{zone}\n"));
        }
    }
    let renamed = list("renamed");
    for entry in &renamed {
        let name = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or("?");
        text.push_str(&format!("> {} is now {}\n", name("from"), name("to")));
    }
    if !renamed.is_empty() {
        counts.push(format!("{} renamed", renamed.len()));
    }
    counts.push(format!("{} unchanged", answer.get("unchanged").and_then(Value::as_u64).unwrap_or(0)));
    let note = if dry_run { " (nothing was stored)" } else { "" };
    text + &counts.join(", ") + note + "\n"
}

pub(crate) fn maintenance(arguments: MaintenanceArguments) -> Outcome {
    let until = arguments.until.as_deref().map(parse_future_instant).transpose()?;
    let on = arguments.switch == Switch::On;
    block_on(async {
        let client = Client::find(&arguments.server).await?;
        let body = json!({
            "on": on, "group": arguments.group, "until": until, "why": arguments.why, "catch_up": arguments.catch_up,
        });
        let answer = client.send(ApiRequest::post(&["maintenance"], body)).await?;
        let scope =
            arguments.group.as_deref().map_or_else(|| "all groups".to_owned(), |group| format!("group {group}"));
        let message = match (on, until) {
            (true, Some(until)) => {
                format!("maintenance of {scope} until {}: schedules start no new runs", format_instant(until))
            }
            (true, None) => {
                format!("maintenance of {scope}: schedules start no new runs until `sexton maintenance off`")
            }
            (false, _) => format!("maintenance of {scope} ended"),
        };
        print_confirmation(&answer, arguments.json, &message)
    })
}

/// Parses the value of `--until`: an instant, or a duration from now (`2h`).
fn parse_future_instant(text: &str) -> Result<Timestamp, Failure> {
    let now = Timestamp::now();
    if let Ok(duration) = domain::units::parse_duration(text) {
        let too_late =
            |_| Failure::usage(format!("`{text}` from now is after the latest date; write a shorter duration"));
        return now.checked_add(duration).map_err(too_late);
    }
    parse_instant(text, now).map_err(Failure::usage)
}

fn parse_job(record: &Value) -> Result<Job, Failure> {
    serde_json::from_value(record.clone()).map_err(|error| {
        Failure::failed(format!(
            "unexpected answer from the server: not a job ({error}); does it run the same version?"
        ))
    })
}

fn unexpected_answer() -> Failure {
    Failure::failed("unexpected answer from the server: no jobs; does it run the same version?")
}

#[cfg(test)]
mod tests {
    use domain::zones::HostZone;

    use super::*;

    #[test]
    fn a_difference_has_one_job_per_line_and_counts() {
        let answer = json!({
            "added": ["db/dump"], "changed": [{ "job": "db/vacuum", "fields": ["schedule", "timeout"] }],
            "removed": ["db/old"], "unchanged": 3,
        });
        let host_zone = HostZoneJobs::new(HostZone::named("Europe/Paris"), [JobKey::new("db", "vacuum")]);
        let lines = "+ db/dump\n~ db/vacuum: schedule, timeout (zone Europe/Paris, from this host)\n- db/old\n";
        let text = difference_text(&answer, false, &host_zone);
        assert_eq!(text, format!("{lines}1 added, 1 changed, 1 removed, 3 unchanged\n"));
        assert!(difference_text(&answer, true, &host_zone).ends_with("3 unchanged (nothing was stored)\n"));
    }
}
