//! Alerts when the scheduler stops ticking or when a group has no live runner. Called every minute beside `overdue`,
//! if possible not by the process of the scheduler.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::alert::{AlertKind, Transition};
use domain::job::JobKey;
use domain::ports::{AlertStep, Ports, Stored};
use domain::run::{Run, State};
use jiff::Timestamp;

use crate::Result;
use crate::new_runs::elapsed_since;
use crate::overdue::{HEARTBEAT_TIMEOUT, serves_group};
use crate::settings::{self, OVERDUE, OverdueState, SCHEDULER, SchedulerState};

/// Time without a tick after which the scheduler counts as silent: five ticks.
pub const SCHEDULER_SILENT_MAX: Duration = Duration::from_secs(300);

/// What one [`tick`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LivenessSummary {
    /// The scheduler has not ticked for [`SCHEDULER_SILENT_MAX`].
    pub scheduler_silent: bool,
    /// Groups without a live runner that have had one, or have runs that wait for one.
    pub groups_without_runner: Vec<String>,
}

/// Checks scheduler and runners. `open`: all open runs. Each silence is alerted once, because its start is in the id
/// of its transition.
///
/// # Errors
/// Returns the port's error; the next call retries.
pub async fn tick(ports: &Ports, open: &[Stored<Run>], now: Timestamp) -> Result<LivenessSummary> {
    let overdue = settings::read::<OverdueState>(ports, OVERDUE).await?.value;
    let watching = overdue.watching_since.map_or(Duration::ZERO, |since| elapsed_since(since, now));
    let mut summary = LivenessSummary::default();
    let mut transitions = Vec::new();
    let scheduler = settings::read::<SchedulerState>(ports, SCHEDULER).await?.value;
    if let Some(ticked_at) = scheduler.ticked_at
        && elapsed_since(ticked_at, now) > SCHEDULER_SILENT_MAX
        && watching > SCHEDULER_SILENT_MAX
    {
        summary.scheduler_silent = true;
        let reason = format!("the scheduler has not ticked since {ticked_at}; no job is started until it ticks again");
        let id = format!("scheduler_silent:{}", ticked_at.as_second());
        let transition = Transition::new(id, AlertKind::SchedulerSilent, &JobKey::new("", ""), reason, now);
        transitions.push(Transition { since: Some(ticked_at), ..transition });
    }
    if watching > HEARTBEAT_TIMEOUT {
        for (group, silent) in groups_without_runner(ports, open, now).await? {
            let key = JobKey::new(&group, "");
            let (id, reason) = (silent.transition_id(&group), silent.reason(&group));
            let transition = Transition::new(id, AlertKind::Quiet, &key, reason, now);
            transitions.push(Transition { since: silent.since(), ..transition });
            summary.groups_without_runner.push(group);
        }
    }
    if !transitions.is_empty() {
        ports.alerts.raise(&AlertStep { state: None, transitions }).await?;
    }
    Ok(summary)
}

#[derive(Default)]
struct SilentGroup {
    /// The last heartbeat of any of its runners.
    last_heartbeat: Option<Timestamp>,
    waiting: u32,
    /// Since when the oldest run waits.
    waiting_since: Option<Timestamp>,
}

impl SilentGroup {
    fn since(&self) -> Option<Timestamp> {
        self.last_heartbeat.or(self.waiting_since)
    }

    fn transition_id(&self, group: &str) -> String {
        let silent_since = self.since().map_or(0, Timestamp::as_second);
        format!("no_runner:{group}:{silent_since}")
    }

    fn reason(&self, group: &str) -> String {
        let since = match self.last_heartbeat {
            Some(at) => format!("no heartbeat from any runner of group {group} since {at}"),
            None => format!("no runner of group {group} has ever sent a heartbeat"),
        };
        match self.waiting {
            0 => since,
            1 => format!("{since}; 1 run waits for one"),
            waiting => format!("{since}; {waiting} runs wait for one"),
        }
    }
}

async fn groups_without_runner(
    ports: &Ports,
    open: &[Stored<Run>],
    now: Timestamp,
) -> Result<BTreeMap<String, SilentGroup>> {
    let heartbeats = ports.settings.heartbeats().await?;
    let mut silent: BTreeMap<String, SilentGroup> = BTreeMap::new();
    for heartbeat in &heartbeats {
        for group in &heartbeat.groups {
            silent.entry(group.clone()).or_default();
        }
    }
    for run in open.iter().map(|stored| &stored.record) {
        let startable_at = run.not_before.map_or(run.scheduled_at, |not_before| not_before.max(run.scheduled_at));
        if run.state == State::Scheduled && !run.held && elapsed_since(startable_at, now) > HEARTBEAT_TIMEOUT {
            let group = silent.entry(run.group.clone()).or_default();
            group.waiting += 1;
            group.waiting_since = Some(group.waiting_since.map_or(startable_at, |oldest| oldest.min(startable_at)));
        }
    }
    for (name, group) in &mut silent {
        group.last_heartbeat =
            heartbeats.iter().filter(|heartbeat| serves_group(heartbeat, name)).map(|heartbeat| heartbeat.at).max();
    }
    silent.retain(|_, group| group.last_heartbeat.is_none_or(|at| elapsed_since(at, now) > HEARTBEAT_TIMEOUT));
    Ok(silent)
}
