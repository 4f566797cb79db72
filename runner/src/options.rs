//! Everything that a runner is given: state directory, limits, policy, secrets, sinks and ports.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::job::Job;
use domain::mailto::Mailer;
use domain::order::{Order, PublicKey};
use domain::ports::{Claims, Orders, Reports};
use domain::secret::Secrets;
use keeper::records::{AllowedDirectories, Inherited};
use keeper::spawn::KeeperCommand;
use rules::Packs;
use sinks::config::SinkConfig;
use sinks::engine::Environment;

pub use crate::admission::Mode;
pub use crate::retention::Retention;

/// A runner counts as dead after several missed heartbeats (`services`). Chosen, not measured.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// How long a shutdown waits for sinks. Chosen: well below the 90 s after which systemd sends KILL.
pub const FLUSH_LIMIT: Duration = Duration::from_secs(15);

/// The part of [`Options::shutdown_max`] in which runs are killed, judged and reported. Chosen: judging and storing the
/// end of a run takes a few ms.
pub const SHUTDOWN_REPORT_TIME: Duration = Duration::from_millis(700);

/// The configuration of a runner.
pub struct Options {
    /// The state directory; created if absent. One runner at a time may use it.
    pub state: PathBuf,
    /// Name of this runner.
    pub runner: String,
    /// Name of this machine, for reports and sinks.
    pub host: String,
    /// The random id of this runner. [`crate::Runner`] reads it from the state directory.
    pub id: Option<String>,
    /// The groups whose orders are taken; empty for all.
    pub groups: Vec<String>,
    /// The program that becomes a keeper.
    pub keeper: KeeperCommand,
    /// How many runs may be active at once.
    pub mode: Mode,
    /// Variables of the runner's own environment that are passed to jobs.
    pub pass_env: Vec<String>,
    /// Whether each job gets a separate control group where that is possible.
    pub cgroup: bool,
    /// The limit of open files of this process; absent where it is no limit.
    pub open_files_max: Option<u64>,
    /// What jobs get instead of this process's own settings.
    pub inherited: Inherited,
    /// What is kept of finished runs.
    pub retention: Retention,
    /// The interval while a run is here.
    pub heartbeat_interval: Duration,
    /// The interval while no run is here: no run can be lost or stopped.
    pub idle_heartbeat_interval: Duration,
    /// What happens to running jobs.
    pub on_shutdown: OnShutdown,
    /// The longest time of a shutdown with [`OnShutdown::Stop`]. Jobs have the kill grace that leaves
    /// [`SHUTDOWN_REPORT_TIME`] of it. None: the kill grace of each job, then the flush limit.
    pub shutdown_max: Option<Duration>,
    /// How long a shutdown waits for sinks and reports.
    pub flush_limit: Duration,
    /// Ids of the keys whose orders are accepted, for heartbeats; `None` where orders are not signed.
    pub order_keys: Option<Vec<String>>,
    /// Checked for every order before its start.
    pub policy: Arc<dyn Policy>,
    /// Resolves references in a job's environment.
    pub secrets: Arc<dyn Secrets>,
    /// The rule packs.
    pub packs: Arc<Packs>,
    /// The sinks.
    pub sinks: Vec<SinkConfig>,
    /// False where a faulty sinks file leaves some out: an absent sink then does not count as removed.
    pub has_all_sinks: bool,
    /// The sinks of an older build, which stored none: they are not new.
    pub known_sinks: BTreeSet<String>,
    /// Clock, random numbers and receiver of events of the sinks.
    pub sink_environment: Environment,
    /// Distinguishes the source of the sinks from others, for calls of `exec` whose sinks file was faulty.
    pub sinks_key: Option<String>,
    /// Sends the output of jobs with a MAILTO; `None` sends nothing.
    pub mailer: Option<Arc<dyn Mailer>>,
}

impl Options {
    /// The defaults: all groups, everything at once, no policy, the built-in rules, no sinks.
    pub fn new(state: impl Into<PathBuf>, runner: &str, host: &str, keeper: KeeperCommand) -> Options {
        Options {
            state: state.into(),
            runner: runner.to_owned(),
            host: host.to_owned(),
            id: None,
            groups: Vec::new(),
            keeper,
            mode: Mode::Free,
            pass_env: Vec::new(),
            cgroup: true,
            open_files_max: None,
            inherited: Inherited::default(),
            retention: Retention::default(),
            heartbeat_interval: HEARTBEAT_INTERVAL,
            idle_heartbeat_interval: HEARTBEAT_INTERVAL,
            on_shutdown: OnShutdown::Leave,
            shutdown_max: None,
            flush_limit: FLUSH_LIMIT,
            order_keys: None,
            policy: Arc::new(AllowAll),
            secrets: Arc::new(crate::secrets::LocalSecrets::default()),
            packs: Arc::new(Packs::builtin()),
            sinks: Vec::new(),
            has_all_sinks: true,
            known_sinks: BTreeSet::new(),
            sink_environment: Environment::real(tokio::sync::mpsc::channel(1).0),
            sinks_key: None,
            mailer: None,
        }
    }
}

/// What a runner calls.
#[derive(Clone)]
pub struct Ports {
    /// Where orders come from.
    pub orders: Arc<dyn Orders>,
    /// Claims and heartbeats.
    pub claims: Arc<dyn Claims>,
    /// Where reports go.
    pub reports: Arc<dyn Reports>,
}

/// What happens to running jobs when the runner stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnShutdown {
    /// Their keepers continue alone; the next runner finds them.
    Leave,
    /// The runner takes no new orders and stays until they have ended.
    Drain,
    /// The runner takes no new orders, stops them, and reports their end.
    Stop,
}

/// Decides which orders may run on this machine.
pub trait Policy: Send + Sync {
    /// Whether this order may be executed here.
    ///
    /// # Errors
    /// Returns one sentence with the reason when it may not.
    fn check_order(&self, order: &Order) -> Result<(), String>;

    /// Where the job may start; None where any directory is allowed. The keeper checks it when it has entered the
    /// directory.
    fn allowed_directories(&self, _job: &Job) -> Option<AllowedDirectories> {
        None
    }

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
