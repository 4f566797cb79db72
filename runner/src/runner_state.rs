//! The state that the runner's tasks share.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use domain::job::{Job, JobKey};
use domain::ports::PortError;
use domain::run::AttemptKey;
use domain::system_error::plain_text;
use keeper::processes;
use keeper::records::Launch;
use keeper::spawn::{Keeper, KeeperStarter};
use keeper::{SECRET_BYTES_MIN, is_masked};
use rules::{Packs, RuleSet};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::local_run::{LocalRun, lock};
use crate::mailing::MAILS_MAX;
use crate::open_files::{OpenFiles, is_limit};
use crate::options::Options;
use crate::order_store::OrderStore;
use crate::outbox::Outbox;
use crate::required_sinks::RequiredSinks;
use crate::secrets::{Resolved, resolve};
use crate::sink_records::SinkRecords;
use crate::sink_table::SinkTable;
use crate::spool_watch::SpoolWatch;
use crate::start_reserve::StartReserve;

/// Keepers started at the same time. posix_spawn blocks its thread until exec, and more than a few threads gain
/// nothing. Measured on two cores: four threads start 1,000 processes 2.5 times as fast as one; sixteen are no faster.
const SPAWNS_MAX: usize = 4;

/// Orders claimed and stored at the same time, in a mode without an order of starts. Chosen, not measured.
const CLAIMS_MAX: usize = 128;

/// Why no keeper was started.
pub(crate) enum SpawnError {
    /// A reference has no value, now or permanently.
    Secret(PortError),
    /// One sentence.
    Keeper(String),
    /// A limit of this process or machine: the same call can succeed later. One sentence.
    Limit(String),
}

pub(crate) struct RunnerState {
    pub options: Options,
    pub runs_folder: PathBuf,
    pub boot_id: String,
    /// Every attempt that has a directory.
    pub runs: Mutex<BTreeMap<AttemptKey, Arc<LocalRun>>>,
    /// Attempts whose orders are being claimed and stored.
    pub taking: Mutex<BTreeSet<AttemptKey>>,
    pub admission: Mutex<Admission<AttemptKey>>,
    pub open_files: OpenFiles,
    /// No run is admitted any more.
    admission_stopped: AtomicBool,
    /// Notified when admission may have room, or a new order to admit.
    pub admission_changed: Notify,
    pub sinks: SinkTable,
    packs: RwLock<Arc<Packs>>,
    /// Results of the last probes.
    pub required_sinks: RequiredSinks,
    pub watch: SpoolWatch,
    /// Space for starts on a full disk.
    pub start_reserve: StartReserve,
    /// None for an `exec` without a server.
    pub outbox: Option<Outbox>,
    /// Variables that a warning was logged for because their values are not masked.
    unmasked_logged: Mutex<BTreeSet<(JobKey, String)>>,
    keepers: Arc<KeeperStarter>,
    spawn_permits: Semaphore,
    pub order_store: OrderStore,
    pub claim_permits: Arc<Semaphore>,
    pub scan_permits: Semaphore,
    /// Limits how many mails are sent at once.
    pub mail_permits: Semaphore,
    /// The tasks that supervise runs.
    pub supervisors: TaskTracker,
    /// Cancelled when supervising tasks must leave their runs to the keepers.
    pub leave: CancellationToken,
    /// Cancelled after the first heartbeat, with any answer.
    pub first_heartbeat: CancellationToken,
    /// Whether another runner has the name of this one.
    pub is_name_refused: AtomicBool,
    /// Notified when a spool has grown or a run has ended, for readers that follow output.
    pub grown: Notify,
}

impl RunnerState {
    /// Opens the state below the state directory, and starts the sinks. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the directory cannot be created.
    pub(crate) fn new(mut options: Options, outbox: Option<Outbox>, records: SinkRecords) -> io::Result<RunnerState> {
        let runs_folder = options.state.join("runs");
        std::fs::create_dir_all(&runs_folder)?;
        sinks::clock_history::ClockHistory::of_process().keep_in(&options.state);
        let open_files = OpenFiles::new(options.open_files_max);
        let cores = std::thread::available_parallelism().map_or(2, |cores| cores.get());
        let sinks = SinkTable::start(std::mem::take(&mut options.sinks), options.sink_environment.clone(), records);
        sinks.set_complete(options.has_all_sinks);
        Ok(RunnerState {
            runs_folder,
            boot_id: processes::boot_id(),
            runs: Mutex::default(),
            taking: Mutex::default(),
            first_heartbeat: CancellationToken::new(),
            is_name_refused: AtomicBool::new(false),
            admission: Mutex::new(Admission::new(options.mode, open_files.running_max())),
            open_files,
            admission_stopped: AtomicBool::new(false),
            admission_changed: Notify::new(),
            sinks,
            packs: RwLock::new(options.packs.clone()),
            required_sinks: RequiredSinks::default(),
            watch: SpoolWatch::new(),
            start_reserve: StartReserve::new(&options.state),
            outbox,
            unmasked_logged: Mutex::default(),
            keepers: Arc::new(KeeperStarter::forking(options.keeper.clone())),
            spawn_permits: Semaphore::new(SPAWNS_MAX),
            order_store: OrderStore::default(),
            claim_permits: Arc::new(Semaphore::new(CLAIMS_MAX)),
            scan_permits: Semaphore::new(cores),
            mail_permits: Semaphore::new(MAILS_MAX),
            supervisors: TaskTracker::new(),
            leave: CancellationToken::new(),
            grown: Notify::new(),
            options,
        })
    }

