//! `sinks`: prints the delivery lag of each sink, as seen by the `up` or the runner of this machine, and resets the
//! counters of lost lines.

use std::time::Duration;

use clap::Args;
use domain::units::format_lines;
use jiff::Timestamp;
use runner::ResetError;
use serde_json::{Value, json};

use crate::cli::exec_on_disk::read_backlogs;
use crate::client::{ApiRequest, Client, ServerArguments, block_on};
use crate::failure::{Failure, Outcome, SUCCESS, print_error_line};
use crate::local_runner::reset_record;
use crate::print::{Printer, dash, format_bytes, format_duration, format_elapsed, format_instant};
use crate::text_table::{Column, Table};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// Set the counters of dropped lines and refused records of this sink to 0, or of all sinks without NAME. Also
    /// works while no `up` and no runner uses the state directory. Ends the alert about a removed sink
    #[arg(long, value_name = "NAME", num_args = 0..=1)]
    reset: Option<Option<String>>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> Outcome {
    block_on(async {
        match &arguments.reset {
            Some(name) => reset(&arguments, name.as_deref()).await,
            None => list(&arguments).await,
        }
    })
}

/// The columns of the table.
const COLUMNS: &[Column] = &[
    Column::whole("sink"),
    Column::extra("type", 5),
    Column::state("state"),
    Column::whole("lag lines"),
    Column::extra("lag bytes", 3),
    Column::whole("lag"),
    Column::extra("unconfirmed", 2),
    Column::extra("lines/s", 1),
    Column::whole("dropped"),
    Column::whole("refused"),
    Column::extra("oldest run", 4),
    Column::text("last error"),
];

/// The client of the `up` or runner of this machine, or of the named server.
fn client(server: &ServerArguments) -> Result<Client, Failure> {
    let configuration = server.configuration()?;
    let on_aws = server.on_aws(&configuration).is_some();
    Client::for_server(server, &configuration).map_err(|failure| match failure {
        Failure::Failed(_) if on_aws => Failure::usage(
            "on AWS each runner ships its own lines; run `sexton sinks --state DIR` on its machine, or read its \
             /metrics",
        ),
        failure => failure,
    })
}

/// Takes the list at this key of an answer.
fn take_list(mut answer: Value, key: &str) -> Result<Vec<Value>, Failure> {
    match answer.get_mut(key).map(Value::take) {
        Some(Value::Array(list)) => Ok(list),
        _ => {
            Err(Failure::failed(format!("unexpected answer from the server: no {key}; does it run the same version?")))
        }
    }
}

async fn list(arguments: &Arguments) -> Outcome {
    let answer = match client(&arguments.server) {
        Ok(client) => client.send(ApiRequest::get(&["sinks"])).await,
        Err(failure) => Err(failure),
    };
    let sinks = match answer {
        Ok(answer) => take_list(answer, "sinks")?,
        Err(failure) => {
            // The lines of `exec` need no server.
            for backlog in read_backlogs(&arguments.server) {
                print_error_line(&backlog.line(Timestamp::now()));
            }
            return Err(failure);
        }
    };
    let mut out = Printer::new();
    let mut table = Table::new(COLUMNS);
    for sink in &sinks {
        if arguments.json { out.print_json(sink)? } else { table.add_row(sink_row(sink)) }
    }
    if !arguments.json {
        out.print_table(&table)?;
        for backlog in read_backlogs(&arguments.server) {
            out.print_line(&backlog.line(Timestamp::now()))?;
        }
    }
    out.finish()?;
    Ok(SUCCESS)
}

async fn reset(arguments: &Arguments, name: Option<&str>) -> Outcome {
    let request = ApiRequest::post(&["sinks", "reset"], json!({ "sink": name }));
    let answer = match client(&arguments.server) {
        Ok(client) => client.send(request).await,
        Err(failure) => Err(failure),
    };
    let reset = match answer {
        Ok(answer) => take_list(answer, "reset")?,
        // Nothing serves here, or `server.json` is that of a killed process.
        Err(Failure::Failed(messages)) if arguments.server.server.is_none() => {
            reset_stored(&arguments.server, name, Failure::Failed(messages))?
        }
        Err(failure) => return Err(failure),
    };
    let mut out = Printer::new();
    for sink in &reset {
        if arguments.json { out.print_json(sink)? } else { out.print_line(&reset_line(sink))? }
    }
    out.finish()?;
    Ok(SUCCESS)
}

