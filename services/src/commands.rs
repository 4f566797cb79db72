//! What console and command line ask for. Each command is one function over the ports; time and randomness are given.

mod apply;
mod jobs;
mod runs;

pub use apply::{ApplyOptions, Difference, apply};
pub use jobs::{get, pause, put, remove, resume};
pub use runs::{ledger, run_now, stop};

use domain::job::CatchUp;
use domain::ports::Ports;
use jiff::Timestamp;

use crate::Result;
use crate::maintenance::{self, Window};

/// Begins maintenance of a group, or of all. Nothing new is fired meanwhile; runs that run go on.
///
/// # Errors
/// A port's.
pub async fn begin_maintenance(
    ports: &Ports,
    group: Option<&str>,
    until: Option<Timestamp>,
    why: &str,
    catch_up: CatchUp,
    now: Timestamp,
) -> Result<Window> {
    let window =
        Window { group: group.map(str::to_owned), since: now, until, ended_at: None, why: why.to_owned(), catch_up };
    maintenance::begin_window(ports, window.clone()).await?;
    Ok(window)
}

/// Ends it, and says how many windows were ended: one for a group does not end one for all.
///
/// # Errors
/// A port's.
pub async fn end_maintenance(ports: &Ports, group: Option<&str>, now: Timestamp) -> Result<usize> {
    maintenance::end_windows(ports, group, now).await
}

/// The windows that are on, or are to come.
///
/// # Errors
/// A port's.
pub async fn maintenance_windows(ports: &Ports, now: Timestamp) -> Result<Vec<Window>> {
    let windows = maintenance::read(ports).await?;
    Ok(windows.0.into_iter().filter(|window| window.end().is_none_or(|end| now < end)).collect())
}
