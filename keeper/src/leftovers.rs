//! Finds, kills and lists the processes that a dead keeper left: by control group, session, environment, and the pipes
//! of the job's output. Without a control group, a process that left all three others is not found. Called by the
//! runner when it records a lost run.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use domain::run::{AttemptKey, Leaked};
use rustix::process::Signal;

use crate::cgroup;
use crate::launch::KEEPER_VARIABLE;
use crate::processes::{self, Process};
use crate::records::Started;

/// A process that survives KILL for this time is listed as not killed. Chosen, not measured.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Poll interval of the processes that got KILL. Chosen, not measured.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Kills every process of the attempt and returns the list. Blocking. Only for an attempt without a keeper.
pub fn kill_leftovers(key: &AttemptKey, started: Option<&Started>) -> Vec<Leaked> {
    let start = Instant::now();
    let mut named: Vec<(Process, bool)> = Vec::new();
    loop {
        let left = find_leftovers(key, started);
        for (known, killed) in &mut named {
            *killed = !left.iter().any(|process| process.is_same(known));
        }
        if left.is_empty() || start.elapsed() > KILL_TIMEOUT {
            break;
        }
        if let Some(group) = started.and_then(|started| started.cgroup.as_deref()) {
            let _ = cgroup::kill(Path::new(group));
        }
        for process in left {
            processes::send_signal(&process, Signal::KILL);
            if !named.iter().any(|(known, _)| known.is_same(&process)) {
                named.push((process, false));
            }
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    if let Some(group) = started.and_then(|started| started.cgroup.as_deref()) {
        cgroup::remove(Path::new(group));
    }
    named.into_iter().map(|(process, killed)| Leaked { pid: process.pid, name: process.name, killed }).collect()
}

fn find_leftovers(key: &AttemptKey, started: Option<&Started>) -> Vec<Process> {
    let marks = marks(key, started);
    let started = started.filter(|started| started.boot_id == processes::boot_id());
    let in_group: Vec<u32> = started
        .and_then(|started| started.cgroup.as_deref())
        .map(|group| cgroup::members(Path::new(group)))
        .unwrap_or_default();
    let session = started.filter(|started| owns_session(started)).map(|started| started.pid);
    let mut all = processes::list().unwrap_or_default();
    let own = std::process::id();
    all.retain(|process| {
        process.pid != own
            && !process.is_zombie()
            && (in_group.contains(&process.pid)
                || session == Some(process.session)
                || started.is_some_and(|started| holds_pipe(process.pid, &started.pipes))
                || has_environment(process.pid, &marks))
    });
    all
}

/// Whether the session is still the job's. The kernel gives the number to no other session while a member is alive. A
/// leader with another start time means that the number was reused.
fn owns_session(started: &Started) -> bool {
    processes::find(started.pid).is_none_or(|leader| leader.start_ticks == started.start_ticks)
}

/// Whether the process has one of these pipes open.
fn holds_pipe(pid: u32, pipes: &[u64]) -> bool {
    let names: Vec<String> = pipes.iter().map(|inode| format!("pipe:[{inode}]")).collect();
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    targets.into_iter().any(|target| names.iter().any(|name| Path::new(name) == target))
}

/// Variables in the environment of all processes of the job, also of those that left its session and control group. The
/// keeper's id distinguishes a run of the same name in another installation on this machine.
fn marks((run_id, attempt): &AttemptKey, started: Option<&Started>) -> Vec<String> {
    let keeper = started.and_then(|started| started.keeper);
    let keeper = keeper.map(|keeper| format!("{}={keeper}", KEEPER_VARIABLE));
    [format!("SEXTON_RUN_ID={run_id}"), format!("SEXTON_ATTEMPT={attempt}")].into_iter().chain(keeper).collect()
}

fn has_environment(pid: u32, wanted: &[String]) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    wanted.iter().all(|wanted| environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes()))
}
