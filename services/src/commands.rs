//! The commands of console and command line: one function each, over the ports. Time and random bytes are arguments.

mod apply;
mod jobs;
mod runs;
mod take_over;

pub use apply::{AppliedFile, ApplyOptions, BATCH_JOBS, Difference, Progress, apply, apply_file, apply_with_progress};
pub use jobs::{get, pause, put, remove, resume};
pub use runs::{ledger, run_now, stop};

use domain::job::CatchUp;
use domain::ports::Ports;
use jiff::Timestamp;

use crate::Result;
use crate::maintenance::{self, Window};

/// Starts a maintenance window for a group, or for all groups. No new runs are started in it; running ones continue.
/// `by`: who requested it.
///
/// # Errors
/// Returns the port's error, or [`crate::Error::Conflict`].
pub async fn begin_maintenance(
    ports: &Ports,
    group: Option<&str>,
    until: Option<Timestamp>,
    why: &str,
    by: &str,
    catch_up: CatchUp,
    now: Timestamp,
) -> Result<Window> {
    let (group, why, by) = (group.map(str::to_owned), why.to_owned(), Some(by.to_owned()));
    let window = Window { group, since: now, until, ended_at: None, why, by, catch_up };
    maintenance::begin_window(ports, window.clone()).await?;
    Ok(window)
}

/// Ends the open windows of this group (`None`: those for all groups) and returns their number. Ending the window of
/// one group does not end a window for all groups.
///
/// # Errors
/// Returns the port's error, or [`crate::Error::Conflict`].
pub async fn end_maintenance(ports: &Ports, group: Option<&str>, now: Timestamp) -> Result<usize> {
    maintenance::end_windows(ports, group, now).await
}

/// The windows that are active or start later.
///
/// # Errors
/// Returns the port's error.
pub async fn maintenance_windows(ports: &Ports, now: Timestamp) -> Result<Vec<Window>> {
    let windows = maintenance::read(ports).await?;
    Ok(windows.0.into_iter().filter(|window| window.end().is_none_or(|end| now < end)).collect())
}
