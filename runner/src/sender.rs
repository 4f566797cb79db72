//! The process that judges and delivers the run of one `sexton exec`. It is detached from the caller: it continues
//! after the command has ended, until the sinks have confirmed every line.
//!
//! A command that runs for longer than [`LIVE_DELAY`] is sent while it runs, by its own sender. After the end of a
//! shorter one, one sender at a time delivers the output of all, so that many short calls cost one connection. What no
//! sender could deliver stays on disk for the next call, or for an `up` with the same state directory.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::line::Stage;
use domain::ports::Reports;
use jiff::Timestamp;
use keeper::directory::{Durability, RunDirectory, create_marker, open_private, write_json};
use keeper::records::{Refusal, RefusalKind};
use rustix::fs::{FlockOperation, flock};
use sinks::config::SinkConfig;
use sinks::engine::Environment;
use sinks::feed::FinishedRecord;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::adopt::{SINKS_KEY_FILE, WAITING_FILE, adopt_abandoned, adopt_readded, is_abandoned, quarantine_refused};
use crate::due_sinks::{DueSinks, NAMES_FILE};
use crate::exec::EXEC_FOLDER;
use crate::feed::read_cursor;
use crate::kept::{REMOVED_FILE, keep, sweep_kept};
use crate::local_run::{LocalRun, lock};
use crate::options::Options;
use crate::outbox::{Outbox, OutboxTasks};
use crate::recover::resume_run;
use crate::removed_sinks::lacked_lines;
use crate::runner::{send_reports, serve_watch};
use crate::runner_state::RunnerState;
use crate::shutdown::flush;
use crate::sink_records::SinkRecords;
use crate::sink_table::set_sinks;
use crate::state_lock::RunnerError;
use crate::supervise::{refuse, supervise};

/// How long a command runs before its sender connects to the sinks. Chosen: longer than most commands, shorter than an
/// operator waits for the first line.
pub const LIVE_DELAY: Duration = Duration::from_secs(2);

/// How long a sender continues after the last run that it delivers has ended. Chosen: a receiver that restarts is back
/// by then; what is left is for the next call.
const SEND_TIME_MAX: Duration = Duration::from_secs(600);

/// Poll interval of cursors, outbox and abandoned calls. Chosen, not measured.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The sinks of a call, and how they start.
pub struct CallSinks {
    /// Their configurations.
    pub configs: Vec<SinkConfig>,
    /// For the engines.
    pub environment: Environment,
    /// Whether these are all sinks of the call. Without, a file was faulty, and the output is kept for a later call.
    pub are_complete: bool,
    /// Distinguishes senders with other sinks, which do not deliver for each other. A legal file name.
    pub key: String,
    /// The sinks file; None for the default sink.
    pub file: Option<PathBuf>,
    /// When the file was read.
    pub read_at: Timestamp,
    /// Returns the sinks of the file when they have changed since the last call and have no fault.
    pub reload: Reload,
}

/// See [`CallSinks::reload`].
pub type Reload = Box<dyn FnMut() -> Option<Vec<SinkConfig>> + Send>;

/// What every step of a sender needs.
struct Sender {
    shared: Arc<RunnerState>,
    /// The runner's directory.
    folder: PathBuf,
    /// The state of this call.
    state: PathBuf,
    sinks_complete: bool,
    sinks_file: Option<PathBuf>,
    lock_file: PathBuf,
}

