//! The output that other processes print after a run has ended: delivers it, and reports its end. The outcome of the
//! run is decided by then and never changes here. Started when a run has ended, and when a runner resumes such a run.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use domain::event::{Body, Event, OutputEnd};
use domain::line::{Block, Position, Stage};
use domain::run::OutputCounts;
use jiff::Timestamp;
use keeper::directory::{Durability, RunDirectory, create_marker, read_json, write_json};
use keeper::records::Exit;
use keeper::spawn::Keeper;
use keeper::spool::{self, SpoolReader};
use tokio::time::sleep;

use crate::finish::recount_output;
use crate::hung_keeper;
use crate::keeper_state::POLL_INTERVAL;
use crate::local_run::LocalRun;
use crate::mailing::start_mailing;
use crate::report;
use crate::reporting::queue_report;
use crate::runner_state::RunnerState;
use crate::supervise::wait_for_keeper;

/// Bytes per read while late lines are counted.
const BLOCK_BYTES: usize = 256 << 10;

/// Retry interval of writes that the disk refuses. Chosen, not measured.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Whether a block that was just read was printed after the end of the run. The keeper records the end before it begins
/// the segment of later output, so only the first block of a segment has to be checked.
pub(crate) fn is_late(run: &RunDirectory, block: &Block) -> bool {
    block.end.offset == block.bytes.len() as u64
        && read_json::<Exit>(&run.exit())
            .is_ok_and(|exit| exit.is_some_and(|exit| exit.output_open && block.first_seq > exit.output.last_seq))
}

/// Follows the output of a run that has ended until its end is reported. Returns at once.
pub(crate) fn follow_output(shared: &Arc<RunnerState>, run: &Arc<LocalRun>, keeper: Option<Keeper>) {
    let (shared, run) = (shared.clone(), run.clone());
    tokio::spawn(async move {
        if let Err(error) = shared.watch.add(&run) {
            tracing::warn!(%error, run_id = %run.run_id(), "inotify watch failed; polling the run every 5 s");
        }
        let leave = shared.leave.clone();
        leave.run_until_cancelled(follow_to_end(&shared, &run)).await;
        shared.watch.remove(&run);
        if let Some(keeper) = keeper.filter(|_| run.is_over()) {
            wait_for_keeper(keeper).await;
        }
    });
}

async fn follow_to_end(shared: &Arc<RunnerState>, run: &Arc<LocalRun>) {
    let mut counted = SpoolReader::open(run.directory.spool(), late_position(run));
    let end = loop {
        // The lock first: after its release, everything that the keeper wrote is visible.
        let is_alone = run.directory.has_keeper().is_ok_and(|has_keeper| !has_keeper);
        match read_json::<OutputEnd>(&run.directory.output_end()) {
            Ok(Some(end)) => break end,
            Err(error) if error.kind() != io::ErrorKind::InvalidData => {
                tracing::error!(%error, run_id = %run.run_id(), "cannot read a run's directory, retrying");
            }
            Ok(None) | Err(_) if is_alone => break record_end(shared, run).await,
            Ok(None) | Err(_) => {}
        }
        // Known lines are part of the lag that `sexton sinks` shows.
        while let Ok(Some(block)) = counted.read(BLOCK_BYTES) {
            run.note_read_position(block.end);
            tokio::task::yield_now().await;
        }
        tokio::select! {
            () = run.wake.notified() => {}
            () = sleep(POLL_INTERVAL) => shared.wake_readers(run),
            () = hung_keeper::wait_until_overdue(run) => hung_keeper::kill_late(run).await,
        }
    };
    run.set_output_ended(report::output_ended_record(&end));
    shared.wake_readers(run);
    start_mailing(shared, run);
    tracing::info!(
        run_id = %run.run_id(), job = %run.job().key(), late_lines = end.late_lines, "output ended after its run"
    );
    if !run.directory.output_end_reported().exists() {
        queue_report(shared, run, output_end_event(shared, run, end)).await;
        if let Err(error) = create_marker(&run.directory.output_end_reported()) {
            tracing::warn!(%error, run_id = %run.run_id(), "cannot mark the end of an output as reported; it may be reported twice");
        }
    }
    shared.admission_changed.notify_waiters();
}

/// Queues the end of the output again, if it was reported.
pub(crate) async fn report_output_end_again(shared: &RunnerState, run: &LocalRun) {
    if run.directory.output_end_reported().exists()
        && let Ok(Some(end)) = read_json::<OutputEnd>(&run.directory.output_end())
    {
        queue_report(shared, run, output_end_event(shared, run, end)).await;
    }
}

fn output_end_event(shared: &RunnerState, run: &LocalRun, end: OutputEnd) -> Event {
    let header = run.make_header(&shared.options.runner, &shared.options.host, None, end.ended_at);
    report::new_event(header, end.ended_at, Body::OutputEnded(Box::new(end)))
}

/// The position of the first late line.
fn late_position(run: &LocalRun) -> Position {
    let last_seq = run.finished().map_or(0, |record| record.last_seq);
    Position { seq: last_seq + 1, segment: last_seq + 1, offset: 0, stage: Stage::Late }
}

/// Records the end of an output whose keeper died.
async fn record_end(shared: &Arc<RunnerState>, run: &Arc<LocalRun>) -> OutputEnd {
    loop {
        let (task_run, boot_id) = (run.clone(), shared.boot_id.clone());
        let written = tokio::task::spawn_blocking(move || write_end(&task_run, &boot_id)).await;
        match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(end) => return end,
            Err(error) => {
                tracing::error!(%error, run_id = %run.run_id(), "cannot record the end of an output, retrying")
            }
        }
        sleep(RETRY_DELAY).await;
    }
}

fn write_end(run: &LocalRun, boot_id: &str) -> io::Result<OutputEnd> {
    let folder = run.directory.spool();
    let repair = spool::repair_tail(&folder)?;
    let exit = run.exit()?.map(|exit| exit.output).unwrap_or_default();
    let late = recount_output(run, late_position(run))?;
    let output = OutputCounts {
        stdout_lines: exit.stdout_lines + late.stdout_lines,
        stderr_lines: exit.stderr_lines + late.stderr_lines,
        stdout_bytes: exit.stdout_bytes + late.stdout_bytes,
        stderr_bytes: exit.stderr_bytes + late.stderr_bytes,
        last_seq: exit.last_seq.max(repair.last_seq),
        ..exit
    };
    let same_boot = run.started().ok().flatten().is_none_or(|started| started.boot_id == boot_id);
    let note = match (same_boot, run.directory.stop().exists()) {
        (false, _) => "the machine was restarted before its output ended",
        (true, true) => "stopped on request; its keeper did not record the end of the output",
        (true, false) => "its keeper died; what was printed later is lost",
    };
    let end = OutputEnd {
        ended_at: Timestamp::now(),
        output,
        late_lines: late.stdout_lines + late.stderr_lines,
        note: Some(note.to_owned()),
    };
    if run.directory.path().try_exists()? {
        write_json(&run.directory.output_end(), &end, Durability::Cache)?;
    }
    Ok(end)
}
