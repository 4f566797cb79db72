//! `maintenance`: starts, ends and lists maintenance windows through the API.

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::job_lookup::unknown_group;
use crate::cli::jobs::print_confirmation;
use crate::client::{ApiRequest, Client, ServerArguments, block_on};
use crate::failure::{Failure, Outcome, SUCCESS, print_error_line};
use crate::instant_arguments::parse_end;
use crate::print::{Printer, dash, format_instant};
use crate::text_table::{Column, Table};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Debug, Args)]
pub(crate) struct MaintenanceArguments {
    /// Start (`on`) or end (`off`) a window [default: list the windows that are on]
    switch: Option<Switch>,
    /// Only this group [default: all groups]
    #[arg(long, value_name = "G")]
    group: Option<String>,
    /// End automatically at this instant, like 2026-11-23T08:00:00Z, or after this duration, like 2h; with `on`
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    until: Option<String>,
    /// Reason shown to other users; with `on`
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
    /// Which firings of the window are made up afterwards; with `on` [default: `catch_up` of each job]
    #[arg(long, value_parser = ["skip", "once", "all"])]
    catch_up: Option<String>,
    #[command(flatten)]
    server: ServerArguments,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

pub(crate) fn maintenance(arguments: MaintenanceArguments) -> Outcome {
    let is_on = arguments.switch == Some(Switch::On);
    if !is_on && (arguments.until.is_some() || arguments.catch_up.is_some() || !arguments.why.is_empty()) {
        let message = "--until, --why and --catch-up belong to the start of a window; write `sexton maintenance on`";
        return Err(Failure::usage(message));
    }
    match arguments.switch {
        Some(_) => switch(arguments, is_on),
        None => list(&arguments),
    }
}

fn switch(arguments: MaintenanceArguments, is_on: bool) -> Outcome {
    let until = arguments.until.as_deref().map(|text| parse_end(text, Timestamp::now())).transpose()?;
    block_on(async {
        let client = Client::find(&arguments.server).await?;
        let body = match is_on {
            true => json!({
                "on": true, "group": arguments.group, "until": until, "why": arguments.why,
                "catch_up": arguments.catch_up,
            }),
            false => json!({ "on": false, "group": arguments.group }),
        };
        let answer = client.send(ApiRequest::post(&["maintenance"], body)).await?;
        let scope = scope(arguments.group.as_deref());
        let message = match (is_on, until) {
            (true, Some(until)) => {
                format!("maintenance of {scope} until {}: schedules start no new runs", format_instant(until))
            }
            (true, None) => {
                format!("maintenance of {scope}: schedules start no new runs until `sexton maintenance off`")
            }
            (false, _) if answer.get("ended").and_then(Value::as_u64) == Some(0) => {
                format!("no maintenance window of {scope} was on; `sexton maintenance` lists those that are")
            }
            (false, _) => format!("maintenance of {scope} ended"),
        };
        let done = print_confirmation(&answer, arguments.json, &message)?;
        // A window may be started before the first job of its group exists.
        if let (true, Some(group)) = (is_on, &arguments.group)
            && let Some(words) = unknown_group(&client, group).await?
        {
            print_error_line(&format!("warning: {words}"));
        }
        Ok(done)
    })
}

fn scope(group: Option<&str>) -> String {
    group.map_or_else(|| "all groups".to_owned(), |group| format!("group {group}"))
}

/// The columns of the list of windows.
const COLUMNS: &[Column] = &[
    Column::whole("group"),
    Column::text("since"),
    Column::whole("until"),
    Column::whole("by"),
    Column::extra("catch_up", 1),
    Column::text("why"),
];

/// The windows that are on: of all groups, or those that concern one.
fn list(arguments: &MaintenanceArguments) -> Outcome {
    block_on(async {
        let client = Client::find(&arguments.server).await?;
        let mut answer = client.send(ApiRequest::get(&["maintenance"])).await?;
        let Some(Value::Array(mut windows)) = answer.get_mut("windows").map(Value::take) else {
            let message = "unexpected answer from the server: no windows; does it run the same version?";
            return Err(Failure::failed(message));
        };
        let concerns = |window: &Value| match (&arguments.group, window["group"].as_str()) {
            (Some(wanted), Some(group)) => wanted == group,
            _ => true,
        };
        windows.retain(concerns);
        let mut out = Printer::new();
        if arguments.json {
            for window in &windows {
                out.print_json(window)?;
            }
        } else if windows.is_empty() {
            let of = arguments.group.as_ref().map_or_else(String::new, |group| format!(" of group {group}"));
            out.print_line(&format!("no maintenance window{of} is on"))?;
        } else {
            let mut table = Table::new(COLUMNS);
            windows.iter().for_each(|window| table.add_row(row(window)));
            out.print_table(&table)?;
        }
        out.finish()?;
        Ok(SUCCESS)
    })
}

fn row(window: &Value) -> Vec<String> {
    let text = |name: &str| window[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let instant = |name: &str| text(name).and_then(|text| text.parse::<Timestamp>().ok()).map(format_instant);
    vec![
        scope(window["group"].as_str()),
        instant("since").unwrap_or_else(dash),
        instant("until").unwrap_or_else(|| "ended by `sexton maintenance off`".to_owned()),
        text("by").unwrap_or_else(dash),
        text("catch_up").unwrap_or_else(dash),
        text("why").unwrap_or_else(dash),
    ]
}
