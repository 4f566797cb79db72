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

use domain::line::{Position, Stage};
use domain::ports::Reports;
use keeper::directory::{Durability, RunDirectory, create_marker, open_private, read_json, write_json};
use keeper::records::{Refusal, RefusalKind};
use rustix::fs::{FlockOperation, flock};
use sinks::config::SinkConfig;
use sinks::engine::Environment;
use sinks::feed::FinishedRecord;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::adopt::{SINKS_FILE, SINKS_KEY_FILE, WAITING_FILE, adopt_abandoned, is_abandoned, quarantine_refused};
use crate::exec::EXEC_FOLDER;
use crate::feed::cursor_path;
use crate::kept::{keep, sweep_kept};
use crate::local_run::{LocalRun, lock};
use crate::options::Options;
use crate::outbox::{Outbox, OutboxTasks};
use crate::recover::resume_run;
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
}

/// What every step of a sender needs.
struct Sender {
    shared: Arc<RunnerState>,
    /// The runner's directory.
    folder: PathBuf,
    /// The state of this call.
    state: PathBuf,
    sinks_complete: bool,
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
    let names: Vec<&str> = sinks.configs.iter().map(|sink| &*sink.name).collect();
    if let Err(error) = write_json(&state.join(SINKS_FILE), &names, Durability::Cache) {
        tracing::debug!(%error, "cannot store the names of the sinks");
    }
    let stop_sending = CancellationToken::new();
    let (outbox, sending) = open_outbox(&options, reports, &stop_sending).map_err(failed)?;
    let sender = Sender {
        shared: Arc::new(RunnerState::new(options, outbox, SinkRecords::none()).map_err(failed)?),
        lock_file: folder.join(format!("sender-{}.lock", sinks.key)),
        folder,
        state: state.clone(),
        sinks_complete: sinks.are_complete,
    };
    let mut tasks = JoinSet::new();
    serve_watch(&sender.shared, &mut tasks);
    sender.resume().map_err(failed)?;
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt()).map_err(failed)?, signal(SignalKind::terminate()).map_err(failed)?);
    let is_complete = tokio::select! {
        complete = sender.deliver(sinks.configs, judged) => complete,
        _ = interrupt.recv() => false,
        _ = terminate.recv() => false,
    };
    if !is_complete {
        flush(&sender.shared, sender.shared.options.flush_limit).await;
    }
    sender.shared.sinks.end(Duration::ZERO).await;
    stop_sending.cancel();
    if let Some(sending) = sending {
        let _ = sending.await;
    }
    tasks.shutdown().await;
    sender.keep_if_delivered(is_complete);
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
    async fn deliver(&self, sinks: Vec<SinkConfig>, judged: impl FnOnce(&FinishedRecord)) -> bool {
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
        let mut turn = if self.sinks_complete { self.take_turn() } else { None };
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
        let has_sinks = start.is_none();
        let mut logged = BTreeSet::new();
        let mut last_end = Instant::now();
        loop {
            if !self.state.exists() {
                // Another process has removed it, with everything that could be delivered.
                return false;
            }
            let before = self.runs().len();
            if turn.is_some() {
                adopt_abandoned(&self.shared, &self.folder.join(EXEC_FOLDER), &mut logged).await;
            }
            let is_open = self.runs().iter().any(|run| !run.is_over());
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

    fn note_all(&self, run: &LocalRun) {
        run.note_change();
        run.note_growth();
        self.shared.wake_readers(run);
    }

    async fn start_sinks(&self, configs: Vec<SinkConfig>) {
        set_sinks(&self.shared, configs).await;
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
        self.runs().iter().all(|run| is_delivered(run))
    }

    /// Moves the state of this call to the kept ones when every sink has all of it and every report was sent.
    fn keep_if_delivered(&self, is_complete: bool) {
        if let Err(error) = quarantine_refused(&self.state) {
            tracing::warn!(%error, state = %self.state.display(), "cannot quarantine refused reports");
            return;
        }
        if !is_complete || !self.sinks_complete {
            return;
        }
        if let Err(error) = keep(&self.folder, &self.state) {
            tracing::warn!(%error, state = %self.state.display(), "cannot keep a delivered run for `sexton logs`");
        }
        sweep_kept(&self.folder, self.shared.options.retention);
    }
}

/// Whether every sink that has this run has confirmed all of it.
fn is_delivered(run: &LocalRun) -> bool {
    run.is_over()
        && run.fed_sinks().iter().all(|sink| {
            let cursor = read_json::<Position>(&cursor_path(run, sink));
            cursor.is_ok_and(|place| place.is_some_and(|place| place.stage == Stage::Done))
        })
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
