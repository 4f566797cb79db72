//! How long ago a line was captured, by the clock that counts from the boot and that nothing sets. Spools hold times of
//! the wall clock only, so this file keeps by how much it was ahead, before and after each change of it. Used by the
//! encoding of lines and the status of sinks; kept in the state directory across restarts, until the next boot.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use domain::line::STAMP_BYTES;
use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::engine::locked;
use crate::stamp;

/// A larger change at once is a step; smaller ones are the clock's correction by NTP. Chosen: NTP steps from 0.128 s
/// (chrony and ntpd by default) and slews at most 0.5 ms a second, and a line may be older than its limit by 1 s.
const STEP_MS: i64 = 1000;
/// Settings of the clock that are remembered. Chosen: a clock that is set more often has no meaning anyway.
const SETTINGS_MAX: usize = 64;
const FILE_NAME: &str = "clock.json";

/// The settings of the wall clock since the boot.
pub struct ClockHistory {
    wall: fn() -> Timestamp,
    since_boot: fn() -> Duration,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    settings: Settings,
    file: Option<PathBuf>,
}

/// Stored as `clock.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Settings {
    boot_id: String,
    /// From the oldest to the present one.
    settings: Vec<Setting>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Setting {
    /// The wall clock minus the time since the boot.
    ahead_ms: i64,
    /// Time since the boot at which another setting was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until_ms: Option<i64>,
}

impl ClockHistory {
    /// That of this process, for all of its sinks.
    pub fn of_process() -> Arc<ClockHistory> {
        static OF_PROCESS: LazyLock<Arc<ClockHistory>> =
            LazyLock::new(|| ClockHistory::with_clocks(Timestamp::now, since_boot));
        OF_PROCESS.clone()
    }

    /// With other clocks; kept in memory only.
    pub fn with_clocks(wall: fn() -> Timestamp, since_boot: fn() -> Duration) -> Arc<ClockHistory> {
        let history = ClockHistory { wall, since_boot, kept: Mutex::default() };
        history.observe(&mut locked(&history.kept));
        Arc::new(history)
    }

    /// Takes over what an earlier process has written in this directory since the boot, and writes there from now on.
    /// An unreadable file is replaced.
    pub fn keep_in(&self, directory: &Path) {
        let file = directory.join(FILE_NAME);
        let boot_id = boot_id();
        let stored = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Settings>(&text).ok());
        let mut kept = locked(&self.kept);
        match stored.filter(|stored| stored.boot_id == boot_id && !boot_id.is_empty()) {
            Some(stored) => kept.settings = stored,
            None => kept.settings.boot_id = boot_id,
        }
        kept.file = Some(file);
        self.observe(&mut kept);
        kept.write();
    }

    /// Compares both clocks; to be called often, so that no setting between two others is missed.
    pub(crate) fn limits(&self, max_age: SignedDuration) -> AgeLimits {
        let mut kept = locked(&self.kept);
        let (wall, boot_ms) = self.observe(&mut kept);
        let oldest = wall.checked_sub(max_age).unwrap_or(Timestamp::UNIX_EPOCH).max(Timestamp::UNIX_EPOCH);
        let young_ms = (boot_ms - i64::try_from(max_age.as_millis()).unwrap_or(i64::MAX)).max(0);
        let earlier = kept.settings.earlier().map(|(setting, until_ms)| Earlier {
            boot: setting.stamp(0),
            young: setting.stamp(young_ms),
            until: setting.stamp(until_ms),
        });
        let earlier: Vec<Earlier> = earlier.collect();
        let latest = stamp::format(wall.checked_add(SignedDuration::from_millis(STEP_MS)).unwrap_or(wall));
        AgeLimits { oldest: stamp::format(oldest), latest, earlier }
    }

    /// Time since the capture of a line with this time.
    pub(crate) fn age(&self, captured: Timestamp) -> Duration {
        let mut kept = locked(&self.kept);
        let (wall, boot_ms) = self.observe(&mut kept);
        let captured_ms = captured.as_millisecond();
        let present = wall.as_millisecond() - captured_ms;
        let earlier = kept.settings.earlier().filter_map(|(setting, until_ms)| {
            let at_ms = captured_ms - setting.ahead_ms;
            (0..=until_ms).contains(&at_ms).then_some(boot_ms - at_ms)
        });
        let youngest = earlier.chain((present >= -STEP_MS).then_some(present)).min();
        Duration::from_millis(u64::try_from(youngest.unwrap_or(0)).unwrap_or(0))
    }

    /// Returns the present times: of the wall clock, and in ms since the boot.
    fn observe(&self, kept: &mut Kept) -> (Timestamp, i64) {
        let (wall, since_boot) = ((self.wall)(), (self.since_boot)());
        let boot_ms = i64::try_from(since_boot.as_millis()).unwrap_or(i64::MAX);
        if kept.settings.observe(wall.as_millisecond() - boot_ms, boot_ms) {
            kept.write();
        }
        (wall, boot_ms)
    }
}

