//! The receiver of a history: a sink with every kind of fault.

use std::time::Duration;

use domain::run::RunId;

use super::world::{Got, SharedWorld, locked_world};
use crate::error::{SinkError, SinkResult};
use crate::feed::RunHeader;
use crate::record::{Record, RecordId};
use crate::sink::{Acknowledge, Connection, Encode, Refused};

/// Sent records are in the receiver's kernel until the receiver reads them. When a connection breaks, unread records
/// are lost and read records stay, with or without an answer.
pub(super) struct ModelSink {
    pub world: SharedWorld,
    pub filled: Vec<Got>,
    pub connected: bool,
    pub in_kernel: Vec<(u64, Got)>,
    pub sent: u64,
    /// Refused records of a call that failed for another reason.
    pub unreported: Vec<Refused>,
}

impl ModelSink {
    pub(super) fn set_connected(&mut self, connected: bool) {
        self.connected = connected;
        locked_world(&self.world).connected = connected;
    }

    pub(super) fn read_some(&mut self, all: bool) {
        let mut world = locked_world(&self.world);
        let most = self.in_kernel.len() as u64;
        let count = if all { most } else { world.dice.below(most + 1) };
        for (_, got) in self.in_kernel.drain(..count as usize) {
            world.take(got);
        }
    }

    pub(super) fn fails(&self, doing: &str) -> SinkResult<()> {
        let mut world = locked_world(&self.world);
        match (world.fails(), world.dice.one_in(5)) {
            (false, _) => Ok(()),
            (true, false) => Err(SinkError::retry(format!("{doing} failed"))),
            (true, true) => Err(SinkError::misconfigured(format!("{doing} is not allowed"))),
        }
    }
}

impl Encode for ModelSink {
    type Run = RunId;

    fn open(&self, header: &RunHeader) -> RunId {
        header.run_id.clone()
    }

    fn text_bytes_max(&self, _: &RunId) -> usize {
        1000
    }

    fn encode(&mut self, run: &RunId, record: &Record<'_>) {
        let text = if let Record::Line(piece) = record { piece.text.to_vec() } else { Vec::new() };
        self.filled.push(Got { run: run.clone(), place: record.id(), text });
    }

    fn filled_bytes(&self) -> usize {
        self.filled.iter().map(|got| got.text.len() + 1).sum()
    }

    fn read_bytes_max(&self) -> usize {
        200
    }
}

impl Connection for ModelSink {
    async fn connect(&mut self) -> SinkResult<()> {
        self.fails("connecting")?;
        self.set_connected(true);
        Ok(())
    }

    fn is_connected(&self) -> bool {
        self.connected
    }

    fn disconnect(&mut self) {
        self.filled.clear();
        self.in_kernel.clear();
        self.unreported.clear();
        self.sent = 0;
        self.set_connected(false);
    }

    async fn send(&mut self) -> SinkResult<Vec<Refused>> {
        let wait = locked_world(&self.world).dice.below(50);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let mut refused = Vec::new();
        for (frame, got) in std::mem::take(&mut self.filled).into_iter().enumerate() {
            let poison = matches!(got.place, RecordId::Line { seq }
                if locked_world(&self.world).runs[&got.run].poison.contains(&seq));
            match poison {
                true => refused.push(Refused { frame, message: "poison".to_owned() }),
                false => self.in_kernel.push((self.sent + 1, got)),
            }
        }
        // The connection breaks before, during or after the reading; in the last case only the answer is lost.
        if let Err(error) = self.fails("sending") {
            let all = locked_world(&self.world).dice.one_in(3);
            self.read_some(all);
            self.unreported = refused;
            return Err(error);
        }
        self.sent += 1;
        Ok(refused)
    }

    async fn wait_closed(&mut self) -> SinkError {
        let breaks = locked_world(&self.world).dice.one_in(20);
        match breaks && self.connected {
            true => SinkError::retry("the receiver ended the connection"),
            false => std::future::pending().await,
        }
    }
}

impl Acknowledge for ModelSink {
    fn confirmed_batches(&mut self, _sent: u64) -> SinkResult<u64> {
        self.fails("confirming")?;
        self.read_some(false);
        Ok(self.in_kernel.first().map_or(self.sent, |(batch, _)| batch - 1))
    }

    fn accepted_batches(&self) -> u64 {
        self.sent
    }

    fn refused(&mut self) -> Vec<Refused> {
        std::mem::take(&mut self.unreported)
    }

    fn is_complete(&self, run: &RunId) -> bool {
        self.in_kernel.iter().map(|(_, got)| got).chain(&self.filled).all(|got| got.run != *run)
    }

    async fn drain(&mut self) -> SinkResult<()> {
        self.fails("draining")?;
        self.read_some(true);
        // The kernel's records are read now; `confirmed_batches` returns them.
        Ok(())
    }

    async fn sync(&mut self) -> SinkResult<()> {
        self.fails("syncing")
    }
}
