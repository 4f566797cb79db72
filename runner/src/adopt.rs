//! Finishes commands whose `sexton exec` was killed or could not deliver everything. Their keepers continued alone.
//! Called by the next runner or `exec` with the same state directory and the sinks that the output is due to.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use std::time::Duration;

use domain::event::Event;
use jiff::Timestamp;
use keeper::directory::{RunDirectory, create_marker, read_json};
use keeper::records::{Accepted, Refusal, RefusalKind};

use crate::due_sinks::DueSinks;
use crate::kept::{KEPT_FOLDER, REMOVED_FILE};
use crate::local_run::lock;
use crate::recover::resume_run;
use crate::removed_sinks::record_undelivered;
use crate::reporting::report_again;
use crate::runner_state::RunnerState;
use crate::state_lock::lock_state_directory;
use crate::supervise::{refuse, supervise};

/// File with the key of the sinks of a call whose sinks file was faulty.
pub(crate) const SINKS_KEY_FILE: &str = "sinks.key";

/// File of a call whose sender leaves the delivery to another sender.
pub(crate) const WAITING_FILE: &str = "waiting";

/// File of a call that a sender could not take over, once that is logged: the next calls do not log it again.
const REFUSED_FILE: &str = "take-over-refused";

/// How long an edit of the sinks file can take to reach this process. Chosen: longer than the wait for a file that is
/// being written.
const RELOAD_TIME_MAX: Duration = Duration::from_secs(60);

/// Takes over every abandoned command that has ended. Idempotent. A command that is still running, or that cannot be
/// taken over, is checked again at the next call. A failure is logged once for each path in `logged`, and by senders
/// once for each call.
pub(crate) async fn adopt_abandoned(shared: &Arc<RunnerState>, exec_folder: &Path, logged: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(exec_folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        // Another process that holds the lock is responsible for it.
        let Ok(_in_use) = lock_state_directory(&entry.path()) else { continue };
        let result = match is_for_this_process(shared, &entry.path()) {
            Ok(true) => adopt(shared, &entry.path()).await,
            Ok(false) => continue,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            log_refusal(shared, &entry.path(), &error, logged);
        }
    }
}

/// Takes over the delivered calls that lack lines of sinks which are configured again. Returns the names of these
/// sinks. For senders: a runner has taken the calls over already.
pub(crate) async fn adopt_readded(
    shared: &Arc<RunnerState>,
    runner_folder: &Path,
    logged: &mut BTreeSet<PathBuf>,
) -> BTreeSet<String> {
    let here = shared.sinks.names();
    let mut readded = BTreeSet::new();
    for entry in fs::read_dir(runner_folder.join(KEPT_FOLDER)).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(Some(removed)) = read_json::<BTreeSet<String>>(&path.join(REMOVED_FILE)) else { continue };
        if removed.is_disjoint(&here) {
            continue;
        }
        let Ok(_in_use) = lock_state_directory(&path) else { continue };
        let is_same_file =
            |run: &RunDirectory| DueSinks::of_call(&path, run).is_ok_and(|due| due.source == shared.options.sinks_key);
        if !runs_of(&path).unwrap_or_default().iter().all(is_same_file) {
            continue;
        }
        match adopt(shared, &path).await {
            Ok(()) => readded.extend(removed.intersection(&here).cloned()),
            Err(error) => log_refusal(shared, &path, &error, logged),
        }
    }
    readded
}

/// Logs once that a call cannot be taken over. What a sender logs may appear on the standard error of another call.
fn log_refusal(shared: &RunnerState, path: &Path, error: &io::Error, logged: &mut BTreeSet<PathBuf>) {
    if !logged.insert(path.to_owned()) {
        return;
    }
    let marker = path.join(REFUSED_FILE);
    let is_sender = !shared.sinks.records.are_stored();
    if is_sender && (marker.exists() || create_marker(&marker).is_err()) {
        return;
    }
    let accepted = runs_of(path).unwrap_or_default().iter().find_map(|run| Accepted::read(run).ok().flatten());
    let job = accepted.map_or_else(String::new, |accepted| accepted.order.key().to_string());
    tracing::error!(%error, %job, path = %path.display(), "cannot take over an earlier command of `sexton exec`");
}

/// Takes over the delivered commands, so that the runner keeps their output and its collector knows them.
pub(crate) async fn adopt_kept(shared: &Arc<RunnerState>, logged: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(shared.options.state.join(KEPT_FOLDER)) else { return };
    for entry in entries.flatten() {
        let Ok(_in_use) = lock_state_directory(&entry.path()) else { continue };
        if let Err(error) = adopt(shared, &entry.path()).await {
            log_refusal(shared, &entry.path(), &error, logged);
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
    !has_keeper && !needs_server && is_for_this_process(shared, state).unwrap_or(false)
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
        keep_due_sinks(shared, state, &run).await?;
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

/// Whether this process delivers the output of an abandoned call: every sink that it is due to is configured here, or
/// was removed from the sinks file of this process. Other calls are left to processes with their sinks.
fn is_for_this_process(shared: &RunnerState, state: &Path) -> io::Result<bool> {
    if let Ok(key) = fs::read_to_string(state.join(SINKS_KEY_FILE))
        && shared.options.sinks_key.as_ref() != Some(&key)
    {
        return Ok(false);
    }
    let here = shared.sinks.names();
    for run in runs_of(state)? {
        let due = DueSinks::of_call(state, &run)?;
        if !due.names.is_subset(&here) && !are_removed(shared, &due) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the sinks that are not configured here were removed, not only defined elsewhere.
fn are_removed(shared: &RunnerState, due: &DueSinks) -> bool {
    let is_runner = shared.sinks.records.are_stored();
    if !shared.sinks.are_complete() {
        return false;
    }
    match &due.source {
        None => is_runner,
        Some(source) if shared.options.sinks_key.as_ref() == Some(source) => due.read_at.is_none_or(|at| {
            // The call may have read the file after an edit that has not reached this process.
            let age = Duration::try_from(Timestamp::now().duration_since(at)).unwrap_or_default();
            at <= shared.sinks.read_at() || age >= RELOAD_TIME_MAX
        }),
        // A call with that file would deliver it.
        Some(_) => is_runner && due.file.as_ref().is_none_or(|file| !file.exists()),
    }
}

/// Stores the sinks of a run that is taken over, and records the removed ones that it lacks.
async fn keep_due_sinks(shared: &Arc<RunnerState>, state: &Path, run: &RunDirectory) -> io::Result<()> {
    let mut due = DueSinks::of_call(state, run)?;
    if shared.sinks.records.are_stored() {
        record_undelivered(shared, run, &mut due).await?;
    } else {
        let here = shared.sinks.names();
        due.recorded.retain(|name| !here.contains(name));
    }
    due.write(run)
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
