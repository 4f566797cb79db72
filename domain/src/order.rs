//! What the scheduler asks of runners. An order carries the whole job as it was when it fired, so that a runner needs no
//! table to run it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::job::{Job, JobKey};
use crate::run::{RunId, RunKey, Trigger};

/// The version of orders, reports and spools that this build writes. A newer one is refused, an older one is read.
pub const FORMAT_VERSION: u32 = 1;

/// How long an order holds after it was issued, or after the instant before which it must not begin. As long as SQS keeps a
/// message that nobody takes (MessageRetentionPeriod, 4 days unless told otherwise). The scheduler issues it anew while
/// its run waits.
pub const ORDER_TTL: Duration = Duration::from_secs(4 * 86_400);

/// Whose signature under an order is accepted: an Ed25519 key (RFC 8032).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub version: u32,
    pub run_id: RunId,
    pub attempt: u32,
    pub nominal: Timestamp,
    pub trigger: Trigger,
    pub issued_at: Timestamp,
    /// The attempt must not begin before this instant (retries).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Not to be started after this instant: the run is missed by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_by: Option<Timestamp>,
    pub job: Job,
}

impl Order {
    pub fn key(&self) -> JobKey {
        self.job.key()
    }

    /// From here on nobody executes it, whoever sends it.
    pub fn expires_at(&self) -> Timestamp {
        let from = self.not_before.map_or(self.issued_at, |not_before| not_before.max(self.issued_at));
        from.checked_add(ORDER_TTL).unwrap_or(Timestamp::MAX)
    }

    pub fn run_key(&self) -> RunKey {
        RunKey::new(&self.job.group, self.run_id.clone())
    }
}
