//! Reports stored jobs of the reserved group at each start. An older build stored them; they keep running.

use domain::jobs_file::GROUP_RESERVED;
use domain::ports::Ports;

use crate::failure::Failure;

/// Jobs that are listed by name. Chosen: one line.
const LISTED_JOBS_MAX: usize = 5;

/// One line about the stored jobs of the reserved group, if there are any.
///
/// # Errors
/// Fails if the stored jobs cannot be read.
pub(crate) async fn report_line(ports: &Ports) -> Result<Option<String>, Failure> {
    let page = ports.jobs.list(Some(GROUP_RESERVED), None, LISTED_JOBS_MAX + 1).await;
    let page = page.map_err(|error| Failure::failed(format!("cannot read the stored jobs: {error}")))?;
    let keys: Vec<String> = page.records.iter().map(|stored| stored.key.to_string()).collect();
    if keys.is_empty() {
        return Ok(None);
    }
    let more = if keys.len() > LISTED_JOBS_MAX { ", ..." } else { "" };
    let listed = keys[..keys.len().min(LISTED_JOBS_MAX)].join(", ");
    Ok(Some(format!(
        "in the group `{GROUP_RESERVED}`, which is reserved for alerts about Sexton itself, keep running: {listed}{more}; \
         give them another group"
    )))
}
