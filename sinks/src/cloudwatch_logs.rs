//! CloudWatch Logs: sends lines as events of log streams with PutLogEvents. Called by the engine as a sink. Never
//! describes a group or stream: a put that fails shows what is missing.

mod answer;
mod batch;
mod client;
mod create;
mod endpoint;
mod flights;
mod log_event;
mod message_limit;
pub mod options;
mod put;
mod rate_limiter;
pub mod read_back;
mod run_state;
mod set_up;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::cloudwatch_logs::batch::{
    BATCH_BYTES_MAX, BATCH_EVENTS_MAX, Batch, BodyBuffer, EVENT_OVERHEAD_BYTES, Limits, LogStream, SealedBatch,
    close_event, open_event,
};
use crate::cloudwatch_logs::client::Client;
use crate::cloudwatch_logs::create::Creator;
use crate::cloudwatch_logs::flights::Flights;
use crate::cloudwatch_logs::log_event::EventEncoder;
use crate::cloudwatch_logs::message_limit::MessageLimit;
use crate::cloudwatch_logs::options::is_group_char;
pub(crate) use crate::cloudwatch_logs::options::read;
pub use crate::cloudwatch_logs::options::{CloudwatchFormat, CloudwatchLogsConfig};
use crate::cloudwatch_logs::put::{Evidence, Putter};
use crate::cloudwatch_logs::run_state::{EventMark, EventPlace, RunState};
use crate::cloudwatch_logs::set_up::SetUp;
use crate::config::{BatchConfig, SinkConfig};
use crate::engine::Environment;
use crate::error::{ErrorClass, SinkResult};
use crate::feed::RunHeader;
use crate::record::Record;
use crate::sink::{Acknowledge, Connection, Encode, NamedRefusal, Place, Refused, SetUpFault};
use crate::stamp::{self, Digits};
use crate::unanswered::UnansweredCalls;

/// Bytes over all streams after which calls are made. Chosen: four full calls.
const GATHERED_BYTES: usize = 4 << 20;
/// Default batch: one full call. A call that is not full waits up to 1 s for more.
pub(crate) const BATCH: BatchConfig =
    BatchConfig { max_events: BATCH_EVENTS_MAX, max_bytes: BATCH_BYTES_MAX, timeout: Duration::from_secs(1) };
/// Longest name of a group or stream, in characters (API reference, CreateLogGroup, CreateLogStream); counted in bytes
/// here.
const NAME_BYTES_MAX: usize = 512;

/// A call has events of one stream only, so records collect in one batch per stream. Streams are sent in parallel, the
/// batches of one stream in order, so the accepted records of a run are always its first ones. A stream whose call
/// hangs is left to itself (`flights`): nothing more is read for it, and the others go on. A refused call is halved
/// until each bad event is alone (`refusals`).
///
/// The body is written by hand from the bytes of the spool: the SDK's client would copy every message twice. From the
/// SDK come credentials, region, endpoint and signature.
pub(crate) struct CloudwatchLogs {
    config: CloudwatchLogsConfig,
    limits: Limits,
    message_limit: MessageLimit,
    max_line: Option<usize>,
    environment: Environment,
    creator: Arc<Creator>,
    set_up: Arc<SetUp>,
    evidence: Arc<Mutex<Evidence>>,
    unanswered: Arc<UnansweredCalls>,
    flights: Flights,
    /// Kept across connections, with its credentials.
    client: Option<Arc<Client>>,
    connected: bool,
    /// One batch for each stream that has records.
    open: Vec<Batch>,
    /// Index in `open` of the batch that got the last record.
    current: usize,
    full: Vec<Batch>,
    /// Buffers of the batches of the last send; those that the next send does not need are freed.
    spare: Vec<BodyBuffer>,
    /// Bytes in `open` and `full`, as the service counts them.
    gathered: usize,
    /// Engine batches since `connect`: sent, and completely accepted by the service.
    sent: u64,
    confirmed: u64,
    connections: u64,
    /// Records encoded since the last send.
    encoded: usize,
    scratch: Vec<u8>,
    millis: Digits,
    /// The second of the last stamp, as text and as seconds since 1970.
    second: ([u8; stamp::SECOND_BYTES], i64),
}

pub(crate) struct Run {
    state: Arc<RunState>,
    encoder: EventEncoder,
}

