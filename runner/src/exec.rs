//! `sexton exec`: one command, wrapped, for whatever scheduler calls it. The same keeper, spool, rules, sinks and reports;
//! the output also goes where the caller expects it, and the exit code is the command's own.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::event::{Body, Report};
use domain::line::{Position, Stage, Stream};
use domain::order::Order;
use domain::ports::Reports;
use domain::run::Outcome;
use jiff::Timestamp;
use keeper::directory::{Durability, read_json, write_json};
use keeper::output::{LineFormat, Output, Piece};
use keeper::records::Accepted;
use sinks::engine::Engine;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::adopt::{SINKS_FILE, adopt_abandoned, quarantine_refused};
use crate::feed::cursor_path;
use crate::handle::Handle;
use crate::intake::{policy_refusal, store_order};
use crate::keeper_state::stored_report;
use crate::local_run::{LocalRun, locked};
use crate::options::Options;
use crate::outbox::Outbox;
use crate::retention::Retention;
use crate::runner::{flush, send_reports, serve_watch};
use crate::runner_state::RunnerState;
use crate::state_lock::{RunnerError, lock_state_directory};
use crate::supervise::supervise;

/// What a shell says of a command that it could not execute.
const NOT_STARTED_CODE: u8 = 127;

/// How long somebody may look at a directory that was only just made. Ours; a look takes less than a millisecond.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// How a wrapped command ended.
pub struct Executed {
    /// What `sexton exec` exits with.
    pub code: u8,
    pub report: Report,
}

/// Runs one order in the foreground. Every call has a state of its own below `options.state`; it is removed at the end
/// when everything has been delivered, and kept for a later look when not.
///
/// # Errors
/// When the state directory cannot be used; the command was not started then.
pub async fn exec(
    mut options: Options,
    reports: Option<Arc<dyn Reports>>,
    order: Order,
) -> Result<Executed, RunnerError> {
    let exec_folder = options.state.join("exec");
    let state = exec_folder.join(order.run_id.as_str());
    let fails = |error: io::Error| RunnerError::State(state.clone(), error);
    let in_use = lock_own_directory(&state).await?;
    options.state = std::fs::canonicalize(&state).map_err(fails)?;
    let sinks: Vec<&str> = options.sinks.iter().map(Engine::name).collect();
    write_json(&options.state.join(SINKS_FILE), &sinks, Durability::Cache).map_err(fails)?;
    options.retention = Retention::default();
    let stop_sending = CancellationToken::new();
    let (outbox, sending) = match reports {
        None => (None, None),
        Some(reports) => {
            let (outbox, tasks) = Outbox::open(options.state.join("outbox")).map_err(fails)?;
            (Some(outbox), Some(send_reports(tasks, reports, stop_sending.clone())))
        }
    };
    let shared = Arc::new(RunnerState::new(options, outbox).map_err(fails)?);
    let refused = policy_refusal(&shared, &order);
    let accepted = Accepted { order, accepted_at: Timestamp::now(), boot_id: shared.boot_id.clone(), refused };
    let run = store_order(&shared, accepted)
        .await
        .ok_or_else(|| fails(io::Error::other("the order cannot be stored; see the log above")))?;
    let mut beside = JoinSet::new();
    serve_watch(&shared, &mut beside);
    forward_signals(&shared, &run, &mut beside).map_err(fails)?;
    locked(&shared.admission).count_running(run.job().needs);
    let supervisor = tokio::spawn(supervise(shared.clone(), run.clone()));
    copy_output(&shared, &run).await;
    if let Err(error) = supervisor.await {
        tracing::error!(%error, "attending the command ended badly");
    }
    // With what is left of this call's time, what killed calls left undone.
    adopt_abandoned(&shared, &exec_folder, &mut BTreeSet::new()).await;
    shared.supervisors.close();
    let _ = tokio::time::timeout(shared.options.flush_limit, shared.supervisors.wait()).await;
    flush(&shared).await;
    stop_sending.cancel();
    if let Some(sending) = sending {
        let _ = sending.await;
    }
    beside.shutdown().await;
    let report = match stored_report(&run).map(|event| event.body) {
        Some(Body::Finished(report)) => *report,
        _ => return Err(fails(io::Error::other("the command's report cannot be read"))),
    };
    remove_if_delivered(&shared, &state);
    drop(in_use);
    Ok(Executed { code: exit_code(&report), report })
}

