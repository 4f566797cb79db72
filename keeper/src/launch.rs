//! From an order to a running process: environment, arguments, identity, and the one clone (`job_clone`).
//!
//! The steps between clone and exec are written by hand for two reasons: the job must start in its session, its control
//! group and its user at once, and an error must name the step that failed. The runner never forks.

#![expect(unsafe_code, reason = "clone, exec and what happens between them are system calls")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, NulError};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use domain::job::Command;
use domain::order::Order;
use domain::system_error::plain_text;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::caller_process::Caller;
use crate::cgroup::Cgroup;
use crate::job_clone;
use crate::records::Launch;
use crate::signals;
use crate::user::{Identity, User};

/// Where `sh` and other programs are searched when neither the crontab nor the configuration sets PATH (crontab(5) of
/// Debian).
pub const PATH_DEFAULT: &str = "/usr/bin:/bin:/usr/sbin:/sbin";

/// crontab(5): the shell of a job without SHELL.
pub(crate) const SHELL_DEFAULT: &str = "/bin/sh";

/// Everything that the child needs. It is built before the clone, because the child must not allocate.
pub(crate) struct Prepared {
    /// Tried in this order, as execvp(3) does along PATH.
    programs: Vec<CString>,
    /// The program is a path, so that it is not searched in PATH.
    is_path: bool,
    argv: Vec<CString>,
    envp: Vec<CString>,
    /// None for a job of a caller: it stays where the caller is.
    cwd: Option<CString>,
    /// The job names a working directory. Without one, a missing home directory is no error.
    cwd_required: bool,
    /// Where the job may start; None allows every directory.
    allowed_directories: Option<Vec<String>>,
    /// The sentence when it may not start there.
    refusal: String,
    umask: Option<u32>,
    open_files: Option<libc::rlimit>,
    identity: Option<Identity>,
    /// Bit sets of signals: what the job blocks and ignores.
    blocked_signals: u64,
    ignored_signals: u64,
    /// The program's name for the error when it cannot be executed.
    program_shown: String,
    cwd_shown: String,
}

pub(crate) struct Launched {
    pub pid: u32,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// The keeper's end of the job's standard input. None when the job has no text to read.
    pub stdin: Option<OwnedFd>,
}

/// Environment variable with the keeper's process id. It distinguishes the leftovers of this run from an equal run of
/// another installation.
pub(crate) const KEEPER_VARIABLE: &str = "SEXTON_KEEPER";

/// Prefix of the variables that identify the run.
const OWN_PREFIX: &str = "SEXTON_";

/// The job's whole environment: crontab's variables, passed variables of the runner, the job's own, and those that
/// identify the run.
pub(crate) fn environment(order: &Order, launch: &Launch, user: &User) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    env.insert("SHELL".to_owned(), SHELL_DEFAULT.to_owned());
    env.insert("PATH".to_owned(), PATH_DEFAULT.to_owned());
    env.insert("HOME".to_owned(), user.home.clone());
    env.extend(launch.passed.clone());
    env.extend(launch.env.clone());
    // crontab(5): a crontab may not set these two.
    env.insert("LOGNAME".to_owned(), user.name.clone());
    env.insert("USER".to_owned(), user.name.clone());
    env.insert("SEXTON_RUN_ID".to_owned(), order.run_id.to_string());
    env.insert("SEXTON_GROUP".to_owned(), order.job.group.clone());
    env.insert("SEXTON_JOB".to_owned(), order.job.name.clone());
    env.insert("SEXTON_ATTEMPT".to_owned(), order.attempt.to_string());
    env.insert("SEXTON_NOMINAL".to_owned(), order.nominal.to_string());
    env.insert(KEEPER_VARIABLE.to_owned(), std::process::id().to_string());
    env
}

