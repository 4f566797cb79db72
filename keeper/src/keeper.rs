//! The whole life of a keeper: the same binary, executed as `sexton keeper DIR`. It starts the job, writes its output
//! to the spool, enforces the timeout, stops the job on request, and records the exit.
//!
//! Blocking code, one thread, no runtime. A keeper depends on no other process: the runner may be killed or replaced.
//! Everything that it knows is in the run directory ([`crate::directory`]).
//!
//! Its standard output is the lock of the directory and its standard input a [`Launch`]; see [`crate::spawn`]. It moves
//! both away at once, so that the job inherits neither.

#![expect(unsafe_code, reason = "the keeper replaces its own standard streams")]

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use domain::order::Order;
use domain::system_error::{plain_text, without_numbers};
use jiff::Timestamp;

use crate::caller_process::{Control, KeeperMessage, Passed, close_descriptors};
use crate::caller_stream::CallerStream;
use crate::cgroup;
use crate::crash;
use crate::directory::{self, Durability, RunDirectory, UnsyncedFile};
use crate::guard_check::GuardCheck;
use crate::job_loop::Job;
use crate::launch::{self, Input, LaunchError};
use crate::mask::Masker;
use crate::processes;
use crate::records::{Exit, Launch, Started};
use crate::reserve;
use crate::signals;
use crate::user::{self, User};

/// How long writing exit.json is retried on a full disk. Chosen: an operator can react to the alert within a day.
const EXIT_RETRY_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Interval of these retries. Chosen, not measured.
const EXIT_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Runs a keeper from start to exit.
pub fn main(path: &Path) -> ExitCode {
    // Before secrets are read: processes of the same user must not read them from /proc. Costs core dumps.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077)).as_raw_mode();
    let run = RunDirectory::open(path);
    match run_attempt(&run, umask) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&run, &format!("the keeper gave up: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Appends a line to keeper.log. An error of the log itself cannot be reported anywhere.
fn log(run: &RunDirectory, message: &str) {
    let file = std::fs::OpenOptions::new().append(true).create(true).open(run.file("keeper.log"));
    if let Ok(mut file) = file {
        let _ = writeln!(file, "{} {}", Timestamp::now(), without_numbers(message));
    }
}

/// `umask` is the mask of this process at its start.
fn run_attempt(run: &RunDirectory, umask: u32) -> io::Result<()> {
    let signals = signals::block_and_open()?;
    let launch = read_launch().map(|mut launch| {
        launch.inherited.umask.get_or_insert(umask);
        launch
    });
    let caller = launch.as_ref().ok().and_then(|launch| launch.caller.as_ref());
    if caller.is_none() {
        leave_session();
    }
    let passed = caller.map(Passed::take).transpose()?;
    let control = passed.as_ref().map(|passed| passed.control.clone());
    let lock = detach_streams(run, passed.is_some())?;
    crash::point("locked");
    if run.exit().exists() || run.starting().exists() {
        // A second keeper of the same attempt: the first one decides.
        return Ok(());
    }
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    std::fs::write(run.keeper(), format!("{}\n", std::process::id()))?;
    let order: Order = directory::read_json(&run.order())?
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "order.json is missing"))?;
    let reserve = reserve::Reserve::allocate(run);
    // From now on the job may have started, also when this process dies.
    directory::create_marker(&run.starting())?;
    crash::point("starting");
    let started = launch.map_err(LaunchError::from).and_then(|launch| start(run, &order, &launch, passed, signals));
    if control.is_some() {
        // The job has the caller's session now; this process needs neither its terminal nor its directory.
        leave_session();
        let _ = rustix::process::chdir("/");
    }
    let (exit, late_output) = match started {
        Err(LaunchError { reason, program_error, is_refused }) => {
            if let Some(control) = &control {
                let reason = reason.clone();
                control.send(&KeeperMessage::NotStarted { reason, error: program_error, is_refused });
            }
            (Exit::not_started(reason, Timestamp::now()), None)
        }
        Ok(job) => job.run_to_exit(run, &order, &reserve)?,
    };
    crash::point("reaped");
    let control = control.as_deref();
    match late_output {
        // The runner reads the record of such an end while this process is alive: it must not be seen before the sync.
        Some(_) => {
            write_record(run, "exit.json", control, |path| directory::write_json(path, &exit, Durability::Disk))?
        }
        // One commit of the file system instead of two. The runner reads it when this process has released the lock.
        None => write_record(run, "exit.json", control, |path| {
            UnsyncedFile::write(path, &serde_json::to_vec(&exit)?).and_then(UnsyncedFile::sync)
        })?,
    }
    crash::point("recorded");
    if let Some(late_output) = late_output {
        late_output.run_to_end(run, &order, |end| {
            let path = run.output_end();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            write_record(run, &name, None, |path| directory::write_json(path, end, Durability::Disk))
        })?;
    }
    drop(lock);
    Ok(())
}

/// Fails only for a group leader, which is already detached.
fn leave_session() {
    let _ = rustix::process::setsid();
}

/// Reads the launch document, before the streams are changed.
fn read_launch() -> Result<Launch, String> {
    let mut text = Vec::new();
    io::stdin()
        .lock()
        .read_to_end(&mut text)
        .map_err(|error| format!("cannot read the launch document: {}", plain_text(&error)))?;
    serde_json::from_slice(&text).map_err(|error| format!("cannot parse the launch document: {error}"))
}