/// Resets the counters in a state directory that no process uses; `unserved` is the failure for one that is absent.
fn reset_stored(server: &ServerArguments, name: Option<&str>, unserved: Failure) -> Result<Vec<Value>, Failure> {
    let state = server.state(&server.configuration()?)?;
    if !state.runner_folder().is_dir() {
        return Err(unserved);
    }
    state.create()?;
    let _lock = state.lock()?;
    match runner::reset_stored_losses(&state.runner_folder(), name) {
        Ok(reset) => Ok(reset.iter().map(|(name, before)| reset_record(name, before)).collect()),
        Err(error @ ResetError::Unknown { .. }) => Err(Failure::usage(error.to_string())),
        Err(error @ ResetError::Io(_)) => Err(Failure::failed(error.to_string())),
    }
}

fn reset_line(sink: &Value) -> String {
    let number = |name: &str| sink.get(name).and_then(Value::as_u64).unwrap_or(0);
    let name = sink.get("name").and_then(Value::as_str).unwrap_or_default();
    format!(
        "sink {name}: counters reset; before: {} dropped, {} refused",
        format_lines(number("dropped_lines")),
        number("refused_records")
    )
}

fn sink_row(sink: &Value) -> Vec<String> {
    let text = |name: &str| sink.get(name).and_then(Value::as_str).map_or_else(dash, str::to_owned);
    let number = |name: &str| sink.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    let behind = number("lag_seconds");
    vec![
        text("name"),
        text("kind"),
        state_text(sink),
        format!("{}", number("lag_lines")),
        format_bytes(number("lag_bytes") as u64),
        if behind > 0.0 { format_duration(Duration::from_secs_f64(behind)) } else { dash() },
        format!("{}", number("unconfirmed_lines")),
        format!("{:.1}", number("rate_lines_per_second")),
        format!("{}", number("dropped_lines")),
        format!("{}", number("refused_records")),
        text("oldest_undelivered_run"),
        error_text(sink, Timestamp::now()),
    ]
}

/// The latest error with its age, and whether it is over.
fn error_text(sink: &Value, now: Timestamp) -> String {
    let text = |name: &str| sink.get(name).and_then(Value::as_str);
    if let Some(fault) = text("set_up_fault") {
        return fault.to_owned();
    }
    let Some(error) = text("last_error") else { return dash() };
    let Some(at) = text("last_error_at").and_then(|at| at.parse::<Timestamp>().ok()) else { return error.to_owned() };
    let age = format_elapsed(Duration::try_from(now.duration_since(at)).unwrap_or_default());
    let over = if text("failing_since").is_some() { "" } else { "over, " };
    format!("{over}{age} ago: {error}")
}

/// The state of a sink, with the start of a wait.
pub(crate) fn state_text(sink: &Value) -> String {
    let text = |name: &str| sink.get(name).and_then(Value::as_str);
    let since = text("waiting_since").and_then(|since| since.parse().ok());
    match (text("state"), since) {
        (Some("waiting"), Some(since)) => format!("waiting for an answer since {}", format_instant(since)),
        (state, _) => state.map_or_else(dash, str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_error_shows_its_age_and_whether_it_is_over() {
        let now = Timestamp::now();
        let check = |sink: Value, wanted: &str| assert_eq!(error_text(&sink, now), wanted, "{sink}");
        check(json!({}), "-");
        let at = (now - SignedDuration::from_secs(184)).to_string();
        check(json!({"last_error": "refused", "last_error_at": at}), "over, 3m04s ago: refused");
        let failing = json!({"last_error": "refused", "last_error_at": at, "failing_since": at});
        check(failing, "3m04s ago: refused");
        // The clock was set back.
        let later = json!({"last_error": "refused", "last_error_at": (now + SignedDuration::from_secs(9)).to_string()});
        check(later, "over, 0s ago: refused");
    }
}
