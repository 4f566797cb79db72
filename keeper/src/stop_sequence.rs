//! Stops a job: TERM to all its processes, KILL after the grace time, until no process is left.
//!
//! All processes means all descendants. The keeper is a child subreaper, so a daemon that forked twice and left the
//! session is still below it. A control group makes KILL immediate; walking /proc finds every process also without one.

use std::time::{Duration, Instant};

use domain::event::Ended;
use domain::run::Leaked;
use rustix::process::Signal;

use crate::cgroup::{self, Cgroup};
use crate::processes::{self, Process};

/// Poll interval of the remaining processes during a stop. Chosen, not measured.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A process that survives KILL for this time hangs in the kernel. It is listed, not waited for. Chosen, not measured.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// A stop in progress.
pub(crate) struct StopSequence {
    pub cause: Ended,
    /// What requested the stop, for the run's note.
    requested: String,
    started: Instant,
    grace: Duration,
    terminated: usize,
    kill_started: Option<Instant>,
    /// Each process that got KILL, once.
    killed: Vec<Process>,
}

/// The result of [`StopSequence::advance`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Call again at this instant.
    Wait(Instant),
    /// No process is left, or the remaining ones cannot be killed.
    Done,
}

impl StopSequence {
    /// Sends TERM to all processes, and CONT for those that are suspended.
    pub(crate) fn start(cause: Ended, requested: String, grace: Duration) -> StopSequence {
        let family = living_descendants();
        for process in &family {
            processes::send_signal(process, Signal::TERM);
            processes::send_signal(process, Signal::CONT);
        }
        StopSequence {
            cause,
            requested,
            started: Instant::now(),
            grace,
            terminated: family.len(),
            kill_started: None,
            killed: Vec::new(),
        }
    }

    /// Limits the grace to this time from now.
    pub(crate) fn shorten_grace(&mut self, grace_max: Duration) {
        self.grace = self.grace.min(self.started.elapsed() + grace_max);
    }

    /// Takes the next step when it is due. `children_left` is the result of wait.
    pub(crate) fn advance(&mut self, children_left: bool, group: Option<&Cgroup>) -> Step {
        if !children_left {
            return Step::Done;
        }
        let now = Instant::now();
        let kill_at = self.started + self.grace;
        if now < kill_at {
            return Step::Wait(kill_at.min(now + POLL_INTERVAL));
        }
        let since = *self.kill_started.get_or_insert(now);
        if now.duration_since(since) > KILL_TIMEOUT {
            return Step::Done;
        }
        let family = living_descendants();
        if let Some(group) = group {
            let _ = cgroup::kill(group.path());
        }
        for process in family {
            processes::send_signal(&process, Signal::KILL);
            if !self.killed.iter().any(|known| known.is_same(&process)) {
                self.killed.push(process);
            }
        }
        Step::Wait(now + POLL_INTERVAL)
    }

    /// One sentence about the stop, and the processes that needed KILL.
    pub(crate) fn summary(self, left: Vec<Process>) -> (String, Vec<Leaked>) {
        let mut message = format!("{}: TERM to {}", self.requested, process_count_text(self.terminated));
        if self.kill_started.is_some() {
            let names: Vec<String> =
                self.killed.iter().take(8).map(|process| format!("{} {}", process.name, process.pid)).collect();
            let more = if self.killed.len() > names.len() { ", ..." } else { "" };
            message.push_str(&format!(
                ", after {} KILL to {} ({}{more})",
                domain::units::format_duration(self.grace),
                process_count_text(self.killed.len()),
                names.join(", "),
            ));
        }
        message.push_str(&match left.len() {
            0 => "; no process left".to_owned(),
            _ => format!("; {} cannot be killed", process_count_text(left.len())),
        });
        let is_left = |killed: &Process| left.iter().any(|process| process.is_same(killed));
        let leaked = |process: &Process, killed| Leaked { pid: process.pid, name: process.name.clone(), killed };
        let mut named: Vec<Leaked> =
            self.killed.iter().filter(|process| !is_left(process)).map(|process| leaked(process, true)).collect();
        named.extend(left.iter().map(|process| leaked(process, false)));
        (message, named)
    }
}

/// All processes that the job started and that are still running.
pub(crate) fn living_descendants() -> Vec<Process> {
    processes::descendants(std::process::id()).unwrap_or_default()
}

fn process_count_text(processes: usize) -> String {
    match processes {
        1 => "1 process".to_owned(),
        more => format!("{more} processes"),
    }
}
