//! What the engine needs of a sink: three small traits, joined in [`Sink`]; and [`Format`], which only turns records
//! into frames.

use std::future::Future;
use std::sync::{Arc, Mutex};

use domain::run::AttemptKey;

use crate::error::{SinkError, SinkResult};
use crate::feed::RunHeader;
use crate::frames::Frames;
use crate::record::{Record, RecordId};
use crate::unanswered::UnansweredCalls;

/// Turns records into the batch that is sent next.
pub(crate) trait Encode {
    /// What is formatted once per run.
    type Run: Send;

    fn open(&self, header: &RunHeader) -> Self::Run;

    /// Longest text of one record for this run, in bytes; the caller cuts a longer line.
    fn text_bytes_max(&self, run: &Self::Run) -> usize;

    /// Appends the record to the batch being filled.
    fn encode(&mut self, run: &Self::Run, record: &Record<'_>);

    /// Size of the batch being filled.
    fn filled_bytes(&self) -> usize;

    /// How many bytes of one run are read at once. After a failure at most these are sent twice.
    fn read_bytes_max(&self) -> usize {
        READ_BYTES_MAX
    }
}

/// The way to the receiver. Driven by one task; it may block on nothing but awaits.
///
/// Batches are numbered from 1 since the last [`Connection::connect`]. After any error the engine calls `disconnect`,
/// rewinds every unconfirmed record, waits, connects, and sends all of them again.
pub(crate) trait Connection {
    /// Connects unless it is connected.
    fn connect(&mut self) -> impl Future<Output = SinkResult<()>> + Send;

    fn is_connected(&self) -> bool;

    /// Drops the connection, the batch being filled, and the state of unconfirmed batches.
    fn disconnect(&mut self);

    /// Sends the batch. Returns the records that the receiver will never accept; the engine does not send them again.
    fn send(&mut self) -> impl Future<Output = SinkResult<Vec<Refused>>> + Send;

    /// Returns the reason when an idle connection ends. Cancelling it loses nothing. By default it never returns: there
    /// is no connection that could end.
    fn wait_closed(&mut self) -> impl Future<Output = SinkError> + Send {
        std::future::pending()
    }

    /// An optional setting of the receiver that the sink could not apply, although lines are delivered.
    fn set_up_fault(&self) -> Option<SetUpFault> {
        None
    }

    /// The calls without an answer, where the protocol has answers.
    fn unanswered(&self) -> Option<Arc<UnansweredCalls>> {
        None
    }
}

/// Shared by a sink and its status; one sentence while there is a fault.
pub(crate) type SetUpFault = Arc<Mutex<Option<String>>>;

/// Position of a record in its run, as the sink counts it; it rises from record to record.
pub(crate) type Place = (u64, u64);

/// What the receiver has. The defaults are for sinks whose [`Connection::send`] returns when the receiver has the
/// batch. Many methods: each answer is needed at its own moment.
pub(crate) trait Acknowledge: Encode {
    /// How many of the `sent` batches since `connect` are confirmed: their records may be dropped here.
    ///
    /// # Errors
    /// When the connection is found broken.
    fn confirmed_batches(&mut self, sent: u64) -> SinkResult<u64> {
        Ok(sent)
    }

    /// How many batches since `connect` the receiver has accepted, as the last [`Acknowledge::confirmed_batches`] saw,
    /// though it may still lose them. Only for the numbers of `sexton sinks`: no cursor moves for it, and a number
    /// below the confirmed batches counts as that one.
    fn accepted_batches(&self) -> u64 {
        0
    }

    /// After a failure or a drain, before `disconnect`: the refused records that `send` did not return.
    fn refused(&mut self) -> Vec<Refused> {
        Vec::new()
    }

    /// The refused records that the sink names itself, since the last call.
    fn named_refusals(&mut self) -> Vec<NamedRefusal> {
        Vec::new()
    }

    /// After a failure, before `disconnect`: whether the receiver has every record of the run that was encoded,
    /// although another run's records failed.
    fn is_complete(&self, _run: &Self::Run) -> bool {
        false
    }

    /// Whether some runs wait for an answer that the sink no longer waits for itself. Their turns are confirmed by
    /// [`Acknowledge::accepted_place`], so they hold no other run.
    fn has_waiting_runs(&self) -> bool {
        false
    }

    /// Whether this run is one of them: nothing more of it may be encoded.
    fn is_waiting(&self, _run: &Self::Run) -> bool {
        false
    }

    /// Place of the last record of the run that was encoded.
    fn place(&self, _run: &Self::Run) -> Place {
        Place::default()
    }

    /// Place up to which the receiver has every record of the run.
    fn accepted_place(&self, _run: &Self::Run) -> Place {
        Place::default()
    }

    /// Waits until every sent batch is confirmed; ends the connection where only its end confirms.
    fn drain(&mut self) -> impl Future<Output = SinkResult<()>> + Send {
        std::future::ready(Ok(()))
    }

    /// Makes confirmed records durable, before cursors move.
    fn sync(&mut self) -> impl Future<Output = SinkResult<()>> + Send {
        std::future::ready(Ok(()))
    }
}

/// A configured destination as the engine drives it: one task owns it.
pub(crate) trait Sink: Connection + Acknowledge + Send + 'static {}

impl<S: Connection + Acknowledge + Send + 'static> Sink for S {}

/// Fills a batch of the default size, and fits into the processor's cache.
pub(crate) const READ_BYTES_MAX: usize = 64 * 1024;

/// A record that the receiver will never accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Index of the record in its batch, from 0, in the order of encoding. A sink that held back records of the batch
    /// before counts from that batch's first record.
    pub frame: usize,
    pub message: String,
}

/// A record that the receiver will never accept, of a sink whose answers may come after later batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedRefusal {
    pub attempt: AttemptKey,
    pub record: RecordId,
    pub message: String,
}

/// The form of records on a wire.
pub(crate) trait Format: Send + 'static {
    type Run: Send;

    fn open(&self, header: &RunHeader) -> Self::Run;

    fn text_bytes_max(&self, run: &Self::Run) -> usize;

    /// Appends one or more whole frames.
    fn write(&mut self, run: &Self::Run, record: &Record<'_>, frames: &mut Frames);
}
