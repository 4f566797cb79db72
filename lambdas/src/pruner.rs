//! The pruner's hour. Age is the tables' time to live, which costs nothing; what has more runs than are kept is counted
//! here, a hundred jobs a call.

use domain::ports::Ports;
use jiff::Timestamp;
use services::pruner::{self, RetentionPolicy};

/// Calls of the pruner service in one hour: ten thousand jobs looked at, five hundred runs at a time removed.
const ROUNDS_MAX: usize = 100;

/// # Errors
/// A port's; the next hour goes on where this one stopped.
pub async fn prune(ports: &Ports, keep: &RetentionPolicy, now: Timestamp) -> services::Result<u32> {
    let mut removed = 0;
    for _ in 0..ROUNDS_MAX {
        let summary = pruner::tick(ports, keep, now).await?;
        removed += summary.removed;
        if !summary.more {
            break;
        }
    }
    tracing::info!(removed, "old runs were removed");
    Ok(removed)
}
