//! Everything that a runner is given: state directory, limits, policy, secrets, sinks and ports.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::order::{Order, PublicKey};
use domain::ports::{Claims, Orders, Reports};
use domain::secret::Secrets;
use keeper::spawn::KeeperCommand;
use rules::Packs;
use sinks::engine::Engine;

pub use crate::admission::Mode;
pub use crate::retention::Retention;

/// A runner counts as dead after several missed heartbeats (`services`). Chosen, not measured.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// How long a shutdown waits for sinks. Chosen: well below the 90 s after which systemd sends KILL.
pub const FLUSH_LIMIT: Duration = Duration::from_secs(15);

pub struct Options {
    /// The state directory; created if absent. One runner at a time may use it.
    pub state: PathBuf,
    pub runner: String,
    pub host: String,
    /// The groups whose orders are taken; empty for all.
    pub groups: Vec<String>,
    pub keeper: KeeperCommand,
    pub mode: Mode,
    /// Variables of the runner's own environment that are passed to jobs.
    pub pass_env: Vec<String>,
    /// Whether jobs get control groups of their own where that is possible.
    pub cgroup: bool,
    pub retention: Retention,
    pub heartbeat_interval: Duration,
    /// The interval while no run is here: no run can be lost or stopped.
    pub idle_heartbeat_interval: Duration,
    pub on_shutdown: OnShutdown,
    pub flush_limit: Duration,
    pub policy: Arc<dyn Policy>,
    pub secrets: Arc<dyn Secrets>,
    pub packs: Arc<Packs>,
    pub sinks: Vec<Engine>,
}

impl Options {
    /// The defaults: all groups, everything at once, no policy, the built-in rules, no sinks.
    pub fn new(state: impl Into<PathBuf>, runner: &str, host: &str, keeper: KeeperCommand) -> Options {
        Options {
            state: state.into(),
            runner: runner.to_owned(),
            host: host.to_owned(),
            groups: Vec::new(),
            keeper,
            mode: Mode::Free,
            pass_env: Vec::new(),
            cgroup: true,
            retention: Retention::default(),
            heartbeat_interval: HEARTBEAT_INTERVAL,
            idle_heartbeat_interval: HEARTBEAT_INTERVAL,
            on_shutdown: OnShutdown::Leave,
            flush_limit: FLUSH_LIMIT,
            policy: Arc::new(AllowAll),
            secrets: Arc::new(crate::secrets::LocalSecrets::default()),
            packs: Arc::new(Packs::builtin()),
            sinks: Vec::new(),
        }
    }
}

#[derive(Clone)]
pub struct Ports {
    pub orders: Arc<dyn Orders>,
    pub claims: Arc<dyn Claims>,
    pub reports: Arc<dyn Reports>,
}

/// What happens to running jobs when the runner stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnShutdown {
    /// Their keepers continue alone; the next runner finds them.
    Leave,
    /// The runner takes no new orders and stays until they have ended.
    Drain,
}

/// Decides which orders may run on this machine.
pub trait Policy: Send + Sync {
    /// Whether this order may be executed here.
    ///
    /// # Errors
    /// Returns one sentence with the reason when it may not.
    fn check_order(&self, order: &Order) -> Result<(), String>;

    /// The keys of which one must have signed an order from a queue; empty where orders need no signature.
    fn order_keys(&self) -> &[PublicKey] {
        &[]
    }
}

/// Allows every order.
pub struct AllowAll;

impl Policy for AllowAll {
    fn check_order(&self, _order: &Order) -> Result<(), String> {
        Ok(())
    }
}
