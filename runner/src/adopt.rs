//! Finishes commands whose `sexton exec` was killed or could not deliver everything. Their keepers continued alone.
//! Called by the next runner or `exec` with the same state directory and the sinks that the output is due to.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::event::Event;
use keeper::directory::{RunDirectory, read_json};
use keeper::records::{Accepted, Refusal, RefusalKind};

use crate::kept::KEPT_FOLDER;
use crate::local_run::lock;
use crate::recover::resume_run;
use crate::reporting::report_again;
use crate::runner_state::RunnerState;
use crate::state_lock::lock_state_directory;
use crate::supervise::{refuse, supervise};

/// File with the names of the sinks that an `exec` delivers to.
pub(crate) const SINKS_FILE: &str = "sinks.json";

/// File with the key of the sinks of a call whose sinks file was faulty.
pub(crate) const SINKS_KEY_FILE: &str = "sinks.key";

/// File of a call whose sender leaves the delivery to another sender.
pub(crate) const WAITING_FILE: &str = "waiting";

/// Takes over every abandoned command that has ended. Idempotent. A command that is still running, or that cannot be
/// taken over, is checked again at the next call. A failure is logged once for each path in `logged`.
pub(crate) async fn adopt_abandoned(shared: &Arc<RunnerState>, exec_folder: &Path, logged: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(exec_folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        // Another process that holds the lock is responsible for it.
        let Ok(_in_use) = lock_state_directory(&entry.path()) else { continue };
        let result = match check_sinks_match(shared, &entry.path()) {
            Ok(()) => adopt(shared, &entry.path()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result
            && logged.insert(entry.path())
        {
            tracing::error!(%error, path = %entry.path().display(), "cannot take over an abandoned command");
        }
    }
}

/// Takes over the delivered commands, so that the runner keeps their output and its collector knows them.
pub(crate) async fn adopt_kept(shared: &Arc<RunnerState>, logged: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(shared.options.state.join(KEPT_FOLDER)) else { return };
    for entry in entries.flatten() {
        let Ok(_in_use) = lock_state_directory(&entry.path()) else { continue };
        if let Err(error) = adopt(shared, &entry.path()).await
            && logged.insert(entry.path())
        {
            tracing::error!(%error, path = %entry.path().display(), "cannot take over a command that has ended");
        }
    }
}

/// Whether [`adopt_abandoned`] takes this state over, now or as soon as its sender has exited.
pub(crate) fn is_abandoned(shared: &RunnerState, state: &Path) -> bool {
    let in_use = lock_state_directory(state);
    if in_use.is_err() && !state.join(WAITING_FILE).exists() {
        return false;
    }
    let runs = runs_of(state).unwrap_or_default();
    let has_keeper = runs.iter().any(|run| run.has_keeper().unwrap_or(true));
    let is_unreported = runs.iter().any(|run| !run.end_reported().exists());
    let needs_server = state.join("outbox").exists() && shared.outbox.is_none() && is_unreported;
    !has_keeper && !needs_server && check_sinks_match(shared, state).is_ok()
}

fn runs_of(state: &Path) -> io::Result<Vec<RunDirectory>> {
    match fs::read_dir(state.join("runs")) {
        Ok(runs) => runs.map(|run| run.map(|run| RunDirectory::open(run.path()))).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

async fn adopt(shared: &Arc<RunnerState>, state: &Path) -> io::Result<()> {
    let runs = runs_of(state)?;
    let reports_wanted = state.join("outbox").exists();
    for run in &runs {
        // A running keeper writes to this path, so the directory must not move.
        if run.has_keeper()? {
            return Ok(());
        }
        // Read before the move: after it, no later call would find an unreadable order.
        let _readable: Option<Accepted> = Accepted::read(run)?;
        if reports_wanted && shared.outbox.is_none() && !run.end_reported().exists() {
            return Err(io::Error::other("its end must be reported, but no server is configured here"));
        }
    }
    for run in runs {
        let Some(name) = run.path().file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
        let here = shared.runs_folder.join(&name);
        let is_unknown = !reports_wanted && run.end_reported().exists();
        fs::rename(run.path(), &here)?;
        if let Some(run) = resume_run(shared, RunDirectory::open(here))? {
            // The caller of the command has exited; a start now, elsewhere, would surprise it.
            let message = "`sexton exec` was killed before it could start the command".to_owned();
            let refused = refuse(shared, &run, Refusal { why: RefusalKind::Impossible, message });
            lock(&shared.admission).count_running(refused.job().needs);
            shared.supervisors.spawn(supervise(shared.clone(), refused));
        }
        if is_unknown && let Some(run) = RunDirectory::parse_name(&name).and_then(|key| shared.run(&key)) {
            // Its call had no server: the collector has no report of it.
            report_again(shared, &run).await;
        }
    }
    quarantine_refused(state)?;
    move_reports(shared, state).await?;
    fs::remove_dir_all(state)
}

/// Refuses to take over output that is due to sinks which are not configured here.
fn check_sinks_match(shared: &RunnerState, state: &Path) -> io::Result<()> {
    if let Ok(key) = fs::read_to_string(state.join(SINKS_KEY_FILE))
        && shared.options.sinks_key.as_ref() != Some(&key)
    {
        return Err(io::Error::other("its sinks file was faulty; a call with the same, corrected file delivers it"));
    }
    let wanted = read_json::<BTreeSet<String>>(&state.join(SINKS_FILE))?.unwrap_or_default();
    let here = shared.sinks.names();
    let elsewhere: Vec<String> = wanted.difference(&here).map(|name| format!("`{name}`")).collect();
    match elsewhere.is_empty() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "its output is still due to sink {}, which is not configured here; add a sink with that name, or remove the directory",
            elsewhere.join(", ")
        ))),
    }
}

/// Moves the unsent reports to this outbox. Without a server they stay in files below this call's own directory.
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
            // The process that takes over this directory sends or quarantines them.
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

/// Moves permanently refused reports to the quarantine of the runner's own outbox.
pub(crate) fn quarantine_refused(state: &Path) -> io::Result<()> {
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
