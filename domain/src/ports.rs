//! What the system needs from the world. One suite (`backends/contract`) tells what each port owes; an adapter is done
//! when the suite passes.

mod stores;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::event::Event;
use crate::order::Order;
use crate::run::{RunId, RunKey};
pub use stores::{
    AlertStep, AlertStore, Cursor, Due, DueIndex, JobStore, Notifier, Page, Quarantined, RunFilter, RunQuery, RunStore,
    RunWrite, Settings, StateChange, Stored, StoredJob, WriteResult,
};

/// What a port could not do. Decided where the fault is born.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Try again later: busy, throttled, unreachable.
    #[error("{0}")]
    Retry(String),
    /// The same call will never work.
    #[error("{0}")]
    Permanent(String),
}

pub type PortResult<T> = Result<T, PortError>;

/// A message with the means to delete it. Until then it comes again after its lease.
#[derive(Clone, Debug)]
pub struct Delivery<T> {
    pub message: T,
    pub receipt: String,
}

/// Orders on their way to runners. At least once, in no promised order: the claim decides.
#[async_trait]
pub trait Orders: Send + Sync {
    /// Accepts all or says which call failed; sending one twice is harmless. An order with `not_before` is not received
    /// before that instant.
    async fn send(&self, orders: &[Order]) -> PortResult<()>;
    /// Up to `most` orders of `groups` (empty: all), leased for `lease`; waits up to `wait` for the first.
    async fn receive(
        &self,
        groups: &[String],
        most: usize,
        lease: Duration,
        wait: Duration,
    ) -> PortResult<Vec<Delivery<Order>>>;
    /// Idempotent.
    async fn delete(&self, receipt: &str) -> PortResult<()>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is the caller's, now or since an earlier call.
    Granted,
    /// Another runner has it, or it is over, or a newer attempt exists: drop the order.
    Refused,
}

/// Who runs what, and who is alive.
#[async_trait]
pub trait Claims: Send + Sync {
    /// Takes a run's `attempt` for `runner` if the run is still scheduled with that attempt. Idempotent per runner.
    async fn claim(&self, run: &RunKey, attempt: u32, runner: &str, host: &str, at: Timestamp) -> PortResult<Claim>;
    /// Says that `beat.runner` lives, unless it was overtaken on its way ([`HEARTBEAT_REORDER_MAX`]), and returns the runs of this runner that somebody asked to stop.
    async fn heartbeat(&self, beat: &Heartbeat) -> PortResult<Vec<RunId>>;
}

/// A beat that is older than the stored one by no more than this was overtaken on its way and is dropped. By more, the
/// runner's clock was set back, and it is the latest. Ours: two beats.
pub const HEARTBEAT_REORDER_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Heartbeat {
    pub runner: String,
    pub host: String,
    pub groups: Vec<String>,
    pub at: Timestamp,
    pub running: u32,
    pub version: String,
    /// Why the runner starts nothing now: a required sink that it cannot reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
}

/// Reports on their way to the collector. At least once, in any order.
#[async_trait]
pub trait Reports: Send + Sync {
    /// Returns once the reports are stored durably; sending one twice is harmless.
    async fn send(&self, events: &[Event]) -> PortResult<()>;
    /// Up to `most` reports, leased for `lease`; waits up to `wait` for the first. A record that cannot be read is parked
    /// by the adapter and counted, never returned and never in the way.
    async fn receive(&self, most: usize, lease: Duration, wait: Duration) -> PortResult<Vec<Delivery<Event>>>;
    /// Idempotent.
    async fn delete(&self, receipts: &[String]) -> PortResult<()>;
}

/// All ports of one backend. Cheap to clone.
#[derive(Clone)]
pub struct Ports {
    pub jobs: Arc<dyn JobStore>,
    pub due: Arc<dyn DueIndex>,
    pub runs: Arc<dyn RunStore>,
    pub alerts: Arc<dyn AlertStore>,
    pub settings: Arc<dyn Settings>,
    pub orders: Arc<dyn Orders>,
    pub claims: Arc<dyn Claims>,
    pub reports: Arc<dyn Reports>,
}