/// Judges and delivers the run of a call. `options.state` is its directory, and `in_use` the lock on it. Calls `judged`
/// once, when the caller can exit. INT and TERM end the delivery early.
///
/// # Errors
/// When the state directory cannot be used.
pub async fn send(
    mut options: Options,
    sinks: CallSinks,
    reports: Option<Arc<dyn Reports>>,
    in_use: File,
    judged: impl FnOnce(&FinishedRecord),
) -> Result<(), RunnerError> {
    let state = options.state.clone();
    let failed = |error: io::Error| RunnerError::State(state.clone(), error);
    options.state = fs::canonicalize(&state).map_err(failed)?;
    let state = options.state.clone();
    let failed = |error: io::Error| RunnerError::State(state.clone(), error);
    let folder = state.parent().and_then(Path::parent).unwrap_or(&state).to_owned();
    if !sinks.are_complete
        && let Err(error) = fs::write(state.join(SINKS_KEY_FILE), &sinks.key)
    {
        tracing::debug!(%error, "cannot store the key of the sinks");
    }
    options.sinks_key = Some(sinks.key.clone());
    options.sink_environment = sinks.environment;
    let stop_sending = CancellationToken::new();
    let (outbox, sending) = open_outbox(&options, reports, &stop_sending).map_err(failed)?;
    let sender = Sender {
        shared: Arc::new(RunnerState::new(options, outbox, SinkRecords::none()).map_err(failed)?),
        lock_file: folder.join(format!("sender-{}.lock", sinks.key)),
        folder,
        state: state.clone(),
        sinks_complete: sinks.are_complete,
        sinks_file: sinks.file,
    };
    let mut tasks = JoinSet::new();
    serve_watch(&sender.shared, &mut tasks);
    sender.resume().map_err(failed)?;
    sender.note_due(&sinks.configs, sinks.read_at);
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt()).map_err(failed)?, signal(SignalKind::terminate()).map_err(failed)?);
    let is_complete = tokio::select! {
        complete = sender.deliver((sinks.configs, sinks.read_at), sinks.reload, judged) => complete,
        _ = interrupt.recv() => false,
        _ = terminate.recv() => false,
    };
    if !is_complete {
        flush(&sender.shared, sender.shared.options.flush_limit).await;
    }
    let lacking = sender.find_lacking();
    sender.shared.sinks.end(Duration::ZERO).await;
    stop_sending.cancel();
    if let Some(sending) = sending {
        let _ = sending.await;
    }
    tasks.shutdown().await;
    sender.keep_if_delivered(is_complete, &lacking);
    drop(in_use);
    // A call that found the turn taken relies on its holder: what it left is delivered now.
    Ok(())
}

