//! The sinks of a runner. An edit of the sinks file ends and replaces only the engines whose configuration has changed,
//! each in a separate task; all others continue. Never two engines deliver for one name at the same time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use domain::run::RunId;
use jiff::Timestamp;
use sinks::config::{SinkConfig, StartFrom};
use sinks::engine::{Engine, Environment, LastFlush};
use sinks::feed::Lag;
use sinks::losses::{LossStore, Losses};
use sinks::status::{SinkState, SinkStatus};
use tokio::task::JoinSet;

use crate::feed::SpoolFeed;
use crate::local_run::{LocalRun, lock};
use crate::removed_sinks::record_removal;
use crate::runner_state::RunnerState;
use crate::sink_records::{ResetError, SinkHistory, SinkRecords, SkippedRuns};

/// The sinks that an edit of the sinks file changed, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkChanges {
    /// New names.
    pub added: Vec<String>,
    /// Names whose configuration changed. An earlier connection may still be draining.
    pub changed: Vec<String>,
    /// Names that are no longer configured.
    pub removed: Vec<String>,
}

/// One name.
struct Slot {
    engine: Arc<Engine>,
    /// Distinguishes the engines of one name.
    generation: u64,
    /// Its present configuration; None when the sink was removed, and delivers what it can.
    wanted: Option<SinkConfig>,
    skipped: SkippedRuns,
    /// A task ends the engine, and replaces it by one with the wanted configuration.
    is_changing: bool,
}

impl Slot {
    fn name(&self) -> &str {
        self.engine.name()
    }

    /// Whether the run is due to the present engine.
    fn is_due(&self, run: &LocalRun) -> bool {
        run.header().is_some_and(|header| self.engine.wants(header)) && self.is_for(run)
    }

    /// Whether the run is due to the present engine or to its successor.
    fn needs(&self, run: &LocalRun) -> bool {
        let job = run.job();
        let wants = |config: &SinkConfig| config.when.wants_job(&job.group, &job.name);
        (wants(self.engine.config()) || self.wanted.as_ref().is_some_and(wants)) && self.is_for(run)
    }

    /// Whether the engine delivers as the configuration wants it.
    fn is_unchanged(&self) -> bool {
        let wanted = self.wanted.as_ref();
        wanted.is_some_and(|wanted| wanted.delivers_as(self.engine.config())) && !self.engine.is_settling()
    }

    /// Whether the sink gets this run, if it wants the job. A new one does not get each run that is kept.
    fn is_for(&self, run: &LocalRun) -> bool {
        let is_skipped = !self.skipped.is_empty() && self.skipped.contains(&run.key());
        let gets_kept = || self.wanted.as_ref().is_some_and(|config| config.start == StartFrom::Kept);
        !is_skipped && (run.is_due_to(self.name()) || gets_kept())
    }

    /// The numbers of its engine, under the present configuration. None for a removed sink.
    fn status(&self) -> Option<SinkStatus> {
        let wanted = self.wanted.as_ref()?;
        let status = self.engine.status();
        let state = match status.state {
            // The successor starts in a moment.
            SinkState::Stopped if self.is_changing => self.engine.last_state(),
            state => state,
        };
        Some(SinkStatus {
            state,
            kind: wanted.kind.name(),
            alert_after_seconds: wanted.alert_after.as_secs_f64(),
            ..status
        })
    }
}

/// All sinks of a runner.
pub(crate) struct SinkTable {
    slots: RwLock<Vec<Slot>>,
    environment: Environment,
    pub records: SinkRecords,
    /// Held while the set of names changes.
    editing: tokio::sync::Mutex<()>,
    generations: AtomicU64,
    /// False where a faulty sinks file has left some out.
    are_complete: AtomicBool,
    /// When the configurations were read.
    read_at: Mutex<Timestamp>,
    /// The runner stops: no engine is started any more.
    has_ended: AtomicBool,
}

impl SinkTable {
    /// Starts the sinks. Must be called inside a tokio runtime.
    pub(crate) fn start(configs: Vec<SinkConfig>, environment: Environment, records: SinkRecords) -> SinkTable {
        let table = SinkTable {
            slots: RwLock::default(),
            environment,
            editing: tokio::sync::Mutex::default(),
            generations: AtomicU64::new(0),
            are_complete: AtomicBool::new(true),
            read_at: Mutex::new(Timestamp::now()),
            has_ended: AtomicBool::new(false),
            records,
        };
        let histories = table.records.introduce(&configs);
        for (config, history) in configs.into_iter().zip(histories) {
            table.write().push(table.new_slot(config, history));
        }
        table
    }

