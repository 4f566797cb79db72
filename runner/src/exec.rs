//! `sexton exec`: runs one command with log shipping and rules, for use inside another scheduler. Keeper, spool, rules,
//! sinks and reports are the same as for a runner.
//!
//! The process of the caller only waits: the keeper has the command and copies its output, and the sender
//! ([`crate::sender`]) judges and delivers. So the caller gets the exit code when the command has ended, and the sender
//! continues alone.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdout};
use std::time::{Duration, Instant};

use domain::order::Order;
use domain::run::Outcome;
use jiff::Timestamp;
use keeper::caller_process::KeeperMessage;
use keeper::directory::{Durability, RunDirectory, write_json};
use keeper::foreground::{CallerSignals, Foreground, Received};
use keeper::records::{Accepted, Refusal};
use keeper::{free_space, processes};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use crate::intake::refusal_of;
use crate::options::Policy;
use crate::state_lock::{RunnerError, lock_state_directory};

/// Folder of the calls whose output is not delivered, below the runner's directory.
pub const EXEC_FOLDER: &str = "exec";

/// File of a run whose first choice of a state directory could not be used: that directory.
pub(crate) const FIRST_CHOICE_FILE: &str = "first-choice";

/// The code of a shell for a command that it cannot find.
pub const NOT_FOUND_CODE: u8 = 127;

/// The code of a shell for a command that it cannot execute.
const NOT_EXECUTABLE_CODE: u8 = 126;

/// Code of a command whose end is unknown, and of one that the rules failed.
const FAILED_CODE: u8 = 1;

/// How long another process may hold the lock of a new directory. Chosen: a check for abandoned directories takes less
/// than 1 ms.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval of these retries. Chosen, not measured.
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// How long the caller waits for the rules after the end of the command. Chosen: they read while the command runs, so
/// only a machine that hangs takes longer.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes per read of the sender's messages.
const MESSAGE_BYTES: usize = 4 << 10;

/// One call, stored on disk. Its command has not started.
pub struct Call {
    /// Directory of this call.
    pub state: PathBuf,
    /// Directory of its run.
    pub run: RunDirectory,
    /// The lock on `state`, for the sender.
    pub in_use: File,
}

impl Call {
    /// Stores the order below the runner's directory. A refused one is not started.
    ///
    /// # Errors
    /// When the directory cannot be used, or its disk has no space for output. Nothing is left behind.
    pub fn prepare(runner_folder: &Path, order: Order, refused: Option<Refusal>) -> io::Result<Call> {
        let state = runner_folder.join(EXEC_FOLDER).join(order.run_id.as_str());
        let prepared = Call::create(&state, order, refused);
        if prepared.is_err() {
            let _ = std::fs::remove_dir_all(&state);
        }
        prepared
    }

    fn create(state: &Path, order: Order, refused: Option<Refusal>) -> io::Result<Call> {
        let in_use = lock_own_directory(state).map_err(|error| match error {
            RunnerError::State(_, error) => error,
            other => io::Error::other(other.to_string()),
        })?;
        if free_space::read(state)?.available_for_output_bytes() == 0 {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "its disk is full"));
        }
        // The keeper has another working directory.
        let state = std::fs::canonicalize(state)?;
        let run = RunDirectory::new(&state.join("runs"), &order.run_id, order.attempt);
        run.create()?;
        let accepted = Accepted { order, accepted_at: Timestamp::now(), boot_id: processes::boot_id(), refused };
        write_json(&run.order(), &accepted, Durability::Cache)?;
        Ok(Call { state, run, in_use })
    }

    /// Notes which state directory could not be used for this call, so that `status` of that one finds it.
    pub fn note_first_choice(&self, state: &Path) {
        use std::os::unix::ffi::OsStrExt;
        // Without the note, the call is only not listed there.
        let _ = std::fs::write(self.run.file(FIRST_CHOICE_FILE), state.as_os_str().as_bytes());
    }

    /// Removes the call: its command runs without Sexton.
    pub fn discard(self) {
        let _ = std::fs::remove_dir_all(&self.state);
    }
}

/// The refusal of an order by the policy of this machine, if any.
pub fn refusal(policy: &dyn Policy, runner: &str, order: &Order) -> Option<Refusal> {
    refusal_of(policy, runner, order)
}

/// Locks the state of this call. The run id is unique, so another process only holds the lock while it checks for an
/// abandoned directory.
fn lock_own_directory(state: &Path) -> Result<File, RunnerError> {
    let start = Instant::now();
    loop {
        match lock_state_directory(state) {
            Err(error) if is_being_checked(&error) && start.elapsed() < LOCK_TIMEOUT => {
                std::thread::sleep(LOCK_RETRY_INTERVAL);
            }
            result => return result,
        }
    }
}

