//! The zones of a crontab's entries: that of `CRON_TZ`, otherwise that of the host, as with cron.

use crate::job::Job;
use crate::zones::{HostZone, LOCAL, zone_named};

/// Schedules that mean the same in every zone.
const ZONELESS: [&str; 4] = ["@reboot", "@manually", "@every", "@at"];

/// The zones of the entries read so far.
pub(super) struct EntryZones {
    /// The value of `CRON_TZ` for the next entries.
    assigned: Option<String>,
    host_zone: HostZone,
    /// The host's zone has no name, and this was reported.
    refused: bool,
}

impl EntryZones {
    pub(super) fn new(host_zone: Option<&HostZone>) -> EntryZones {
        let host_zone = host_zone.cloned().unwrap_or_else(HostZone::utc);
        EntryZones { assigned: None, host_zone, refused: false }
    }

    /// Reads an assignment to `CRON_TZ`.
    ///
    /// # Errors
    /// One lower-case sentence with the remedy.
    pub(super) fn assign(&mut self, value: &str) -> Result<(), String> {
        // As in TZ, a name may follow a colon (tzset(3)).
        let zone = value.strip_prefix(':').unwrap_or(value);
        self.assigned = (!zone.is_empty()).then(|| zone.to_owned());
        self.assigned.as_deref().map_or(Ok(()), check)
    }

    /// Sets the zone of a job to that of `CRON_TZ`, if there is one.
    pub(super) fn set_assigned(&self, job: &mut Job) {
        if let Some(zone) = &self.assigned {
            job.zone.clone_from(zone);
        }
    }

    /// Replaces `local` by the name of the host's zone; returns whether it did, or `None` when that zone has no name.
    /// The first time, `report` gets the fault.
    pub(super) fn resolve(&mut self, job: &mut Job, report: impl FnOnce(String)) -> Option<bool> {
        match self.host_zone.resolve(&mut job.zone) {
            Ok(in_host_zone) => Some(in_host_zone),
            Err(_) if ZONELESS.iter().any(|nickname| job.schedule.starts_with(nickname)) => {
                job.zone = "UTC".to_owned();
                Some(false)
            }
            Err(why) => {
                if !std::mem::replace(&mut self.refused, true) {
                    report(format!("{why}; write CRON_TZ=, like CRON_TZ=Europe/Paris, above the entry"));
                }
                None
            }
        }
    }
}

/// Checks the name of a zone, or `local`.
///
/// # Errors
/// One lower-case sentence with the remedy.
pub(super) fn check(zone: &str) -> Result<(), String> {
    match zone.eq_ignore_ascii_case(LOCAL) {
        true => Ok(()),
        false => zone_named(zone).map(drop),
    }
}
