//! Who watches the watcher: tells when the scheduler no longer ticks, and when no runner of a group shows life. Called
//! every minute by whoever runs `overdue`, best not by whoever runs the scheduler.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::alert::{AlertKind, Transition};
use domain::job::JobKey;
use domain::ports::{AlertStep, Ports, Stored};
use domain::run::{Run, State};
use jiff::Timestamp;

use crate::Result;
use crate::new_runs::since;
use crate::overdue::{RUNNER_LEASE, serves};
use crate::settings::{self, OVERDUE, OverdueState, SCHEDULER, SchedulerState};

/// A scheduler that has not ticked for so long is told: five ticks.
pub const SCHEDULER_SILENT_MAX: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub scheduler_silent: bool,
    /// Groups that have had a runner, or have runs that wait for one, and have none now.
    pub groups_without_runner: Vec<String>,
}

/// Looks whether everybody is there; `open`: all open runs. Each silence is told once: its transition is named after its
/// beginning.
///
/// # Errors
/// A port's.
pub async fn tick(ports: &Ports, open: &[Stored<Run>], now: Timestamp) -> Result<Summary> {
    let overdue = settings::read::<OverdueState>(ports, OVERDUE).await?.value;
    let watching = overdue.watching_since.map_or(Duration::ZERO, |begun| since(begun, now));
    let mut summary = Summary::default();
    let mut transitions = Vec::new();
    let scheduler = settings::read::<SchedulerState>(ports, SCHEDULER).await?.value;
    if let Some(ticked_at) = scheduler.ticked_at
        && since(ticked_at, now) > SCHEDULER_SILENT_MAX
        && watching > SCHEDULER_SILENT_MAX
    {
        summary.scheduler_silent = true;
        let reason = format!("the scheduler has not ticked since {ticked_at}; no job is fired until it does");
        let id = format!("scheduler_silent:{}", ticked_at.as_second());
        transitions.push(Transition::new(id, AlertKind::SchedulerSilent, &JobKey::new("", ""), reason, now));
    }
    if watching > RUNNER_LEASE {
        for (group, gone) in groups_without_runner(ports, open, now).await? {
            let key = JobKey::new(&group, "");
            transitions.push(Transition::new(gone.id(&group), AlertKind::Quiet, &key, gone.says(&group), now));
            summary.groups_without_runner.push(group);
        }
    }
    if !transitions.is_empty() {
        ports.alerts.raise(&AlertStep { state: None, transitions }).await?;
    }
    Ok(summary)
}

#[derive(Default)]
struct Gone {
    /// The latest beat of any of its runners.
    last_beat: Option<Timestamp>,
    waiting: u32,
    /// Since when the oldest run waits.
    waiting_since: Option<Timestamp>,
}

impl Gone {
    fn id(&self, group: &str) -> String {
        let begun = self.last_beat.or(self.waiting_since).map_or(0, Timestamp::as_second);
        format!("no_runner:{group}:{begun}")
    }

    fn says(&self, group: &str) -> String {
        let since = match self.last_beat {
            Some(at) => format!("no runner of group {group} has shown life since {at}"),
            None => format!("no runner of group {group} has ever shown life"),
        };
        match self.waiting {
            0 => since,
            1 => format!("{since}; 1 run waits for one"),
            waiting => format!("{since}; {waiting} runs wait for one"),
        }
    }
}

async fn groups_without_runner(ports: &Ports, open: &[Stored<Run>], now: Timestamp) -> Result<BTreeMap<String, Gone>> {
    let beats = ports.settings.heartbeats().await?;
    let mut gone: BTreeMap<String, Gone> = BTreeMap::new();
    for beat in &beats {
        for group in &beat.groups {
            gone.entry(group.clone()).or_default();
        }
    }
    for run in open.iter().map(|stored| &stored.record) {
        let begins = run.not_before.map_or(run.scheduled_at, |not_before| not_before.max(run.scheduled_at));
        if run.state == State::Scheduled && !run.held && since(begins, now) > RUNNER_LEASE {
            let group = gone.entry(run.group.clone()).or_default();
            group.waiting += 1;
            group.waiting_since = Some(group.waiting_since.map_or(begins, |oldest| oldest.min(begins)));
        }
    }
    for (name, group) in &mut gone {
        group.last_beat = beats.iter().filter(|beat| serves(beat, name)).map(|beat| beat.at).max();
    }
    gone.retain(|_, group| group.last_beat.is_none_or(|at| since(at, now) > RUNNER_LEASE));
    Ok(gone)
}
