//! The commands of `sexton exec` whose output is not delivered, read from a runner's directory. For `status`; changes
//! nothing.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use domain::job::JobKey;
use domain::line::{Position, Stage};
use domain::run::RunId;
use jiff::Timestamp;
use keeper::directory::RunDirectory;
use keeper::records::Accepted;
use rustix::fs::{FlockOperation, flock};

use crate::due_sinks::DueSinks;
use crate::exec::{EXEC_FOLDER, FIRST_CHOICE_FILE};
use crate::kept::{KEPT_FOLDER, REMOVED_FILE};
use crate::local_run::LocalRun;
use crate::removed_sinks::{lacked_lines, undelivered_lines};
use crate::sink_records::is_removal_over;

/// A command that has ended, and the sinks that lack its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndeliveredCommand {
    /// Its run.
    pub run_id: RunId,
    /// Its job.
    pub job: JobKey,
    /// When it was started.
    pub at: Timestamp,
    /// Directory of its call.
    pub directory: PathBuf,
    /// The sinks with the lines that they lack. Not all, when no sender has started or the sinks file is faulty.
    pub sinks: Vec<(String, u64)>,
    /// Lines that at least one sink lacks.
    pub lines: u64,
    /// A process delivers them now.
    pub is_being_sent: bool,
    /// The state directory that could not be used for this command, if so.
    pub first_choice: Option<PathBuf>,
}

/// The undelivered commands below a runner's directory, oldest first. Commands that are still running are left out. So
/// is what cannot be read.
pub fn undelivered_commands(runner_folder: &Path) -> Vec<UndeliveredCommand> {
    let calls = |folder: &str| {
        let entries = fs::read_dir(runner_folder.join(folder)).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let kept = calls(KEPT_FOLDER).into_iter().filter(|call| call.join(REMOVED_FILE).exists());
    let mut found: Vec<UndeliveredCommand> =
        calls(EXEC_FOLDER).into_iter().chain(kept).flat_map(|call| commands_of(&call)).collect();
    found.sort_by(|one, other| (one.at, &one.run_id).cmp(&(other.at, &other.run_id)));
    found
}

fn commands_of(call: &Path) -> Vec<UndeliveredCommand> {
    let is_being_sent = is_locked(call);
    let runs = fs::read_dir(call.join("runs")).into_iter().flatten().flatten();
    runs.filter_map(|run| command_of(call, RunDirectory::open(run.path()), is_being_sent)).collect()
}

fn command_of(call: &Path, directory: RunDirectory, is_being_sent: bool) -> Option<UndeliveredCommand> {
    if !directory.exit().exists() && directory.has_keeper().unwrap_or(true) {
        return None;
    }
    let accepted = Accepted::read(&directory).ok()??;
    let due = DueSinks::of_call(call, &directory).ok()?;
    let run = LocalRun::new(directory, accepted);
    // Not those of a call whose sender has not started, or whose sinks file is faulty.
    let is_known = due.is_complete || (due.source.is_none() && !due.names.is_empty());
    let sinks = lacked_lines(&run, due.names.iter().filter(|name| !is_given_up(call, &due, name)));
    let lines = match is_known {
        true => sinks.iter().map(|(_, lines)| *lines).max().unwrap_or(0),
        false => undelivered_lines(&run, Position { stage: Stage::Lines, ..Position::START }),
    };
    let first_choice = fs::read(run.directory.file(FIRST_CHOICE_FILE)).ok();
    let command = UndeliveredCommand {
        run_id: run.run_id().clone(),
        job: run.job().key(),
        at: run.accepted.accepted_at,
        directory: call.to_owned(),
        sinks,
        lines,
        is_being_sent,
        first_choice: first_choice.map(|path| OsString::from_vec(path).into()),
    };
    (lines > 0).then_some(command)
}

/// Whether an operator has given up the lines that a removed sink lacks.
fn is_given_up(call: &Path, due: &DueSinks, sink: &str) -> bool {
    let runner_folder = call.parent().and_then(Path::parent).unwrap_or(call);
    due.recorded.contains(sink) && is_removal_over(runner_folder, sink)
}

/// Whether a process holds the lock of a call. It is not taken: its owner must not be disturbed.
fn is_locked(call: &Path) -> bool {
    let Ok(lock) = File::open(call.join("runner.lock")) else { return false };
    flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
}
