//! `ledger`: checks that every scheduled run has ended in one outcome or is still open.

use clap::Args;
use domain::run::Outcome as RunOutcome;
use jiff::Timestamp;
use serde_json::Value;

use crate::cli::runs::{SPAN, unexpected_answer};
use crate::client::{ApiRequest, Client, ServerArguments, block_on};
use crate::failure::{Failure, Outcome, SUCCESS};
use crate::instant_arguments::parse_span;
use crate::print::{Printer, format_pairs};

#[derive(Debug, Args)]
pub(crate) struct LedgerArguments {
    /// Only runs with a nominal time at or after this instant or duration ago [default: all stored runs]
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    since: Option<String>,
    /// Only runs with a nominal time before this instant
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    until: Option<String>,
    #[command(flatten)]
    server: ServerArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn ledger(arguments: LedgerArguments) -> Outcome {
    let now = Timestamp::now();
    let [since, until] = parse_span(SPAN, [arguments.since.as_deref(), arguments.until.as_deref()], now)?;
    block_on(async {
        let client = Client::find(&arguments.server).await?;
        let answer = client.send(ApiRequest::get(&["ledger"]).with("since", since).with("until", until)).await?;
        let Some(adds_up) = answer.get("adds_up").and_then(Value::as_bool) else {
            return Err(unexpected_answer("ledger"));
        };
        let mut out = Printer::new();
        if arguments.json {
            out.print_json(&answer)?;
        } else {
            out.print_bytes(ledger_text(&answer).as_bytes())?;
        }
        out.finish()?;
        match adds_up {
            true => Ok(SUCCESS),
            false => {
                Err(Failure::failed("the ledger does not add up: scheduled is not the sum of outcomes and open runs"))
            }
        }
    })
}

fn ledger_text(answer: &Value) -> String {
    let number = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or(0).to_string();
    let mut rows = vec![("scheduled", number(answer.get("scheduled")))];
    for outcome in RunOutcome::ALL {
        rows.push((outcome.name(), number(answer.get("outcomes").and_then(|all| all.get(outcome.name())))));
    }
    rows.push(("open", number(answer.get("open"))));
    format_pairs(&rows)
}
