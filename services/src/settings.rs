//! The small records that duties keep between calls, as types.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use domain::job::JobKey;
use domain::ports::Ports;
use domain::restored::RestoredLedger;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Result;

/// A setting as it was read: its value, and the version for a conditional write.
pub(crate) struct Setting<T> {
    name: Cow<'static, str>,
    pub(crate) value: T,
    version: Option<u64>,
}

/// Reads a setting; the default when it is absent or unreadable.
pub(crate) async fn read<T: DeserializeOwned + Default>(
    ports: &Ports,
    name: impl Into<Cow<'static, str>>,
) -> Result<Setting<T>> {
    let name = name.into();
    let stored = ports.settings.read(&name).await?;
    let version = stored.as_ref().map(|stored| stored.version);
    let value = match stored {
        Some(stored) => serde_json::from_value(stored.record).unwrap_or_else(|error| {
            tracing::warn!(setting = &*name, %error, "cannot read a setting; starting from its default");
            T::default()
        }),
        None => T::default(),
    };
    Ok(Setting { name, value, version })
}

impl<T: Serialize> Setting<T> {
    /// Writes the value back. Returns `false` when another process wrote it first.
    pub(crate) async fn write(&self, ports: &Ports) -> Result<bool> {
        let value = serde_json::to_value(&self.value)
            .map_err(|error| domain::ports::PortError::Permanent(format!("setting {}: {error}", self.name)))?;
        Ok(ports.settings.write(&self.name, &value, self.version).await?)
    }
}

/// `scheduler`: the progress of the scheduler.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SchedulerState {
    /// When a tick last completed.
    pub(crate) ticked_at: Option<Timestamp>,
    /// Every due entry before this instant was processed.
    pub(crate) cursor: Option<Timestamp>,
    /// Where each shard of the due index continues, after a tick that did not process all of it. A shard that is absent
    /// continues at `cursor`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) cursors: BTreeMap<u32, ShardCursor>,
    /// The tzdata of the last tick.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tzdata: Option<String>,
    /// The gap of a ledger that was restored from a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) restored: Option<RestoredLedger>,
    /// Groups whose orders the latest send refused until an operator changes something.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) denied_groups: BTreeSet<String>,
}

pub(crate) const SCHEDULER: &str = "scheduler";

/// The first entry of a shard that was not processed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShardCursor {
    pub(crate) at: Timestamp,
    /// Entries of earlier jobs of this instant, in the order of the index, were processed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) job: Option<JobKey>,
}

/// `tick_starts`: since when the scheduler has run without a pause, and earlier such times.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct TickStartsState {
    /// Oldest first: the first and the last beginning of a tick.
    pub(crate) periods: Vec<(Timestamp, Timestamp)>,
}

pub(crate) const TICK_STARTS: &str = "tick_starts";

/// `overdue`: since when its checks have run without a pause.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct OverdueState {
    pub(crate) ticked_at: Option<Timestamp>,
    pub(crate) watching_since: Option<Timestamp>,
}

pub(crate) const OVERDUE: &str = "overdue";

/// `boot`: the boot whose `@reboot` jobs were started last.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct BootState {
    pub(crate) boot_id: String,
    pub(crate) booted_at: Option<Timestamp>,
    pub(crate) done: bool,
}

pub(crate) const BOOT: &str = "boot";

/// `sweep`: when all jobs were checked last.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SweepState {
    pub(crate) swept_at: Option<Timestamp>,
}

pub(crate) const SWEEP: &str = "sweep";

/// `alert_rate:CHANNEL`: messages sent to a channel in the current minute, for the rate limit over all workers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct AlertRate {
    /// Minutes since 1970.
    pub(crate) minute: i64,
    pub(crate) messages: u32,
    pub(crate) digests: u32,
}

pub(crate) const ALERT_RATE: &str = "alert_rate";

/// `pruner`: the job to continue with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PrunerState {
    pub(crate) after: Option<domain::ports::Cursor>,
    /// The part of the removed jobs to continue with.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) removed_part: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

pub(crate) const PRUNER: &str = "pruner";

#[cfg(test)]
mod tests {
    use domain::job::CatchUp;
    use domain::ports::Cursor;
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::alert_rates::{ALERT_RATES, ChannelRates, GroupRate};
    use crate::maintenance::{Window, Windows};
    use crate::scheduler::zone_changes::{ZONES, ZoneDigests};

    fn golden<T: Serialize + DeserializeOwned>(name: &str, sample: &T) {
        testbed::golden(env!("CARGO_MANIFEST_DIR"), name, sample);
    }

    /// An older build's settings are read by this one: their names and their JSON stay.
    #[test]
    fn stored_settings_keep_their_json() {
        let at = |second| Timestamp::from_second(second).expect("an instant");
        let tzdata = Some("2026a (built-in) ".to_owned());
        let scheduler =
            SchedulerState { ticked_at: Some(at(1)), cursor: Some(at(2)), tzdata, ..SchedulerState::default() };
        golden(SCHEDULER, &scheduler);
        let shard = ShardCursor { at: at(3), job: Some(JobKey::new("db", "dump")) };
        golden("scheduler_cursors", &SchedulerState { cursors: [(1, shard)].into(), ..scheduler });
        golden(TICK_STARTS, &TickStartsState { periods: vec![(at(1), at(2))] });
        let zones = [("Europe/Paris".to_owned(), "0123456789abcdef".to_owned())].into();
        golden(ZONES, &ZoneDigests { tzdata: "2026a (built-in) ".to_owned(), zones });
        golden(OVERDUE, &OverdueState { ticked_at: Some(at(1)), watching_since: Some(at(2)) });
        golden(BOOT, &BootState { boot_id: "b".to_owned(), booted_at: Some(at(1)), done: true });
        golden(SWEEP, &SweepState { swept_at: Some(at(1)) });
        golden(ALERT_RATE, &AlertRate { minute: 1, messages: 2, digests: 3 });
        let group = GroupRate { messages: 4, digests: 1, window: 60, in_window: 9 };
        golden(ALERT_RATES, &ChannelRates { minute: 1, messages: 9, groups: [("db".to_owned(), group)].into() });
        golden(PRUNER, &PrunerState { after: Some(Cursor("opaque".to_owned())), removed_part: 0 });
        golden("removed_jobs", &crate::removed_jobs::sample(at(1)));
        let window = Window {
            group: Some("db".to_owned()),
            since: at(1),
            until: Some(at(2)),
            ended_at: Some(at(3)),
            why: "move".to_owned(),
            by: None,
            catch_up: CatchUp::All,
        };
        golden("maintenance", &Windows(vec![window]));
    }
}
