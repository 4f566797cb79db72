//! Orders: messages from the scheduler to runners. An order has the whole job as it was at the firing, so a runner
//! needs no table.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::job::{Job, JobKey};
use crate::run::{RunId, RunKey, Trigger};

/// The version of orders, reports and run directories that this build writes. It reads older versions and refuses newer
/// ones.
pub const FORMAT_VERSION: u32 = 1;

/// How long an order is valid after it was issued, or after its `not_before`. 4 days, as long as SQS keeps a message by
/// default (MessageRetentionPeriod). The scheduler issues it again while the run has not started.
pub const ORDER_TTL: Duration = Duration::from_secs(4 * 86_400);

/// An Ed25519 key (RFC 8032) whose signature under an order is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

/// Asks a runner for one attempt of a run, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// [`FORMAT_VERSION`] of the build that wrote it.
    pub version: u32,
    /// The run.
    pub run_id: RunId,
    /// From 1.
    pub attempt: u32,
    /// Nominal time of the run.
    pub nominal: Timestamp,
    /// Cause of the attempt.
    pub trigger: Trigger,
    /// By the scheduler's clock.
    pub issued_at: Timestamp,
    /// The attempt must not start before this instant (retries).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// The attempt must not start after this instant: the run is missed then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_by: Option<Timestamp>,
    /// The job as it was at the firing.
    pub job: Job,
}

impl Order {
    /// The key of its job.
    pub fn key(&self) -> JobKey {
        self.job.key()
    }

    /// Runners refuse the order after this instant.
    pub fn expires_at(&self) -> Timestamp {
        let from = self.not_before.map_or(self.issued_at, |not_before| not_before.max(self.issued_at));
        from.checked_add(ORDER_TTL).unwrap_or(Timestamp::MAX)
    }

    /// The key of its run in the stores.
    pub fn run_key(&self) -> RunKey {
        RunKey::new(&self.job.group, self.run_id.clone())
    }
}
