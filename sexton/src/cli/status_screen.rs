//! `status`: what is bad, what runs, what is next and what is behind, on one screen.

use std::time::Duration;

use clap::Args;
use domain::local_time::localize;
use domain::run::Run;
use domain::units::format_lines;
use jiff::Timestamp;
use serde_json::Value;

use crate::cli::exec_on_disk::{self, ExecBacklog};
use crate::cli::runs::{parse_run, state_name, unexpected_answer};
use crate::cli::sinks::state_text;
use crate::client::{ApiRequest, Client, ServerArguments, block_on};
use crate::failure::{FAILED, Failure, Outcome, SUCCESS};
use crate::folded_lines::wrap_text;
use crate::print::{Printer, format_duration, format_elapsed, format_instant};
use crate::terminal::Tone;
use crate::text_table::{cut_text, replace_controls};

/// Entries per part. Chosen: four parts fit a screen of 50 lines; commands name the rest.
const ENTRIES_MAX: usize = 8;

/// Lines of an entry on a terminal. Chosen: the longest name of a job fits in 40 columns, with its state.
const TEXT_LINES_MAX: usize = 4;

/// Width of the names of the parts.
const HEAD_WIDTH: usize = 10;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> Outcome {
    block_on(async {
        let answer = match Client::find(&arguments.server).await {
            Ok(client) => client.send(ApiRequest::get(&["status"])).await,
            Err(failure) => Err(failure),
        };
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(failure @ Failure::Failed(_)) => exec_on_disk::read_state(&arguments.server, failure)?,
            Err(failure) => return Err(failure),
        };
        let backlogs = exec_on_disk::read_backlogs(&arguments.server);
        let mut out = Printer::new();
        if arguments.json {
            answer["exec"] = backlogs.iter().flat_map(ExecBacklog::records).collect();
            out.print_json(&answer)?;
        } else {
            for line in screen(&answer, &backlogs, Timestamp::now())? {
                print_screen_line(&mut out, &line)?;
            }
        }
        out.finish()?;
        Ok(if answer.get("no_server").is_some() { FAILED } else { SUCCESS })
    })
}

/// A line of the screen: the name of its part where it begins, and its text.
#[derive(Debug, PartialEq, Eq)]
struct ScreenLine {
    part: &'static str,
    text: String,
    tone: Tone,
}

fn print_screen_line(out: &mut Printer, line: &ScreenLine) -> Result<(), Failure> {
    let text = replace_controls(line.text.clone());
    for (index, text) in fit_text(&text, out.width()).iter().enumerate() {
        let head = format!("{:<HEAD_WIDTH$}", if index == 0 { line.part } else { "" });
        out.print_line(&format!("{}{}", out.paint(&head, Tone::Head), out.paint(text, line.tone)))?;
    }
    Ok(())
}

/// The text in lines that fit beside the names of the parts. A name near its start stays whole, a long reason does not.
fn fit_text(text: &str, width: Option<usize>) -> Vec<String> {
    let Some(width) = width else { return vec![text.to_owned()] };
    let width = width.saturating_sub(HEAD_WIDTH).max(HEAD_WIDTH);
    let mut lines = wrap_text(text, width);
    if lines.len() > TEXT_LINES_MAX {
        let rest = lines.split_off(TEXT_LINES_MAX - 1).join(" ");
        lines.push(cut_text(&rest, width));
    }
    lines
}