/// The environment of a job that belongs to a caller: the caller's, and the variables that identify the run.
fn caller_environment(caller: &Caller, env: &BTreeMap<String, String>) -> Vec<Vec<u8>> {
    let own: Vec<(&String, &String)> = env.iter().filter(|(name, _)| name.starts_with(OWN_PREFIX)).collect();
    let is_own = |entry: &[u8]| {
        own.iter().any(|(name, _)| entry.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b"=")))
    };
    let inherited = caller.environment.iter().filter(|entry| !is_own(entry)).cloned();
    inherited.chain(own.iter().map(|(name, value)| format!("{name}={value}").into_bytes())).collect()
}

/// Prepares the job of a caller.
///
/// # Errors
/// Returns one sentence for the run's record.
pub(crate) fn prepare_for_caller(
    caller: &Caller,
    launch: &Launch,
    env: &BTreeMap<String, String>,
) -> Result<Prepared, String> {
    let Some(program) = caller.words.first().filter(|program| !program.is_empty()) else {
        return Err("the command is empty".to_owned());
    };
    let nul = |_: NulError| "the command holds a NUL byte; remove it".to_owned();
    let c_strings = |texts: Vec<Vec<u8>>| texts.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
    let search_path = caller.environment.iter().find_map(|entry| entry.strip_prefix(b"PATH="));
    let search_path = search_path.unwrap_or(PATH_DEFAULT.as_bytes());
    let is_path = program.contains(&b'/');
    let programs = match is_path {
        true => vec![program.clone()],
        // An empty folder is the working directory (environ(7)).
        false => search_path
            .split(|byte| *byte == b':')
            .map(|folder| [if folder.is_empty() { b".".as_slice() } else { folder }, b"/", program].concat())
            .collect(),
    };
    Ok(Prepared {
        programs: c_strings(programs).map_err(nul)?,
        is_path,
        program_shown: String::from_utf8_lossy(program).into_owned(),
        argv: c_strings(caller.words.clone()).map_err(nul)?,
        envp: c_strings(caller_environment(caller, env)).map_err(nul)?,
        cwd: None,
        cwd_shown: String::new(),
        cwd_required: false,
        allowed_directories: launch.allowed_directories.as_ref().map(|allowed| allowed.paths.clone()),
        refusal: launch.allowed_directories.as_ref().map(|allowed| allowed.refusal.clone()).unwrap_or_default(),
        umask: launch.inherited.umask,
        open_files: launch.inherited.open_files.map(open_files_limit),
        identity: None,
        blocked_signals: caller.blocked_signals,
        ignored_signals: caller.ignored_signals,
    })
}

/// # Errors
/// Returns one sentence for the run's record.
pub(crate) fn prepare(
    order: &Order,
    launch: &Launch,
    env: &BTreeMap<String, String>,
    user: &User,
    identity: Option<Identity>,
) -> Result<Prepared, String> {
    let job = &order.job;
    let var = |name: &str, default: &str| env.get(name).cloned().unwrap_or_else(|| default.to_owned());
    let words = match &job.command {
        Command::Shell(text) => vec![var("SHELL", SHELL_DEFAULT), "-c".to_owned(), text.clone()],
        Command::Argv(words) => words.clone(),
    };
    let Some(program) = words.first().filter(|program| !program.is_empty()) else {
        return Err("the command is empty; give the job a program to run".to_owned());
    };
    let nul = |_: NulError| "the command or its environment holds a NUL byte; remove it".to_owned();
    let programs = match program.contains('/') {
        true => vec![program.clone()],
        false => var("PATH", PATH_DEFAULT).split(':').map(|folder| format!("{folder}/{program}")).collect(),
    };
    let home = var("HOME", &user.home);
    let cwd = job.cwd.clone().unwrap_or(home);
    let c_strings = |texts: Vec<String>| texts.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
    Ok(Prepared {
        programs: c_strings(programs).map_err(nul)?,
        is_path: program.contains('/'),
        program_shown: program.clone(),
        argv: c_strings(words).map_err(nul)?,
        envp: c_strings(env.iter().map(|(name, value)| format!("{name}={value}")).collect()).map_err(nul)?,
        cwd: Some(CString::new(cwd.as_str()).map_err(nul)?),
        cwd_shown: cwd,
        cwd_required: job.cwd.is_some(),
        allowed_directories: launch.allowed_directories.as_ref().map(|allowed| allowed.paths.clone()),
        refusal: launch.allowed_directories.as_ref().map(|allowed| allowed.refusal.clone()).unwrap_or_default(),
        umask: launch.inherited.umask,
        open_files: launch.inherited.open_files.map(open_files_limit),
        identity,
        blocked_signals: 0,
        ignored_signals: 0,
    })
}

