//! `up` and `runner` as process 1 of a container. Process 1 gets the orphans of all processes and no default action of
//! signals. So it only reaps and passes signals on, and a child is the server. Called before any thread is started.

#![expect(unsafe_code, reason = "fork, signal masks and waitpid are system calls")]

use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::Failure;

static IS_BELOW_PROCESS_ONE: AtomicBool = AtomicBool::new(false);

/// Whether this process serves below a process 1 of the same program.
pub(crate) fn is_process_one() -> bool {
    IS_BELOW_PROCESS_ONE.load(Ordering::Relaxed)
}

/// Does nothing unless this is process 1. There it forks: the child returns, and process 1 exits as its child does.
///
/// # Errors
/// Fails if the kernel refuses the fork.
pub(crate) fn serve_in_child() -> Result<(), Failure> {
    if std::process::id() != 1 {
        return Ok(());
    }
    let failure = |why: io::Error| Failure::failed(format!("cannot start below process 1: {why}"));
    let all = all_signals();
    let mut before = MaybeUninit::uninit();
    // SAFETY: both sets are valid; the process has one thread, so the child may continue as the parent would.
    let child = unsafe {
        if libc::sigprocmask(libc::SIG_SETMASK, &all, before.as_mut_ptr()) != 0 {
            return Err(failure(io::Error::last_os_error()));
        }
        libc::fork()
    };
    match child {
        -1 => Err(failure(io::Error::last_os_error())),
        0 => {
            // SAFETY: the first call initialised the set. In its own process group, the child gets a signal of the
            // terminal once, from process 1.
            unsafe {
                libc::setpgid(0, 0);
                libc::sigprocmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
            }
            IS_BELOW_PROCESS_ONE.store(true, Ordering::Relaxed);
            Ok(())
        }
        child => reap_until_exit(child, &all),
    }
}

fn all_signals() -> libc::sigset_t {
    let mut all = MaybeUninit::uninit();
    // SAFETY: sigfillset initialises the set.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        all.assume_init()
    }
}

/// Reaps every process, passes every signal on to `child`, and exits with its code; 128 plus the signal, as shells do.
fn reap_until_exit(child: libc::pid_t, all: &libc::sigset_t) -> ! {
    loop {
        // SAFETY: the set is valid, and all its signals are blocked. A null pointer discards the details.
        let signal = unsafe { libc::sigwaitinfo(all, std::ptr::null_mut()) };
        if signal > 0 && signal != libc::SIGCHLD {
            // SAFETY: sends a signal to a child that was not reaped, so its number is not reused.
            unsafe { libc::kill(child, signal) };
        }
        let mut status = 0;
        // SAFETY: the out parameter is valid.
        while let pid @ 1.. = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) } {
            if pid == child {
                let code = match libc::WIFEXITED(status) {
                    true => libc::WEXITSTATUS(status),
                    false => 128 + libc::WTERMSIG(status),
                };
                // SAFETY: process 1 has nothing to flush; what is left in the container ends with it.
                unsafe { libc::_exit(code) };
            }
        }
    }
}
