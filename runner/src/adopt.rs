//! Commands whose `exec` was killed or could not deliver everything: their keepers went on alone, and what they left below
//! `exec/` is finished by the next runner or `exec` that uses the same state directory and has the sinks that are owed
//! something.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::event::Event;
use keeper::directory::{RunDirectory, read_json};
use keeper::records::{Accepted, Refusal, RefusalKind};

use crate::local_run::locked;
use crate::recover::resume_run;
use crate::runner_state::RunnerState;
use crate::state_lock::lock_state_directory;
use crate::supervise::{refuse, supervise};

/// The names of the sinks that an `exec` delivers to.
pub const SINKS_FILE: &str = "sinks.json";

/// Takes over every abandoned command that has ended. Idempotent; one that still runs, or that cannot be taken over, is
/// looked at again the next time. What stands in the way is told once for each path in `logged`.
pub async fn adopt_abandoned(shared: &Arc<RunnerState>, exec_folder: &Path, logged: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(exec_folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        // Whoever holds the lock attends to it.
        let Ok(_in_use) = lock_state_directory(&entry.path()) else { continue };
        let result = adopt(shared, &entry.path()).await;
        if let Err(error) = result
            && logged.insert(entry.path())
        {
            tracing::error!(%error, path = %entry.path().display(), "what a command left cannot be taken over");
        }
    }
}

async fn adopt(shared: &Arc<RunnerState>, state: &Path) -> io::Result<()> {
    let runs = match fs::read_dir(state.join("runs")) {
        Ok(runs) => runs.map(|run| run.map(|run| RunDirectory::open(run.path()))).collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let reports_wanted = state.join("outbox").exists();
    for run in &runs {
        // A living keeper writes to where the directory is.
        if run.has_keeper()? {
            return Ok(());
        }
        // Were it to be moved first, nobody would look at it again.
        let _readable: Option<Accepted> = Accepted::read(run)?;
        if reports_wanted && shared.outbox.is_none() && !run.end_reported().exists() {
            return Err(io::Error::other("its end is to be reported, and no server is known here"));
        }
    }
    check_sinks_match(shared, state)?;
    for run in runs {
        let Some(name) = run.path().file_name() else { continue };
        let here = shared.runs_folder.join(name);
        fs::rename(run.path(), &here)?;
        if let Some(run) = resume_run(shared, RunDirectory::open(here))? {
            // Whoever wanted the command is gone; to start it now, elsewhere, is not what was asked for.
            let message = "`sexton exec` was killed before it could start the command".to_owned();
            let refused = refuse(shared, &run, Refusal { why: RefusalKind::Impossible, message });
            locked(&shared.admission).count_running(refused.job().needs);
            shared.supervisors.spawn(supervise(shared.clone(), refused));
        }
    }
    quarantine_refused(state)?;
    move_reports(shared, state).await?;
    fs::remove_dir_all(state)
}

/// Its output is not given to sinks that nobody asked for instead of those that somebody did.
fn check_sinks_match(shared: &RunnerState, state: &Path) -> io::Result<()> {
    let wanted = read_json::<BTreeSet<String>>(&state.join(SINKS_FILE))?.unwrap_or_default();
    let here: BTreeSet<String> = shared.with_sinks(|sinks| sinks.iter().map(|sink| sink.name().to_owned()).collect());
    let elsewhere: Vec<String> = wanted.difference(&here).map(|name| format!("`{name}`")).collect();
    match elsewhere.is_empty() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "its output may be owed to {}, which is none of the sinks here; give one that name, or remove the directory",
            elsewhere.join(", ")
        ))),
    }
}

/// Hands its reports on; without anybody to send them to they wait below this call's own directory.
async fn move_reports(shared: &RunnerState, state: &Path) -> io::Result<()> {
    let reports = fs::read_dir(state.join("outbox")).into_iter().flatten().flatten().map(|file| file.path());
    for path in reports.filter(|path| path.extension().is_some_and(|kind| kind == "json")) {
        let text = fs::read_to_string(&path)?;
        let events: Result<Vec<Event>, _> = text.lines().map(serde_json::from_str).collect();
        match (&shared.outbox, events) {
            (Some(outbox), Ok(events)) => {
                for event in events {
                    outbox.put(event).await;
                }
                fs::remove_file(&path)?;
            }
            // Sent, or put aside, by whoever takes this over in turn.
            _ => {
                let folder = shared.options.state.join("outbox");
                fs::create_dir_all(&folder)?;
                let number = fs::read_dir(&folder)?.count() as u64 + 1;
                let free =
                    (number..).map(|number| folder.join(format!("{number:020}.json"))).find(|path| !path.exists());
                fs::rename(&path, free.unwrap_or_else(|| folder.join("report.json")))?;
            }
        }
    }
    Ok(())
}

/// Reports that were refused for good go to where the runner keeps its own.
pub fn quarantine_refused(state: &Path) -> io::Result<()> {
    let (Some(exec_folder), Some(name)) = (state.parent(), state.file_name()) else { return Ok(()) };
    let folder = exec_folder.with_file_name("outbox");
    for file in fs::read_dir(state.join("outbox")).into_iter().flatten().flatten() {
        if file.path().extension().is_some_and(|kind| kind == "refused") {
            fs::create_dir_all(&folder)?;
            let kept = format!("{}.{}", name.to_string_lossy(), file.file_name().to_string_lossy());
            fs::rename(file.path(), folder.join(kept))?;
        }
    }
    Ok(())
}