/// The job's limit of open files: a soft limit, below the hard limit of this process.
fn open_files_limit(soft: u64) -> libc::rlimit {
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(libc::RLIM_INFINITY);
    libc::rlimit { rlim_cur: soft.min(hard), rlim_max: hard }
}

/// The steps of the child. On an error it writes the number of the step to the failure pipe.
const STEP_SESSION: u8 = 1;
const STEP_USER: u8 = 2;
const STEP_FOLDER: u8 = 3;
const STEP_STREAMS: u8 = 4;
const STEP_PROGRAM: u8 = 5;
const STEP_POLICY: u8 = 6;
const STEP_LIMITS: u8 = 7;

/// Executes a script without an interpreter line, as execvp(3) does.
const SCRIPT_SHELL: &CStr = c"/bin/sh";

/// The longest path that getcwd(2) returns (PATH_MAX).
const PATH_BYTES_MAX: usize = 4_096;

/// What the job's standard input is.
pub(crate) enum Input {
    Nothing,
    /// A pipe, to which the keeper writes.
    Text,
    /// The descriptor of a caller.
    Descriptor(OwnedFd),
    /// The caller's is closed.
    Closed,
}

/// In place of a descriptor: the job's stream is closed.
const CLOSED_STREAM: RawFd = -1;

/// Why a job did not start.
pub(crate) struct LaunchError {
    /// One sentence for the run's record.
    pub reason: String,
    /// The error of the kernel when the program could not be executed.
    pub program_error: Option<i32>,
    /// The policy of this machine refuses the job.
    pub is_refused: bool,
}

impl From<String> for LaunchError {
    fn from(reason: String) -> LaunchError {
        LaunchError { reason, program_error: None, is_refused: false }
    }
}

/// Starts the job.
///
/// # Errors
/// Returns the reason for the run's record.
pub(crate) fn launch(prepared: &Prepared, input: Input, cgroup: Option<&Cgroup>) -> Result<Launched, LaunchError> {
    let message = |error: io::Error| format!("cannot start a process: {}", plain_text(&error));
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| message(errno.into()));
    let (stdout, job_stdout) = pipe()?;
    let (stderr, job_stderr) = pipe()?;
    let (failure, job_failure) = pipe()?;
    let (job_stdin, stdin) = match input {
        Input::Text => pipe().map(|(read, write)| (Some(read), Some(write)))?,
        Input::Nothing => (Some(std::fs::File::open("/dev/null").map_err(message)?.into()), None),
        Input::Descriptor(descriptor) => (Some(descriptor), None),
        Input::Closed => (None, None),
    };
    let pointers = Pointers::new(prepared);
    let job_input = job_stdin.as_ref().map_or(CLOSED_STREAM, OwnedFd::as_raw_fd);
    let streams = [job_input, job_stdout.as_raw_fd(), job_stderr.as_raw_fd()];
    let mut child = Child { prepared, pointers: &pointers, streams, failure: job_failure.as_raw_fd() };
    // The memory of a keeper with another user's process in it would be within reach of that user. The job of a caller
    // (which has no `cwd`) is one at a time, and gains nothing.
    let shares_memory = prepared.identity.is_none() && prepared.cwd.is_some();
    // SAFETY: the keeper has one thread, and the child only makes system calls until exec or exit.
    let pid =
        unsafe { job_clone::start(cgroup, shares_memory, run_child, (&raw mut child).cast()) }.map_err(message)?;
    drop((job_stdin, job_stdout, job_stderr, job_failure));
    let mut report = Vec::new();
    let _ = std::fs::File::from(failure).read_to_end(&mut report);
    if let [step, code @ ..] = report.as_slice()
        && let Ok(code) = <[u8; 4]>::try_from(code)
    {
        // SAFETY: the child has exited, so the call returns at once; a null status is allowed.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        let code = i32::from_ne_bytes(code);
        let reason = prepared.failure(*step, io::Error::from_raw_os_error(code));
        let program_error = Some(code).filter(|_| *step == STEP_PROGRAM);
        return Err(LaunchError { reason, program_error, is_refused: *step == STEP_POLICY });
    }
    Ok(Launched { pid: pid as u32, stdout, stderr, stdin })
}

