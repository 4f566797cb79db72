//! The process that owns one run: the same binary, executed again as `sexton keeper DIR`. It starts the job, reads its
//! output into the spool, enforces its limit, stops it when asked, waits, and records how it ended.
//!
//! Blocking code, one thread, no runtime. It needs nobody: the runner may die, be killed, be replaced. It never talks to a
//! network, never judges, never reads its own spool. What it knows it leaves in the run's directory
//! ([`crate::directory`]).
//!
//! It is started with the lock of the directory as its standard output and a [`Launch`] as its standard input; see
//! [`crate::spawn`]. Both are put away at once, so that the job inherits neither.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use domain::order::Order;
use jiff::Timestamp;

use crate::cgroup;
use crate::crash;
use crate::directory::{self, Durability, RunDirectory};
use crate::job_loop::Job;
use crate::launch;
use crate::mask::Masker;
use crate::processes;
use crate::records::{Exit, Launch, Started};
use crate::reserve;
use crate::signals;
use crate::user;

/// How long exit.json is tried to be written while the disk takes nothing. Ours: long enough for an alarm about the full
/// disk to be acted on; a machine whose disk stays full for a day has lost more.
const EXIT_RETRY_MAX: Duration = Duration::from_secs(24 * 3_600);
const EXIT_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The whole life of a keeper.
pub fn main(path: &Path) -> ExitCode {
    let run = RunDirectory::open(path);
    match run_attempt(&run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&run, &format!("the keeper gave up: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Adds a line to keeper.log. There is nowhere to complain when that fails.
fn log(run: &RunDirectory, message: &str) {
    let file = std::fs::OpenOptions::new().append(true).create(true).open(run.file("keeper.log"));
    if let Ok(mut file) = file {
        let _ = writeln!(file, "{} {message}", Timestamp::now());
    }
}

fn run_attempt(run: &RunDirectory) -> io::Result<()> {
    // Fails only for a group leader, which then has been detached by hand already.
    let _ = rustix::process::setsid();
    let signals = signals::block_and_open()?;
    let launch = read_launch();
    let lock = detach_streams(run)?;
    crash::point("locked");
    if run.exit().exists() || run.starting().exists() {
        // A second keeper for the same attempt: the first one's word stands.
        return Ok(());
    }
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    std::fs::write(run.keeper(), format!("{}\n", std::process::id()))?;
    let order: Order = directory::read_json(&run.order())?
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "order.json is missing"))?;
    let reserve = reserve::Reserve::allocate(run);
    // From here on the job may have begun, whatever becomes of this process.
    directory::create_marker(&run.starting())?;
    crash::point("starting");
    let exit = match launch.and_then(|launch| start(run, &order, &launch)) {
        Err(message) => Exit::not_started(message, Timestamp::now()),
        Ok(job) => job.run_to_end(run, &order, signals, &reserve)?,
    };
    crash::point("reaped");
    reserve.release();
    write_exit(run, &exit)?;
    crash::point("recorded");
    drop(lock);
    Ok(())
}

/// Reads the launch document before anything can go wrong with the streams.
fn read_launch() -> Result<Launch, String> {
    let mut text = Vec::new();
    io::stdin()
        .lock()
        .read_to_end(&mut text)
        .map_err(|error| format!("the launch document cannot be read: {error}"))?;
    serde_json::from_slice(&text).map_err(|error| format!("the launch document cannot be understood: {error}"))
}

/// Takes the lock from where standard output was, and points all three standard streams at nothing. Descriptors that
/// whoever started the runner left open are not handed on to the job.
fn detach_streams(run: &RunDirectory) -> io::Result<OwnedFd> {
    let handed = launch::move_fd_above_stdio(1)?;
    let same_file = |file: &OwnedFd| -> io::Result<bool> {
        let expected = rustix::fs::stat(run.lock())?;
        let stat = rustix::fs::fstat(file)?;
        Ok((stat.st_dev, stat.st_ino) == (expected.st_dev, expected.st_ino))
    };
    let lock = match same_file(&handed).unwrap_or(false) {
        true => handed,
        false => run.take_lock()?.ok_or_else(|| io::Error::other("another keeper holds the lock"))?,
    };
    let nothing = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for stream in 0..3 {
        // SAFETY: both descriptors are open; the standard streams are not used as Rust objects from here on.
        if unsafe { libc::dup2(nothing.as_raw_fd(), stream) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: only marks descriptors. Kernels before 5.11 refuse, and there the runner's own are marked already.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Ok(lock)
}

/// Launches the job and says so.
fn start(run: &RunDirectory, order: &Order, launch: &Launch) -> Result<Job, String> {
    let (user, identity) = user::resolve(order.job.user.as_deref())?;
    let env = launch::environment(order, launch, &user);
    let masker = Masker::new(launch.secret_values())?;
    // A secret may have been put where it is named when it does not work, like SHELL.
    let mask = |message: String| masker.as_ref().map_or(message.clone(), |masker| masker.mask(&message));
    let prepared = launch::prepare(&order.job, &env, &user, identity).map_err(mask)?;
    // Two installations on one machine may have runs of one name.
    let name = run.path().file_name().unwrap_or_default().to_string_lossy();
    let name = format!("{name}.{}", std::process::id());
    let cgroup = if launch.cgroup { cgroup::Cgroup::create(&name) } else { None };
    let launched = launch::launch(&prepared, order.job.stdin.is_some(), cgroup.as_ref()).map_err(mask)?;
    let (started_at, start) = (Timestamp::now(), std::time::Instant::now());
    crash::point("launched");
    let started = Started {
        pid: launched.pid,
        start_ticks: processes::find(launched.pid).map_or(0, |process| process.start_ticks),
        boot_id: processes::boot_id(),
        started_at,
        cgroup: cgroup.as_ref().map(|cgroup| cgroup.path().to_string_lossy().into_owned()),
        pipes: [&launched.stdout, &launched.stderr].map(inode).into_iter().flatten().collect(),
        keeper: Some(std::process::id()),
    };
    if let Err(error) = directory::write_json(&run.started(), &started, Durability::Cache) {
        log(run, &format!("started.json cannot be written: {error}"));
    }
    crash::point("started");
    Ok(Job::new(launched, started_at, start, cgroup, masker))
}

fn inode(file: &OwnedFd) -> Option<u64> {
    rustix::fs::fstat(file).ok().map(|stat| stat.st_ino)
}

/// Writes exit.json, with patience: while this process holds the lock, nobody takes the run for lost.
fn write_exit(run: &RunDirectory, exit: &Exit) -> io::Result<()> {
    let start = std::time::Instant::now();
    let mut logged = false;
    loop {
        let error = match directory::write_json(&run.exit(), exit, Durability::Disk) {
            Ok(()) => return Ok(()),
            Err(error) if start.elapsed() > EXIT_RETRY_MAX || error.kind() == io::ErrorKind::NotFound => {
                return Err(error);
            }
            Err(error) => error,
        };
        if !logged {
            log(run, &format!("exit.json cannot be written and is tried again: {error}"));
            logged = true;
        }
        std::thread::sleep(EXIT_RETRY_INTERVAL);
    }
}
