//! Messages to systemd: started, alive, stopping (sd_notify(3)). Without systemd nothing is sent.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// How long the scheduler may take for one call before the process counts as hanging. Chosen: a call after a long
/// downtime takes less, and the scheduler is called at least every minute.
const HANGING_AFTER: Duration = Duration::from_secs(300);

/// When the scheduler last finished a call.
#[derive(Debug)]
pub(crate) struct Pulse(Mutex<Instant>);

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse(Mutex::new(Instant::now()))
    }
}

impl Pulse {
    pub(crate) fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn is_alive(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < HANGING_AFTER
    }
}

/// Sends a message, if systemd started this process with `Type=notify`. A failure is logged once, where it matters:
/// systemd then restarts the process.
pub(crate) fn send(message: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let bytes = name.as_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name),
        None => SocketAddr::from_pathname(&name),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// Reports to the watchdog of systemd (`WatchdogSec=`) until `stop`, as long as the scheduler is alive.
pub(crate) async fn feed_watchdog(pulse: std::sync::Arc<Pulse>, stop: CancellationToken) {
    let Some(limit) = watchdog_limit() else { return };
    loop {
        if pulse.is_alive() {
            send("WATCHDOG=1");
        } else {
            tracing::error!("the scheduler hangs; systemd restarts this process");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(limit / 3) => {}
        }
    }
}

/// The time after which systemd restarts a silent process; `None` without a watchdog for this process.
fn watchdog_limit() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let is_own = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|micros| is_own && *micros > 0).map(Duration::from_micros)
}
