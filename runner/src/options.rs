//! What a runner is given: where it keeps things, how it admits, and who it asks.

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

/// The ledger takes a runner for dead after several of these. Ours.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// How long shutting down waits for sinks. Ours; inside systemd's 90 s until KILL.
pub const FLUSH_LIMIT: Duration = Duration::from_secs(15);

pub struct Options {
    /// Made if absent. One runner at a time may use it.
    pub state: PathBuf,
    pub runner: String,
    pub host: String,
    /// Whose orders are taken; empty for all.
    pub groups: Vec<String>,
    pub keeper: KeeperCommand,
    pub mode: Mode,
    /// Names of the runner's own environment that jobs see.
    pub pass_env: Vec<String>,
    /// Whether jobs get a control group of their own where that is possible.
    pub cgroup: bool,
    pub retention: Retention,
    pub heartbeat_interval: Duration,
    /// The same while nothing runs here: nobody can be lost, and nothing can be stopped.
    pub idle_heartbeat_interval: Duration,
    pub on_shutdown: OnShutdown,
    pub flush_limit: Duration,
    pub policy: Arc<dyn Policy>,
    pub secrets: Arc<dyn Secrets>,
    pub packs: Arc<Packs>,
    pub sinks: Vec<Engine>,
}

impl Options {
    /// Every default: all groups, everything at once, no policy, the built-in rules, no sinks.
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

/// What becomes of running jobs when the runner is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnShutdown {
    /// Their keepers go on alone; the next runner finds them.
    Leave,
    /// Nothing new is taken, and the runner stays until they have ended.
    Drain,
}

/// The machine's last word on what is run on it.
pub trait Policy: Send + Sync {
    /// # Errors
    /// One sentence: why this order is not executed here.
    fn check_order(&self, order: &Order) -> Result<(), String>;

    /// Whose signature an order from a queue must bear; none where orders need not be signed.
    fn order_keys(&self) -> &[PublicKey] {
        &[]
    }
}

/// No policy.
pub struct AllowAll;

impl Policy for AllowAll {
    fn check_order(&self, _order: &Order) -> Result<(), String> {
        Ok(())
    }
}