/// The engine's batch: several calls, each with the configured limits.
pub(crate) fn engine_batch(batch: BatchConfig) -> BatchConfig {
    BatchConfig { max_events: usize::MAX, max_bytes: GATHERED_BYTES, timeout: batch.timeout }
}

impl CloudwatchLogs {
    pub(crate) fn new(config: &CloudwatchLogsConfig, sink: &SinkConfig, environment: Environment) -> CloudwatchLogs {
        let limits = Limits {
            events: sink.batch.max_events.min(BATCH_EVENTS_MAX),
            bytes: sink.batch.max_bytes.min(BATCH_BYTES_MAX),
        };
        let set_up = SetUp::new(environment.random, sink.retry.max);
        CloudwatchLogs {
            creator: Arc::new(Creator::new(config, environment.random, set_up.clone())),
            set_up,
            evidence: Arc::default(),
            unanswered: Arc::default(),
            flights: Flights::default(),
            config: config.clone(),
            limits,
            message_limit: MessageLimit::new(),
            max_line: sink.max_line,
            environment,
            client: None,
            connected: false,
            open: Vec::new(),
            current: 0,
            full: Vec::new(),
            spare: Vec::new(),
            gathered: 0,
            sent: 0,
            confirmed: 0,
            connections: 0,
            encoded: 0,
            scratch: Vec::new(),
            millis: Digits::default(),
            second: ([0; stamp::SECOND_BYTES], 0),
        }
    }

