//! INT and TERM, as `up` and `runner` take them: the first one ends in good order, another one at once.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// The exit code of a process that a signal ended, as shells count it: 128 + SIGINT.
pub const EXIT_INTERRUPTED: i32 = 130;

/// INT and TERM, from the first moment on.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// # Errors
    /// When the system does not let us listen.
    pub fn new() -> Result<Signals, Failure> {
        let failure = |why| Failure::failed(format!("cannot listen for signals: {why}"));
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt()).map_err(failure)?,
            terminate: signal(SignalKind::terminate()).map_err(failure)?,
        })
    }

    /// Returns at the next one.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
