//! Opens the ledger at the start of `up`, and settles one that was restored from a copy.

use domain::ports::Ports;
use domain::restored::RestoredLedger;
use embedded::{Embedded, Opening};
use jiff::Timestamp;
use services::restore;

use crate::failure::{Failure, print_error_line};
use crate::state::StateDirectory;

/// The open ledger.
pub(crate) struct StartedLedger {
    pub(crate) store: Embedded,
    /// An empty ledger replaced another one.
    is_new: bool,
}

/// Opens the ledger of the state directory.
///
/// # Errors
/// Returns why it is refused, with the remedy.
pub(crate) async fn open_ledger(state: &StateDirectory, new_ledger: bool) -> Result<StartedLedger, Failure> {
    let traces = match runner::count_runs(&state.runner_folder()) {
        0 => None,
        1 => Some("the state directory has the directory of a run".to_owned()),
        count => Some(format!("the state directory has the directories of {count} runs")),
    };
    let opening = Opening { file: state.database(), mark: state.ledger_mark(), traces, new_ledger };
    let opened = tokio::task::spawn_blocking(move || Embedded::open_ledger(&opening)).await;
    let opened = opened
        .map_err(|error| Failure::failed(format!("cannot open the ledger: {error}")))?
        .map_err(|error| Failure::failed(error.to_string()))?;
    match &opened.replaced {
        Some((path, why)) => print_error_line(&format!(
            "started with an empty ledger, because {why}\nthe old files are kept as {}",
            path.display()
        )),
        None if new_ledger => print_error_line("the ledger is in order; --new-ledger has no effect"),
        None => {}
    }
    Ok(StartedLedger { store: opened.store, is_new: opened.replaced.is_some() })
}

/// Records the runs that a restored or empty ledger lacks, and lets the runner report them again. Called before the
/// scheduler and the runner start.
///
/// # Errors
/// Fails if a run directory or the ledger cannot be read or written; the next start repeats it.
pub(crate) async fn settle_restore(
    ledger: &StartedLedger,
    ports: &Ports,
    state: &StateDirectory,
    options: &runner::Options,
) -> Result<(), Failure> {
    let now = Timestamp::now();
    let failed = |error: &dyn std::fmt::Display| {
        Failure::failed(format!("cannot record the runs that the restored ledger lacks: {error}"))
    };
    let unsettled = restore::unsettled(ports).await.map_err(|error| failed(&error))?;
    let folder = state.runner_folder();
    let local = restore::LocalRunner { name: &options.runner, host: &options.host };
    if let Some(restored) = unsettled {
        let traces = runner::find_traces(&folder).map_err(|error| failed(&error))?;
        runner::report_all_again(&folder).map_err(|error| failed(&error))?;
        let summary = restore::settle(ports, &restored, &traces, local, now).await.map_err(|error| failed(&error))?;
        print_error_line(&format!(
            "the ledger was {}: {} of the time since then are reported again, {} left no trace and are lost",
            restored.reason(),
            summary.traced,
            summary.lost
        ));
    } else if ledger.is_new {
        // Runs that still run must be known: their job may forbid a second one.
        let mut traces = runner::find_traces(&folder).map_err(|error| failed(&error))?;
        traces.retain(|trace| !trace.has_ended);
        let gap = RestoredLedger { copied_at: Timestamp::UNIX_EPOCH, restored_at: now, settled: false };
        restore::settle(ports, &gap, &traces, local, now).await.map_err(|error| failed(&error))?;
    }
    Ok(())
}
