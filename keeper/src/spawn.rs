//! Starts keepers. The runner does not fork (std uses posix_spawn), and the lock is never free in between.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::directory::RunDirectory;
use crate::processes::{self, Process};
use crate::records::Launch;

/// The running program with the arguments that make it a keeper, like `["/usr/bin/sexton", "keeper"]`; the run
/// directory is added as the last argument. When the program's file is missing or half written (an upgrade), the
/// running program is executed instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeeperCommand(pub Vec<OsString>);

/// Starts the keeper of a run that has its order.json. None when another keeper already holds the lock.
///
/// This function takes the lock and passes it to the keeper as its standard output. If this process dies at any point,
/// the lock is held exactly when a keeper was started. The launch document is complete in memory before the keeper
/// exists.
///
/// # Errors
/// When the program cannot be executed, or the directory cannot be written.
pub fn spawn_keeper(command: &KeeperCommand, run: &RunDirectory, launch: &Launch) -> io::Result<Option<Child>> {
    let Some(lock) = run.take_lock()? else { return Ok(None) };
    let mut document = File::from(memfd_create("launch", MemfdFlags::CLOEXEC)?);
    document.write_all(&serde_json::to_vec(launch)?)?;
    document.rewind()?;
    let (program, arguments) = command
        .0
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the command that starts a keeper is empty"))?;
    let spawn = |program: &OsStr| -> io::Result<Child> {
        let mut command = Command::new(program);
        // The job of a caller stays in the caller's working directory, which may have no name any more.
        if launch.caller.is_none() {
            command.current_dir("/");
        }
        command
            .args(arguments)
            .arg(run.path())
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| is_kept(name)))
            .stdin(Stdio::from(document.try_clone()?))
            .stdout(Stdio::from(lock.try_clone()?))
            .stderr(Stdio::null())
            .spawn()
    };
    let child = match spawn(program) {
        Err(error) if is_being_replaced(&error) => spawn(OsStr::new(OWN_PROGRAM)),
        spawned => spawned,
    };
    child.map(Some)
}

/// Whether a keeper gets this variable of the runner. Only what the loader of programs and tests need: the environment
/// of a process is in /proc, and the runner's may hold credentials. The job's environment is part of the launch
/// document.
fn is_kept(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("LD_") || name.starts_with("FAKETIME") || name == "SEXTON_CRASH_AT"
}

/// proc_pid_exe(5): can be executed even after its file was deleted.
const OWN_PROGRAM: &str = "/proc/self/exe";

fn is_being_replaced(error: &io::Error) -> bool {
    use io::ErrorKind::{ExecutableFileBusy, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | PermissionDenied | ExecutableFileBusy)
        || error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error())
}

/// Signals the keeper to check the file `stop`. Does nothing without a keeper. A keeper also checks every 10 s.
pub fn wake_keeper(run: &RunDirectory) {
    if let Some(process) = recorded_keeper(run) {
        processes::send_signal(&process, rustix::process::Signal::USR1);
    }
}

/// The process of the keeper, also of one that has not recorded its process id yet. None without a keeper.
pub fn find_keeper(run: &RunDirectory) -> Option<Process> {
    recorded_keeper(run).or_else(|| {
        let all = processes::list().unwrap_or_default();
        let found = all.into_iter().find(|process| !process.is_zombie() && is_keeper_of(process.pid, run.path()));
        found.filter(|_| run.has_keeper().unwrap_or(false))
    })
}

fn recorded_keeper(run: &RunDirectory) -> Option<Process> {
    let text = std::fs::read_to_string(run.keeper()).ok()?;
    let process = text.trim().parse().ok().and_then(processes::find)?;
    // The lock is checked after the process was read: while it is held, the process id is the keeper's.
    run.has_keeper().unwrap_or(false).then_some(process)
}

/// Whether the arguments of the process are those that [`spawn_keeper`] gives to the keeper of this directory.
fn is_keeper_of(pid: u32, path: &Path) -> bool {
    let Ok(arguments) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let mut words = arguments.split(|byte| *byte == 0).rev().filter(|word| !word.is_empty());
    words.next() == Some(path.as_os_str().as_bytes())
}
