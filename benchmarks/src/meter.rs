//! CPU time (user and system) and peak memory of a process, as the kernel counts them. Reads only.

#![expect(unsafe_code, reason = "wait4 has no safe form")]

use std::fs;
use std::io;
use std::process::Child;
use std::time::Duration;

/// Index of utime among the fields of `/proc/PID/stat` after the command's name (proc_pid_stat(5)).
const UTIME_AT: usize = 11;

/// Clock ticks per second in `/proc`, the same on every architecture (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    /// All its threads, ended ones included; resolution 10 ms.
    pub own: f64,
    /// The children that it has waited for, with their children; resolution 10 ms.
    pub reaped: f64,
}

/// The CPU time of a process so far; `None` when it has exited.
pub(crate) fn cpu(pid: u32) -> Option<Cpu> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<f64> = text
        .rsplit_once(')')?
        .1
        .split_ascii_whitespace()
        .skip(UTIME_AT)
        .take(4)
        .map_while(|field| field.parse().ok())
        .collect();
    let [utime, stime, cutime, cstime] = fields[..] else { return None };
    Some(Cpu { own: (utime + stime) / TICKS_PER_SECOND, reaped: (cutime + cstime) / TICKS_PER_SECOND })
}

/// Peak resident memory in bytes; `None` when the process has exited.
pub(crate) fn peak_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Waits for a child. Returns its CPU seconds and peak bytes, to the microsecond and the page.
///
/// # Errors
/// When the child has been waited for already.
pub(crate) fn wait(child: &Child) -> io::Result<(f64, u64)> {
    let mut status = 0;
    // SAFETY: `rusage` has only integers, for which all zeros is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers point to live variables.
        let got = unsafe { libc::wait4(child.id() as libc::pid_t, &mut status, 0, &mut usage) };
        if got >= 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let seconds =
        |time: libc::timeval| Duration::from_secs(time.tv_sec as u64).as_secs_f64() + time.tv_usec as f64 / 1e6;
    Ok((seconds(usage.ru_utime) + seconds(usage.ru_stime), usage.ru_maxrss as u64 * 1024))
}