/// The run's name is nobody else's, so whoever has its directory only looks whether it is an abandoned one.
async fn lock_own_directory(state: &Path) -> Result<File, RunnerError> {
    let start = Instant::now();
    loop {
        match lock_state_directory(state) {
            Err(_) if start.elapsed() < LOCK_TIMEOUT => tokio::time::sleep(LOCK_RETRY_INTERVAL).await,
            result => return result,
        }
    }
}

/// SIGINT and SIGTERM stop the job by its ladder; this process stays to see the end.
fn forward_signals(shared: &Arc<RunnerState>, run: &Arc<LocalRun>, beside: &mut JoinSet<()>) -> io::Result<()> {
    for (kind, name) in [(SignalKind::interrupt(), "SIGINT"), (SignalKind::terminate(), "SIGTERM")] {
        let mut signals = signal(kind)?;
        let handle = Handle::new(shared.clone());
        let run_id = run.run_id().clone();
        beside.spawn(async move {
            while signals.recv().await.is_some() {
                handle.stop(&run_id, name);
            }
        });
    }
    Ok(())
}

/// Copies both streams to this process's own until the run is judged. An own stream that is closed loses its copy; the
/// spool has it all the same.
async fn copy_output(shared: &Arc<RunnerState>, run: &Arc<LocalRun>) {
    let mut copies = [Stream::Stdout, Stream::Stderr].map(|stream| Some(open_copy(run, stream)));
    loop {
        let grown = shared.grown.notified();
        // Asked anew: a run that is refused is another one from then on.
        let over = shared.run(&run.key()).is_none_or(|run| run.finished().is_some());
        for copy in &mut copies {
            if let Some((output, to)) = copy
                && let Err(error) = copy_all(output, to)
            {
                tracing::debug!(%error, "the output is not copied any more");
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
            Piece::Missing(removed) => tracing::warn!("of the output, {removed}"),
            Piece::Pending | Piece::End => return to.flush(),
        }
    }
}

/// The command's own code; 1 when it exited well and lied; 128 and the signal, as shells say it.
fn exit_code(report: &Report) -> u8 {
    match (report.exit_code, report.signal) {
        (Some(0), _) if report.outcome == Outcome::FalseSuccess => 1,
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128u8.saturating_add(signal as u8),
        (None, None) => NOT_STARTED_CODE,
    }
}

/// Removes this call's state when every run in it is with every sink and every report is sent.
fn remove_if_delivered(shared: &RunnerState, state: &Path) {
    if let Err(error) = quarantine_refused(state) {
        tracing::warn!(%error, state = %state.display(), "refused reports cannot be put aside; all of it is kept");
        return;
    }
    let unsent = std::fs::read_dir(shared.options.state.join("outbox")).map_or(0, |files| files.count());
    let runs: Vec<Arc<LocalRun>> = locked(&shared.runs).values().cloned().collect();
    if unsent > 0 || !runs.iter().all(|run| is_delivered(run)) {
        tracing::warn!(state = %state.display(), "not everything was delivered; it is kept, and a later call tries again");
        return;
    }
    if let Err(error) = std::fs::remove_dir_all(state) {
        tracing::warn!(%error, state = %state.display(), "the run's directory cannot be removed");
    }
}

/// Whether every sink that was given the run has all of it. The sinks themselves have ended by now.
fn is_delivered(run: &LocalRun) -> bool {
    run.finished().is_some()
        && run.fed_sinks().iter().all(|sink| {
            let cursor = read_json::<Position>(&cursor_path(run, sink));
            cursor.is_ok_and(|place| place.is_some_and(|place| place.stage == Stage::Done))
        })
}
