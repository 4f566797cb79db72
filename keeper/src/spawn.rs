//! Starts keepers. The runner does not fork (std uses posix_spawn), and the lock is never free in between.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::process::{Child, Command, Stdio};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::directory::RunDirectory;
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

/// proc_pid_exe(5): can be executed even after its file was deleted.
const OWN_PROGRAM: &str = "/proc/self/exe";

fn is_being_replaced(error: &io::Error) -> bool {
    use io::ErrorKind::{ExecutableFileBusy, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | PermissionDenied | ExecutableFileBusy)
        || error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error())
}

/// Signals the keeper to check the file `stop`. Does nothing without a keeper. A keeper also checks every 10 s.
pub fn wake_keeper(run: &RunDirectory) {
    let Ok(text) = std::fs::read_to_string(run.keeper()) else { return };
    let Some(process) = text.trim().parse().ok().and_then(crate::processes::find) else { return };
    // The lock is checked after the process was read: while it is held, the process id is the keeper's.
    if run.has_keeper().unwrap_or(false) {
        crate::processes::send_signal(&process, rustix::process::Signal::USR1);
    }
}
