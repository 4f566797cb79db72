//! `backup` and `restore`: copies the ledger of this machine, and puts a copy in its place. Neither needs a running
//! `up`; `restore` refuses to run beside one.

use std::path::PathBuf;

use clap::Args;
use embedded::copies::{self, CopyError};
use jiff::Timestamp;
use serde_json::json;

use crate::configuration::Configuration;
use crate::failure::{Failure, Outcome, SUCCESS};
use crate::print::{Printer, format_bytes, format_instant};
use crate::state::{StateDirectory, StateError};

#[derive(Debug, Args)]
pub(crate) struct BackupArguments {
    /// File of the copy. An earlier copy is replaced; any other file is refused
    file: PathBuf,
    #[command(flatten)]
    place: PlaceArguments,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArguments {
    /// Copy to restore: of `backup`, or a copy of the ledger's file
    file: PathBuf,
    #[command(flatten)]
    place: PlaceArguments,
}

#[derive(Debug, Args)]
struct PlaceArguments {
    /// Configuration file
    #[arg(long, value_name = "FILE", env = "SEXTON_CONFIG")]
    config: Option<PathBuf>,
    /// State directory of the ledger
    #[arg(long, value_name = "DIR", env = "SEXTON_STATE")]
    state: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl PlaceArguments {
    fn state(&self) -> Result<StateDirectory, Failure> {
        let configuration = Configuration::load(self.config.as_deref())?;
        let named = self.state.as_deref().or(configuration.state.as_deref());
        StateDirectory::find(named).map_err(|error| Failure::usage(error.to_string()))
    }
}

pub(crate) fn back_up(arguments: BackupArguments) -> Outcome {
    let state = arguments.place.state()?;
    let copied = copies::back_up(&state.database(), &arguments.file, Timestamp::now()).map_err(failed)?;
    let mut out = Printer::new();
    let file = arguments.file.display().to_string();
    if arguments.place.json {
        out.print_json(&json!({ "file": file, "at": copied.at, "bytes": copied.bytes }))?;
    } else {
        out.print_line(&format!(
            "{file}: the ledger as of {}, {}",
            format_instant(copied.at),
            format_bytes(copied.bytes)
        ))?;
    }
    out.finish()?;
    Ok(SUCCESS)
}

pub(crate) fn restore(arguments: RestoreArguments) -> Outcome {
    let state = arguments.place.state()?;
    state.create()?;
    let _lock = state.lock().map_err(|error| match error {
        StateError::InUse { .. } => Failure::failed(format!("{error}; `restore` needs it stopped")),
        error => error.into(),
    })?;
    let restored =
        copies::restore(&arguments.file, &state.database(), &state.ledger_mark(), Timestamp::now()).map_err(failed)?;
    let mut out = Printer::new();
    let replaced = restored.replaced.as_ref().map(|path| path.display().to_string());
    if arguments.place.json {
        out.print_json(&json!({ "copied_at": restored.copied_at, "replaced": replaced }))?;
    } else {
        out.print_line(&format!("restored {} as of {}", arguments.file.display(), format_instant(restored.copied_at)))?;
        if let Some(replaced) = replaced {
            out.print_line(&format!("the ledger before is kept as {replaced}"))?;
        }
        out.print_line(
            "the next `sexton up` records the runs since then: with their outcome where this machine has their files, \
             else as lost; none is started again",
        )?;
        out.print_line("jobs, pauses and maintenance windows are those of the copy until their files are applied")?;
    }
    out.finish()?;
    Ok(SUCCESS)
}

fn failed(error: CopyError) -> Failure {
    Failure::failed(error.to_string())
}