impl Prepared {
    fn failure(&self, step: u8, error: io::Error) -> String {
        let error = plain_text(&error);
        match step {
            STEP_FOLDER => format!("cannot enter the working directory `{}`: {error}", self.cwd_shown),
            STEP_POLICY => self.refusal.clone(),
            STEP_USER => format!("cannot become the job's user: {error}"),
            STEP_PROGRAM => format!("cannot execute `{}`: {error}", self.program_shown),
            _ => format!("cannot set up the job's process: {error}"),
        }
    }
}

/// Arrays of pointers that end in null, as execve needs them. They borrow from a [`Prepared`].
struct Pointers {
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    /// For each program, the arguments of a shell that executes it: a script without an interpreter line.
    script_argvs: Vec<Vec<*const libc::c_char>>,
}

impl Pointers {
    fn new(prepared: &Prepared) -> Pointers {
        let terminated = |texts: &[CString]| {
            texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<*const libc::c_char>>()
        };
        let script_argv = |program: &CString| {
            let arguments = prepared.argv.iter().skip(1).map(|text| text.as_ptr());
            let words = [SCRIPT_SHELL.as_ptr(), program.as_ptr()].into_iter().chain(arguments);
            words.chain([std::ptr::null()]).collect()
        };
        Pointers {
            argv: terminated(&prepared.argv),
            envp: terminated(&prepared.envp),
            script_argvs: prepared.programs.iter().map(script_argv).collect(),
        }
    }
}

/// What the child needs.
struct Child<'p> {
    prepared: &'p Prepared,
    pointers: &'p Pointers,
    streams: [RawFd; 3],
    failure: RawFd,
}