    async fn open_client(&mut self) -> SinkResult<Arc<Client>> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = Arc::new(Client::new(&self.config.access, self.environment.now, self.unanswered.clone()).await?);
        self.client = Some(client.clone());
        Ok(client)
    }

    /// The result of `sexton check` for its test line. A missing group that jobs will create, or whose name depends on
    /// the run, is no fault: signature and permission are checked anyway.
    ///
    /// # Errors
    /// The error of sending the line.
    pub(crate) fn check_result(
        &self,
        header: &RunHeader,
        sent: Result<(), String>,
        jobs_create_group: bool,
    ) -> Result<String, String> {
        let LogStream { group, stream } = self.log_stream(header);
        let configured = self.config.access.endpoint.as_deref().unwrap_or("CloudWatch Logs");
        let endpoint = self.client.as_ref().map_or(configured, |client| &client.endpoint);
        let run_id = &header.run_id;
        let sent = match sent {
            Ok(()) => {
                let accepted = "accepted the test line of run";
                return Ok(format!("{endpoint} {accepted} {run_id} in stream {stream} of {group}"));
            }
            Err(message) => message,
        };
        let permitted = format!("{endpoint} answers and permits writing to log group {group}");
        match sent == create::missing_group(&group).message {
            true if jobs_create_group => Ok(format!(
                "{permitted}, which does not exist and would be made; nothing was written, and whether it may be \
                 made is unknown (`--group GROUP` writes into the group of a job)"
            )),
            true if self.config.group.has_placeholders() => Ok(format!(
                "{permitted}; no test line was sent, because the group does not exist and create_group is not true"
            )),
            _ => Err(sent),
        }
    }

    fn log_stream(&self, header: &RunHeader) -> LogStream {
        LogStream {
            group: group_name(&self.config.group.fill(header)),
            stream: stream_name(&self.config.stream.fill(header)),
        }
    }

    fn append_event(&mut self, run: &Run, record: &Record<'_>) {
        let place = EventPlace::of(record);
        let captured_ms = self.capture_ms(record);
        let Some(ms) = run.state.next_event_ms(place, captured_ms, self.connections, self.message_limit.bytes()) else {
            return;
        };
        let index = self.open_batch(&run.state.log_stream);
        let Some(batch) = self.open.get_mut(index) else { return };
        let start = batch.begin_event(&mut self.spare);
        open_event(ms, &mut self.millis, &mut batch.body);
        let bytes = run.encoder.write(record, &mut self.scratch, &mut batch.body);
        close_event(&mut batch.body);
        if batch.fits(self.limits, ms, bytes) {
            batch.finish_event(start, ms, bytes, record.id());
        } else {
            let event = batch.remove_event(start);
            let next = Batch::new(run.state.log_stream.clone(), self.sent + 1);
            self.full.push(std::mem::replace(batch, next));
            let start = batch.begin_event(&mut self.spare);
            batch.body.extend_from_slice(&event);
            batch.finish_event(start, ms, bytes, record.id());
        }
        batch.mark(&run.state, EventMark { place, ms });
        self.gathered += bytes + EVENT_OVERHEAD_BYTES;
    }

    /// The capture time in ms since 1970; 0 when it is unknown.
    fn capture_ms(&mut self, record: &Record<'_>) -> i64 {
        match record {
            Record::Started => 0,
            Record::Line(piece) => stamp::millis(piece.stamp, &mut self.second),
            Record::Gap(gap) => gap.at.as_millisecond(),
            Record::Finished(finished) => finished.finished_at.as_millisecond(),
            Record::OutputEnded(ended) => ended.ended_at.as_millisecond(),
        }
    }

    fn open_batch(&mut self, log_stream: &Arc<LogStream>) -> usize {
        let is_it = |batch: &Batch| batch.log_stream == *log_stream;
        if !self.open.get(self.current).is_some_and(is_it) {
            self.current = self.open.iter().position(is_it).unwrap_or_else(|| {
                self.open.push(Batch::new(log_stream.clone(), self.sent + 1));
                self.open.len() - 1
            });
        }
        self.current
    }

    /// Removes the batches to send now, in order for each stream, with the first engine batch of each stream. Only a
    /// batch started in the present engine batch may wait, and only while more lines are available.
    fn take_due(&mut self) -> Vec<(u64, VecDeque<SealedBatch>)> {
        let more_comes = self.gathered >= GATHERED_BYTES;
        let newest = self.sent + 1;
        let open = std::mem::take(&mut self.open);
        let (kept, ended): (Vec<Batch>, Vec<Batch>) =
            open.into_iter().partition(|batch| more_comes && batch.first_batch == newest);
        self.gathered = kept.iter().map(Batch::counted_bytes).sum();
        self.open = kept;
        self.current = 0;
        let mut streams: Vec<(u64, VecDeque<SealedBatch>)> = Vec::new();
        let mut index_of = HashMap::new();
        for batch in std::mem::take(&mut self.full).into_iter().chain(ended).filter(|batch| !batch.is_empty()) {
            let index = *index_of.entry(batch.log_stream.clone()).or_insert_with(|| {
                streams.push((batch.first_batch, VecDeque::new()));
                streams.len() - 1
            });
            if let Some((first_batch, stream)) = streams.get_mut(index) {
                *first_batch = batch.first_batch.min(*first_batch);
                stream.push_back(batch.seal());
            }
        }
        streams
    }

    /// Sends the due batches.
    async fn put_due(&mut self) -> SinkResult<()> {
        let client = self.open_client().await?;
        let due = self.take_due();
        let (creator, evidence) = (self.creator.clone(), self.evidence.clone());
        let limit = self.message_limit.clone();
        let (open, gathered) = (&mut self.open, &mut self.gathered);
        let held_back = |log_stream: &Arc<LogStream>| {
            let found = open.extract_if(.., |batch| batch.log_stream == *log_stream);
            let held: Vec<Batch> = found.inspect(|batch| *gathered -= batch.counted_bytes()).collect();
            held.into_iter().filter(|batch| !batch.is_empty()).map(Batch::seal).collect()
        };
        let sent = self.flights.send(&Putter { client, creator, evidence, limit }, due, held_back).await;
        self.spare = self.flights.take_spare();
        self.after_calls(sent)
    }

    fn after_calls(&mut self, sent: SinkResult<()>) -> SinkResult<()> {
        // The operator may change files that the client has already read.
        if sent.as_ref().is_err_and(|error| error.class == ErrorClass::Misconfigured) {
            self.client = None;
        }
        sent
    }

    fn note_confirmed(&mut self) {
        let open = self.open.iter().map(|batch| batch.first_batch).chain(self.flights.first_batch()).min();
        self.confirmed = open.map_or(self.sent, |first| (first - 1).min(self.sent));
    }
}

impl Encode for CloudwatchLogs {
    type Run = Run;

