//! `sinks`: prints the delivery lag of each sink, as seen by the `up` or the runner of this machine.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::client::{ApiRequest, Client, ServerArguments, block_on};
use crate::failure::{Failure, Outcome, SUCCESS};
use crate::print::{Printer, dash, format_bytes, format_duration};
use crate::text_table::{Column, Table};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> Outcome {
    block_on(async {
        let configuration = arguments.server.configuration()?;
        let on_aws = arguments.server.on_aws(&configuration).is_some();
        let client = Client::for_server(&arguments.server, &configuration).map_err(|failure| match failure {
            Failure::Failed(_) if on_aws => Failure::usage(
                "on AWS each runner ships its own lines; run `sexton sinks --state DIR` on its machine, or read \
                 its /metrics",
            ),
            failure => failure,
        })?;
        let answer = client.send(ApiRequest::get(&["sinks"])).await?;
        let Some(sinks) = answer.get("sinks").and_then(Value::as_array) else {
            return Err(Failure::failed("unexpected answer from the server: no sinks; does it run the same version?"));
        };
        let mut out = Printer::new();
        let mut table = Table::new(COLUMNS);
        for sink in sinks {
            if arguments.json { out.print_json(sink)? } else { table.add_row(sink_row(sink)) }
        }
        if !arguments.json {
            out.print_table(&table)?;
        }
        out.finish()?;
        Ok(SUCCESS)
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
        text(if sink.get("set_up_fault").is_some() { "set_up_fault" } else { "last_error" }),
    ]
}

fn state_text(sink: &Value) -> String {
    let text = |name: &str| sink.get(name).and_then(Value::as_str);
    match (text("state"), text("waiting_since")) {
        (Some("waiting"), Some(since)) => format!("waiting for an answer since {since}"),
        (state, _) => state.map_or_else(dash, str::to_owned),
    }
}
