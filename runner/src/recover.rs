//! Resumes the runs of an earlier runner from their directories. No run is started twice, because only a run with a
//! free lock and without the marker `starting` is started. No run is forgotten, because a directory's name and files
//! are all that is needed.

use std::fs;
use std::io;
use std::sync::Arc;

use domain::event::Body;
use domain::run::Trigger;
use keeper::directory::RunDirectory;
use keeper::records::Accepted;

use crate::due_sinks::DueSinks;
use crate::keeper_state::{KeeperState, keeper_state, stored_report};
use crate::local_run::{LocalRun, lock};
use crate::mailing::start_mailing;
use crate::output_end::follow_output;
use crate::report;
use crate::retention::REMOVED_PREFIX;
use crate::runner_state::RunnerState;
use crate::supervise::supervise;

/// Resumes every run directory. Called once, before any order is taken.
///
/// # Errors
/// When the folder of runs cannot be read. A directory that cannot be read is logged and left unchanged.
pub(crate) fn recover(shared: &Arc<RunnerState>) -> io::Result<()> {
    let mut waiting = Vec::new();
    for entry in fs::read_dir(&shared.runs_folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(REMOVED_PREFIX) {
            if let Err(error) = fs::remove_dir_all(entry.path()) {
                tracing::warn!(%error, name, "cannot delete the rest of a removed run");
            }
            continue;
        }
        if RunDirectory::parse_name(&name).is_none() {
            tracing::warn!(name, "unknown directory among the runs; ignored");
            continue;
        }
        match resume_run(shared, RunDirectory::open(entry.path())) {
            Ok(Some(run)) => waiting.push(run),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, name, "cannot resume a run; its directory is left unchanged"),
        }
    }
    waiting.sort_by_key(|run| run.accepted.accepted_at);
    let mut admission = lock(&shared.admission);
    waiting.iter().for_each(|run| admission.enqueue(run.key(), run.job().needs));
    Ok(())
}

/// Resumes one run. Returns it when it was not started and waits for admission.
pub(crate) fn resume_run(shared: &Arc<RunnerState>, directory: RunDirectory) -> io::Result<Option<Arc<LocalRun>>> {
    let Some(accepted) = Accepted::read(&directory)? else {
        // Its message was not deleted, so it is redelivered.
        fs::remove_dir_all(directory.path())?;
        return Ok(None);
    };
    // A crash may have come after the directory was created and before its content was.
    directory.create()?;
    let run = Arc::new(LocalRun::new(directory, accepted));
    if run.accepted.order.trigger == Trigger::Exec
        && let Ok(Some(due)) = DueSinks::read(&run.directory)
    {
        run.set_due(due.limit_for(shared.options.sinks_key.as_ref()));
    }
    let key = run.key();
    lock(&shared.runs).insert(key, run.clone());
    if run.directory.end_reported().exists() && restore_finished(shared, &run) {
        return Ok(None);
    }
    match keeper_state(&run)? {
        KeeperState::NotStarted if run.accepted.refused.is_none() => return Ok(Some(run)),
        keeper_state => {
            tracing::info!(run_id = %run.run_id(), job = %run.job().key(), ?keeper_state, "run resumed");
        }
    }
    lock(&shared.admission).count_running(run.job().needs);
    shared.supervisors.spawn(supervise(shared.clone(), run));
    Ok(None)
}

/// Restores a reported run, which only sinks may still need. Returns false when its report is missing, as after a full
/// disk. It is then supervised to its end again, which makes the report again and sends it to no receiver.
fn restore_finished(shared: &Arc<RunnerState>, run: &Arc<LocalRun>) -> bool {
    let Some(event) = stored_report(run) else { return false };
    let Body::Finished(report) = event.body else { return false };
    let started = run.started().unwrap_or_default();
    run.make_header(&shared.options.runner, &shared.options.host, started.as_ref(), event.at);
    run.set_finished(report::finished_record(&report));
    shared.sinks.add(run);
    start_mailing(shared, run);
    if run.has_open_output() {
        follow_output(shared, run, None);
    }
    true
}
