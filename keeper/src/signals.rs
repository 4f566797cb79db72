//! The keeper's signals, read from a descriptor, never by a handler. Signals that would end the keeper stay blocked, so
//! that neither a terminal nor the end of its runner ends it. The job starts with no signal blocked and all at their
//! default.

#![expect(unsafe_code, reason = "signal masks, signalfd and wait4 with resource usage are system calls")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Highest signal number of Linux (signal(7)).
const SIGNAL_MAX: i32 = 64;

/// Sets every signal to its default, blocks those that a keeper must survive, and returns the descriptor for SIGCHLD
/// and SIGUSR1.
pub(crate) fn block_and_open() -> io::Result<OwnedFd> {
    // SAFETY: sigemptyset initialises the sets before use; no handler is installed, so no code runs asynchronously.
    unsafe {
        // A system call, because glibc does not change its own two signals, and the job would inherit them as ignored.
        // The kernel's record of a default action is all zeroes; its mask has 64 bits. SIGKILL and SIGSTOP return an
        // error, as expected.
        let default = [0u64; 4];
        for signal in 1..=SIGNAL_MAX {
            libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, std::ptr::null::<u64>(), 8);
        }
        let mut blocked = empty_set();
        // SIGXFSZ: a limit of file sizes is like a full disk.
        let survived =
            [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGPIPE, libc::SIGUSR2, libc::SIGXFSZ];
        // Until it leaves the session of a caller, the keeper is in a process group that a terminal can suspend.
        let suspending = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
        for signal in survived.into_iter().chain(suspending).chain([libc::SIGCHLD, libc::SIGUSR1]) {
            libc::sigaddset(&mut blocked, signal);
        }
        if libc::sigprocmask(libc::SIG_SETMASK, &blocked, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut wanted = empty_set();
        libc::sigaddset(&mut wanted, libc::SIGCHLD);
        libc::sigaddset(&mut wanted, libc::SIGUSR1);
        match libc::signalfd(-1, &wanted, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            descriptor => Ok(OwnedFd::from_raw_fd(descriptor)),
        }
    }
}

/// Reads and discards all pending signals. The caller then checks everything that a signal can mean.
pub(crate) fn drain(signals: &OwnedFd) {
    let mut buffer = [0u8; 16 * size_of::<libc::signalfd_siginfo>()];
    // SAFETY: the buffer has the given length.
    while unsafe { libc::read(signals.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) } > 0 {}
}

/// Blocks exactly these signals, and ignores those: the job's start. Both are bit sets; bit 0 is signal 1.
/// Async-signal-safe, for the time between fork and exec.
///
/// # Safety
/// Changes the mask and the dispositions of the process.
pub(crate) unsafe fn set_for_job(blocked: u64, ignored: u64) -> i32 {
    // SAFETY: the caller allows the changes; the sets are initialised.
    unsafe {
        let mut mask = empty_set();
        for signal in 1..=SIGNAL_MAX {
            let bit = 1u64 << (signal - 1);
            if ignored & bit != 0 {
                libc::signal(signal, libc::SIG_IGN);
            }
            if blocked & bit != 0 {
                libc::sigaddset(&mut mask, signal);
            }
        }
        libc::sigprocmask(libc::SIG_SETMASK, &mask, std::ptr::null_mut())
    }
}

/// Sends a signal to a process that cannot have been replaced by another one, like a child that was not reaped.
pub(crate) fn send(pid: u32, signal: i32) {
    // SAFETY: the call has no effect on this process; an invalid number only makes it fail.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// Whether a child was suspended or continued since the last call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suspension {
    Suspended,
    Continued,
    None,
}

/// Reads how a child's suspension has changed.
pub(crate) fn suspension_of(pid: u32) -> Suspension {
    // SAFETY: siginfo is plain data, for which zeroes are a value.
    let information = unsafe {
        let mut information = MaybeUninit::<libc::siginfo_t>::zeroed().assume_init();
        let wanted = libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG;
        match libc::waitid(libc::P_PID, pid, &mut information, wanted) {
            0 if information.si_pid() != 0 => information,
            _ => return Suspension::None,
        }
    };
    match information.si_code {
        libc::CLD_STOPPED | libc::CLD_TRAPPED => Suspension::Suspended,
        libc::CLD_CONTINUED => Suspension::Continued,
        _ => Suspension::None,
    }
}

pub(crate) unsafe fn empty_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    }
}

/// A child that was reaped, with its resource usage, which includes children that it waited for.
pub(crate) struct Reaped {
    pub pid: u32,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub cpu_ms: u64,
    pub max_rss_bytes: u64,
}

/// The result of `wait4` without waiting.
pub(crate) enum Children {
    Reaped(Reaped),
    /// Children are running; none has ended.
    Running,
    None,
}

/// Reaps one child that has exited. `before` gets its process id while /proc still shows it.
pub(crate) fn reap(before: impl FnOnce(u32)) -> Children {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: all out parameters are valid; siginfo and rusage are plain data, for which zeroes are a value.
    let (pid, usage) = unsafe {
        let mut information = MaybeUninit::<libc::siginfo_t>::zeroed().assume_init();
        let found = libc::waitid(libc::P_ALL, 0, &mut information, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) == 0;
        let exited = if found { information.si_pid() } else { 0 };
        if exited > 0 {
            before(exited as u32);
        }
        let pid = libc::wait4(if exited > 0 { exited } else { -1 }, &mut status, libc::WNOHANG, usage.as_mut_ptr());
        (pid, usage.assume_init())
    };
    match pid {
        0 => Children::Running,
        -1 => Children::None,
        pid => {
            let ms = |time: libc::timeval| time.tv_sec as u64 * 1_000 + time.tv_usec as u64 / 1_000;
            Children::Reaped(Reaped {
                pid: pid as u32,
                exit_code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
                signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
                cpu_ms: ms(usage.ru_utime) + ms(usage.ru_stime),
                // Linux counts in KiB (getrusage(2)).
                max_rss_bytes: usage.ru_maxrss as u64 * 1_024,
            })
        }
    }
}
