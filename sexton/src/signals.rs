//! INT and TERM for `up` and `runner`: the first signal stops them in order, a second one immediately.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// Exit code after a second signal: 128 + SIGINT, like shells report it.
pub(crate) const EXIT_INTERRUPTED: i32 = 130;

/// INT and TERM since the creation of this value.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// # Errors
    /// Fails if a signal handler cannot be installed.
    pub(crate) fn new() -> Result<Signals, Failure> {
        let failure = |why| Failure::failed(format!("cannot listen for signals: {why}"));
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt()).map_err(failure)?,
            terminate: signal(SignalKind::terminate()).map_err(failure)?,
        })
    }

    /// Returns at the next signal.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
