//! Stopping: TERM to everything that the job started, KILL after its grace to whatever is left, until nothing is left.
//!
//! Everything means all descendants: the keeper is a child subreaper, so a daemon that forked twice and left the session
//! is still below it. The control group, where there is one, makes KILL instant; walking /proc makes it certain.

use std::time::{Duration, Instant};

use domain::event::Ended;
use domain::run::Leaked;
use rustix::process::Signal;

use crate::cgroup::{self, Cgroup};
use crate::processes::{self, Process};

/// How often what is left is looked at while stopping. Ours.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A process that KILL does not end within this time hangs in the kernel and is named instead of waited for. Ours.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// A stop on its way.
pub struct Ladder {
    pub cause: Ended,
    /// What asked for it, for people.
    asked: String,
    begun: Instant,
    grace: Duration,
    terminated: usize,
    kill_begun: Option<Instant>,
    /// Each process that KILL was sent to, once.
    killed: Vec<Process>,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Look again by then.
    Wait(Instant),
    /// Nothing is left, or what is left cannot be ended.
    Done,
}

impl Ladder {
    /// Sends TERM (and CONT, for what is stopped) to everything.
    pub fn begin(cause: Ended, asked: String, grace: Duration) -> Ladder {
        let family = family();
        for process in &family {
            processes::signal(process, Signal::TERM);
            processes::signal(process, Signal::CONT);
        }
        Ladder {
            cause,
            asked,
            begun: Instant::now(),
            grace,
            terminated: family.len(),
            kill_begun: None,
            killed: Vec::new(),
        }
    }

    /// Climbs on. `children_left` is what wait said.
    pub fn climb(&mut self, children_left: bool, group: Option<&Cgroup>) -> Step {
        if !children_left {
            return Step::Done;
        }
        let now = Instant::now();
        let kill_at = self.begun + self.grace;
        if now < kill_at {
            return Step::Wait(kill_at.min(now + LOOK_INTERVAL));
        }
        let since = *self.kill_begun.get_or_insert(now);
        if now.duration_since(since) > KILL_PATIENCE {
            return Step::Done;
        }
        let family = family();
        if let Some(group) = group {
            let _ = cgroup::kill(group.path());
        }
        for process in family {
            processes::signal(&process, Signal::KILL);
            if !self.killed.iter().any(|known| known.is(&process)) {
                self.killed.push(process);
            }
        }
        Step::Wait(now + LOOK_INTERVAL)
    }

    /// What happened, as one sentence, and the processes that KILL was needed for.
    pub fn account(self, left: Vec<Process>) -> (String, Vec<Leaked>) {
        let mut says = format!("{}: TERM to {}", self.asked, counted(self.terminated));
        if self.kill_begun.is_some() {
            let names: Vec<String> =
                self.killed.iter().take(8).map(|process| format!("{} {}", process.name, process.pid)).collect();
            let more = if self.killed.len() > names.len() { ", ..." } else { "" };
            says.push_str(&format!(
                ", after {} KILL to {} ({}{more})",
                domain::units::format_duration(self.grace),
                counted(self.killed.len()),
                names.join(", "),
            ));
        }
        says.push_str(&match left.len() {
            0 => "; no process left".to_owned(),
            _ => format!("; {} cannot be ended", counted(left.len())),
        });
        let is_left = |killed: &Process| left.iter().any(|process| process.is(killed));
        let leaked = |process: &Process, killed| Leaked { pid: process.pid, name: process.name.clone(), killed };
        let mut named: Vec<Leaked> =
            self.killed.iter().filter(|process| !is_left(process)).map(|process| leaked(process, true)).collect();
        named.extend(left.iter().map(|process| leaked(process, false)));
        (says, named)
    }
}

/// Everything that the job started and that still lives.
pub fn family() -> Vec<Process> {
    processes::descendants(std::process::id()).unwrap_or_default()
}

fn counted(processes: usize) -> String {
    match processes {
        1 => "1 process".to_owned(),
        more => format!("{more} processes"),
    }
}
