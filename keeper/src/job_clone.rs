//! The clone that becomes the job's process. Where the architecture is known, it shares the keeper's memory until it
//! executes the job's program (CLONE_VM and CLONE_VFORK of clone(2)), on a stack of its own: nothing is copied. Else,
//! and for a job of another user, it is a fork.

#![expect(unsafe_code, reason = "clone3 with a shared memory needs a few instructions of its own")]

use std::ffi::c_void;
use std::io;
use std::os::fd::AsRawFd;

use crate::cgroup::Cgroup;

/// clone(2). The constant of libc has too few bits.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Stack of the child until it executes its program. Chosen: its largest buffer is a path of 4 KiB.
const STACK_BYTES: usize = 64 << 10;

/// What the child runs. It never returns.
pub(crate) type ChildFunction = unsafe extern "C" fn(*mut c_void) -> !;

/// Starts the child, in the control group where the kernel supports it (clone3, Linux 5.7), else without. Returns its
/// process id when it has executed a program or exited, or at once after a fork.
///
/// # Safety
/// As vfork(2): the child may only make async-signal-safe calls, and changes no memory that the caller uses.
pub(crate) unsafe fn start(
    cgroup: Option<&Cgroup>,
    shares_memory: bool,
    run: ChildFunction,
    data: *mut c_void,
) -> io::Result<libc::pid_t> {
    // SAFETY: the struct is plain data, and zeroes are its defaults.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags = CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.folder().as_raw_fd() as u64;
    }
    if shares_memory {
        let mut stack = Vec::<u128>::with_capacity(STACK_BYTES / size_of::<u128>());
        let mut arguments = arguments;
        arguments.flags |= (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
        arguments.stack = stack.spare_capacity_mut().as_mut_ptr() as u64;
        arguments.stack_size = STACK_BYTES as u64;
        // SAFETY: the call returns when the child no longer uses the stack.
        if let Some(pid) = unsafe { clone_on_stack(&mut arguments, run, data) }.filter(|pid| *pid > 0) {
            return Ok(pid);
        }
    }
    if cgroup.is_some() {
        // SAFETY: without CLONE_VM the call is a fork; the size is that of the arguments.
        match unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) } {
            // SAFETY: this is the child.
            0 => unsafe { run(data) },
            pid @ 1.. => return Ok(pid as libc::pid_t),
            _ => {}
        }
    }
    // SAFETY: the caller guarantees that the child only makes async-signal-safe calls.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: this is the child.
        0 => unsafe { run(data) },
        pid => Ok(pid),
    }
}

/// clone3(2), whose child calls `run` on its own stack. Negative after an error. None where it is not available.
#[cfg(target_arch = "x86_64")]
unsafe fn clone_on_stack(
    arguments: &mut libc::clone_args,
    run: ChildFunction,
    data: *mut c_void,
) -> Option<libc::pid_t> {
    let result: libc::c_long;
    // SAFETY: the system call preserves all registers but rax, rcx and r11. The child leaves this code only by `run`.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, {data}",
            "call {run}",
            "ud2",
            "2:",
            run = in(reg) run,
            data = in(reg) data,
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") std::ptr::from_mut(arguments),
            in("rsi") size_of::<libc::clone_args>(),
            out("rcx") _,
            out("r11") _,
        );
    }
    Some(result as libc::pid_t)
}

/// clone3(2), whose child calls `run` on its own stack. Negative after an error. None where it is not available.
#[cfg(target_arch = "aarch64")]
unsafe fn clone_on_stack(
    arguments: &mut libc::clone_args,
    run: ChildFunction,
    data: *mut c_void,
) -> Option<libc::pid_t> {
    let result: libc::c_long;
    // SAFETY: the system call preserves all registers but x0. The child leaves this code only by `run`.
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, {data}",
            "br {run}",
            "2:",
            run = in(reg) run,
            data = in(reg) data,
            in("x8") libc::SYS_clone3,
            inlateout("x0") std::ptr::from_mut(arguments) => result,
            in("x1") size_of::<libc::clone_args>(),
        );
    }
    Some(result as libc::pid_t)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn clone_on_stack(_: &mut libc::clone_args, _: ChildFunction, _: *mut c_void) -> Option<libc::pid_t> {
    None
}
