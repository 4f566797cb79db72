//! Maintenance windows: spans without new runs, for one group or all, with the policy for firings inside them. Set by
//! commands; read by the scheduler and by `release`.

use domain::job::CatchUp;
use domain::ports::Ports;
use domain::run::Run;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::settings::{self, Setting};
use crate::{Error, Result, error::CONFLICTS_MAX};

/// Windows kept, ended ones included: a held run needs the window that held it. Chosen, not measured.
const WINDOWS_MAX: usize = 100;

const MAINTENANCE: &str = "maintenance";

/// One maintenance window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// `None`: all groups.
    pub group: Option<String>,
    /// Its start.
    pub since: Timestamp,
    /// Ends automatically at this instant; `None`: when an operator ends it.
    pub until: Option<Timestamp>,
    /// When an operator ended it.
    pub ended_at: Option<Timestamp>,
    /// The operator's reason; may be empty.
    pub why: String,
    /// Who started it, as `user:NAME` or `owner`; absent in windows of older builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The policy for its firings: `skip` records them as skipped at once, `once` and `all` hold them.
    pub catch_up: CatchUp,
}

impl Window {
    /// When the window ends (or ended), if that is known.
    pub fn end(&self) -> Option<Timestamp> {
        match (self.until, self.ended_at) {
            (Some(until), Some(ended)) => Some(until.min(ended)),
            (until, ended) => until.or(ended),
        }
    }

    /// Whether a firing of this group at this instant is in the window.
    pub fn contains(&self, group: &str, at: Timestamp) -> bool {
        self.group.as_deref().is_none_or(|own| own == group)
            && self.since <= at
            && self.end().is_none_or(|end| at < end)
    }

    /// The reason of the runs that the window skips or holds.
    pub fn reason(&self) -> String {
        let why = if self.why.is_empty() { String::new() } else { format!(": {}", self.why) };
        format!("maintenance since {}{why}", self.since)
    }
}

/// All windows that are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Windows(pub Vec<Window>);

impl Windows {
    /// The window that, at `now`, blocks a firing of this nominal time.
    pub fn blocking_window(&self, group: &str, nominal: Timestamp, now: Timestamp) -> Option<&Window> {
        let covering = |at| self.0.iter().rev().find(move |window| window.contains(group, at));
        covering(now).or_else(|| covering(nominal))
    }

    /// Whether a held run counts from its release, because a window of its group was active while it waited.
    pub(crate) fn held(&self, run: &Run, now: Timestamp) -> bool {
        let concerns = |window: &&Window| window.group.as_deref().is_none_or(|group| group == run.group);
        let overlaps = |window: &Window| window.since <= now && window.end().is_none_or(|end| end > run.scheduled_at);
        self.0.iter().filter(concerns).any(overlaps)
    }

    /// The window that is active now.
    pub fn active_window(&self, group: &str, now: Timestamp) -> Option<&Window> {
        self.0.iter().rev().find(|window| window.contains(group, now))
    }
}

/// Reads all windows.
///
/// # Errors
/// Returns the port's error.
pub async fn read(ports: &Ports) -> Result<Windows> {
    Ok(settings::read::<Windows>(ports, MAINTENANCE).await?.value)
}

/// Starts a window. Ends the one that is active for the same group.
pub(crate) async fn begin_window(ports: &Ports, window: Window) -> Result<()> {
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

/// Ends the open windows of this group (`None`: those for all groups) and returns their number.
pub(crate) async fn end_windows(ports: &Ports, group: Option<&str>, now: Timestamp) -> Result<usize> {
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
