//! What the engine asks of a sink, and what a wire format asks of nobody: [`Format`] only turns records into frames.

use std::future::Future;

use crate::error::SinkResult;
use crate::feed::RunHeader;
use crate::frames::Frames;
use crate::record::Record;

/// A place that takes batches of records. Owned and driven by one task; it may block on nothing but awaits.
///
/// Batches are numbered from 1 since the last [`Sink::connect`]. After any error the engine calls `disconnect`, gives
/// every unconfirmed record back to its feed, waits, connects, and sends all of them again.
pub trait Sink: Send + 'static {
    /// What is formatted once per run.
    type Run: Send;

    fn open(&self, header: &RunHeader) -> Self::Run;

    /// Longest text of one record for this run; a longer line is cut.
    fn text_bytes_max(&self, run: &Self::Run) -> usize;

    /// Appends the record to the batch being filled.
    fn encode(&mut self, run: &Self::Run, record: &Record<'_>);

    /// Size of the batch being filled.
    fn filled_bytes(&self) -> usize;

    /// How much of a run is read at once. After a failure, so much is sent again.
    fn read_bytes_max(&self) -> usize {
        READ_BYTES_MAX
    }

    /// Idempotent: connects where it is not.
    fn connect(&mut self) -> impl Future<Output = SinkResult<()>> + Send;

    fn is_connected(&self) -> bool;

    /// Forgets the connection, the batch being filled and what is unconfirmed.
    fn disconnect(&mut self);

    /// Hands the batch over. Returning says only that it is on its way; records that the other side refused for good are
    /// in the answer and are not sent again.
    fn send(&mut self) -> impl Future<Output = SinkResult<Vec<Refused>>> + Send;

    /// How many of the batches sent since `connect` the other side has, as far as that can be known.
    ///
    /// # Errors
    /// When the connection is found broken.
    fn confirmed_batches(&mut self) -> SinkResult<u64>;

    /// How many of the batches sent since `connect` have arrived, so far as the last [`Sink::confirmed`] saw, though they may
    /// still be lost there. Never less than what is confirmed. Only shown to people: no cursor moves for it.
    fn accepted_batches(&self) -> u64 {
        0
    }

    /// After a failure or a drain, before `disconnect`: records that the other side refused for good and that `send` did not
    /// tell of.
    fn refused(&mut self) -> Vec<Refused> {
        Vec::new()
    }

    /// After a failure, before `disconnect`: whether the other side has all of the run that was encoded, though something
    /// else failed.
    fn is_complete(&self, _run: &Self::Run) -> bool {
        false
    }

    /// Waits until everything sent is confirmed, by ending the connection where only that can tell.
    fn drain(&mut self) -> impl Future<Output = SinkResult<()>> + Send;

    /// Returns when an idle connection ends, with why; else never. Cancelling it loses nothing.
    fn wait_closed(&mut self) -> impl Future<Output = crate::error::SinkError> + Send;

    /// Makes what is confirmed durable, before cursors move.
    fn sync(&mut self) -> impl Future<Output = SinkResult<()>> + Send;
}

/// Enough to fill a batch of the default size, and little enough to stay in the processor's cache.
pub const READ_BYTES_MAX: usize = 64 * 1024;

/// A record that the other side will never take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Of the record in its batch, from 0, as they were encoded. A sink that held back records of the batch before counts
    /// from that one's first.
    pub frame: usize,
    pub message: String,
}

/// How records look on a wire.
pub trait Format: Send + 'static {
    type Run: Send;

    fn open(&self, header: &RunHeader) -> Self::Run;

    fn text_bytes_max(&self, run: &Self::Run) -> usize;

    /// Appends one or more whole frames.
    fn write(&mut self, run: &Self::Run, record: &Record<'_>, frames: &mut Frames);
}
