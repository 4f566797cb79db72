//! The end of a runner: what happens to running jobs, and how long it waits for reports and sinks.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::handle::Handle;
use crate::local_run::{LocalRun, lock};
use crate::options::{OnShutdown, SHUTDOWN_REPORT_TIME};
use crate::runner_state::RunnerState;

/// Poll interval while jobs end, beside the notifications. Chosen, not measured.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The shortest time for reports and sinks, when the jobs took the whole time. Chosen, not measured.
const FLUSH_MIN: Duration = Duration::from_millis(300);

/// Leaves, awaits or stops the running jobs, then waits for reports and sinks. Nothing starts any more.
pub(crate) async fn end(shared: &Arc<RunnerState>) {
    let options = &shared.options;
    let deadline = options.shutdown_max.map(|max| Instant::now() + max);
    match options.on_shutdown {
        OnShutdown::Leave => shared.leave.cancel(),
        OnShutdown::Drain => wait_until(shared, None, is_judged).await,
        OnShutdown::Stop => stop_jobs(shared, deadline).await,
    }
    shared.supervisors.close();
    let ended = shared.supervisors.wait();
    let _ = match deadline {
        Some(deadline) => timeout_at(deadline, ended).await.is_ok(),
        None => {
            ended.await;
            true
        }
    };
    // Output of runs that have ended may stay open for any time: it is left to the keepers.
    shared.leave.cancel();
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()).max(FLUSH_MIN));
    flush(shared, left.map_or(options.flush_limit, |left| left.min(options.flush_limit))).await;
}

/// Stops every run that has started. Runs that wait for admission stay for the next start.
async fn stop_jobs(shared: &Arc<RunnerState>, deadline: Option<Instant>) {
    shared.stop_admission();
    let grace_max = shared.options.shutdown_max.map(|max| max.saturating_sub(SHUTDOWN_REPORT_TIME));
    Handle::new(shared.clone()).stop_started("the shutdown of its runner", grace_max);
    wait_until(shared, deadline, |shared, run| is_reported(run) || lock(&shared.admission).is_waiting(&run.key()))
        .await;
}

fn is_judged(_shared: &RunnerState, run: &LocalRun) -> bool {
    run.finished().is_some()
}

/// Whether the end of the run, and of its output, is in the outbox.
fn is_reported(run: &LocalRun) -> bool {
    let late = run.finished().is_some_and(|record| record.output_open);
    run.is_over() && run.directory.end_reported().exists() && (!late || run.directory.output_end_reported().exists())
}

/// Returns when the condition holds for every run here, or at the deadline.
async fn wait_until(
    shared: &RunnerState,
    deadline: Option<Instant>,
    condition: impl Fn(&RunnerState, &LocalRun) -> bool,
) {
    loop {
        let changed = shared.admission_changed.notified();
        let runs: Vec<Arc<LocalRun>> = lock(&shared.runs).values().cloned().collect();
        if runs.iter().all(|run| condition(shared, run)) {
            return;
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            tracing::warn!("some runs did not end in time; the next start finishes them");
            return;
        }
        tokio::select! { () = changed => {}, () = sleep(POLL_INTERVAL) => {} }
    }
}

/// Waits up to the limit for collector and sinks; everything undelivered stays on disk.
pub(crate) async fn flush(shared: &RunnerState, limit: Duration) {
    if let Some(outbox) = &shared.outbox
        && tokio::time::timeout(limit, outbox.wait_flushed()).await.is_err()
    {
        tracing::warn!("reports unsent at shutdown; the next start sends them");
    }
    shared.sinks.end(limit).await;
}
