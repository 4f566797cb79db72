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
        let survived = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGPIPE, libc::SIGUSR2];
        for signal in survived.into_iter().chain([libc::SIGCHLD, libc::SIGUSR1]) {
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

/// Unblocks every signal, as the job needs it. Async-signal-safe, for the time between fork and exec.
///
/// # Safety
/// Changes the mask of the calling thread.
pub(crate) unsafe fn unblock_all() -> i32 {
    // SAFETY: the caller allows the change of its mask; the set is initialised.
    unsafe {
        let none = empty_set();
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut())
    }
}

unsafe fn empty_set() -> libc::sigset_t {
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