/// Takes the lock from standard output and opens /dev/null as all three standard streams. The job inherits no
/// descriptor that the runner was started with; the job of a caller inherits the caller's.
fn detach_streams(run: &RunDirectory, has_caller: bool) -> io::Result<OwnedFd> {
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
    launch::open_null_as_stdio()?;
    if has_caller {
        return Ok(lock);
    }
    // SAFETY: the call only sets flags of descriptors. Kernels before 5.11 refuse it; there the runner has set the
    // flags of its own descriptors.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Ok(lock)
}

/// Launches the job and writes started.json.
fn start(
    run: &RunDirectory,
    order: &Order,
    launch: &Launch,
    passed: Option<Passed>,
    signals: OwnedFd,
) -> Result<Job, LaunchError> {
    let (user, identity) = match &launch.caller {
        // The job of a caller needs no user of its own.
        Some(_) => (User { name: String::new(), uid: 0, gid: 0, home: String::new() }, None),
        None => user::resolve(order.job.user.as_deref())?,
    };
    let env = launch::environment(order, launch, &user);
    let masker = Masker::new(launch.secret_values())?;
    // The error may contain a secret, as when SHELL has one as its value.
    let mask = |message: String| masker.as_ref().map_or(message.clone(), |masker| masker.mask(&message));
    let prepared = match &launch.caller {
        Some(caller) => launch::prepare_for_caller(caller, launch, &env),
        None => launch::prepare(order, launch, &env, &user, identity),
    };
    let prepared = prepared.map_err(mask)?;
    // Two installations on one machine may have runs with the same name.
    let name = run.path().file_name().unwrap_or_default().to_string_lossy();
    let name = format!("{name}.{}", std::process::id());
    let cgroup = if launch.cgroup { cgroup::Cgroup::create(&name) } else { None };
    let [is_input_closed, closed @ ..] = launch.caller.as_ref().map_or([false; 3], |caller| caller.closed_streams);
    let (input, copies) = match passed {
        Some(Passed { stdout, stderr, control, inherited, .. }) if is_input_closed => {
            (Input::Closed, Some((stdout, stderr, control, inherited)))
        }
        Some(Passed { stdin, stdout, stderr, control, inherited }) => {
            (stdin.map_or(Input::Nothing, Input::Descriptor), Some((stdout, stderr, control, inherited)))
        }
        None if order.job.stdin.is_some() => (Input::Text, None),
        None => (Input::Nothing, None),
    };
    let launched = launch::launch(&prepared, input, cgroup.as_ref())
        .map_err(|error| LaunchError { reason: mask(error.reason), ..error })?;
    let (started_at, start) = (Timestamp::now(), std::time::Instant::now());
    crash::point("launched");
    let started = Started {
        pid: launched.pid,
        start_ticks: processes::find(launched.pid).map_or(0, |process| process.start_ticks),
        boot_id: processes::boot_id(),
        started_at,
        monotonic_ms: Some(processes::monotonic_ms()),
        cgroup: cgroup.as_ref().map(|cgroup| cgroup.path().to_string_lossy().into_owned()),
        pipes: [&launched.stdout, &launched.stderr].map(inode).into_iter().flatten().collect(),
        keeper: Some(std::process::id()),
    };
    if let Err(error) = directory::write_json(&run.started(), &started, Durability::Cache) {
        log(run, &format!("cannot write started.json: {error}"));
    }
    crash::point("started");
    let guard_check = GuardCheck::new(&order.job, &env, launch);
    let job = Job::new(launched, (started_at, start), cgroup, masker, run, signals).with_guard_check(guard_check);
    let Some((stdout, stderr, control, inherited)) = copies else { return Ok(job) };
    close_descriptors(&inherited);
    control.send(&KeeperMessage::Started);
    let is_frugal = launch.caller.as_ref().is_some_and(|caller| caller.is_frugal);
    let copy = |stream: Option<OwnedFd>| stream.map(|stream| CallerStream::new(stream, is_frugal));
    Ok(job.with_caller(control, [copy(stdout), copy(stderr)], closed))
}

fn inode(file: &OwnedFd) -> Option<u64> {
    rustix::fs::fstat(file).ok().map(|stat| stat.st_ino)
}

/// Writes a record of the end, with retries. While this process holds the lock, no runner records the run as lost. A
/// caller is informed once, because it does not wait that long.
fn write_record(
    run: &RunDirectory,
    name: &str,
    control: Option<&Control>,
    write: impl Fn(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let path = run.file(name);
    let start = std::time::Instant::now();
    let mut logged = false;
    loop {
        let error = match write(&path) {
            Ok(()) => return Ok(()),
            Err(error) if start.elapsed() > EXIT_RETRY_MAX || error.kind() == io::ErrorKind::NotFound => {
                return Err(error);
            }
            Err(error) => error,
        };
        if !logged {
            log(run, &format!("cannot write {name}, retrying: {error}"));
            logged = true;
            if let Some(control) = control {
                let reason = format!("cannot write {}: {}", path.display(), plain_text(&error));
                control.send(&KeeperMessage::Unrecorded { reason });
            }
        }
        std::thread::sleep(EXIT_RETRY_INTERVAL);
    }
}