/// Whether another process holds the lock, or has just removed the new directory.
fn is_being_checked(error: &RunnerError) -> bool {
    match error {
        RunnerError::State(_, error) => error.kind() == io::ErrorKind::NotFound,
        error => matches!(error, RunnerError::InUse(_)),
    }
}

/// What the rules found, as the sender prints it on one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Outcome of the run.
    pub outcome: Outcome,
    /// One sentence.
    pub reason: String,
    /// Lines that the disk refused.
    pub dropped_lines: u64,
    /// The sinks are files, which take the lines at once.
    #[serde(default)]
    pub is_local: bool,
}

/// What a sender that cannot judge the run prints in place of a [`Verdict`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unchecked {
    /// Why, as one sentence.
    pub unchecked: String,
}

/// Starts the sender of a call.
pub type StartSender<'w> = Box<dyn FnMut() -> io::Result<SenderPipes> + 'w>;

/// The sender's ends of its pipes.
#[derive(Default)]
pub struct SenderPipes {
    /// Its standard output: the verdict; closed at its end.
    pub verdict: Option<ChildStdout>,
    /// Its standard error: messages for the operator.
    pub messages: Option<ChildStderr>,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The command has ended with this code, or by this signal.
    Command {
        /// Its exit code.
        exit_code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// Why a part of its output did not reach the caller.
        copy_error: Option<String>,
    },
    /// The command could not be started.
    NotStarted {
        /// One sentence.
        reason: String,
        /// The error of the kernel.
        error: Option<i32>,
        /// The policy of this machine refuses it.
        is_refused: bool,
    },
    /// The keeper exited early. `started`: whether the command may have started.
    KeeperLost {
        /// Without it, nothing was started.
        started: bool,
    },
}

/// The result of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// How the command ended.
    pub ended: Ended,
    /// None when the rules did not finish in time.
    pub verdict: Option<Verdict>,
    /// Why the rules did not check the run and its lines wait for a later call, if so.
    pub unchecked: Option<String>,
    /// Why the end is not recorded on disk, if so.
    pub unrecorded: Option<String>,
}

/// Errors of the kernel for a limit of the machine. Without Sexton, the command may be below it.
const LIMIT_ERRORS: [rustix::io::Errno; 5] = [
    rustix::io::Errno::AGAIN,
    rustix::io::Errno::NOMEM,
    rustix::io::Errno::MFILE,
    rustix::io::Errno::NFILE,
    rustix::io::Errno::TOOBIG,
];

impl Executed {
    /// Why the command can be started only without Sexton, if so: nothing was started.
    pub fn needs_start(&self) -> Option<&str> {
        let is_limit = |error: &i32| LIMIT_ERRORS.iter().any(|limit| limit.raw_os_error() == *error);
        match &self.ended {
            Ended::KeeperLost { started: false } => Some("its keeper exited before it started the command"),
            Ended::NotStarted { reason, error, is_refused: false } if error.as_ref().is_none_or(is_limit) => {
                Some(reason)
            }
            _ => None,
        }
    }

    /// The exit code: that of the command, as a shell reports it; 1 for one that exited 0 and that a rule failed, or
    /// whose output did not reach the caller.
    pub fn code(&self) -> u8 {
        let is_bad = self.verdict.as_ref().is_some_and(|verdict| verdict.outcome != Outcome::Succeeded);
        match &self.ended {
            Ended::Command { exit_code: Some(0), copy_error, .. } if is_bad || copy_error.is_some() => FAILED_CODE,
            Ended::Command { exit_code: Some(code), .. } => *code as u8,
            Ended::Command { signal: Some(signal), .. } => signal_code(*signal),
            Ended::NotStarted { error, .. } => error.map_or(NOT_FOUND_CODE, refused_code),
            Ended::Command { .. } | Ended::KeeperLost { .. } => FAILED_CODE,
        }
    }
}

/// 128 plus the signal, as in shells.
fn signal_code(signal: i32) -> u8 {
    128u8.saturating_add(signal as u8)
}

/// The exit code for a command that the kernel refuses to execute with this error.
pub fn refused_code(error: i32) -> u8 {
    if error == rustix::io::Errno::NOENT.raw_os_error() { NOT_FOUND_CODE } else { NOT_EXECUTABLE_CODE }
}

