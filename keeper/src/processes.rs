//! Reads processes from /proc and signals them without ever hitting a later process with the same id. Used by the
//! keeper for the processes of its job, and by the runner for those that a dead keeper left.

use std::fs;
use std::io;
use std::sync::OnceLock;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::time::{ClockId, clock_gettime};

/// Fields of /proc/PID/stat (proc_pid_stat(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Name of the program, cut to 15 bytes by the kernel.
    pub name: String,
    /// One letter, like `R`, `S` or `Z`.
    pub state: u8,
    /// Process id of the parent.
    pub parent: u32,
    /// Id of the session.
    pub session: u32,
    /// Start time since boot, in clock ticks. Together with the pid it identifies one process until the machine
    /// reboots.
    pub start_ticks: u64,
}

impl Process {
    /// Whether both are the same process; state and parent may differ.
    pub fn is_same(&self, other: &Process) -> bool {
        self.pid == other.pid && self.start_ticks == other.start_ticks
    }

    /// Whether the process has exited and waits for its parent.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// Reads one process. None when it does not exist.
pub fn find(pid: u32) -> Option<Process> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// All visible processes. A process that exits while the list is read is left out.
pub fn list() -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        found.extend(pid.and_then(find));
    }
    Ok(found)
}

/// The running descendants of `ancestor`, without itself. Below a child subreaper, a process can leave this set only by
/// exiting.
pub fn descendants(ancestor: u32) -> io::Result<Vec<Process>> {
    let mut rest = list()?;
    let mut family = vec![ancestor];
    let mut found = Vec::new();
    while let Some(parent) = family.pop() {
        let (children, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|process| process.parent == parent);
        rest = others;
        family.extend(children.iter().map(|child| child.pid));
        found.extend(children.into_iter().filter(|child| !child.is_zombie()));
    }
    Ok(found)
}

/// Signals exactly this process. Returns whether it still existed.
pub fn send_signal(process: &Process, signal: Signal) -> bool {
    let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else { return false };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let same = find(process.pid).is_some_and(|now| now.start_ticks == process.start_ticks);
    same && pidfd_send_signal(handle, signal).is_ok()
}

/// The monotonic clock of this boot, in ms: the same for all processes.
pub fn monotonic_ms() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
}

/// Identifies one boot of the machine. Empty when the kernel does not provide it.
pub fn boot_id() -> String {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id");
    BOOT_ID.get_or_init(|| read().map(|text| text.trim().to_owned()).unwrap_or_default()).clone()
}

fn parse_stat(stat: &[u8]) -> Option<Process> {
    // The name is in parentheses and can contain any byte; the last `)` ends it.
    let open = memchr::memchr(b'(', stat)?;
    let close = memchr::memrchr(b')', stat)?;
    let pid = std::str::from_utf8(&stat[..open]).ok()?.trim().parse().ok()?;
    let name = String::from_utf8_lossy(stat.get(open + 1..close)?).into_owned();
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Process {
        pid,
        name,
        state: *fields.first()?.as_bytes().first()?,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_can_look_like_fields() {
        let stat = b"12 (a) R 9 (b) S 1 12 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 2 3";
        let process = parse_stat(stat).expect("process");
        assert_eq!((process.pid, process.name.as_str(), process.state), (12, "a) R 9 (b", b'S'));
        assert_eq!((process.parent, process.session, process.start_ticks), (1, 7, 4711));
    }

    #[test]
    fn a_process_finds_itself_below_its_parent() {
        let own = find(std::process::id()).expect("own process");
        assert!(descendants(own.parent).expect("descendants").iter().any(|process| process.pid == own.pid));
        assert_eq!(parse_stat(b"nonsense"), None);
    }
}