    pub(crate) fn run(&self, key: &AttemptKey) -> Option<Arc<LocalRun>> {
        lock(&self.runs).get(key).cloned()
    }

    /// Admits no run from now on.
    pub(crate) fn stop_admission(&self) {
        self.admission_stopped.store(true, Ordering::Release);
    }

    /// Whether runs are still admitted.
    pub(crate) fn admits_runs(&self) -> bool {
        !self.admission_stopped.load(Ordering::Acquire)
    }

    /// Wakes the readers of a run: its spool has grown or it has ended.
    pub(crate) fn wake_readers(&self, run: &LocalRun) {
        self.sinks.wake(run.run_id());
        self.grown.notify_waiters();
    }

    /// Uses these rules from now on, also for the rest of running runs.
    pub(crate) fn set_packs(&self, packs: Arc<Packs>) {
        *self.packs.write().unwrap_or_else(PoisonError::into_inner) = packs;
    }

    /// The compiled rules of a job. An unknown pack is logged and left out. Reads the job's files, so it may block.
    pub(crate) fn rules_of(&self, job: &Job) -> Arc<RuleSet> {
        let packs = self.packs.read().unwrap_or_else(PoisonError::into_inner).clone();
        let interpreters = crate::first_line::read_interpreters(job);
        let chosen = rules::choose_packs_with(&packs, &job.rules, &job.command, &interpreters);
        for error in &chosen.unknown {
            tracing::warn!(%error, job = %job.key(), "unknown rule pack; the job runs with its other packs");
        }
        RuleSet::compile_for(&packs, &chosen).unwrap_or_else(|error| {
            tracing::error!(%error, job = %job.key(), "cannot compile the rules of a job; its output is not matched");
            RuleSet::none()
        })
    }

    /// Starts the keeper. None when one is already alive.
    ///
    /// # Errors
    /// Returns the reason of this failed attempt.
    pub(crate) async fn spawn_keeper(&self, run: &LocalRun) -> Result<Option<Keeper>, SpawnError> {
        let Resolved { env, secret_names } =
            resolve(&*self.options.secrets, &run.job().env).await.map_err(SpawnError::Secret)?;
        self.warn_unmasked_secrets(run.job(), &env, &secret_names);
        let passed = self.options.pass_env.iter().filter_map(|name| Some((name.clone(), std::env::var(name).ok()?)));
        let launch = Launch {
            env,
            secret_names,
            passed: passed.collect(),
            cgroup: self.options.cgroup,
            inherited: self.options.inherited,
            allowed_directories: self.options.policy.allowed_directories(run.job()),
            caller: None,
        };
        let (keepers, directory) = (self.keepers.clone(), run.directory.clone());
        let _turn = self.spawn_permits.acquire().await;
        let spawned = tokio::task::spawn_blocking(move || keepers.spawn(&directory, &launch)).await;
        spawned.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error| {
            let message = format!("cannot start its keeper: {}", plain_text(&error));
            if is_limit(&error) { SpawnError::Limit(message) } else { SpawnError::Keeper(message) }
        })
    }

    /// Logs once for each variable that its value is too short to be masked.
    fn warn_unmasked_secrets(&self, job: &Job, env: &BTreeMap<String, String>, secret_names: &[String]) {
        for name in secret_names.iter().filter(|name| env.get(*name).is_some_and(|value| !is_masked(value))) {
            if lock(&self.unmasked_logged).insert((job.key(), name.clone())) {
                tracing::warn!(
                    job = %job.key(),
                    "the secret {name} is shorter than {SECRET_BYTES_MIN} bytes and is not masked in the job's output"
                );
            }
        }
    }
}
