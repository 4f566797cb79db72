//! Deletes runs beyond the number that is kept per job, once an hour. DynamoDB expires old runs by itself, at no cost.

use domain::ports::Ports;
use jiff::Timestamp;
use services::pruner::{self, RetentionPolicy};

/// Calls of the pruner service in one hour. Chosen: 10,000 jobs, as one call checks 100.
const CALLS_MAX: usize = 100;

/// Deletes a bounded part of the surplus runs, and returns their number.
///
/// # Errors
/// Returns the port's error; the next call continues where this one stopped.
pub async fn prune(ports: &Ports, keep: &RetentionPolicy, now: Timestamp) -> services::Result<u32> {
    let mut removed = 0;
    for _ in 0..CALLS_MAX {
        let summary = pruner::tick(ports, keep, now).await?;
        removed += summary.removed;
        if !summary.more {
            break;
        }
    }
    tracing::info!(removed, "old runs deleted");
    Ok(removed)
}
