//! The small records that duties remember between calls, as types.

use domain::ports::Ports;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Result;

/// A setting as it was read: what it holds, and the version to write it back against.
pub struct Setting<T> {
    name: &'static str,
    pub value: T,
    version: Option<u64>,
}

/// Reads a setting; one that is absent or unreadable is the first day's.
pub async fn read<T: DeserializeOwned + Default>(ports: &Ports, name: &'static str) -> Result<Setting<T>> {
    let stored = ports.settings.read(name).await?;
    let version = stored.as_ref().map(|stored| stored.version);
    let value = match stored {
        Some(stored) => serde_json::from_value(stored.record).unwrap_or_else(|error| {
            tracing::warn!(setting = name, %error, "a setting cannot be read and starts from nothing");
            T::default()
        }),
        None => T::default(),
    };
    Ok(Setting { name, value, version })
}

impl<T: Serialize> Setting<T> {
    /// Writes the value back. `false`: somebody else wrote it meanwhile.
    pub async fn write(&self, ports: &Ports) -> Result<bool> {
        let value = serde_json::to_value(&self.value)
            .map_err(|error| domain::ports::PortError::Permanent(format!("setting {}: {error}", self.name)))?;
        Ok(ports.settings.write(self.name, &value, self.version).await?)
    }
}

/// `scheduler`: how far it has come.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SchedulerState {
    /// When it last ticked to the end.
    pub ticked_at: Option<Timestamp>,
    /// Every entry of the due index before this instant is dealt with.
    pub cursor: Option<Timestamp>,
}

pub const SCHEDULER: &str = "scheduler";

/// `overdue`: since when it has been watching without a pause.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OverdueState {
    pub ticked_at: Option<Timestamp>,
    pub watching_since: Option<Timestamp>,
}

pub const OVERDUE: &str = "overdue";

/// `boot`: the boot whose `@reboot` jobs were started last.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BootState {
    pub boot_id: String,
    pub booted_at: Option<Timestamp>,
    pub done: bool,
}

pub const BOOT: &str = "boot";

/// `sweep`: when all jobs were looked at last.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SweepState {
    pub swept_at: Option<Timestamp>,
}

pub const SWEEP: &str = "sweep";

/// `alerts`: messages sent in the current minute, for the rate limit over all workers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AlertRate {
    /// Minutes since 1970.
    pub minute: i64,
    pub messages: u32,
    pub digests: u32,
}

pub const ALERT_RATE: &str = "alert_rate";

/// `pruner`: the job to go on with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PrunerState {
    pub after: Option<domain::ports::Cursor>,
}

pub const PRUNER: &str = "pruner";