/// Waits in the foreground for the end of a call.
pub struct Wait<'w> {
    run: &'w RunDirectory,
    foreground: Option<Foreground>,
    signals: &'w CallerSignals,
    start_sender: Option<StartSender<'w>>,
    /// The sender starts after the end of the command.
    is_frugal: bool,
    sender: SenderPipes,
}

impl<'w> Wait<'w> {
    /// `foreground` is the keeper of the run; none for a command that was refused. `start_sender` is called once the
    /// command has its process: a sender must not take the last one that the machine allows.
    pub fn new(
        run: &'w RunDirectory,
        foreground: Option<Foreground>,
        signals: &'w CallerSignals,
        start_sender: StartSender<'w>,
    ) -> Wait<'w> {
        let (start_sender, sender) = (Some(start_sender), SenderPipes::default());
        Wait { run, foreground, signals, start_sender, is_frugal: false, sender }
    }

    /// Leaves the processes that the machine allows to the command: the sender starts after its end.
    pub fn be_frugal(&mut self) {
        self.is_frugal = true;
    }

    /// Returns when the command has ended, all its output is copied, and the rules have judged it. Returns without a
    /// sender when the command could not be started ([`Executed::needs_start`]). Passes signals on. `print` gets the
    /// messages of the sender.
    ///
    /// # Errors
    /// When the kernel refuses `poll`.
    pub fn run(&mut self, mut print: impl FnMut(&[u8])) -> io::Result<Executed> {
        let ended = Ended::KeeperLost { started: false };
        let mut executed = Executed { ended, verdict: None, unchecked: None, unrecorded: None };
        let mut ended_at: Option<Instant> = None;
        if self.foreground.is_none() {
            let reason = "the policy of this machine refuses it".to_owned();
            executed.ended = Ended::NotStarted { reason, error: None, is_refused: true };
            ended_at = Some(Instant::now());
        }
        let mut is_interrupted = false;
        let mut line = Vec::new();
        loop {
            if ended_at.is_some() {
                if executed.needs_start().is_some() {
                    return Ok(executed);
                }
                self.start_sender(&mut executed);
            }
            let timeout = ended_at.map(|at| VERDICT_TIMEOUT.saturating_sub(at.elapsed()));
            let is_judged = executed.verdict.is_some()
                || executed.unchecked.is_some()
                || (self.sender.verdict.is_none() && self.start_sender.is_none());
            let is_over = is_judged || executed.unrecorded.is_some() || timeout.is_some_and(|left| left.is_zero());
            if ended_at.is_some() && (is_over || is_interrupted) {
                self.drain_messages(&mut print);
                return Ok(executed);
            }
            self.poll(timeout)?;
            while let Some(signal) = self.signals.next() {
                if ended_at.is_some() && signal.is_end() {
                    // The code is known; the rules are not waited for.
                    is_interrupted = true;
                } else if let Some(foreground) = &self.foreground {
                    foreground.pass_on(signal);
                }
            }
            if let Some(ended) = self.receive(&mut executed) {
                executed.ended = ended;
                ended_at = Some(Instant::now());
            }
            self.read_verdict(&mut line, &mut executed);
            self.read_messages(&mut print);
        }
    }

    /// Starts the sender, once.
    fn start_sender(&mut self, executed: &mut Executed) {
        let Some(mut start) = self.start_sender.take() else { return };
        match start() {
            Ok(sender) => self.sender = sender,
            Err(why) => executed.unchecked = Some(format!("cannot start the sender: {why}")),
        }
    }

    /// Returns when the keeper has exited.
    pub fn wait_for_keeper(&mut self) {
        if let Some(foreground) = &mut self.foreground {
            foreground.wait_for_keeper();
        }
    }

    fn poll(&self, timeout: Option<Duration>) -> io::Result<()> {
        let mut descriptors = vec![PollFd::new(self.signals.descriptor(), PollFlags::IN)];
        let foreground = self.foreground.as_ref().filter(|foreground| !foreground.is_gone());
        descriptors.extend(foreground.map(|foreground| PollFd::new(foreground.descriptor(), PollFlags::IN)));
        descriptors.extend(self.sender.verdict.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        descriptors.extend(self.sender.messages.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        let timeout =
            timeout.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) });
        match poll(&mut descriptors, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Handles the keeper's messages. Returns the end of the command.
    fn receive(&mut self, executed: &mut Executed) -> Option<Ended> {
        let mut end = None;
        loop {
            let foreground = self.foreground.as_mut()?;
            match foreground.receive() {
                Received::Message(KeeperMessage::Started) if self.is_frugal => {}
                Received::Message(KeeperMessage::Started) => self.start_sender(executed),
                Received::Message(KeeperMessage::Suspended) => self.signals.suspend(),
                Received::Message(KeeperMessage::NotStarted { reason, error, is_refused }) => {
                    end = Some(Ended::NotStarted { reason, error, is_refused });
                }
                Received::Message(KeeperMessage::Ended { exit_code, signal, copy_error }) => {
                    end = Some(Ended::Command { exit_code, signal, copy_error });
                }
                Received::Message(KeeperMessage::Unrecorded { reason }) => executed.unrecorded = Some(reason),
                Received::Nothing => return end,
                Received::KeeperGone => {
                    let is_new = foreground.note_gone();
                    let is_known = end.is_some() || !matches!(executed.ended, Ended::KeeperLost { .. });
                    let lost = Ended::KeeperLost { started: self.run.starting().exists() };
                    return end.or(Some(lost).filter(|_| is_new && !is_known));
                }
            }
        }
    }

    fn read_verdict(&mut self, line: &mut Vec<u8>, executed: &mut Executed) {
        let Some(pipe) = &mut self.sender.verdict else { return };
        if !is_readable(pipe) {
            return;
        }
        let mut buffer = [0u8; MESSAGE_BYTES];
        match pipe.read(&mut buffer) {
            Ok(0) | Err(_) => self.sender.verdict = None,
            Ok(bytes) => line.extend_from_slice(&buffer[..bytes]),
        }
        while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            let text: Vec<u8> = line.drain(..=end).collect();
            executed.verdict = executed.verdict.take().or_else(|| serde_json::from_slice(&text).ok());
            let unchecked = serde_json::from_slice::<Unchecked>(&text).ok().map(|found| found.unchecked);
            executed.unchecked = executed.unchecked.take().or(unchecked);
        }
    }

    fn read_messages(&mut self, print: &mut impl FnMut(&[u8])) {
        let Some(pipe) = &mut self.sender.messages else { return };
        if !is_readable(pipe) {
            return;
        }
        let mut buffer = [0u8; MESSAGE_BYTES];
        match pipe.read(&mut buffer) {
            Ok(0) | Err(_) => self.sender.messages = None,
            Ok(bytes) => print(&buffer[..bytes]),
        }
    }

    /// Prints what the sender has written so far.
    fn drain_messages(&mut self, print: &mut impl FnMut(&[u8])) {
        while self.sender.messages.as_ref().is_some_and(is_readable) {
            self.read_messages(print);
        }
    }

    /// Returns when the sender has exited, or after `limit`: where nothing of this machine outlives the call.
    pub fn wait_for_sender(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut buffer = [0u8; MESSAGE_BYTES];
        while let Some(pipe) = &mut self.sender.verdict {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let ready = poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&wait));
            match ready {
                Ok(0) => return,
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
                Ok(_) if matches!(pipe.read(&mut buffer), Ok(0) | Err(_)) => return,
                Ok(_) => {}
            }
        }
    }
}

