//! The signals of `up` and `runner`. INT and TERM: the first one stops them in order, a second one immediately. HUP
//! reads all watched files again. USR1 and USR2 are ignored: their default would end the process.

use tokio::signal::unix::{Signal, SignalKind, signal};

use tokio::sync::watch;

use crate::failure::{Failure, print_error_line};

/// Exit code after a second signal: 128 + SIGINT, like shells report it.
pub(crate) const EXIT_INTERRUPTED: i32 = 130;

/// The signals since the creation of this value.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    reloads: ReloadRequests,
}

/// Wakes each receiver when all watched files are to be read again.
pub(crate) type ReloadRequests = watch::Receiver<()>;

impl Signals {
    /// # Errors
    /// Fails if a signal handler cannot be installed.
    pub(crate) fn new() -> Result<Signals, Failure> {
        let listen = |kind| signal(kind).map_err(|why| Failure::failed(format!("cannot listen for signals: {why}")));
        let (hangup, user_1, user_2) =
            (listen(SignalKind::hangup())?, listen(SignalKind::user_defined1())?, listen(SignalKind::user_defined2())?);
        let (sender, reloads) = watch::channel(());
        tokio::spawn(handle_others(hangup, user_1, user_2, sender));
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            reloads,
        })
    }

    /// The requests to read all watched files again.
    pub(crate) fn reload_requests(&self) -> ReloadRequests {
        self.reloads.clone()
    }

    /// Returns at the next signal.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Handles the signals that do not stop the process, until it ends.
async fn handle_others(mut hangup: Signal, mut user_1: Signal, mut user_2: Signal, reloads: watch::Sender<()>) {
    loop {
        tokio::select! {
            _ = hangup.recv() => {
                print_error_line(
                    "signal HUP: reading all watched files again; a change of sexton.toml or of the policy needs a restart",
                );
                // No receiver is left when the process stops.
                let _stopping = reloads.send(());
            }
            _ = user_1.recv() => print_error_line("signal USR1 is ignored"),
            _ = user_2.recv() => print_error_line("signal USR2 is ignored"),
        }
    }
}
