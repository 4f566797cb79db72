//! `sexton exec`: runs one command with log shipping and rules, for use inside another scheduler. Keeper, spool, rules,
//! sinks and reports are the same as for a runner. The output is also copied to the caller's streams, and the exit code
//! is the command's own.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::event::{Body, Report};
use domain::line::{Position, Stage, Stream};
use domain::order::Order;
use domain::ports::Reports;
use domain::run::Outcome;
use jiff::Timestamp;
use keeper::directory::{Durability, RunDirectory, read_json, write_json};
use keeper::output::{LineFormat, Output, Piece};
use keeper::records::Accepted;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::adopt::{SINKS_FILE, adopt_abandoned, quarantine_refused};
use crate::feed::cursor_path;
use crate::handle::Handle;
use crate::intake::{policy_refusal, store_order};
use crate::keeper_state::stored_report;
use crate::local_run::{LocalRun, lock};
use crate::options::Options;
use crate::outbox::Outbox;
use crate::recover::resume_run;
use crate::retention::Retention;
use crate::runner::{send_reports, serve_watch};
use crate::runner_state::RunnerState;
use crate::shutdown::flush;
use crate::sink_records::SinkRecords;
use crate::state_lock::{RunnerError, lock_state_directory};
use crate::supervise::supervise;

/// The code of a shell for a command that it cannot execute.
const NOT_STARTED_CODE: u8 = 127;

/// How long another process may hold the lock of a new directory. Chosen: a check for abandoned directories takes less
/// than 1 ms.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval of these retries. Chosen, not measured.
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Poll interval of the end of an output. Chosen, not measured.
const OVER_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The result of a wrapped command.
pub struct Executed {
    /// The exit code of `sexton exec`.
    pub code: u8,
    /// The run's report, with the runner's own verdict.
    pub report: Report,
    /// The state of this call, when another process still has the command's output open: for [`follow`].
    pub open_state: Option<PathBuf>,
}

/// Runs one order in the foreground. Every call has its own state below `options.state`. It is removed at the end when
/// everything was delivered, else kept for a later call.
///
/// # Errors
/// When the state directory cannot be used; the command was then not started.
pub async fn exec(
    mut options: Options,
    reports: Option<Arc<dyn Reports>>,
    order: Order,
) -> Result<Executed, RunnerError> {
    let exec_folder = options.state.join("exec");
    let state = exec_folder.join(order.run_id.as_str());
    let failed = |error: io::Error| RunnerError::State(state.clone(), error);
    let in_use = lock_own_directory(&state).await?;
    options.state = std::fs::canonicalize(&state).map_err(failed)?;
    let sinks: Vec<&str> = options.sinks.iter().map(|sink| &*sink.name).collect();
    write_json(&options.state.join(SINKS_FILE), &sinks, Durability::Cache).map_err(failed)?;
    options.retention = Retention::default();
    let stop_sending = CancellationToken::new();
    let (outbox, sending) = open_outbox(&options, reports, &stop_sending).map_err(failed)?;
    let shared = Arc::new(RunnerState::new(options, outbox, SinkRecords::none()).map_err(failed)?);
    let refused = policy_refusal(&shared, &order);
    let accepted = Accepted { order, accepted_at: Timestamp::now(), boot_id: shared.boot_id.clone(), refused };
    let run = store_order(&shared, accepted)
        .await
        .ok_or_else(|| failed(io::Error::other("cannot store the order; see the log above")))?;
    let mut tasks = JoinSet::new();
    serve_watch(&shared, &mut tasks);
    forward_signals(&shared, &run, &mut tasks).map_err(failed)?;
    lock(&shared.admission).count_running(run.job().needs);
    let supervisor = tokio::spawn(supervise(shared.clone(), run.clone()));
    copy_output(&shared, &run).await;
    if let Err(error) = supervisor.await {
        tracing::error!(%error, "supervising the command failed");
    }
    // Finishes the output of killed calls, within this call's flush limit.
    adopt_abandoned(&shared, &exec_folder, &mut BTreeSet::new()).await;
    shared.supervisors.close();
    let _ = tokio::time::timeout(shared.options.flush_limit, shared.supervisors.wait()).await;
    flush(&shared, shared.options.flush_limit).await;
    stop_sending.cancel();
    if let Some(sending) = sending {
        let _ = sending.await;
    }
    tasks.shutdown().await;
    let report = match stored_report(&run).map(|event| event.body) {
        Some(Body::Finished(report)) => *report,
        _ => return Err(failed(io::Error::other("cannot read the command's report"))),
    };
    let open_state = run.has_open_output().then(|| state.clone());
    if open_state.is_none() {
        remove_if_delivered(&shared, &state);
    }
    drop(in_use);
    Ok(Executed { code: exit_code(&report), report, open_state })
}