/// Whether a read returns at once: with bytes, or at the end.
fn is_readable(pipe: &impl std::os::fd::AsFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&now)), Ok(1..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_that_of_the_command_as_a_shell_reports_it() {
        let check = |ended: Ended, outcome: Option<Outcome>, expected: u8| {
            let verdict =
                outcome.map(|outcome| Verdict { outcome, reason: String::new(), dropped_lines: 0, is_local: false });
            let executed = Executed { ended: ended.clone(), verdict, unchecked: None, unrecorded: None };
            assert_eq!(executed.code(), expected, "{ended:?}");
        };
        let command = |exit_code, signal| Ended::Command { exit_code, signal, copy_error: None };
        check(command(Some(0), None), None, 0);
        check(command(Some(0), None), Some(Outcome::Succeeded), 0);
        check(command(Some(0), None), Some(Outcome::FalseSuccess), 1);
        check(command(Some(0), None), Some(Outcome::TimedOut), 1);
        check(command(Some(255), None), Some(Outcome::Failed), 255);
        check(command(None, Some(2)), Some(Outcome::Failed), 130);
        check(command(None, Some(9)), None, 137);
        check(Ended::Command { exit_code: Some(0), signal: None, copy_error: Some(String::new()) }, None, 1);
        let not_started = |error| Ended::NotStarted { reason: String::new(), error, is_refused: false };
        check(not_started(Some(2)), None, 127);
        check(not_started(Some(13)), None, 126);
        check(not_started(None), None, 127);
        check(Ended::KeeperLost { started: true }, Some(Outcome::Lost), 1);
    }
}
