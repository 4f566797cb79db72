//! The calls of each stream, apart from those of every other stream: a call that hangs holds its own stream only.
//! Called by the sink; makes no call itself.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::cloudwatch_logs::batch::{BodyBuffer, LogStream, SealedBatch};
use crate::cloudwatch_logs::put::Putter;
use crate::engine::locked;
use crate::error::{ErrorClass, SinkError, SinkResult};
use crate::sink::NamedRefusal;

/// Calls at once that the sink waits for, each to another stream. Chosen: enough to hide the latency of one call.
const CALLS_MAX: usize = 8;
/// A stream without any answer in this time no longer holds the others. Chosen: a working endpoint answers sooner.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same while another stream already waits, so that many that hang are passed over in seconds. Chosen.
const PATIENCE_SHORT: Duration = Duration::from_millis(100);
/// Bytes of the streams that hang; with more, every stream waits. Chosen: memory for 16 full calls.
const HELD_BYTES_MAX: usize = 16 << 20;

/// The batches of one stream, as its task and the sink share them.
#[derive(Default)]
pub(super) struct Flight(Mutex<FlightState>);

#[derive(Default)]
struct FlightState {
    batches: VecDeque<SealedBatch>,
    /// Of accepted batches.
    refused: Vec<NamedRefusal>,
    has_ended: bool,
    answered_at: Option<Instant>,
}

impl Flight {
    /// Removes the next batch of the task; without one the flight has ended.
    pub(super) fn next(&self) -> Option<SealedBatch> {
        let mut state = locked(&self.0);
        let next = state.batches.pop_front();
        state.has_ended = next.is_none();
        next
    }

    /// A call was answered.
    pub(super) fn note_answer(&self) {
        locked(&self.0).answered_at = Some(Instant::now());
    }

    /// The service has accepted a batch except the refused records.
    pub(super) fn accept(&self, batch: &SealedBatch, refused: Vec<NamedRefusal>) {
        locked(&self.0).refused.extend(refused);
        batch.marks.iter().for_each(|(run, mark)| run.mark_accepted(*mark));
    }
}

/// The result for one stream: the batches before the error were accepted.
#[derive(Default)]
pub(super) struct PutResult {
    /// For reuse by the next batches.
    pub spare: Vec<BodyBuffer>,
    pub error: Option<SinkError>,
}

struct OpenFlight {
    flight: Arc<Flight>,
    started_at: Instant,
    /// The engine's number of the batch that its first record is from.
    first_batch: u64,
    bytes: usize,
    is_left: bool,
}

/// The streams with calls that are being made. Dropping it ends the calls.
#[derive(Default)]
pub(super) struct Flights {
    open: HashMap<Arc<LogStream>, OpenFlight>,
    tasks: JoinSet<(Arc<LogStream>, PutResult)>,
    /// Refused records of flights that have ended.
    refused: Vec<NamedRefusal>,
    spare: Vec<BodyBuffer>,
    error: Option<SinkError>,
    /// The oldest engine batch with a record of a flight that failed.
    failed_batch: Option<u64>,
}

impl Flights {
    /// Whether the stream waits for an answer that no longer holds the others.
    pub(super) fn is_waiting(&self, log_stream: &Arc<LogStream>) -> bool {
        self.open.contains_key(log_stream)
    }

    pub(super) fn any(&self) -> bool {
        !self.open.is_empty()
    }

    /// The oldest engine batch with a record that is not accepted.
    pub(super) fn first_batch(&self) -> Option<u64> {
        self.open.values().map(|flight| flight.first_batch).chain(self.failed_batch).min()
    }

    /// The engine sends everything again, except the runs of these streams.
    pub(super) fn forget_batches(&mut self) {
        self.open.values_mut().for_each(|flight| flight.first_batch = u64::MAX);
        self.failed_batch = None;
    }

    pub(super) fn take_spare(&mut self) -> Vec<BodyBuffer> {
        std::mem::take(&mut self.spare)
    }

    pub(super) fn take_refused(&mut self) -> Vec<NamedRefusal> {
        std::mem::take(&mut self.refused)
    }

    /// Ends the flights whose last answer has arrived.
    ///
    /// # Errors
    /// The error of a call.
    pub(super) fn reap(&mut self) -> SinkResult<()> {
        while let Some(ended) = self.tasks.try_join_next() {
            self.end(ended);
        }
        self.error.take().map_or(Ok(()), Err)
    }

