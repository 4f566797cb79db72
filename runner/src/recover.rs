//! What an earlier runner left: every directory of a run is taken up where it was. Nothing is started twice, because only
//! what has a free lock and no mark of a start is started; nothing is forgotten, because nothing but a directory's name
//! and files is needed.

use std::fs;
use std::io;
use std::sync::Arc;

use domain::event::Body;
use keeper::directory::RunDirectory;
use keeper::records::Accepted;

use crate::keeper_state::{KeeperState, keeper_state, stored_report};
use crate::local_run::{LocalRun, locked};
use crate::report;
use crate::retention::REMOVED_PREFIX;
use crate::runner_state::RunnerState;
use crate::supervise::supervise;

/// Takes up everything that is there. Called once, before any order is taken.
///
/// # Errors
/// When the folder of runs cannot be read. One directory that cannot be read is told and left as it is.
pub fn recover(shared: &Arc<RunnerState>) -> io::Result<()> {
    let mut waiting = Vec::new();
    for entry in fs::read_dir(&shared.runs_folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(REMOVED_PREFIX) {
            if let Err(error) = fs::remove_dir_all(entry.path()) {
                tracing::warn!(%error, name, "the rest of a removed run cannot be removed");
            }
            continue;
        }
        if RunDirectory::parse_name(&name).is_none() {
            tracing::warn!(name, "there is a folder among the runs that is none; it is left alone");
            continue;
        }
        match resume_run(shared, RunDirectory::open(entry.path())) {
            Ok(Some(run)) => waiting.push(run),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, name, "a run cannot be taken up; its directory is left as it is"),
        }
    }
    waiting.sort_by_key(|run| run.accepted.accepted_at);
    let mut admission = locked(&shared.admission);
    waiting.iter().for_each(|run| admission.enqueue(run.key(), run.job().needs));
    Ok(())
}

/// Takes up one; gives it back when it has not begun and waits for admission.
pub fn resume_run(shared: &Arc<RunnerState>, directory: RunDirectory) -> io::Result<Option<Arc<LocalRun>>> {
    let Some(accepted) = Accepted::read(&directory)? else {
        // Its message was not deleted, so it comes again.
        fs::remove_dir_all(directory.path())?;
        return Ok(None);
    };
    // A crash may have come between the folder and what belongs inside.
    directory.create()?;
    let run = Arc::new(LocalRun::new(directory, accepted));
    let key = run.key();
    locked(&shared.runs).insert(key, run.clone());
    if run.directory.end_reported().exists() && restore_finished(shared, &run) {
        return Ok(None);
    }
    match keeper_state(&run)? {
        KeeperState::NotStarted if run.accepted.refused.is_none() => return Ok(Some(run)),
        keeper_state => {
            let event = "taken up";
            tracing::info!(run_id = %run.run_id(), job = %run.job().key(), ?keeper_state, event, "an earlier runner's run");
        }
    }
    locked(&shared.admission).count_running(run.job().needs);
    shared.supervisors.spawn(supervise(shared.clone(), run));
    Ok(None)
}

/// A run that is reported: only its sinks may still have something to do. False when its report is not there, as a full
/// disk leaves it: then it is attended to its end once more, which makes the report again and tells it to nobody.
fn restore_finished(shared: &RunnerState, run: &Arc<LocalRun>) -> bool {
    let Some(event) = stored_report(run) else { return false };
    let Body::Finished(report) = event.body else { return false };
    let started = run.started().unwrap_or_default();
    run.make_header(&shared.options.runner, &shared.options.host, started.as_ref(), event.at);
    run.set_finished(report::finished_record(&report));
    shared.add_feeds(run);
    true
}
