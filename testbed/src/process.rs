//! One server process of one test: starts it, waits for it, signals it, and never lets it outlive the test. Called by
//! the servers of this crate; it knows no protocol.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use tempfile::TempDir;

use crate::listeners::{Addresses, Owner};
use crate::wait::{DEADLINE, holds_within};

/// Time between SIGTERM and SIGKILL. Chosen: servers of this crate end within a second on an idle machine.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Most starts of a server whose ports other processes take. Chosen: even two in a row are rare.
const START_ATTEMPTS_MAX: usize = 5;

/// Runs the server in place of the shell, and a watcher in the same process group. The watcher sends the signals whose
/// names it reads from standard input. At the end of input it kills the whole group: when the test drops the server, or
/// when the test process ends in any way. Unlike `PR_SET_PDEATHSIG`, this does not depend on a thread of the test.
const LAUNCH: &str = r#"exec 3<&0
( while read -r signal <&3; do kill -s "$signal" "$$"; done; kill -s KILL 0 ) &
exec "$@" 3<&- </dev/null"#;

/// The program of a server, and the addresses on which it listens when it is ready.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub path: PathBuf,
    pub arguments: Vec<String>,
    pub addresses: Addresses,
}

/// A running (or stopped) server with its temporary folder.
#[derive(Debug)]
pub(crate) struct Process {
    program: Program,
    running: Mutex<Option<Running>>,
    folder: TempDir,
}

#[derive(Debug)]
struct Running {
    child: Child,
    signals: ChildStdin,
}

impl Process {
    /// Starts the program that `program` returns for a new temporary folder, and waits until it listens on all its
    /// addresses. Calls `program` again, to choose other ports, when another process took one.
    #[track_caller]
    pub(crate) fn start(program: impl Fn(&Path) -> Program) -> Process {
        let mut failure = String::new();
        for _ in 0..START_ATTEMPTS_MAX {
            let folder = temporary_folder();
            let program = program(folder.path());
            match launch(&program, folder.path()) {
                Ok(running) => return Process { program, running: Mutex::new(Some(running)), folder },
                Err(error) => failure = format!("{} did not start: {error}", program.path.display()),
            }
        }
        panic!("{failure}");
    }

    pub(crate) fn addresses(&self) -> &Addresses {
        &self.program.addresses
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Standard output and standard error of the server so far.
    pub(crate) fn diagnostics(&self) -> String {
        diagnostics(self.folder.path())
    }

    /// Ends the server with SIGTERM, so that it writes what it has received; kills it after [`STOP_DEADLINE`].
    pub(crate) fn stop(&self) {
        let Some(mut running) = self.lock().take() else { return };
        running.signal("TERM");
        running.signal("CONT");
        holds_within(STOP_DEADLINE, || !matches!(running.child.try_wait(), Ok(None)));
    }

    /// Kills the server with SIGKILL, at once.
    pub(crate) fn kill(&self) {
        self.lock().take();
    }

    /// Stops the server if it runs, and starts it again with the same ports and folder.
    #[track_caller]
    pub(crate) fn restart(&self) {
        self.stop();
        match launch(&self.program, self.folder.path()) {
            Ok(running) => *self.lock() = Some(running),
            Err(error) => panic!("{} did not start again: {error}", self.program.path.display()),
        }
    }

    /// Sends a signal by its name without `SIG`.
    #[track_caller]
    pub(crate) fn signal(&self, name: &str) {
        self.lock().as_mut().expect("the server is running").signal(name);
    }

    /// Suspends the server. Returns when none of its threads runs: the watcher and the kernel take their time.
    #[track_caller]
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
        let pid = self.lock().as_ref().expect("the server is running").child.id();
        assert!(holds_within(DEADLINE, || is_suspended(pid)), "the server does not stop");
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Whether every thread of the process is suspended by a signal.
fn is_suspended(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut states = threads.filter_map(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    });
    states.all(|state| state == 'T')
}

impl Running {
    fn signal(&mut self, name: &str) {
        // Fails when the watcher has ended, and with it the server.
        writeln!(self.signals, "{name}").ok();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        // `signals` is closed next, so the watcher kills the rest of the group.
    }
}

/// A folder that a server without root rights may enter.
fn temporary_folder() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::with_prefix("testbed-").expect("a temporary folder can be made");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("its mode can be changed");
    folder
}

fn launch(program: &Program, folder: &Path) -> Result<Running, String> {
    let mut running = spawn(program, folder).map_err(|error| error.to_string())?;
    let mut failure = "not ready in time".to_owned();
    let pid = running.child.id();
    let mut ready = false;
    holds_within(DEADLINE, || {
        match (running.child.try_wait(), program.addresses.owners(pid)) {
            (Ok(Some(status)), _) => failure = format!("ended with {status}"),
            (_, Ok(owners)) if owners.contains(&Owner::Other) => failure = "another process took its port".to_owned(),
            (_, Ok(owners)) if owners.iter().all(|owner| *owner == Owner::Process) => ready = true,
            _ => return false,
        }
        true
    });
    if ready { Ok(running) } else { Err(format!("{failure}; its output: {}", diagnostics(folder))) }
}

fn spawn(program: &Program, folder: &Path) -> io::Result<Running> {
    if let Some(path) = program.addresses.unix.as_ref().filter(|path| path.exists()) {
        fs::remove_file(path)?;
    }
    let mut child = Command::new("/bin/sh")
        .args(["-c", LAUNCH, "sh"])
        .arg(&program.path)
        .args(&program.arguments)
        .current_dir(folder)
        // The clock of `testbed/run-400-days-ahead` is for the test alone: a server keeps the real time.
        .env_remove("LD_PRELOAD")
        .env_remove("FAKETIME")
        .stdin(Stdio::piped())
        .stdout(File::options().append(true).create(true).open(folder.join("stdout"))?)
        .stderr(File::options().append(true).create(true).open(folder.join("stderr"))?)
        .process_group(0)
        .spawn()?;
    let signals = child.stdin.take().ok_or_else(|| io::Error::other("no pipe to the server"))?;
    Ok(Running { child, signals })
}

fn diagnostics(folder: &Path) -> String {
    ["stdout", "stderr"]
        .map(|name| fs::read(folder.join(name)).unwrap_or_default())
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .join("")
}
