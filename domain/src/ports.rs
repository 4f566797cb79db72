//! The ports: stores and queues that a backend implements. The suite `backends/contract` tests every promise made here;
//! a backend is complete when the suite passes.

mod stores;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::event::Event;
use crate::order::Order;
use crate::run::{RunId, RunKey};
use crate::system_error::without_numbers;
pub use stores::{
    AlertStep, AlertStore, Cursor, Due, DueIndex, JobStore, JobWrite, Notifier, Page, Quarantined, RunFilter, RunQuery,
    RunStore, RunWrite, Settings, StateChange, Stored, StoredJob, WriteResult,
};

/// A failed call of a port, as one sentence for operators. The adapter decides whether a retry can help.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The same call may work later: busy, throttled, unreachable.
    #[error("{}", without_numbers(.0))]
    Retry(String),
    /// The same call will never work.
    #[error("{}", without_numbers(.0))]
    Permanent(String),
}

/// The result of a call of a port.
pub type PortResult<T> = Result<T, PortError>;

/// A received message and its receipt. It is redelivered when its lease ends before it is deleted.
#[derive(Clone, Debug)]
pub struct Delivery<T> {
    /// The decoded message.
    pub message: T,
    /// Opaque; deletes the message.
    pub receipt: String,
}

/// What became of an order that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendResult {
    /// It will be delivered.
    Sent,
    /// A later send can succeed: a timeout, a throttle. With the error.
    Retry(String),
    /// Refused until an operator changes something: a missing permission. One sentence with the remedy.
    Denied(String),
    /// No later send of this order can succeed: its group has no queue or cannot have one, or it is too large. One
    /// sentence with the remedy.
    Never(String),
}

/// The queue of orders. Delivers at least once, in any order: the claim decides which runner gets the attempt.
#[async_trait]
pub trait Orders: Send + Sync {
    /// Sends orders; results are in their order, and one that cannot be sent stops no other. After an error some may
    /// have been sent; resending is harmless. An order with `not_before` is not received before that instant.
    async fn send(&self, orders: &[Order]) -> PortResult<Vec<SendResult>>;
    /// Returns up to `most` orders of `groups` (empty: all groups), leased for `lease`; waits up to `wait` for the
    /// first.
    async fn receive(
        &self,
        groups: &[String],
        most: usize,
        lease: Duration,
        wait: Duration,
    ) -> PortResult<Vec<Delivery<Order>>>;
    /// Deletes a delivered order. Idempotent.
    async fn delete(&self, receipt: &str) -> PortResult<()>;
}

/// The result of claiming an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The attempt belongs to the caller, by this call or an earlier one.
    Granted,
    /// Another runner has the attempt, the run has ended, or a newer attempt exists: drop the order.
    Refused,
}

/// A runner that claims.
#[derive(Clone, Copy, Debug)]
pub struct Claimant<'c> {
    /// Its name.
    pub runner: &'c str,
    /// Its host name.
    pub host: &'c str,
    /// Its own random id; `None` for an older build.
    pub id: Option<&'c str>,
}

impl<'c> Claimant<'c> {
    /// A runner of an older build, which has no id.
    pub fn new(runner: &'c str, host: &'c str) -> Claimant<'c> {
        Claimant { runner, host, id: None }
    }
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq)]
pub enum HeartbeatAnswer {
    /// This runner's runs with a stop request.
    Stops(Vec<RunId>),
    /// Another runner with the same name and another id is alive; nothing was stored.
    NameInUse(NameInUse),
}

impl HeartbeatAnswer {
    /// The runs with a stop request; none for a refused heartbeat.
    pub fn stops(self) -> Vec<RunId> {
        match self {
            HeartbeatAnswer::Stops(stops) => stops,
            HeartbeatAnswer::NameInUse(_) => Vec::new(),
        }
    }
}

/// The runner that has the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameInUse {
    /// Its host name.
    pub host: String,
    /// Its last heartbeat, by its own clock.
    pub last_heartbeat: Timestamp,
}

