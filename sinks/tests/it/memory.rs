//! A run's output in memory, as a feed: what the runner does over its spool, without a disk.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::line::{Block, Position, Stage, Stream, Tag, stamp, write_head};
use domain::run::{Outcome, RunId};
use jiff::{SignedDuration, Timestamp};
use sinks::config::{SinkConfig, SinksFile};
use sinks::engine::{Engine, Environment};
use sinks::feed::{Feed, FinishedRecord, Item, Lag, Next, OutputEndedRecord, Peek, RunHeader};
use sinks::status::SinkEvent;
use tokio::sync::mpsc;

use crate::sample_records;

/// The present second, with a fraction of nine different digits: receivers keep six or nine of them.
pub(crate) fn capture_time() -> Timestamp {
    let second = Timestamp::from_second(Timestamp::now().as_second()).expect("an instant of today");
    second + SignedDuration::from_nanos(123_456_789)
}

/// A run that prints; clones share it.
#[derive(Clone)]
pub(crate) struct Run {
    pub header: Arc<RunHeader>,
    spool: Arc<Mutex<Spool>>,
}

struct Spool {
    /// Encoded records, each with its newline.
    records: Vec<Vec<u8>>,
    finished: Option<FinishedRecord>,
    output_ended: Option<OutputEndedRecord>,
    durable: Position,
    commits: usize,
    at: Timestamp,
    ahead_bytes_max: u64,
}

impl Run {
    /// `number` is the end of the run id.
    pub(crate) fn new(number: u32) -> Run {
        let now = Timestamp::now();
        let header = RunHeader {
            run_id: RunId(format!("{}-{number:012x}", now.strftime("%Y%m%dT%H%M%SZ"))),
            job: format!("job{number}"),
            nominal: now,
            started_at: now,
            ..sample_records::header()
        };
        let spool = Spool {
            records: Vec::new(),
            finished: None,
            output_ended: None,
            durable: Position::START,
            commits: 0,
            at: now,
            ahead_bytes_max: 0,
        };
        Run { header: Arc::new(header), spool: Arc::new(Mutex::new(spool)) }
    }

    fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the capture time of the lines that follow.
    pub(crate) fn set_time(&self, at: Timestamp) {
        self.spool().at = at;
    }

    /// The capture time of the lines that follow.
    pub(crate) fn time(&self) -> Timestamp {
        self.spool().at
    }

    pub(crate) fn print(&self, stream: Stream, text: &[u8]) {
        self.print_tagged(stream, Tag::WHOLE, text);
    }

    pub(crate) fn print_tagged(&self, stream: Stream, tag: Tag, text: &[u8]) {
        let mut spool = self.spool();
        let mut record = Vec::new();
        write_head(&stamp(spool.at), stream, tag, &mut record);
        record.extend_from_slice(text);
        record.push(b'\n');
        spool.records.push(record);
    }

    /// Prints one line per number.
    pub(crate) fn print_numbers(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.print(Stream::Stdout, format!("line {number} {}", "x".repeat(90)).as_bytes());
        }
    }

    pub(crate) fn finish(&self) {
        let mut spool = self.spool();
        let lines = spool.records.len() as u64;
        spool.finished = Some(FinishedRecord {
            outcome: Outcome::Succeeded,
            reason: String::new(),
            exit_code: Some(0),
            stdout_lines: lines,
            stderr_lines: 0,
            last_seq: lines,
            finished_at: Timestamp::now(),
            ..sample_records::finished()
        });
    }

    /// Ends the run's process; its output stays open.
    pub(crate) fn finish_with_open_output(&self) {
        self.finish();
        self.spool().finished.as_mut().expect("finished").output_open = true;
    }

    /// Ends an output that was open.
    pub(crate) fn end_output(&self) {
        let mut spool = self.spool();
        let lines = spool.records.len() as u64;
        let late_lines = lines - spool.finished.as_ref().expect("finished").last_seq;
        spool.output_ended = Some(OutputEndedRecord {
            late_lines,
            stdout_lines: lines,
            stderr_lines: 0,
            last_seq: lines,
            ended_at: Timestamp::now(),
            ..sample_records::output_ended()
        });
    }

    /// The position up to which the sink has confirmed the run.
    pub(crate) fn durable(&self) -> Position {
        self.spool().durable
    }

    pub(crate) fn commits(&self) -> usize {
        self.spool().commits
    }

    /// The most bytes ever read beyond the cursor.
    pub(crate) fn ahead_bytes_max(&self) -> u64 {
        self.spool().ahead_bytes_max
    }

    pub(crate) fn is_delivered(&self) -> bool {
        self.durable().stage == Stage::Done
    }

    pub(crate) fn feed(&self) -> Box<dyn Feed> {
        Box::new(MemoryFeed { run: self.clone(), place: self.durable() })
    }
}

struct MemoryFeed {
    run: Run,
    place: Position,
}

impl Feed for MemoryFeed {
    fn header(&self) -> &Arc<RunHeader> {
        &self.run.header
    }