impl Sender {
    /// Resumes the run of this call. A run that its keeper did not start ends as such: its caller has exited.
    fn resume(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.shared.runs_folder)? {
            if let Some(run) = resume_run(&self.shared, RunDirectory::open(entry?.path()))? {
                let message = "`sexton exec` ended before it could start the command".to_owned();
                let refused = refuse(&self.shared, &run, Refusal { why: RefusalKind::Impossible, message });
                lock(&self.shared.admission).count_running(refused.job().needs);
                self.shared.supervisors.spawn(supervise(self.shared.clone(), refused));
            }
        }
        Ok(())
    }

    fn runs(&self) -> Vec<Arc<LocalRun>> {
        lock(&self.shared.runs).values().cloned().collect()
    }

    /// Waits for the verdict, then for the sinks. Returns whether everything was delivered.
    async fn deliver(
        &self,
        sinks: (Vec<SinkConfig>, Timestamp),
        reload: Reload,
        judged: impl FnOnce(&FinishedRecord),
    ) -> bool {
        let mut start = Some(sinks);
        let since = Instant::now();
        let first = loop {
            let grown = self.shared.grown.notified();
            let finished = self.runs().iter().find_map(|run| run.finished().cloned());
            if let Some(finished) = finished {
                break finished;
            }
            if since.elapsed() >= LIVE_DELAY
                && let Some(sinks) = start.take()
            {
                self.start_sinks(sinks).await;
            }
            let wait = if start.is_some() { LIVE_DELAY.saturating_sub(since.elapsed()) } else { POLL_INTERVAL * 10 };
            // Without inotify, a caller would wait for the poll of a runner, which is made for many runs.
            let is_polling = self.shared.watch.is_incomplete();
            let wait = if is_polling { wait.min(POLL_INTERVAL) } else { wait };
            tokio::select! { () = grown => {}, () = sleep(wait) => {} }
            if is_polling {
                self.runs().iter().for_each(|run| self.note_all(run));
            }
        };
        judged(&first);
        // Before the turn is tried: its holder waits for a state with this marker.
        let waits = self.state.join(WAITING_FILE);
        let _ = create_marker(&waits);
        let turn = if self.sinks_complete { self.take_turn() } else { None };
        if turn.is_some() {
            let _ = fs::remove_file(&waits);
        }
        // Output that is still open is followed by this sender: another one could not take it over.
        let is_open = self.runs().iter().any(|run| !run.is_over());
        if (turn.is_some() || is_open || !self.sinks_complete)
            && let Some(sinks) = start.take()
        {
            self.start_sinks(sinks).await;
        }
        self.deliver_judged(start.is_none(), turn, reload).await
    }

    /// Delivers until every sink has everything, with the turn also for other calls. Without sinks, waits until the
    /// holder of the turn has taken this call over. Returns whether everything was delivered.
    async fn deliver_judged(&self, has_sinks: bool, mut turn: Option<File>, mut reload: Reload) -> bool {
        let mut logged = BTreeSet::new();
        let mut last_end = Instant::now();
        let (mut is_readded_checked, mut is_lacking_recorded) = (false, false);
        loop {
            if !self.state.exists() {
                // Another process has removed it, with everything that could be delivered.
                return false;
            }
            if has_sinks && self.reload_sinks(&mut reload).await {
                (is_readded_checked, is_lacking_recorded) = (false, false);
            }
            let before = self.runs().len();
            if turn.is_some() {
                adopt_abandoned(&self.shared, &self.folder.join(EXEC_FOLDER), &mut logged).await;
                if !std::mem::replace(&mut is_readded_checked, true) {
                    self.take_readded(&mut logged).await;
                }
            }
            if self.runs().len() > before {
                is_lacking_recorded = false;
            }
            let is_open = self.runs().iter().any(|run| !run.is_over());
            if has_sinks && !is_open && !is_lacking_recorded && !self.shared.sinks.is_one_leaving() {
                is_lacking_recorded = true;
                self.record_lacking(&self.find_lacking());
            }
            if is_open || self.runs().len() > before {
                last_end = Instant::now();
            }
            let is_sent = !is_open && self.are_reports_sent() && (!has_sinks || self.are_delivered());
            let limit = if has_sinks { SEND_TIME_MAX } else { self.shared.options.flush_limit };
            if is_sent || last_end.elapsed() > limit {
                // In this order: a call that found the turn taken has set its marker before.
                let had_turn = turn.take().is_some();
                let is_needed = is_sent && had_turn && last_end.elapsed() <= limit && self.has_abandoned(&logged);
                turn = if is_needed { self.take_turn() } else { None };
                if turn.is_none() {
                    return is_sent && has_sinks;
                }
            }
            tokio::select! { () = self.shared.grown.notified() => {}, () = sleep(POLL_INTERVAL) => {} }
        }
    }

    /// Takes over the delivered calls that lack lines of sinks which are configured again.
    async fn take_readded(&self, logged: &mut BTreeSet<PathBuf>) {
        let readded = adopt_readded(&self.shared, &self.folder, logged).await;
        if readded.is_empty() {
            return;
        }
        match SinkRecords::open(&self.folder, BTreeSet::new()) {
            Ok(records) => readded.iter().for_each(|name| records.end_removal(name)),
            Err(error) => tracing::warn!(%error, "cannot record that a sink is configured again"),
        }
    }

    /// Uses the sinks file as it is now. Returns whether it has changed.
    async fn reload_sinks(&self, reload: &mut Reload) -> bool {
        let read_at = Timestamp::now();
        let Some(configs) = self.sinks_complete.then(reload).flatten() else { return false };
        self.note_due(&configs, read_at);
        self.start_sinks((configs, read_at)).await;
        true
    }

    /// Stores the sinks that the output of this call is due to. A run that has ended is due to no new sink.
    fn note_due(&self, configs: &[SinkConfig], read_at: Timestamp) {
        let names: Vec<&str> = configs.iter().map(|sink| &*sink.name).collect();
        if let Err(error) = write_json(&self.state.join(NAMES_FILE), &names, Durability::Cache) {
            tracing::debug!(%error, "cannot store the names of the sinks");
        }
        for run in self.runs() {
            let job = run.job();
            let wanted = configs.iter().filter(|sink| sink.when.wants_job(&job.group, &job.name));
            let earlier = DueSinks::read(&run.directory).ok().flatten();
            let mut due = match earlier {
                Some(_) if run.is_over() => continue,
                Some(due) => due,
                None => DueSinks {
                    source: self.shared.options.sinks_key.clone(),
                    file: self.sinks_file.clone(),
                    is_complete: self.sinks_complete,
                    ..DueSinks::default()
                },
            };
            due.read_at = Some(read_at);
            due.names.extend(wanted.map(|sink| sink.name.clone()));
            if let Err(error) = due.write(&run.directory) {
                tracing::debug!(%error, "cannot store the sinks of a run");
            }
            run.set_due(due.limit_for(self.shared.options.sinks_key.as_ref()));
        }
    }

    /// The runs that lack lines of sinks which are no longer configured.
    fn find_lacking(&self) -> Vec<Lacking> {
        let here = self.shared.sinks.names();
        let lacking = self.runs().into_iter().filter_map(|run| {
            let due = DueSinks::read(&run.directory).ok().flatten()?;
            let lines = lacked_lines(&run, due.names.difference(&here));
            Some(Lacking { run, due, lines }).filter(|lacking| !lacking.lines.is_empty())
        });
        lacking.collect()
    }

    /// Records what removed sinks lack, for `sexton sinks --reset` and for the next `up`. Logs each run once.
    fn record_lacking(&self, lacking: &[Lacking]) {
        if lacking.is_empty() || !self.sinks_complete {
            return;
        }
        let records = match SinkRecords::open(&self.folder, BTreeSet::new()) {
            Ok(records) => records,
            Err(error) => return tracing::warn!(%error, "cannot record what a removed sink lacks"),
        };
        for Lacking { run, due, lines } in lacking {
            let mut due = due.clone();
            for (name, lines) in lines {
                records.add_undelivered(name, run, *lines, due.recorded.contains(name));
                if due.recorded.insert(name.clone()) {
                    tracing::warn!(
                        sink = name, lines, job = %run.job().key(), run_id = %run.run_id(),
                        "the sink was removed before it had every line of this run; they are delivered if it is added \
                         again"
                    );
                }
            }
            if let Err(error) = due.write(&run.directory) {
                tracing::debug!(%error, "cannot store the sinks of a run");
            }
        }
    }

    /// Marks the call as one that a sink which is added again lacks.
    fn mark_lacking(&self, lacking: &[Lacking]) -> io::Result<()> {
        let names: BTreeSet<&String> = lacking.iter().flat_map(|run| run.lines.iter().map(|(name, _)| name)).collect();
        match names.is_empty() {
            true => Ok(()),
            false => write_json(&self.state.join(REMOVED_FILE), &names, Durability::Cache),
        }
    }

    fn note_all(&self, run: &LocalRun) {
        run.note_change();
        run.note_growth();
        self.shared.wake_readers(run);
    }

    async fn start_sinks(&self, (configs, read_at): (Vec<SinkConfig>, Timestamp)) {
        set_sinks(&self.shared, configs).await;
        self.shared.sinks.set_read_at(read_at);
        self.runs().iter().for_each(|run| self.shared.sinks.add(run));
    }

    /// The turn to deliver for all calls with these sinks; none while another sender has it. It ends with this process.
    fn take_turn(&self) -> Option<File> {
        let file = open_private(&self.lock_file).ok()?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(file)
    }

    /// Whether a call has left output that this sender could deliver.
    fn has_abandoned(&self, failed: &BTreeSet<PathBuf>) -> bool {
        let entries = fs::read_dir(self.folder.join(EXEC_FOLDER)).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|state| *state != self.state && !failed.contains(state))
            .any(|state| is_abandoned(&self.shared, &state))
    }

    fn are_reports_sent(&self) -> bool {
        let outbox = self.shared.options.state.join("outbox");
        let is_report = |name: std::ffi::OsString| name.to_string_lossy().ends_with(".json");
        !fs::read_dir(outbox).into_iter().flatten().flatten().any(|entry| is_report(entry.file_name()))
            && self.runs().iter().all(|run| run.directory.end_reported().exists())
    }

    fn are_delivered(&self) -> bool {
        self.runs().iter().all(|run| is_delivered(&self.shared, run))
    }

    /// Moves the state of this call to the kept ones when every sink has all of it and every report was sent.
    fn keep_if_delivered(&self, is_complete: bool, lacking: &[Lacking]) {
        if let Err(error) = quarantine_refused(&self.state) {
            tracing::warn!(%error, state = %self.state.display(), "cannot quarantine refused reports");
            return;
        }
        if !is_complete || !self.sinks_complete {
            return;
        }
        self.record_lacking(lacking);
        if let Err(error) = self.mark_lacking(lacking) {
            tracing::warn!(%error, state = %self.state.display(), "cannot mark a run that a removed sink lacks");
            return;
        }
        if let Err(error) = keep(&self.folder, &self.state) {
            tracing::warn!(%error, state = %self.state.display(), "cannot keep a delivered run for `sexton logs`");
        }
        sweep_kept(&self.folder, self.shared.options.retention);
    }
}

/// A run that lacks lines of removed sinks, with the number for each.
struct Lacking {
    run: Arc<LocalRun>,
    due: DueSinks,
    lines: Vec<(String, u64)>,
}

/// Whether every configured sink that gets this run has confirmed all of it.
fn is_delivered(shared: &RunnerState, run: &LocalRun) -> bool {
    let is_done = |sink: &String| read_cursor(run, sink).is_some_and(|place| place.stage == Stage::Done);
    run.is_over() && shared.sinks.readers(run).iter().all(is_done)
}

type OpenOutbox = (Option<Outbox>, Option<tokio::task::JoinHandle<()>>);

/// Opens the outbox of this call and starts sending, where there is a receiver of reports.
fn open_outbox(
    options: &Options,
    reports: Option<Arc<dyn Reports>>,
    stop: &CancellationToken,
) -> io::Result<OpenOutbox> {
    let Some(reports) = reports else { return Ok((None, None)) };
    let (outbox, tasks): (Outbox, OutboxTasks) = Outbox::open(options.state.join("outbox"))?;
    Ok((Some(outbox), Some(send_reports(tasks, reports, stop.clone()))))
}
