//! CPU time (user and system) and peak memory of a process, as the kernel counts them. Reads only.

#![expect(unsafe_code, reason = "wait4 has no safe form")]

use std::fs;
use std::io;
use std::process::Child;
use std::time::Duration;

/// Index of the parent among the fields of `/proc/PID/stat` after the command's name (proc_pid_stat(5)).
const PARENT_AT: usize = 1;

/// Index of utime among the fields from the parent on; stime, cutime and cstime follow.
const UTIME_AT: usize = 10;

/// Clock ticks per second in `/proc`, the same on every architecture (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of a process; resolution 10 ms.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    /// All its threads, ended ones included.
    pub own: f64,
    /// All processes below it, running, and ended if they were waited for.
    pub below: f64,
}

/// A process at one instant.
#[derive(Clone, Copy, Debug)]
struct Process {
    pid: u32,
    parent: u32,
    /// CPU seconds of all its threads.
    own: f64,
    /// CPU seconds of the children that it has waited for, with their children.
    reaped: f64,
}

/// The CPU time so far of a process and of everything below it; `None` when it has exited.
pub(crate) fn cpu(pid: u32) -> Option<Cpu> {
    let process = read(pid)?;
    let mut cpu = Cpu { own: process.own, below: process.reaped };
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: Vec<Process> = pids.filter_map(read).collect();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for child in all.iter().filter(|process| process.parent == parent) {
            cpu.below += child.own + child.reaped;
            parents.push(child.pid);
        }
    }
    Some(cpu)
}

fn read(pid: u32) -> Option<Process> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = text.rsplit_once(')')?.1.split_ascii_whitespace().skip(PARENT_AT);
    let fields: Vec<f64> = fields.map_while(|field| field.parse().ok()).collect();
    let [utime, stime, cutime, cstime] = fields.get(UTIME_AT..UTIME_AT + 4)?.try_into().ok()?;
    let [own, reaped] = [utime + stime, cutime + cstime].map(|ticks: f64| ticks / TICKS_PER_SECOND);
    Some(Process { pid, parent: *fields.first()? as u32, own, reaped })
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