    fn new_slot(&self, config: SinkConfig, history: SinkHistory) -> Slot {
        let SinkHistory { skipped, losses, store } = history;
        let engine = self.start_engine(config.clone(), losses, store);
        Slot { engine, generation: self.next_generation(), wanted: Some(config), skipped, is_changing: false }
    }

    fn start_engine(&self, config: SinkConfig, losses: Losses, store: Option<Box<dyn LossStore>>) -> Arc<Engine> {
        Arc::new(Engine::start_with_losses(config, self.environment.clone(), losses, store))
    }

    fn next_generation(&self) -> u64 {
        self.generations.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Slot>> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes every sink: the run's spool has grown, or the run has ended.
    pub(crate) fn wake(&self, run_id: &RunId) {
        self.read().iter().for_each(|slot| slot.engine.wake(run_id));
    }

    /// Gives the run to every sink that it is due to and that does not have it. The header must be set.
    pub(crate) fn add(&self, run: &Arc<LocalRun>) {
        let Some(header) = run.header() else { return };
        let slots = self.read();
        let mut fed = run.lock_fed_sinks();
        for slot in slots.iter().filter(|slot| slot.is_due(run)) {
            if fed.insert(slot.name().to_owned(), slot.generation) != Some(slot.generation) {
                let feed = SpoolFeed::open(run.clone(), header.clone(), slot.name());
                if !feed.is_done() {
                    slot.engine.add(Box::new(feed));
                }
            }
        }
    }

    /// Forgets the attempt, delivered or not.
    pub(crate) fn remove(&self, run_id: &RunId, attempt: u32) {
        self.read().iter().for_each(|slot| slot.engine.remove(run_id, attempt));
    }

    /// The names of the sinks that read this run, also of those that are being changed or removed.
    pub(crate) fn readers(&self, run: &LocalRun) -> Vec<String> {
        self.read().iter().filter(|slot| slot.needs(run)).map(|slot| slot.name().to_owned()).collect()
    }

    /// The configured names.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.read().iter().filter(|slot| slot.wanted.is_some()).map(|slot| slot.name().to_owned()).collect()
    }

    /// Whether a sink was removed and still delivers what it can.
    pub(crate) fn is_one_leaving(&self) -> bool {
        self.read().iter().any(|slot| slot.wanted.is_none())
    }

    /// State and lag of every configured sink, in the order of the sinks file.
    pub(crate) fn statuses(&self) -> Vec<SinkStatus> {
        self.read().iter().filter_map(Slot::status).collect()
    }

    /// The sinks that lack lines of this run, with their lag.
    pub(crate) fn undelivered(&self, run_id: &RunId) -> Vec<(String, Lag)> {
        let lag = |slot: &Slot| (slot.name().to_owned(), slot.engine.lag_of(run_id));
        let slots = self.read();
        slots.iter().filter(|slot| slot.wanted.is_some()).map(lag).filter(|(_, lag)| lag.lines > 0).collect()
    }

    /// The configurations of the required sinks.
    pub(crate) fn required(&self) -> Vec<SinkConfig> {
        let slots = self.read();
        slots.iter().filter_map(|slot| slot.wanted.as_ref()).filter(|config| config.required).cloned().collect()
    }

    /// The present configuration of a sink.
    pub(crate) fn config(&self, name: &str) -> Option<SinkConfig> {
        self.read().iter().find(|slot| slot.name() == name)?.wanted.clone()
    }

    /// The number of the last failure of a sink that fails at present.
    pub(crate) fn failure(&self, name: &str) -> Option<u64> {
        let slots = self.read();
        slots.iter().find(|slot| slot.name() == name && !slot.is_changing)?.engine.failure_number()
    }

    /// The engine of a sink that fails to deliver its output. One that is being replaced proves nothing about its
    /// successor.
    pub(crate) fn failing(&self, name: &str) -> Option<Arc<Engine>> {
        let is_searched = |slot: &&Slot| slot.name() == name && !slot.is_changing;
        let engine = self.read().iter().find(is_searched)?.engine.clone();
        engine.failure().map(|_| engine)
    }

    /// Sets the counters of one sink, or of all, to 0. Returns each name with the counters before.
    ///
    /// # Errors
    /// [`ResetError`]
    pub(crate) fn reset_losses(&self, name: Option<&str>) -> Result<Vec<(String, Losses)>, ResetError> {
        let is_chosen = |known: &str| name.is_none_or(|name| name == known);
        let mut reset = Vec::new();
        let engines: Vec<Arc<Engine>> = self.read().iter().map(|slot| slot.engine.clone()).collect();
        for engine in engines.iter().filter(|engine| is_chosen(engine.name())) {
            reset.push((engine.name().to_owned(), engine.reset_losses().map_err(ResetError::Io)?));
        }
        let is_here = |known: &str| engines.iter().any(|engine| engine.name() == known);
        let records = self.records.list();
        for record in records.iter().filter(|record| is_chosen(&record.name) && !is_here(&record.name)) {
            reset.push((record.name.clone(), self.records.reset_losses(&record.name).map_err(ResetError::Io)?));
            self.records.end_removal(&record.name);
        }
        match name {
            Some(name) if reset.is_empty() => {
                let known: BTreeSet<String> =
                    self.names().into_iter().chain(records.into_iter().map(|record| record.name)).collect();
                Err(ResetError::Unknown { name: name.to_owned(), known: known.into_iter().collect() })
            }
            _ => Ok(reset),
        }
    }