fn screen(answer: &Value, backlogs: &[ExecBacklog], now: Timestamp) -> Result<Vec<ScreenLine>, Failure> {
    let open = answer.get("open").and_then(Value::as_array).ok_or_else(|| unexpected_answer("status"))?;
    let open = open.iter().map(parse_run).collect::<Result<Vec<Run>, _>>()?;
    let mut lines = vec![headline(answer)];
    let mut bad = troubles(answer);
    bad.extend(entries(answer, "bad").map(|job| bad_text(job, now)));
    add_part(&mut lines, "bad", Tone::Bad, bad, "nothing", "sexton status --json");
    let (running, waiting): (Vec<&Run>, Vec<&Run>) = open.iter().partition(|run| run.started_at.is_some());
    let running = running.into_iter().map(|run| open_text(run, run.started_at, now)).collect();
    add_part(&mut lines, "running", Tone::Active, running, "nothing", "sexton runs");
    if !waiting.is_empty() {
        let waiting = waiting.into_iter().map(|run| open_text(run, Some(run.nominal), now)).collect();
        add_part(&mut lines, "waiting", Tone::Warning, waiting, "nothing", "sexton runs");
    }
    let has_server = answer.get("no_server").is_none();
    if has_server {
        let next = entries(answer, "next").map(|firing| next_text(firing, now)).collect();
        add_part(&mut lines, "next", Tone::Plain, next, "no firing", "sexton jobs");
    }
    let mut behind: Vec<String> = entries(answer, "sinks").filter_map(sink_text).collect();
    behind.extend(backlogs.iter().map(|backlog| backlog.line(now)));
    add_part(&mut lines, "behind", Tone::Warning, behind, "nothing: the sinks have all lines", "sexton sinks");
    Ok(lines)
}

fn entries<'a>(answer: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    answer.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(record: &'a Value, name: &str) -> &'a str {
    record.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn instant(record: &Value, name: &str) -> Option<Timestamp> {
    text(record, name).parse().ok()
}

fn job_name(record: &Value) -> String {
    format!("{}/{}", text(record, "group"), text(record, "name"))
}

/// How many jobs there are, and how many are not as they should be.
fn headline(answer: &Value) -> ScreenLine {
    if let Some(message) = answer.get("no_server").and_then(Value::as_str) {
        let text = format!("only the commands of `sexton exec` are known: {message}");
        return ScreenLine { part: "jobs", text, tone: Tone::Warning };
    }
    let number = |name: &str| answer.get("jobs").and_then(|jobs| jobs.get(name)?.as_u64()).unwrap_or(0);
    let all = number("all");
    let named = ["bad", "paused", "disabled", "unreadable"].map(|name| (number(name), name));
    let special: Vec<String> =
        named.iter().filter(|(number, _)| *number > 0).map(|(number, name)| format!("{number} {name}")).collect();
    let jobs = if all == 1 { "1 job".to_owned() } else { format!("{all} jobs") };
    let (text, tone) = match (all, special.is_empty()) {
        (0, true) => ("no jobs; `sexton apply FILE` stores those of a crontab".to_owned(), Tone::Plain),
        (_, true) => (format!("{jobs}, all well"), Tone::Good),
        (_, false) => (format!("{jobs}: {}", special.join(", ")), Tone::Plain),
    };
    ScreenLine { part: "jobs", text, tone }
}

/// What is wrong beside jobs: the store, files that are not in use as they are, maintenance.
fn troubles(answer: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(fault) = answer.get("store_fault") {
        found.push(format!("the ledger: {}", text(fault, "reason")));
    }
    for source in entries(answer, "sources") {
        if source.get("in_sync").and_then(Value::as_bool) == Some(false) {
            found.push(format!("{}: {}", text(source, "source"), localize(text(source, "reason"))));
        }
    }
    for window in entries(answer, "maintenance") {
        let scope = match text(window, "group") {
            "" => "all groups".to_owned(),
            group => format!("group {group}"),
        };
        let since = instant(window, "since").map_or_else(String::new, format_instant);
        let until = instant(window, "until").map_or_else(String::new, |at| format!(" until {}", format_instant(at)));
        let why = Some(text(window, "why")).filter(|why| !why.is_empty());
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        let by =
            Some(text(window, "by")).filter(|by| !by.is_empty()).map_or_else(String::new, |by| format!(" by {by}"));
        found.push(format!("maintenance of {scope} since {since}{by}{until}{why}"));
    }
    found
}