/// Delivers the output that other processes print after the command of an earlier [`exec`] has ended, until its end.
/// `state` is its [`Executed::open_state`]. INT and TERM end it before; a later call then delivers the rest.
///
/// # Errors
/// When the state directory cannot be used.
pub async fn follow(mut options: Options, reports: Option<Arc<dyn Reports>>, state: &Path) -> Result<(), RunnerError> {
    let failed = |error: io::Error| RunnerError::State(state.to_owned(), error);
    let in_use = lock_own_directory(state).await?;
    options.state = std::fs::canonicalize(state).map_err(failed)?;
    options.retention = Retention::default();
    let stop_sending = CancellationToken::new();
    let (outbox, sending) = open_outbox(&options, reports, &stop_sending).map_err(failed)?;
    let shared = Arc::new(RunnerState::new(options, outbox, SinkRecords::none()).map_err(failed)?);
    let mut tasks = JoinSet::new();
    serve_watch(&shared, &mut tasks);
    for entry in std::fs::read_dir(&shared.runs_folder).map_err(failed)? {
        // A run that was not started stays for a later call, which ends it.
        resume_run(&shared, RunDirectory::open(entry.map_err(failed)?.path())).map_err(failed)?;
    }
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt()).map_err(failed)?, signal(SignalKind::terminate()).map_err(failed)?);
    tokio::select! {
        () = wait_until_over(&shared) => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    flush(&shared, shared.options.flush_limit).await;
    stop_sending.cancel();
    if let Some(sending) = sending {
        let _ = sending.await;
    }
    tasks.shutdown().await;
    remove_if_delivered(&shared, state);
    drop(in_use);
    Ok(())
}

async fn wait_until_over(shared: &RunnerState) {
    loop {
        let grown = shared.grown.notified();
        let reported = |run: &Arc<LocalRun>| run.is_over() && run.directory.output_end_reported().exists();
        if lock(&shared.runs).values().all(reported) {
            return;
        }
        // The marker is set a moment after the readers were woken.
        tokio::select! { () = grown => {}, () = tokio::time::sleep(OVER_POLL_INTERVAL) => {} }
    }
}

type OpenOutbox = (Option<Outbox>, Option<tokio::task::JoinHandle<()>>);

/// Opens the outbox of this call and starts sending, where there is a receiver of reports.
fn open_outbox(
    options: &Options,
    reports: Option<Arc<dyn Reports>>,
    stop: &CancellationToken,
) -> io::Result<OpenOutbox> {
    let Some(reports) = reports else { return Ok((None, None)) };
    let (outbox, tasks) = Outbox::open(options.state.join("outbox"))?;
    Ok((Some(outbox), Some(send_reports(tasks, reports, stop.clone()))))
}

/// Locks the state of this call. The run id is unique, so another process only holds the lock while it checks for an
/// abandoned directory.
async fn lock_own_directory(state: &Path) -> Result<File, RunnerError> {
    let start = Instant::now();
    loop {
        match lock_state_directory(state) {
            Err(_) if start.elapsed() < LOCK_TIMEOUT => tokio::time::sleep(LOCK_RETRY_INTERVAL).await,
            result => return result,
        }
    }
}

