//! Follows the tzdata of this system and the zone of this host while `up` runs. Crontabs are applied again by
//! `job_files`, due entries are computed again by the scheduler.

use std::sync::Arc;

use domain::{local_time, zones};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::file_watch::POLL_INTERVAL;
use crate::host_zone::{self, HostZoneWatch};
use crate::tzdata::TzdataWatch;

/// Uses an updated tzdata and shows times in the zone of this host, until `stop`. `utc`: times are always in UTC.
pub(crate) async fn follow_zones(mut tzdata: TzdataWatch, utc: bool, nudge: Arc<Notify>, stop: CancellationToken) {
    let mut host_zone = HostZoneWatch::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
        let updated = tzdata.take_changed();
        if updated {
            tracing::info!(tzdata = %zones::release(), "tzdata changed");
            nudge.notify_one();
        }
        if (host_zone.take_changed().is_some() || updated) && !utc {
            local_time::use_zone(host_zone::display_zone());
        }
    }
}