    /// Flushes all sinks, waits up to the limit for each that works, and stops them.
    pub(crate) async fn end(&self, limit: Duration) {
        self.has_ended.store(true, Ordering::Release);
        let engines: Vec<Arc<Engine>> = self.read().iter().map(|slot| slot.engine.clone()).collect();
        let mut ending = JoinSet::new();
        for engine in engines {
            ending.spawn(async move {
                let flushed = engine.flush_while_working(limit).await;
                engine.shutdown().await;
                log_undelivered(&engine, &flushed);
            });
        }
        while ending.join_next().await.is_some() {}
        self.write().clear();
    }

    /// Notes the wanted configurations. Returns the changes, and the names whose engines must be ended.
    fn note_wanted(&self, configs: &[SinkConfig], new: Vec<SinkHistory>) -> (SinkChanges, Vec<String>) {
        let mut slots = self.write();
        let (mut changes, mut ending) = (SinkChanges::default(), Vec::new());
        let mut new = new.into_iter();
        for slot in slots.iter_mut() {
            let wanted = configs.iter().find(|config| config.name == slot.name());
            match (&slot.wanted, wanted) {
                (Some(before), Some(wanted)) if wanted == before => {}
                (Some(_), Some(_)) => changes.changed.push(slot.name().to_owned()),
                (None, Some(_)) => changes.added.push(slot.name().to_owned()),
                (Some(_), None) => changes.removed.push(slot.name().to_owned()),
                (None, None) => {}
            }
            slot.wanted = wanted.cloned();
            if slot.is_unchanged() {
                continue;
            }
            if wanted.is_some() {
                // Also ends the wait for the delivery of a sink that was removed and is back with another content.
                slot.engine.begin_settling();
            }
            if !std::mem::replace(&mut slot.is_changing, true) {
                ending.push(slot.name().to_owned());
            }
        }
        for config in configs {
            if !slots.iter().any(|slot| slot.name() == config.name)
                && let Some(history) = new.next()
            {
                changes.added.push(config.name.clone());
                slots.push(self.new_slot(config.clone(), history));
            }
        }
        let place = |slot: &Slot| configs.iter().position(|config| config.name == slot.name());
        slots.sort_by_key(|slot| place(slot).unwrap_or(usize::MAX));
        (changes, ending)
    }

    /// The engine that a task ends, and whether its sink was removed.
    fn ending(&self, name: &str) -> Option<(Arc<Engine>, bool)> {
        let slots = self.read();
        slots.iter().find(|slot| slot.name() == name).map(|slot| (slot.engine.clone(), slot.wanted.is_none()))
    }

    /// Whether the engine can go on after all: its sink was removed and is back unchanged.
    fn is_unchanged(&self, name: &str) -> bool {
        self.read().iter().find(|slot| slot.name() == name).is_some_and(Slot::is_unchanged)
    }

    /// Lets the engine go on if it can.
    fn keep_engine(&self, name: &str) -> bool {
        let mut slots = self.write();
        let slot = slots.iter_mut().find(|slot| slot.name() == name && slot.is_unchanged());
        slot.map(|slot| slot.is_changing = false).is_some()
    }

    /// Whether an absent sink is one that was removed.
    pub(crate) fn are_complete(&self) -> bool {
        self.are_complete.load(Ordering::Acquire)
    }

    /// Notes whether a faulty sinks file has left sinks out.
    pub(crate) fn set_complete(&self, are_complete: bool) {
        self.are_complete.store(are_complete, Ordering::Release);
    }

    /// When the configurations were read, at the latest.
    pub(crate) fn read_at(&self) -> Timestamp {
        *lock(&self.read_at)
    }

    /// Notes when the configurations were read.
    pub(crate) fn set_read_at(&self, at: Timestamp) {
        *lock(&self.read_at) = at;
    }

    /// Waits until no other task changes the set of names.
    pub(crate) async fn wait_for_edits(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.editing.lock().await
    }

    /// Waits until no other task changes the set of names. Blocking.
    pub(crate) fn lock_editing(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.editing.blocking_lock()
    }

