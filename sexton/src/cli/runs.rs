//! `run`, `stop`, `runs` and `show`: shows, starts and stops runs through the API.

use std::time::Duration;

use clap::Args;
use console::Undelivered;
use domain::job::JobKey;
use domain::local_time::localize;
use domain::run::{Leaked, Outcome as RunOutcome, Run, RunId};
use domain::units::format_lines;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::job_lookup::{NamedJob, unknown_group, unknown_job};
use crate::cli::jobs::send_about;
use crate::cli::run_progress::{RunProgress, wait_until_ended};
use crate::cli::runs_on_disk::{self, Filter};
use crate::client::{ApiRequest, Client, ServerArguments, block_on};
use crate::failure::{FAILED, Failure, Outcome, SUCCESS};
use crate::instant_arguments::parse_span;
use crate::machine;
use crate::print::{
    Printer, dash, format_bytes, format_duration, format_instant, format_optional_instant, format_pairs, parse_job_key,
};
use crate::text_table::{Column, Table};

/// The arguments of a span of nominal times.
pub(crate) const SPAN: [&str; 2] = ["--since", "--until"];

/// Runs fetched by one request. Chosen, not measured.
const PAGE_RUNS_MAX: u64 = 500;

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Job, as GROUP/NAME, or NAME where only one group has it
    job: String,
    /// Wait until the run ends; exit 1 unless it succeeded
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    server: ServerArguments,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StopArguments {
    /// Run id, as printed by `sexton runs`
    run_id: String,
    #[command(flatten)]
    server: ServerArguments,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunsArguments {
    /// Only runs of this group or job, as GROUP or GROUP/NAME [default: all]
    job: Option<String>,
    /// Only runs with this outcome
    #[arg(long, value_name = "O", value_parser = parse_outcome)]
    outcome: Option<RunOutcome>,
    /// Only runs with a nominal time at or after this instant: 2026-11-23T00:00:00Z, or 24h for 24 hours ago
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    since: Option<String>,
    /// Only runs with a nominal time before this instant
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    until: Option<String>,
    /// Maximum number of runs, newest first
    #[arg(short = 'n', long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    #[command(flatten)]
    server: ServerArguments,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// Run id, as printed by `sexton runs`
    run_id: String,
    #[command(flatten)]
    server: ServerArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn parse_outcome(text: &str) -> Result<RunOutcome, String> {
    RunOutcome::parse(text).ok_or_else(|| {
        let names = RunOutcome::ALL.map(RunOutcome::name);
        let near =
            domain::fault::nearest_name(text, names).map_or_else(String::new, |name| format!("; did you mean {name}?"));
        format!("write one of {}{near}", names.join(", "))
    })
}

pub(crate) fn start(arguments: RunArguments) -> Outcome {
    let job = NamedJob::parse(&arguments.job)?;
    block_on(async {
        let client = Client::find(&arguments.server).await?;
        let key = job.find(&client).await?;
        let segments = ["jobs", &key.group, &key.name, "run"];
        let started = send_about(&client, &key, ApiRequest::post(&segments, json!({}))).await?;
        let run_id = parse_run(&started)?.run_id;
        let mut out = Printer::new();
        if !arguments.wait {
            if arguments.json {
                out.print_json(&started)?
            } else {
                out.print_line(run_id.as_str())?
            }
            out.finish()?;
            return Ok(SUCCESS);
        }
        if !arguments.json {
            out.print_line(run_id.as_str())?;
            out.flush()?;
        }
        let ended = wait_until_ended(&client, &run_id, &mut RunProgress::new(arguments.json)).await?;
        let run = parse_run(&ended)?;
        if arguments.json {
            out.print_json(&ended)?
        } else {
            out.print_line(&end_summary(&run))?
        }
        out.finish()?;
        Ok(if run.outcome == Some(RunOutcome::Succeeded) { SUCCESS } else { FAILED })
    })
}

/// The end of a run on one line.
pub(crate) fn end_summary(run: &Run) -> String {
    let outcome = run.outcome.map_or("open", RunOutcome::name);
    let reason = run.reason.as_deref().map_or_else(String::new, |reason| format!(": {}", localize(reason)));
    let took =
        run.duration_ms.map_or_else(String::new, |ms| format!(" after {}", format_duration(Duration::from_millis(ms))));
    format!("{} {outcome}{took}{reason}", run.key())
}

pub(crate) fn stop(arguments: StopArguments) -> Outcome {
    let run_id = valid_run_id(&arguments.run_id)?;
    block_on(async {
        let client = Client::find(&arguments.server).await?;
        let answer = client.send(ApiRequest::post(&["runs", run_id, "stop"], json!({}))).await?;
        let mut out = Printer::new();
        if arguments.json {
            out.print_json(&answer)?;
        } else {
            let run = parse_run(&answer)?;
            let message = match (run.is_open(), run.output_open) {
                (true, _) => "stop requested",
                (false, true) => "has ended; stop of its remaining processes requested",
                (false, false) => "already finished",
            };
            out.print_line(&format!("{run_id}: {message}"))?;
        }
        out.finish()?;
        Ok(SUCCESS)
    })
}

/// The columns of the list of runs.
const COLUMNS: &[Column] = &[
    Column::whole("run_id"),
    Column::whole("job"),
    Column::extra("trigger", 1),
    Column::state("outcome"),
    Column::extra("started", 5),
    Column::extra("took", 4),
    Column::extra("exit", 2),
    Column::extra("lines", 3),
    Column::text("reason"),
];

pub(crate) fn list(arguments: RunsArguments) -> Outcome {
    let now = Timestamp::now();
    let [since, until] = parse_span(SPAN, [arguments.since.as_deref(), arguments.until.as_deref()], now)?;
    let (group, job) = group_and_job(arguments.job.as_deref())?;
    block_on(async {
        let client = match reachable_client(&arguments.server).await {
            Ok(client) => client,
            Err(failure) => {
                let outcome = arguments.outcome;
                let filter = Filter { group, job, outcome, since, until, ..Filter::default() };
                let runs = runs_on_disk::list(&arguments.server, &filter, arguments.limit, failure)?;
                return print_runs_on_disk(&runs, arguments.json);
            }
        };
        let mut out = Printer::new();
        let mut table = Table::new(COLUMNS);
        let mut cursor: Option<String> = None;
        let mut remaining = arguments.limit;
        while remaining > 0 {
            let request = ApiRequest::get(&["runs"])
                .with("group", group.clone())
                .with("job", job.clone())
                .with("outcome", arguments.outcome.map(RunOutcome::name))
                .with("since", since)
                .with("until", until)
                .with("limit", Some(remaining.min(PAGE_RUNS_MAX)))
                .with("cursor", cursor.take());
            let mut page = client.send(request).await?;
            let runs = page.get_mut("runs").map(Value::take);
            let Some(Value::Array(runs)) = runs else { return Err(unexpected_answer("runs")) };
            remaining = remaining.saturating_sub(runs.len() as u64);
            for record in &runs {
                if arguments.json {
                    out.print_json(record)?
                } else {
                    table.add_row(run_row(&parse_run(record)?, &parse_undelivered(record)))
                }
            }
            cursor = page.get("cursor").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        if remaining == arguments.limit
            && let Some(words) = unknown_name(&client, group, job).await?
        {
            return Err(Failure::usage(words));
        }
        if !arguments.json {
            out.print_table(&table)?;
        }
        out.finish()?;
        Ok(SUCCESS)
    })
}

/// The sentence about a group or a job without runs that does not exist either. A deleted job has runs.
async fn unknown_name(client: &Client, group: Option<String>, job: Option<String>) -> Result<Option<String>, Failure> {
    let any = ApiRequest::get(&["runs"]).with("group", group.clone()).with("job", job.clone()).with("limit", Some(1));
    let answer = client.send(any).await?;
    if answer.get("runs").and_then(Value::as_array).is_some_and(|runs| !runs.is_empty()) {
        return Ok(None);
    }
    match (group, job) {
        (Some(group), Some(name)) => unknown_job(client, &JobKey::new(group, name)).await,
        (Some(group), None) => unknown_group(client, &group).await,
        _ => Ok(None),
    }
}

/// The client of a server that answers.
async fn reachable_client(server: &ServerArguments) -> Result<Client, Failure> {
    let client = Client::find(server).await?;
    client.send(ApiRequest::get(&["health"])).await.map(|_healthy| client)
}

/// Prints runs that were read without a server.
fn print_runs_on_disk(runs: &[Run], json: bool) -> Outcome {
    let mut out = Printer::new();
    let mut table = Table::new(COLUMNS);
    for run in runs {
        match json {
            true => out.print_json(run)?,
            false => table.add_row(run_row(run, &[])),
        }
    }
    if !json {
        out.print_table(&table)?;
    }
    out.finish()?;
    Ok(SUCCESS)
}

fn run_row(run: &Run, undelivered: &[Undelivered]) -> Vec<String> {
    let outcome = match (run.outcome, run.held) {
        (Some(outcome), _) => outcome.name(),
        (None, true) => "held",
        (None, false) => state_name(run),
    };
    let exit = match (run.exit_code, run.signal) {
        (Some(code), _) => code.to_string(),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => dash(),
    };
    let lacking: String = undelivered.iter().map(|lag| format!(" ({})", missing_lines(lag))).collect();
    vec![
        run.run_id.to_string(),
        run.key().to_string(),
        trigger_name(run),
        outcome.to_owned(),
        format_optional_instant(run.started_at),
        run.duration_ms.map_or_else(dash, |ms| format_duration(Duration::from_millis(ms))),
        exit,
        format!("{}{lacking}", run.stdout_lines + run.stderr_lines),
        localize(run.reason.as_deref().unwrap_or_default()).into_owned(),
    ]
}

/// The sinks that lack lines of a run. A server without sinks omits them.
fn parse_undelivered(record: &Value) -> Vec<Undelivered> {
    record.get("undelivered").and_then(|list| serde_json::from_value(list.clone()).ok()).unwrap_or_default()
}

fn missing_lines(lag: &Undelivered) -> String {
    format!("{} lacks {}", lag.sink, format_lines(lag.lines))
}

pub(crate) fn state_name(run: &Run) -> &'static str {
    match run.state {
        domain::run::State::Scheduled => "scheduled",
        domain::run::State::Claimed => "claimed",
        domain::run::State::Running => "running",
        domain::run::State::Finished => "finished",
    }
}

fn trigger_name(run: &Run) -> String {
    serde_json::to_value(run.trigger).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

pub(crate) fn show(arguments: ShowArguments) -> Outcome {
    let run_id = valid_run_id(&arguments.run_id)?;
    block_on(async {
        let answer = match Client::find(&arguments.server).await {
            Ok(client) => client.send(ApiRequest::get(&["runs", run_id])).await,
            Err(failure) => Err(failure),
        };
        let answer = match answer {
            Err(failure @ Failure::Failed(_)) => {
                let filter = Filter { run_id: Some(RunId(run_id.to_owned())), ..Filter::default() };
                let mut runs = runs_on_disk::list(&arguments.server, &filter, 1, failure)?;
                json!(runs.remove(0))
            }
            answer => answer?,
        };
        let mut out = Printer::new();
        if arguments.json {
            out.print_json(&answer)?;
        } else {
            out.print_bytes(describe(&parse_run(&answer)?, &answer).as_bytes())?;
        }
        out.finish()?;
        Ok(SUCCESS)
    })
}

/// What is known of a process that the run left: on this machine, whether it runs now.
fn leaked_state(run: &Run, leaked: &Leaked) -> &'static str {
    let is_here = run.host.as_deref() == Some(&*machine::host_name());
    let is_alive = || {
        let process = keeper::processes::find(leaked.pid);
        process.is_some_and(|process| process.name == leaked.name && !process.is_zombie())
    };
    match (leaked.killed, is_here) {
        (true, _) => "killed",
        (false, false) => "ran on after the end of the run",
        (false, true) if is_alive() => "still runs",
        (false, true) => "has ended since",
    }
}

/// All facts of a run; `answer` has those that its record lacks.
fn describe(run: &Run, answer: &Value) -> String {
    let undelivered = parse_undelivered(answer);
    let mut rows = vec![
        ("run", run.run_id.to_string()),
        ("job", run.key().to_string()),
        ("nominal", format_instant(run.nominal)),
        ("trigger", trigger_name(run)),
        ("attempt", run.attempt.to_string()),
        ("outcome", run.outcome.map_or_else(|| state_name(run), RunOutcome::name).to_owned()),
    ];
    rows.extend(run.reason.as_deref().map(|reason| ("reason", localize(reason).into_owned())));
    rows.push(("started", format_optional_instant(run.started_at)));
    rows.push(("finished", format_optional_instant(run.finished_at)));
    rows.extend(run.duration_ms.map(|ms| ("took", format_duration(Duration::from_millis(ms)))));
    rows.extend(run.exit_code.map(|code| ("exit code", code.to_string())));
    rows.extend(run.signal.map(|signal| ("signal", signal.to_string())));
    rows.extend(run.runner.clone().map(|name| ("runner", name)));
    rows.extend(run.host.clone().map(|name| ("host", name)));
    rows.push(("stdout", format!("{}, {}", format_lines(run.stdout_lines), format_bytes(run.stdout_bytes))));
    rows.push(("stderr", format!("{}, {}", format_lines(run.stderr_lines), format_bytes(run.stderr_bytes))));
    if run.output_open {
        rows.push(("output", "still open: a process of the run may print more".to_owned()));
    }
    if run.output_ended_at.is_some() {
        let ended_at = format_optional_instant(run.output_ended_at);
        rows.push(("output", format!("ended {ended_at}, {} after the run", format_lines(run.late_lines))));
    }
    if run.dropped_lines > 0 {
        rows.push(("dropped", format_lines(run.dropped_lines)));
    }
    rows.extend(
        undelivered.iter().map(|lag| ("undelivered", format!("{}, {}", missing_lines(lag), format_bytes(lag.bytes)))),
    );
    rows.extend(run.cpu_ms.map(|ms| ("cpu", format_duration(Duration::from_millis(ms)))));
    rows.extend(run.max_rss_bytes.map(|bytes| ("memory", format_bytes(bytes))));
    for leaked in &run.leaked {
        rows.push(("leaked", format!("pid {} ({}), {}", leaked.pid, leaked.name, leaked_state(run, leaked))));
    }
    let reasons = answer.get("pack_reasons").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for pack in &run.packs {
        let entry = reasons.iter().find(|entry| entry["pack"] == pack.as_str());
        let reason = entry.and_then(|entry| entry["reason"].as_str());
        rows.push(("pack", reason.map_or_else(|| pack.clone(), |reason| format!("{pack}: {reason}"))));
    }
    for hit in &run.rules {
        let at = match hit.count {
            0 => "never seen".to_owned(),
            1 => format!("once, in line {}", hit.first_seq),
            count => format!("{count} times, first in line {}", hit.first_seq),
        };
        rows.push(("rule", format!("{} ({}): {at}: {}", hit.rule, hit.pack, hit.first_line)));
    }
    for earlier in &run.earlier_attempts {
        rows.push((
            "earlier",
            format!("attempt {}: {}: {}", earlier.attempt, earlier.outcome.name(), localize(&earlier.reason)),
        ));
    }
    for line in &run.excerpt {
        rows.push((line.stream.name(), line.text.clone()));
    }
    format_pairs(&rows)
}

/// Checks a run id before it becomes part of a path or an address.
///
/// # Errors
/// Exit 2 for any other text.
pub(crate) fn valid_run_id(text: &str) -> Result<&str, Failure> {
    match RunId::is_valid(text) {
        true => Ok(text),
        false if JobKey::parse(text).is_ok() => {
            Err(Failure::usage(format!("`{text}` is a job, not a run id; `sexton runs {text}` lists its runs")))
        }
        false => Err(Failure::usage(format!(
            "`{text}` is not a run id; write it as printed by `sexton runs`, like 20261123T075000Z-3f9a1c0e7b2d"
        ))),
    }
}

fn group_and_job(text: Option<&str>) -> Result<(Option<String>, Option<String>), Failure> {
    match text {
        None => Ok((None, None)),
        Some(text) if text.contains('/') => parse_job_key(text).map(|key| (Some(key.group), Some(key.name))),
        Some(group) => Ok((Some(group.to_owned()), None)),
    }
}

pub(crate) fn parse_run(record: &Value) -> Result<Run, Failure> {
    serde_json::from_value(record.clone()).map_err(|error| {
        Failure::failed(format!(
            "unexpected answer from the server: not a run ({error}); does it run the same version?"
        ))
    })
}

pub(crate) fn unexpected_answer(wanted: &str) -> Failure {
    Failure::failed(format!("unexpected answer from the server: no {wanted}; does it run the same version?"))
}
