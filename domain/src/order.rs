//! What the scheduler asks of runners. An order carries the whole job as it was when it fired, so that a runner needs no
//! table to run it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::job::{Job, JobKey};
use crate::run::{RunId, RunKey, Trigger};

/// The version of orders, reports and spools that this build writes. A newer one is refused, an older one is read.
pub const FORMAT_VERSION: u32 = 1;

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

    pub fn run_key(&self) -> RunKey {
        RunKey::new(&self.job.group, self.run_id.clone())
    }
}
