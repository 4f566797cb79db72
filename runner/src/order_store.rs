//! Stores accepted orders on disk, many with one sync. Callers wait for their own order; the first caller of a batch
//! writes the orders of all that wait, so 1,000 orders in a minute cost a few syncs.

use std::io;
use std::sync::{Arc, Mutex};

use keeper::directory::UnsyncedFile;
use tokio::sync::oneshot;

use crate::local_run::{LocalRun, lock};

/// Orders of one batch. Chosen: few enough that the first starts while the others are written.
const BATCH_ORDERS_MAX: usize = 64;

struct Waiting {
    run: Arc<LocalRun>,
    stored: oneshot::Sender<io::Result<()>>,
}

#[derive(Default)]
pub(crate) struct OrderStore {
    waiting: Mutex<Vec<Waiting>>,
    /// Held by the caller that writes a batch.
    turn: tokio::sync::Mutex<()>,
}

impl OrderStore {
    /// Creates the directory of a run with its order. Returns when both survive a power cut.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub(crate) async fn store(&self, run: Arc<LocalRun>) -> io::Result<()> {
        let (stored, mut is_stored) = oneshot::channel();
        lock(&self.waiting).push(Waiting { run, stored });
        loop {
            let turn = self.turn.lock().await;
            match is_stored.try_recv() {
                Ok(result) => return result,
                Err(oneshot::error::TryRecvError::Empty) => {}
                Err(oneshot::error::TryRecvError::Closed) => return Err(io::Error::other("storing was interrupted")),
            }
            let batch = {
                let mut waiting = lock(&self.waiting);
                let length = waiting.len().min(BATCH_ORDERS_MAX);
                waiting.drain(..length).collect::<Vec<_>>()
            };
            // An error is a panic of the writer; the receivers of the batch then see a closed channel.
            let _ = tokio::task::spawn_blocking(move || store_batch(batch)).await;
            drop(turn);
        }
    }
}

fn store_batch(batch: Vec<Waiting>) {
    let written: Vec<_> = batch.into_iter().map(|waiting| (write(&waiting.run), waiting.stored)).collect();
    for (written, stored) in written {
        // The caller may have stopped waiting; its order is stored anyway, and its message is redelivered.
        let _ = stored.send(written.and_then(UnsyncedFile::sync));
    }
}

fn write(run: &LocalRun) -> io::Result<UnsyncedFile> {
    run.directory.create()?;
    UnsyncedFile::write(&run.directory.order(), &serde_json::to_vec(&run.accepted)?)
}
