//! Starts keepers: no fork of the runner (std starts them by posix_spawn), no moment in which the lock is free.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::process::{Child, Command, Stdio};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::directory::RunDirectory;
use crate::records::Launch;

/// This very program, which becomes a keeper when it is given a run's directory as its last argument, like
/// `["/usr/bin/sexton", "keeper"]`. While its file is away or half written (an upgrade), the program as it runs here is
/// used instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeeperCommand(pub Vec<OsString>);

/// Starts the keeper of a run whose order.json is there. None when another keeper holds the lock already.
///
/// The lock is taken here and handed to the keeper as its standard output: were this process to die at any point, the
/// lock is held exactly if a keeper was made. The launch document lies in memory, whole before the keeper exists.
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
        Command::new(program)
            .args(arguments)
            .arg(run.path())
            .current_dir("/")
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

/// proc_pid_exe(5): can be executed even when its file has been removed.
const OWN_PROGRAM: &str = "/proc/self/exe";

fn is_being_replaced(error: &io::Error) -> bool {
    use io::ErrorKind::{ExecutableFileBusy, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | PermissionDenied | ExecutableFileBusy)
        || error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error())
}

/// Tells the keeper to look for `stop`. Nothing happens when there is none; it looks by itself from time to time.
pub fn wake_keeper(run: &RunDirectory) {
    let Ok(text) = std::fs::read_to_string(run.keeper()) else { return };
    let Some(process) = text.trim().parse().ok().and_then(crate::processes::find) else { return };
    // The lock is asked after the process was looked at: while it is held, the number is the keeper's.
    if run.has_keeper().unwrap_or(false) {
        crate::processes::send_signal(&process, rustix::process::Signal::USR1);
    }
}