    fn open(&self, header: &RunHeader) -> Run {
        let log_stream = self.log_stream(header);
        let encoder = EventEncoder::new(&self.config, self.max_line, self.message_limit.clone(), header);
        let attempt = (header.run_id.clone(), header.attempt);
        Run { state: RunState::new(Arc::new(log_stream), attempt, header.started_at.as_millisecond()), encoder }
    }

    fn text_bytes_max(&self, run: &Run) -> usize {
        run.encoder.text_bytes_max()
    }

    fn encode(&mut self, run: &Run, record: &Record<'_>) {
        match record {
            Record::Line(piece) => run.encoder.pieces(piece, |piece| self.append_event(run, &Record::Line(piece))),
            record => self.append_event(run, record),
        }
        self.encoded += 1;
    }

    fn filled_bytes(&self) -> usize {
        // Records that the service already has also form a batch: the engine numbers records by batches.
        self.gathered.max(usize::from(self.encoded > 0))
    }
}

impl Connection for CloudwatchLogs {
    async fn connect(&mut self) -> SinkResult<()> {
        if !self.connected {
            self.open_client().await?;
            self.connected = true;
        }
        Ok(())
    }

    fn is_connected(&self) -> bool {
        self.connected
    }

    fn disconnect(&mut self) {
        self.open.clear();
        self.full.clear();
        self.spare.clear();
        self.flights.forget_batches();
        self.message_limit.apply();
        self.gathered = 0;
        self.sent = 0;
        self.confirmed = 0;
        self.connections += 1;
        self.encoded = 0;
        self.connected = false;
    }

    async fn send(&mut self) -> SinkResult<Vec<Refused>> {
        self.put_due().await?;
        self.sent += 1;
        self.encoded = 0;
        self.note_confirmed();
        Ok(Vec::new())
    }

    fn set_up_fault(&self) -> Option<SetUpFault> {
        Some(self.set_up.fault())
    }

    fn unanswered(&self) -> Option<Arc<UnansweredCalls>> {
        Some(self.unanswered.clone())
    }
}

impl Acknowledge for CloudwatchLogs {
    fn confirmed_batches(&mut self, _sent: u64) -> SinkResult<u64> {
        let reaped = self.flights.reap();
        self.after_calls(reaped)?;
        self.note_confirmed();
        Ok(self.confirmed)
    }

    fn has_waiting_runs(&self) -> bool {
        self.flights.any()
    }

    fn is_waiting(&self, run: &Run) -> bool {
        self.flights.is_waiting(&run.state.log_stream)
    }

    fn place(&self, run: &Run) -> Place {
        run.state.encoded()
    }

    fn accepted_place(&self, run: &Run) -> Place {
        run.state.accepted()
    }

    fn named_refusals(&mut self) -> Vec<NamedRefusal> {
        self.flights.take_refused()
    }

    fn is_complete(&self, run: &Run) -> bool {
        run.state.is_complete()
    }

    async fn drain(&mut self) -> SinkResult<()> {
        // During a drain no batch may wait for more.
        self.gathered = 0;
        self.put_due().await?;
        let finished = self.flights.finish().await;
        self.after_calls(finished)?;
        self.note_confirmed();
        Ok(())
    }
}

/// A valid name (API reference, CreateLogGroup): a limited set of characters, and no `aws/` at the start.
fn group_name(filled: &str) -> String {
    let known: String = filled.chars().map(|c| if is_group_char(c) { c } else { '_' }).collect();
    let name = if known.starts_with("aws/") { format!("_{known}") } else { known };
    shortened(name)
}

/// A valid name (API reference, CreateLogStream): no `:` and no `*`.
fn stream_name(filled: &str) -> String {
    shortened(filled.chars().map(|c| if c == ':' || c == '*' || c.is_control() { '_' } else { c }).collect())
}

fn shortened(mut name: String) -> String {
    name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_for_the_service() {
        for (filled, group, stream) in [
            ("/cron/db", "/cron/db", "/cron/db"),
            ("night:ly*dump", "night_ly_dump", "night_ly_dump"),
            ("sauvegarde é", "sauvegarde__", "sauvegarde é"),
            ("aws/x", "_aws/x", "aws/x"),
        ] {
            assert_eq!((group_name(filled).as_str(), stream_name(filled).as_str()), (group, stream));
        }
        assert_eq!(stream_name(&"é".repeat(300)).len(), 512);
    }
}