/// SIGINT and SIGTERM start the job's stop sequence; this process stays until the end.
fn forward_signals(shared: &Arc<RunnerState>, run: &Arc<LocalRun>, tasks: &mut JoinSet<()>) -> io::Result<()> {
    for (kind, name) in [(SignalKind::interrupt(), "SIGINT"), (SignalKind::terminate(), "SIGTERM")] {
        let mut signals = signal(kind)?;
        let handle = Handle::new(shared.clone());
        let run_id = run.run_id().clone();
        tasks.spawn(async move {
            while signals.recv().await.is_some() {
                handle.stop(&run_id, name);
            }
        });
    }
    Ok(())
}

/// Copies both streams to this process's own until the run is judged. When an own stream is closed, its copy ends; the
/// spool is complete anyway.
async fn copy_output(shared: &Arc<RunnerState>, run: &Arc<LocalRun>) {
    let mut copies = [Stream::Stdout, Stream::Stderr].map(|stream| Some(open_copy(run, stream)));
    loop {
        let grown = shared.grown.notified();
        // Looked up again: a refused run is replaced by another object.
        let over = shared.run(&run.key()).is_none_or(|run| run.finished().is_some());
        for copy in &mut copies {
            if let Some((output, to)) = copy
                && let Err(error) = copy_all(output, to)
            {
                tracing::debug!(%error, "the output is no longer copied");
                *copy = None;
            }
        }
        if over {
            return;
        }
        grown.await;
    }
}

type Copy = (Output, Box<dyn Write + Send>);

fn open_copy(run: &LocalRun, stream: Stream) -> Copy {
    let to: Box<dyn Write + Send> = match stream {
        Stream::Stdout => Box::new(io::stdout()),
        Stream::Stderr => Box::new(io::stderr()),
    };
    (Output::open(run.directory.clone(), Some(stream), LineFormat::Raw), to)
}

fn copy_all(output: &mut Output, to: &mut Box<dyn Write + Send>) -> io::Result<()> {
    loop {
        match output.read()? {
            Piece::Bytes(bytes) => to.write_all(&bytes)?,
            Piece::Missing(removed) => tracing::warn!("output is incomplete: {removed}"),
            Piece::Pending | Piece::End => return to.flush(),
        }
    }
}

/// The command's own code; 1 for a false success; 128 plus the signal, as in shells.
fn exit_code(report: &Report) -> u8 {
    match (report.exit_code, report.signal) {
        (Some(0), _) if report.outcome == Outcome::FalseSuccess => 1,
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128u8.saturating_add(signal as u8),
        (None, None) => NOT_STARTED_CODE,
    }
}

/// Removes this call's state when every sink has the whole run and every report was sent.
fn remove_if_delivered(shared: &RunnerState, state: &Path) {
    if let Err(error) = quarantine_refused(state) {
        tracing::warn!(%error, state = %state.display(), "cannot quarantine refused reports; the state is kept");
        return;
    }
    let unsent = std::fs::read_dir(shared.options.state.join("outbox")).map_or(0, |files| files.count());
    let runs: Vec<Arc<LocalRun>> = lock(&shared.runs).values().cloned().collect();
    if unsent > 0 || !runs.iter().all(|run| is_delivered(run)) {
        tracing::warn!(state = %state.display(), "delivery incomplete; the state is kept, and a later call sends the rest");
        return;
    }
    if let Err(error) = std::fs::remove_dir_all(state) {
        tracing::warn!(%error, state = %state.display(), "cannot remove the run's directory");
    }
}

/// Whether every sink that has this run has all of it. The sinks themselves have stopped by now.
fn is_delivered(run: &LocalRun) -> bool {
    run.is_over()
        && run.fed_sinks().iter().all(|sink| {
            let cursor = read_json::<Position>(&cursor_path(run, sink));
            cursor.is_ok_and(|place| place.is_some_and(|place| place.stage == Stage::Done))
        })
}