fn bad_text(job: &Value, now: Timestamp) -> String {
    let streak = job.get("streak").and_then(Value::as_u64).unwrap_or(0);
    let since = instant(job, "since").map_or_else(String::new, |since| format!(" for {}", elapsed(since, now)));
    let streak = if streak > 1 { format!(", {streak} runs in a row") } else { String::new() };
    let reason = Some(text(job, "reason")).filter(|reason| !reason.is_empty());
    let reason = reason.map_or_else(String::new, |reason| format!(": {}", localize(reason)));
    format!("{}  {}{since}{streak}{reason}", job_name(job), text(job, "kind"))
}

fn open_text(run: &Run, since: Option<Timestamp>, now: Timestamp) -> String {
    let state = if run.held { "held" } else { state_name(run) };
    let time = since.map_or_else(String::new, |since| format!(" for {}", elapsed(since, now)));
    let reason = run.reason.as_deref().map_or_else(String::new, |reason| format!(": {}", localize(reason)));
    format!("{}  {state}{time}{reason}  {}", run.key(), run.run_id)
}

fn next_text(firing: &Value, now: Timestamp) -> String {
    let at = instant(firing, "at");
    let shown = at.map_or_else(String::new, format_instant);
    let until = at.map_or_else(String::new, |at| format!("  in {}", elapsed(now, at)));
    format!("{shown}  {}{until}", job_name(firing))
}

/// A sink that lacks lines or does not work; none for one that is well.
fn sink_text(sink: &Value) -> Option<String> {
    let number = |name: &str| sink.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    let lag = number("lag_lines") as u64;
    let state = text(sink, "state");
    let lost = [("dropped_lines", "dropped"), ("refused_records", "refused")];
    let lost: Vec<String> = lost
        .iter()
        .filter(|(name, _)| number(name) > 0.0)
        .map(|(name, shown)| format!("{} {shown}", number(name)))
        .collect();
    let set_up_fault = text(sink, "set_up_fault");
    if lag == 0 && lost.is_empty() && set_up_fault.is_empty() && state == "working" {
        return None;
    }
    let lag = match lag {
        0 => "has all lines".to_owned(),
        lag => {
            let age = Duration::try_from_secs_f64(number("lag_seconds")).unwrap_or_default();
            format!("lacks {}, the oldest from {} ago", format_lines(lag), format_duration(age))
        }
    };
    let lost = if lost.is_empty() { String::new() } else { format!(", {}", lost.join(", ")) };
    let error = Some(text(sink, "last_error")).filter(|error| !error.is_empty() && state != "working");
    let error = error.map_or_else(String::new, |error| format!(": {error}"));
    let set_up = if set_up_fault.is_empty() { String::new() } else { format!("; {set_up_fault}") };
    Some(format!("{}  {}, {lag}{lost}{error}{set_up}", text(sink, "name"), state_text(sink)))
}

fn elapsed(from: Timestamp, to: Timestamp) -> String {
    format_elapsed(Duration::try_from(to.duration_since(from)).unwrap_or_default())
}

/// Adds a part with its first entries, and the command that lists the rest.
fn add_part(lines: &mut Vec<ScreenLine>, part: &'static str, tone: Tone, entries: Vec<String>, none: &str, all: &str) {
    if entries.is_empty() {
        lines.push(ScreenLine { part, text: none.to_owned(), tone: Tone::Dim });
        return;
    }
    let more = entries.len().saturating_sub(ENTRIES_MAX);
    for (index, text) in entries.into_iter().take(ENTRIES_MAX).enumerate() {
        lines.push(ScreenLine { part: if index == 0 { part } else { "" }, text, tone });
    }
    if more > 0 {
        lines.push(ScreenLine { part: "", text: format!("and {more} more: `{all}`"), tone: Tone::Dim });
    }
}
