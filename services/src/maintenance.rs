//! Maintenance windows: spans in which nothing new is fired, for one group or all, and what becomes of the firings that
//! fall into them. Set by commands, read by the scheduler and by `release`.

use domain::job::CatchUp;
use domain::ports::Ports;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::settings::{self, Setting};
use crate::{Error, Result, error::CONFLICTS_MAX};

/// Windows remembered, ended ones included: a held run still asks for the window that held it.
const WINDOWS_MAX: usize = 100;

const MAINTENANCE: &str = "maintenance";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// `None`: all groups.
    pub group: Option<String>,
    pub since: Timestamp,
    /// Ends by itself then; otherwise when somebody ends it.
    pub until: Option<Timestamp>,
    /// When somebody ended it.
    pub ended_at: Option<Timestamp>,
    pub why: String,
    /// What its firings are worth when it is over: `skip` records them as skipped at once, `once` and `all` hold them.
    pub catch_up: CatchUp,
}

impl Window {
    /// When it is (or was) over, if that is known.
    pub fn end(&self) -> Option<Timestamp> {
        match (self.until, self.ended_at) {
            (Some(until), Some(ended)) => Some(until.min(ended)),
            (until, ended) => until.or(ended),
        }
    }

    pub fn contains(&self, group: &str, at: Timestamp) -> bool {
        self.group.as_deref().is_none_or(|own| own == group)
            && self.since <= at
            && self.end().is_none_or(|end| at < end)
    }

    /// As a reason: why nothing is fired.
    pub fn reason(&self) -> String {
        let why = if self.why.is_empty() { String::new() } else { format!(": {}", self.why) };
        format!("maintenance since {}{why}", self.since)
    }
}

/// All windows that are remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Windows(pub Vec<Window>);

impl Windows {
    /// The window that keeps a firing of this instant from being fired at `now`.
    pub fn blocking_window(&self, group: &str, nominal: Timestamp, now: Timestamp) -> Option<&Window> {
        let covering = |at| self.0.iter().rev().find(move |window| window.contains(group, at));
        covering(now).or_else(|| covering(nominal))
    }

    /// The window that is on now.
    pub fn active_window(&self, group: &str, now: Timestamp) -> Option<&Window> {
        self.0.iter().rev().find(|window| window.contains(group, now))
    }
}

pub async fn read(ports: &Ports) -> Result<Windows> {
    Ok(settings::read::<Windows>(ports, MAINTENANCE).await?.value)
}

/// Begins a window now. One that is on for the same group is ended by it.
pub async fn begin_window(ports: &Ports, window: Window) -> Result<()> {
    change_windows(ports, |windows| {
        end_group_windows(windows, window.group.as_deref(), window.since);
        windows.0.push(window.clone());
        let surplus = windows.0.len().saturating_sub(WINDOWS_MAX);
        windows.0.drain(..surplus);
        1
    })
    .await?;
    Ok(())
}

/// Ends what is on for this group (`None`: the windows for all groups) and says how many that were.
pub async fn end_windows(ports: &Ports, group: Option<&str>, now: Timestamp) -> Result<usize> {
    change_windows(ports, |windows| end_group_windows(windows, group, now)).await
}

fn end_group_windows(windows: &mut Windows, group: Option<&str>, now: Timestamp) -> usize {
    let mut ended = 0;
    for window in &mut windows.0 {
        if window.group.as_deref() == group && window.end().is_none_or(|end| now < end) {
            window.ended_at = Some(now);
            ended += 1;
        }
    }
    ended
}

async fn change_windows(ports: &Ports, mut change: impl FnMut(&mut Windows) -> usize) -> Result<usize> {
    for _ in 0..CONFLICTS_MAX {
        let mut setting: Setting<Windows> = settings::read(ports, MAINTENANCE).await?;
        let changed = change(&mut setting.value);
        if changed == 0 || setting.write(ports).await? {
            return Ok(changed);
        }
    }
    Err(Error::Conflict("the list of maintenance windows".to_owned()))
}