    /// Replaces an engine that has ended. Returns its configuration when the sink was removed.
    fn replace_engine(&self, name: &str) -> Option<(SinkConfig, SkippedRuns)> {
        let mut slots = self.write();
        let index = slots.iter().position(|slot| slot.name() == name)?;
        let slot = &mut slots[index];
        let Some(config) = slot.wanted.clone() else {
            let slot = slots.remove(index);
            return Some((slot.engine.config().clone(), slot.skipped));
        };
        let (losses, store) = slot.engine.take_losses();
        slot.engine = self.start_engine(config, losses, store);
        slot.generation = self.next_generation();
        slot.is_changing = false;
        None
    }
}

/// Logs how many lines of an ended sink wait for the next start.
fn log_undelivered(engine: &Engine, flushed: &LastFlush) {
    let status = engine.status();
    let (sink, lines) = (engine.name(), status.lag_lines + status.unconfirmed_lines);
    match flushed {
        LastFlush::Failing(error) => {
            tracing::warn!(sink, lines, error, "stopped while the sink fails; its lines wait for the next start");
        }
        LastFlush::TimedOut if lines > 0 => {
            tracing::warn!(sink, lines, "stopped before the sink confirmed every line; the next start sends the rest");
        }
        LastFlush::TimedOut | LastFlush::Done => {}
    }
}

/// Uses these sinks from now on. Returns at once: a changed sink reads nothing more, waits until what it has sent is
/// confirmed, and continues with its new configuration from its cursor; a removed one delivers what it can.
pub(crate) async fn set_sinks(shared: &Arc<RunnerState>, configs: Vec<SinkConfig>) -> SinkChanges {
    let editing = shared.sinks.editing.lock().await;
    if shared.sinks.has_ended.load(Ordering::Acquire) {
        return SinkChanges::default();
    }
    shared.sinks.set_complete(true);
    shared.sinks.set_read_at(Timestamp::now());
    let task_state = shared.clone();
    let noted = tokio::task::spawn_blocking(move || {
        let table = &task_state.sinks;
        let here: BTreeSet<String> = table.read().iter().map(|slot| slot.name().to_owned()).collect();
        let (known, new): (Vec<SinkConfig>, Vec<SinkConfig>) =
            configs.iter().cloned().partition(|config| here.contains(&config.name));
        // Only records a changed `when` and the end of a removal.
        drop(table.records.introduce(&known));
        let noted = table.note_wanted(&configs, table.records.introduce(&new));
        add_all(&task_state);
        noted
    });
    let (changes, ending) = noted.await.unwrap_or_else(|error| {
        tracing::error!(%error, "changing the sinks failed; the sinks before stay");
        Default::default()
    });
    drop(editing);
    for name in ending {
        tokio::spawn(exchange(shared.clone(), name));
    }
    changes
}

/// Gives every run to the sinks that are due to get it. Blocking.
fn add_all(shared: &RunnerState) {
    let runs: Vec<Arc<LocalRun>> = lock(&shared.runs).values().cloned().collect();
    runs.iter().for_each(|run| shared.sinks.add(run));
}

/// Waits until what the engine has sent is confirmed, unless it goes on after all. Returns whether it was in time.
async fn engine_settles(table: &SinkTable, name: &str, engine: &Engine, limit: Duration) -> bool {
    table.is_unchanged(name) || engine.settle(limit).await
}

/// Ends the engine of a sink that was changed or removed, and starts its successor.
async fn exchange(shared: Arc<RunnerState>, name: String) {
    let (table, limit) = (&shared.sinks, shared.options.flush_limit);
    let Some((engine, is_removed)) = table.ending(&name) else { return };
    // A removed sink that fails delivers nothing more: it keeps the lines, and an alert reports them.
    let is_flushed = is_removed && !engine.is_failing() && engine.flush_while_working(limit).await == LastFlush::Done;
    let in_time = is_flushed || engine_settles(table, &name, &engine, limit).await;
    if table.keep_engine(&name) {
        return;
    }
    engine.shutdown().await;
    if !in_time && !is_removed {
        tracing::warn!(sink = name, "the connection before the change confirmed not all lines; they are sent again");
    }
    let _editing = table.editing.lock().await;
    if table.has_ended.load(Ordering::Acquire) {
        return;
    }
    let task_state = shared.clone();
    let replaced = tokio::task::spawn_blocking(move || match task_state.sinks.replace_engine(&name) {
        Some((config, skipped)) => record_removal(&task_state, &config, &skipped),
        None => {
            tracing::info!(sink = name, "the new configuration of the sink is in use");
            add_all(&task_state);
        }
    });
    if let Err(error) = replaced.await {
        tracing::error!(%error, "replacing a sink failed; the next start uses its configuration");
    }
}