    fn read(&mut self, bytes_max: usize) -> io::Result<Next> {
        let mut spool = self.run.spool();
        let (item, end) = match self.place.stage {
            Stage::Done => return Ok(Next::Done),
            Stage::Before => (Item::Started, Position { stage: Stage::Lines, ..self.place }),
            Stage::Lines | Stage::Late => {
                // Lines after the end of the run come after its record.
                let late_from = spool.finished.as_ref().map_or(u64::MAX, |finished| finished.last_seq + 1);
                let is_late = self.place.stage == Stage::Late;
                let mut bytes = Vec::new();
                let mut end = self.place;
                for record in &spool.records[self.place.seq as usize - 1..] {
                    if (!bytes.is_empty() && bytes.len() + record.len() > bytes_max)
                        || (!is_late && end.seq >= late_from)
                    {
                        break;
                    }
                    bytes.extend_from_slice(record);
                    end.seq += 1;
                    end.offset += record.len() as u64;
                }
                match (&spool.finished, bytes.is_empty()) {
                    (Some(_), true) if is_late => match &spool.output_ended {
                        Some(ended) => {
                            (Item::OutputEnded(ended.clone()), Position { stage: Stage::Done, ..self.place })
                        }
                        None => return Ok(Next::Pending),
                    },
                    (_, false) => (Item::Lines(Block { first_seq: self.place.seq, bytes: bytes.into(), end }), end),
                    (Some(finished), true) => {
                        let stage = if finished.output_open { Stage::Late } else { Stage::Done };
                        (Item::Finished(finished.clone()), Position { stage, ..self.place })
                    }
                    (None, true) => return Ok(Next::Pending),
                }
            }
        };
        spool.ahead_bytes_max = spool.ahead_bytes_max.max(end.offset - spool.durable.offset);
        drop(spool);
        self.place = end;
        Ok(Next::Item { item, end })
    }

    fn peek(&self) -> Peek {
        let spool = self.run.spool();
        let is_over = match self.place.stage {
            Stage::Before => return Peek::Item,
            Stage::Lines => spool.finished.is_some(),
            Stage::Late => spool.output_ended.is_some(),
            Stage::Done => return Peek::Done,
        };
        if is_over || spool.records.len() as u64 >= self.place.seq { Peek::Item } else { Peek::Pending }
    }

    fn rewind(&mut self) {
        self.place = self.run.durable();
    }

    fn commit(&mut self, position: Position) -> io::Result<()> {
        let mut spool = self.run.spool();
        assert!(position >= spool.durable, "a cursor never moves back");
        assert!(position <= self.place, "nothing is committed that was not read");
        spool.durable = position;
        spool.commits += 1;
        Ok(())
    }

    fn lag(&self, position: Position) -> Lag {
        let spool = self.run.spool();
        let rest = &spool.records[spool.durable.max(position).seq as usize - 1..];
        let bytes = rest.iter().map(|record| record.len() as u64).sum();
        Lag { lines: rest.len() as u64, bytes, oldest: (!rest.is_empty()).then_some(spool.at) }
    }
}

pub(crate) fn config(text: &str) -> SinkConfig {
    let (mut sinks, faults) = SinksFile::parse("sinks.toml", text);
    assert_eq!(faults.to_string(), "");
    sinks.remove(0)
}

/// Short waits before retries, so that tests of outages are fast.
pub(crate) const RETRY: &str = "retry = { initial = \"20ms\", max = \"200ms\" }\n";

/// How far the sinks' clock is ahead of the real one.
static AHEAD_MS: AtomicU64 = AtomicU64::new(0);

/// Sets the sinks' clock forward.
pub(crate) fn step(time: Duration) {
    AHEAD_MS.fetch_add(time.as_millis() as u64, SeqCst);
}

fn clock() -> Instant {
    Instant::now() + Duration::from_millis(AHEAD_MS.load(SeqCst))
}

pub(crate) fn start(text: &str) -> (Engine, mpsc::Receiver<SinkEvent>) {
    let (events, receiver) = mpsc::channel(64);
    let environment = Environment { steady_now: clock, ..Environment::real(events) };
    (Engine::start(config(text), environment).expect("the sink starts"), receiver)
}

/// Flushes while the sinks' clock runs fast, so that no test waits until a connection has stood for 10 s. Only where
/// the receiver loses nothing more.
pub(crate) async fn flush(engine: &Engine) -> bool {
    let mut flushed = std::pin::pin!(engine.flush(testbed::DEADLINE));
    loop {
        tokio::select! {
            done = &mut flushed => return done,
            () = tokio::time::sleep(Duration::from_millis(20)) => step(Duration::from_secs(1)),
        }
    }
}

/// Waits for the delivery of the whole run while the sinks' clock runs fast.
pub(crate) async fn wait_delivered(run: &Run) {
    wait_until(|| {
        step(Duration::from_millis(500));
        run.is_delivered()
    })
    .await;
}

/// Delivers the whole run.
pub(crate) async fn deliver(text: &str, run: &Run) {
    let (engine, _events) = start(text);
    engine.add(run.feed());
    assert!(flush(&engine).await, "delivered in time: {:?}", engine.status());
    assert!(run.is_delivered());
    engine.shutdown().await;
}

/// Waits without blocking the runtime.
pub(crate) async fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + testbed::DEADLINE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "the condition did not become true in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
