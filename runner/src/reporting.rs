//! Events of a run before its end: the job started, the job prints nothing. They go to the outbox, whose task sends
//! them. This module never waits for the network.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domain::event::{Body, Event};
use jiff::Timestamp;
use keeper::directory::create_marker;
use keeper::records::Started;
use keeper::spool;
use tokio::time::Instant;

use crate::keeper_state::stored_report;
use crate::local_run::LocalRun;
use crate::output_end::report_output_end_again;
use crate::report;
use crate::runner_state::RunnerState;

/// How long after its start a run's start is reported to the collector. Chosen: the report of the end has all facts of
/// the start, so a run that has ended by then needs one report instead of two.
pub(crate) const START_REPORT_DELAY: Duration = Duration::from_millis(100);

/// Passes the start of the job to every sink.
pub(crate) fn pass_start_to_sinks(shared: &Arc<RunnerState>, run: &Arc<LocalRun>, started: &Started) {
    run.make_header(&shared.options.runner, &shared.options.host, Some(started), started.started_at);
    shared.sinks.add(run);
}

/// Reports the start of the job to the collector.
pub(crate) async fn report_started(shared: &Arc<RunnerState>, run: &Arc<LocalRun>) {
    let Some(header) = run.header().filter(|_| !run.directory.start_reported().exists()) else { return };
    let body = Body::Started { pid: header.pid, command: header.command.clone() };
    queue_report(shared, run, report::new_event(header, header.started_at, body)).await;
    if let Err(error) = create_marker(&run.directory.start_reported()) {
        tracing::warn!(%error, run_id = %run.run_id(), "cannot mark start as reported; it may be reported twice");
    }
}

/// Queues the reports of an ended run again, once for each process: a store that was set back sends its order again,
/// but so does a queue that delivers twice. What was never reported is left to the supervision of the run.
pub(crate) async fn report_again(shared: &Arc<RunnerState>, run: &Arc<LocalRun>) {
    if run.finished().is_none() || run.reported_again.swap(true, Ordering::Relaxed) {
        return;
    }
    if let (Some(header), Ok(Some(started))) = (run.header(), run.started())
        && run.directory.start_reported().exists()
    {
        let body = Body::Started { pid: Some(started.pid), command: header.command.clone() };
        queue_report(shared, run, report::new_event(header, started.started_at, body)).await;
    }
    if let Some(event) = stored_report(run).filter(|_| run.directory.end_reported().exists()) {
        tracing::info!(run_id = %run.run_id(), "order of an ended attempt received; its report is sent again");
        queue_report(shared, run, event).await;
    }
    report_output_end_again(shared, run).await;
}

pub(crate) async fn queue_report(shared: &RunnerState, run: &LocalRun, event: Event) {
    tracing::debug!(run_id = %run.run_id(), event = event.id(), "event queued");
    if let Some(outbox) = &shared.outbox {
        outbox.put(event).await;
    }
}

/// The instant at which the job has printed nothing for `limit`.
pub(crate) fn quiet_deadline(run: &LocalRun, limit: Duration) -> Instant {
    let silent = Timestamp::now().duration_since(last_output_at(run));
    let silent = Duration::try_from(silent).unwrap_or_default();
    Instant::now() + limit.saturating_sub(silent)
}

/// Time of the last write to the newest segment; the start time when there is no segment.
fn last_output_at(run: &LocalRun) -> Timestamp {
    let folder = run.directory.spool();
    let last = spool::segments(&folder).ok().and_then(|segments| segments.last().copied());
    let written = last.and_then(|last| std::fs::metadata(folder.join(spool::segment_name(last))).ok()?.modified().ok());
    let written = written.and_then(|at| Timestamp::try_from(at).ok());
    let started = run.header().map(|header| header.started_at);
    written.or(started).unwrap_or(run.accepted.accepted_at)
}

pub(crate) async fn report_if_quiet(shared: &Arc<RunnerState>, run: &Arc<LocalRun>) -> bool {
    let (Some(limit), Some(header)) = (run.job().quiet_limit, run.header()) else { return false };
    let since = last_output_at(run);
    let now = Timestamp::now();
    if Duration::try_from(now.duration_since(since)).unwrap_or_default() < limit {
        return false;
    }
    queue_report(shared, run, report::new_event(header, now, Body::Quiet { since })).await;
    true
}