impl Kept {
    fn write(&self) {
        let Some(file) = &self.file else { return };
        let new = file.with_extension("new");
        let text = serde_json::to_vec(&self.settings).unwrap_or_default();
        if let Err(error) = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, file)) {
            tracing::warn!(file = %file.display(), %error, "cannot store the settings of the clock; the age of lines after a restart is that of the wall clock");
        }
    }
}

impl Settings {
    /// Returns whether the clock was set.
    fn observe(&mut self, ahead_ms: i64, boot_ms: i64) -> bool {
        let is_first = self.settings.is_empty();
        match self.settings.last_mut() {
            Some(present) if (present.ahead_ms - ahead_ms).abs() <= STEP_MS => {
                present.ahead_ms = ahead_ms;
                return false;
            }
            Some(before) => before.until_ms = Some(boot_ms),
            None => {}
        }
        self.settings.push(Setting { ahead_ms, until_ms: None });
        if self.settings.len() > SETTINGS_MAX {
            self.settings.remove(0);
        }
        !is_first
    }

    /// The settings before the present one, with their ends.
    fn earlier(&self) -> impl Iterator<Item = (&Setting, i64)> {
        self.settings.iter().filter_map(|setting| Some((setting, setting.until_ms?)))
    }
}

impl Setting {
    /// What the wall clock showed at this time since the boot.
    fn stamp(&self, at_ms: i64) -> [u8; STAMP_BYTES] {
        let at = Timestamp::from_millisecond(self.ahead_ms.saturating_add(at_ms)).unwrap_or(Timestamp::UNIX_EPOCH);
        stamp::format(at.max(Timestamp::UNIX_EPOCH))
    }
}

/// Which stamps are too old. Stamps have one fixed form, so they compare as text.
pub(crate) struct AgeLimits {
    /// By the present setting of the clock, and for lines from before the boot.
    oldest: [u8; STAMP_BYTES],
    /// A later stamp is from an earlier setting of the clock.
    latest: [u8; STAMP_BYTES],
    earlier: Vec<Earlier>,
}

/// An earlier setting of the clock: the stamps of lines that were captured at the boot, at the age limit, and at the
/// end of the setting.
struct Earlier {
    boot: [u8; STAMP_BYTES],
    young: [u8; STAMP_BYTES],
    until: [u8; STAMP_BYTES],
}

impl AgeLimits {
    /// A line is too old when it is under every setting of the clock under which it may have been captured.
    pub(crate) fn is_too_old(&self, stamp: &[u8]) -> bool {
        let is_young = stamp >= &self.oldest[..];
        if self.earlier.is_empty() || (is_young && stamp <= &self.latest[..]) {
            return !is_young;
        }
        let mut may_be_old = !is_young;
        for Earlier { boot, young, until } in &self.earlier {
            if stamp < &boot[..] || stamp > &until[..] {
                continue;
            }
            if stamp >= &young[..] {
                return false;
            }
            may_be_old = true;
        }
        may_be_old
    }
}

fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    text.map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
#[path = "clock_history_tests.rs"]
mod tests;