    /// Sends the batches, several streams at once, and waits for every answer, except those of streams that hang.
    /// `held_back` removes what waits for a stream, in its order.
    ///
    /// # Errors
    /// The error of a call, after the other answers: an accepted call is not repeated when another stream fails.
    pub(super) async fn send(
        &mut self,
        putter: &Putter,
        due: Vec<(u64, VecDeque<SealedBatch>)>,
        mut held_back: impl FnMut(&Arc<LogStream>) -> Vec<SealedBatch>,
    ) -> SinkResult<()> {
        let mut due = due.into_iter();
        loop {
            while self.awaited().count() < CALLS_MAX
                && let Some((first_batch, batches)) = due.next()
            {
                self.begin(putter, first_batch, batches);
            }
            let is_short = self.open.values().any(|flight| flight.is_left);
            let patience = if is_short { PATIENCE_SHORT } else { PATIENCE };
            let Some(until) = self.awaited().map(|flight| flight.last_answer() + patience).min() else { break };
            tokio::select! {
                Some(ended) = self.tasks.join_next() => self.end(ended),
                () = sleep_until(until), if self.may_leave() => self.leave_hanging(patience, &mut held_back),
            }
        }
        self.error.take().map_or(Ok(()), Err)
    }

    /// Waits for every answer.
    ///
    /// # Errors
    /// The error of a call.
    pub(super) async fn finish(&mut self) -> SinkResult<()> {
        while let Some(ended) = self.tasks.join_next().await {
            self.end(ended);
        }
        self.error.take().map_or(Ok(()), Err)
    }

    fn awaited(&self) -> impl Iterator<Item = &OpenFlight> {
        self.open.values().filter(|flight| !flight.is_left)
    }

    fn may_leave(&self) -> bool {
        let held: usize = self.open.values().filter(|flight| flight.is_left).map(|flight| flight.bytes).sum();
        held < HELD_BYTES_MAX
    }

    fn begin(&mut self, putter: &Putter, first_batch: u64, batches: VecDeque<SealedBatch>) {
        let Some(first) = batches.front() else { return };
        let log_stream = first.log_stream.clone();
        let bytes = batches.iter().map(|batch| batch.body.len()).sum();
        let state = FlightState { batches, ..FlightState::default() };
        let flight = Arc::new(Flight(Mutex::new(state)));
        let (putter, task_stream, task_flight) = (putter.clone(), log_stream.clone(), flight.clone());
        self.tasks.spawn(async move { (task_stream, putter.put_all(&task_flight).await) });
        let started_at = Instant::now();
        self.open.insert(log_stream, OpenFlight { flight, started_at, first_batch, bytes, is_left: false });
    }

    /// Leaves the streams that hang to themselves.
    fn leave_hanging(&mut self, patience: Duration, held_back: &mut impl FnMut(&Arc<LogStream>) -> Vec<SealedBatch>) {
        for (log_stream, open) in &mut self.open {
            if open.is_left || open.last_answer().elapsed() < patience {
                continue;
            }
            let mut state = locked(&open.flight.0);
            // An ended flight is joined next.
            if state.has_ended {
                continue;
            }
            let waiting = held_back(log_stream);
            open.bytes += waiting.iter().map(|batch| batch.body.len()).sum::<usize>();
            state.batches.extend(waiting);
            open.is_left = true;
        }
    }

    fn end(&mut self, ended: Result<(Arc<LogStream>, PutResult), tokio::task::JoinError>) {
        let (log_stream, result) = match ended {
            Ok(ended) => ended,
            Err(ended) => {
                // No stream is known: every stream is sent again.
                self.failed_batch = Some(1);
                self.open.clear();
                self.tasks.abort_all();
                self.error = Some(SinkError::retry(format!("a call to CloudWatch Logs failed: {ended}")));
                return;
            }
        };
        if let Some(open) = self.open.remove(&log_stream) {
            self.refused.append(&mut locked(&open.flight.0).refused);
            if result.error.is_some() {
                self.failed_batch = self.failed_batch.into_iter().chain([open.first_batch]).min();
            }
        }
        self.spare.extend(result.spare);
        // An error for the operator comes before one that may pass.
        if let Some(failed) = result.error
            && (self.error.is_none() || failed.class == ErrorClass::Misconfigured)
        {
            self.error = Some(failed);
        }
    }
}

impl OpenFlight {
    fn last_answer(&self) -> Instant {
        locked(&self.flight.0).answered_at.unwrap_or(self.started_at)
    }
}