/// The child's side of the clone.
///
/// # Safety
/// Only in a child that was just cloned; `data` is a [`Child`].
unsafe extern "C" fn run_child(data: *mut libc::c_void) -> ! {
    // SAFETY: the caller guarantees the type, and the keeper keeps it while the child uses it.
    let &Child { prepared, pointers, streams, failure } = unsafe { &*data.cast::<Child<'_>>() };
    // SAFETY: only system calls, on values that were built before the clone.
    unsafe {
        // The job of a caller stays in the session and process group of its terminal.
        if prepared.cwd.is_some() && libc::setsid() < 0 {
            fail(failure, STEP_SESSION);
        }
        if let Some(identity) = &prepared.identity
            && (libc::setgroups(identity.groups.len(), identity.groups.as_ptr()) != 0
                || libc::setgid(identity.gid) != 0
                || libc::setuid(identity.uid) != 0)
        {
            fail(failure, STEP_USER);
        }
        if prepared.cwd.as_ref().is_none_or(|cwd| libc::chdir(cwd.as_ptr()) == 0) {
            // After the change: no link that is switched in between leads elsewhere.
            if prepared.allowed_directories.as_ref().is_some_and(|allowed| !is_in_one_of(allowed)) {
                fail(failure, STEP_POLICY);
            }
        } else if prepared.cwd_required || libc::chdir(c"/".as_ptr()) != 0 {
            fail(failure, STEP_FOLDER);
        }
        if let Some(umask) = prepared.umask {
            libc::umask(umask);
        }
        if let Some(limit) = &prepared.open_files
            && libc::setrlimit(libc::RLIMIT_NOFILE, limit) != 0
        {
            fail(failure, STEP_LIMITS);
        }
        for (target, source) in streams.into_iter().enumerate() {
            if source == CLOSED_STREAM {
                libc::close(target as RawFd);
            } else if libc::dup2(source, target as RawFd) < 0 {
                fail(failure, STEP_STREAMS);
            }
        }
        if signals::set_for_job(prepared.blocked_signals, prepared.ignored_signals) != 0 {
            fail(failure, STEP_STREAMS);
        }
        execute(prepared, pointers);
        fail(failure, STEP_PROGRAM)
    }
}

/// Executes the program, as execvp(3) does. Returns with its error in errno.
///
/// # Safety
/// Only in a child that was just forked.
unsafe fn execute(prepared: &Prepared, pointers: &Pointers) {
    // SAFETY: only system calls, on values that were built before the fork; every array ends in null.
    unsafe {
        let mut refused = false;
        for (program, script_argv) in prepared.programs.iter().zip(&pointers.script_argvs) {
            libc::execve(program.as_ptr(), pointers.argv.as_ptr(), pointers.envp.as_ptr());
            match *libc::__errno_location() {
                libc::EACCES => refused = true,
                libc::ENOENT | libc::ENOTDIR => {}
                libc::ENOEXEC => {
                    libc::execve(SCRIPT_SHELL.as_ptr(), script_argv.as_ptr(), pointers.envp.as_ptr());
                    return;
                }
                _ => return,
            }
        }
        match refused {
            true => *libc::__errno_location() = libc::EACCES,
            false if !prepared.is_path => *libc::__errno_location() = libc::ENOENT,
            false => {}
        }
    }
}

/// Whether the working directory is one of these or below. Allocates nothing.
fn is_in_one_of(allowed: &[String]) -> bool {
    let mut buffer = [0u8; PATH_BYTES_MAX];
    // SAFETY: the buffer has the given length; the system call returns the length with the final NUL.
    let length = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    let Some(path) = usize::try_from(length).ok().and_then(|length| buffer.get(..length.saturating_sub(1))) else {
        return false;
    };
    allowed
        .iter()
        .map(|one| one.trim_end_matches('/').as_bytes())
        .any(|one| path.strip_prefix(one).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/")))
}

/// # Safety
/// Only in a child that was just cloned; `failure` must be open.
unsafe fn fail(failure: RawFd, step: u8) -> ! {
    // SAFETY: only system calls; the buffer has the given length.
    unsafe {
        let code = (*libc::__errno_location()).to_ne_bytes();
        let report = [step, code[0], code[1], code[2], code[3]];
        libc::write(failure, report.as_ptr().cast(), report.len());
        libc::_exit(127)
    }
}

/// Duplicates a descriptor to a number above the standard three and sets close-on-exec.
pub(crate) fn move_fd_above_stdio(descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl returns a new descriptor, which has no other owner.
    unsafe {
        match libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 3) {
            -1 => Err(io::Error::last_os_error()),
            moved => Ok(OwnedFd::from_raw_fd(moved)),
        }
    }
}

/// Opens /dev/null as all three standard streams.
pub(crate) fn open_null_as_stdio() -> io::Result<()> {
    let nothing = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for stream in 0..3 {
        // SAFETY: both descriptors are open, and no Rust object uses the standard streams of a keeper after this.
        if unsafe { libc::dup2(nothing.as_raw_fd(), stream) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
