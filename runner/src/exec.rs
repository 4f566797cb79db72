//! `sexton exec`: one command, wrapped, for whatever scheduler calls it. The same keeper, spool, rules, sinks and reports;
//! the output also goes where the caller expects it, and the exit code is the command's own.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use domain::event::{Body, Report};
use domain::line::Stream;
use domain::order::Order;
use domain::ports::Reports;
use domain::run::Outcome;
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::attend::{attend, stored_report};
use crate::intake::store;
use crate::local::{LocalRun, locked};
use crate::options::Options;
use crate::outbox::Outbox;
use crate::output::{Output, Piece, Shown};
use crate::records::Accepted;
use crate::retention::Retention;
use crate::runner::{Handle, RunnerError, flush, occupy, send_reports, serve_watch};
use crate::shared::Shared;

/// What a shell says of a command that it could not execute.
const NOT_STARTED_CODE: u8 = 127;

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
    let state = options.state.join("exec").join(order.run_id.as_str());
    let fails = |error: io::Error| RunnerError::State(state.clone(), error);
    let in_use = occupy(&state)?;
    options.state = std::fs::canonicalize(&state).map_err(fails)?;
    options.retention = Retention::default();
    let stop_sending = CancellationToken::new();
    let (outbox, sending) = match reports {
        None => (None, None),
        Some(reports) => {
            let (outbox, tasks) = Outbox::open(options.state.join("outbox")).map_err(fails)?;
            (Some(outbox), Some(send_reports(tasks, reports, stop_sending.clone())))
        }
    };
    let shared = Arc::new(Shared::new(options, outbox).map_err(fails)?);
    let accepted = Accepted { order, accepted_at: Timestamp::now(), boot_id: shared.boot_id.clone(), refused: None };
    let run = store(&shared, accepted)
        .await
        .ok_or_else(|| fails(io::Error::other("the order cannot be stored; see the log above")))?;
    let mut beside = JoinSet::new();
    serve_watch(&shared, &mut beside);
    pass_signals_on(&shared, &run, &mut beside).map_err(fails)?;
    locked(&shared.admission).resume(run.job().needs);
    let attending = tokio::spawn(attend(shared.clone(), run.clone()));
    mirror(&shared, &run).await;
    if let Err(error) = attending.await {
        tracing::error!(%error, "attending the command ended badly");
    }
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
    drop(in_use);
    remove_if_delivered(&shared, &run, state);
    Ok(Executed { code: code_of(&report), report })
}

/// SIGINT and SIGTERM stop the job by its ladder; this process stays to see the end.
fn pass_signals_on(shared: &Arc<Shared>, run: &Arc<LocalRun>, beside: &mut JoinSet<()>) -> io::Result<()> {
    for (kind, name) in [(SignalKind::interrupt(), "SIGINT"), (SignalKind::terminate(), "SIGTERM")] {
        let mut signals = signal(kind)?;
        let handle = Handle::of(shared.clone());
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
async fn mirror(shared: &Arc<Shared>, run: &Arc<LocalRun>) {
    let mut copies = [Stream::Stdout, Stream::Stderr].map(|stream| Some(copy_of(run, stream)));
    loop {
        let grown = shared.grown.notified();
        let over = run.finished().is_some();
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

fn copy_of(run: &LocalRun, stream: Stream) -> Copy {
    let to: Box<dyn Write + Send> = match stream {
        Stream::Stdout => Box::new(io::stdout()),
        Stream::Stderr => Box::new(io::stderr()),
    };
    (Output::open(run.directory.clone(), Some(stream), Shown::Bytes), to)
}

fn copy_all(output: &mut Output, to: &mut Box<dyn Write + Send>) -> io::Result<()> {
    while let Piece::Bytes(bytes) = output.read()? {
        to.write_all(&bytes)?;
    }
    to.flush()
}

/// The command's own code; 1 when it exited well and lied; 128 and the signal, as shells say it.
fn code_of(report: &Report) -> u8 {
    match (report.exit_code, report.signal) {
        (Some(0), _) if report.outcome == Outcome::FalseSuccess => 1,
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128u8.saturating_add(signal as u8),
        (None, None) => NOT_STARTED_CODE,
    }
}

fn remove_if_delivered(shared: &Shared, run: &LocalRun, state: PathBuf) {
    let cursors = std::fs::read_dir(run.directory.cursors()).map(|entries| entries.flatten().collect::<Vec<_>>());
    let undelivered = cursors.unwrap_or_default().into_iter().filter(|entry| {
        let path = entry.path();
        path.extension().is_some_and(|kind| kind == "sink")
            && !matches!(
                crate::directory::read_json::<domain::line::Position>(&path),
                Ok(Some(place)) if place.stage == domain::line::Stage::Done
            )
    });
    let unsent = std::fs::read_dir(shared.options.state.join("outbox")).map_or(0, |files| files.count());
    if undelivered.count() > 0 || unsent > 0 {
        tracing::warn!(state = %state.display(), "not everything was delivered; the run's directory is kept");
        return;
    }
    if let Err(error) = std::fs::remove_dir_all(&state) {
        tracing::warn!(%error, state = %state.display(), "the run's directory cannot be removed");
    }
}