/// Claims and heartbeats of runners.
#[async_trait]
pub trait Claims: Send + Sync {
    /// Claims a run's `attempt` for a runner if the run is still scheduled with that attempt. Idempotent per runner: by
    /// name and id, or by name alone where one of the two claims has no id.
    async fn claim(&self, run: &RunKey, attempt: u32, by: Claimant<'_>, at: Timestamp) -> PortResult<Claim>;
    /// Stores the heartbeat, unless a later one is stored already ([`HEARTBEAT_REORDER_MAX`]), or another runner has
    /// the name ([`Heartbeat::has_rival`]).
    async fn heartbeat(&self, beat: &Heartbeat) -> PortResult<HeartbeatAnswer>;
}

/// A runner keeps its name for this time after its last heartbeat; then another one may take it, such as the same
/// machine with a new disk. The time after which a run is `lost`.
pub const NAME_HELD: Duration = Duration::from_secs(90);

/// A heartbeat older than the stored one by at most this was delayed and is dropped. A larger difference means that the
/// runner's clock was set back, and the heartbeat is stored. Chosen: two intervals of heartbeats.
pub const HEARTBEAT_REORDER_MAX: Duration = Duration::from_secs(60);

/// "This runner is alive", as JSON. Sent periodically.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Heartbeat {
    /// Name of the runner, unique in an installation.
    pub runner: String,
    /// Host name.
    pub host: String,
    /// The groups whose orders it takes; empty: all.
    pub groups: Vec<String>,
    /// By the runner's clock.
    pub at: Timestamp,
    /// The runner's own random id, which its state directory keeps; absent from an older build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Attempts that it runs now.
    pub running: u32,
    /// Version of the runner's build.
    pub version: String,
    /// Why the runner starts nothing now: a required sink that it cannot reach, or runs that take all of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// Ids of the keys whose orders it accepts; empty if it verifies no order. Absent from an older build, and where
    /// orders are not signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_keys: Option<Vec<String>>,
}

impl Heartbeat {
    /// Whether the stored heartbeat is that of another runner with the same name that is alive. One without an id, of
    /// an older build, is accepted by its name.
    pub fn has_rival(&self, stored: &Heartbeat) -> Option<NameInUse> {
        let differs = matches!((&self.id, &stored.id), (Some(own), Some(other)) if own != other);
        let is_alive = self.at.duration_since(stored.at).unsigned_abs() < NAME_HELD;
        let rival = || NameInUse { host: stored.host.clone(), last_heartbeat: stored.at };
        (differs && is_alive).then(rival)
    }
}

/// The queue of reports. Delivers at least once, in any order.
#[async_trait]
pub trait Reports: Send + Sync {
    /// Returns when the reports are stored durably; resending is harmless.
    async fn send(&self, events: &[Event]) -> PortResult<()>;
    /// Returns up to `most` reports, leased for `lease`; waits up to `wait` for the first. The adapter quarantines and
    /// counts an unreadable message; it never returns one and never stops at one.
    async fn receive(&self, most: usize, lease: Duration, wait: Duration) -> PortResult<Vec<Delivery<Event>>>;
    /// Deletes delivered reports. Idempotent.
    async fn delete(&self, receipts: &[String]) -> PortResult<()>;
}

/// All ports of one backend. Cheap to clone.
#[derive(Clone)]
pub struct Ports {
    /// Jobs.
    pub jobs: Arc<dyn JobStore>,
    /// Due entries.
    pub due: Arc<dyn DueIndex>,
    /// Runs.
    pub runs: Arc<dyn RunStore>,
    /// Alert states of jobs, and transitions.
    pub alerts: Arc<dyn AlertStore>,
    /// Settings, stored heartbeats, and the list of quarantined records.
    pub settings: Arc<dyn Settings>,
    /// Orders to runners.
    pub orders: Arc<dyn Orders>,
    /// Claims and heartbeats from runners.
    pub claims: Arc<dyn Claims>,
    /// Whether `max_open` of a job is enforced: counting open runs costs a read for each firing.
    pub enforces_max_open: bool,
    /// Reports from runners.
    pub reports: Arc<dyn Reports>,
}
