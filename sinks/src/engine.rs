//! The delivery engine of one sink, as the runner holds it: adds feeds, wakes, flushes, reports status. The same for
//! every kind of sink; its task is in `delivery.rs`.

mod attempts;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::line::{LINE_BYTES_MAX, Position};
use domain::run::{AttemptKey, RunId};
use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::address::Scheme;
use crate::clock_history::ClockHistory;
use crate::cloudwatch_logs::{self, CloudwatchLogs};
use crate::config::{SinkConfig, SinkKind};
use crate::datagram::DatagramWire;
use crate::delivery::Delivery;
use crate::error::SinkResult;
use crate::feed::{Feed, Lag, RunHeader};
use crate::file::FileSink;
use crate::gelf::{self, Gelf, GelfConfig};
use crate::http::HttpWire;
use crate::losses::{LossStore, Losses};
use crate::sink::Sink;
use crate::status::{Health, SinkEvent, SinkStatus};
use crate::stdout::StdoutSink;
use crate::stream::StreamWire;
use crate::syslog::{self, Syslog, SyslogConfig};
use crate::wire::{Wire, WireSink};
pub use attempts::LastFlush;

/// The clock, the source of random numbers, and the receiver of events. Tests replace them.
#[derive(Clone)]
pub struct Environment {
    /// Present time.
    pub now: fn() -> Timestamp,
    /// A clock that no operator sets. Measures how long a connection has stood.
    pub steady_now: fn() -> Instant,
    /// For the jitter of retries and the ids of chunked GELF messages.
    pub random: fn() -> u64,
    /// How long ago a line was captured.
    pub clock: Arc<ClockHistory>,
    /// Receives trouble and recovery; a full channel loses the event, which is logged.
    pub events: mpsc::Sender<SinkEvent>,
}

impl Environment {
    /// The real clock and random numbers.
    pub fn real(events: mpsc::Sender<SinkEvent>) -> Environment {
        let random = || getrandom::u64().unwrap_or_default();
        let clock = ClockHistory::of_process();
        Environment { now: Timestamp::now, steady_now: Instant::now, random, clock, events }
    }
}

pub(crate) type FeedHandle = Arc<Mutex<TrackedFeed>>;

/// A feed, and the position up to which the receiver has accepted it. That position is only shown; no cursor moves for
/// it.
pub(crate) struct TrackedFeed {
    pub feed: Box<dyn Feed>,
    pub accepted: Position,
}

/// The state that the engine's callers share with its task.
#[derive(Default)]
pub(crate) struct EngineShared {
    pub inbox: Mutex<Inbox>,
    pub notify: Notify,
    /// Every feed that is not delivered completely.
    pub feeds: Mutex<BTreeMap<AttemptKey, FeedHandle>>,
    pub health: Mutex<Health>,
    /// Ends the wait before the next retry.
    pub retry: Notify,
    /// Changes when an attempt fails and when the sink recovers.
    pub outcomes: watch::Sender<u64>,
    /// Cancelled when the sink must read nothing more.
    pub settle: CancellationToken,
    loss_store: Mutex<Option<Box<dyn LossStore>>>,
}

impl EngineShared {
    /// Stores the losses if they have changed since they were stored.
    pub(crate) fn store_losses(&self) -> io::Result<()> {
        // Locked until the write is done, so that no older state is written last.
        let mut store = locked(&self.loss_store);
        let losses = {
            let mut health = locked(&self.health);
            if !std::mem::take(&mut health.losses_changed) {
                return Ok(());
            }
            health.losses.clone()
        };
        let Some(store) = &mut *store else { return Ok(()) };
        store.store(&losses).inspect_err(|_| locked(&self.health).losses_changed = true)
    }
}

#[derive(Default)]
pub(crate) struct Inbox {
    pub added: Vec<(AttemptKey, FeedHandle)>,
    pub removed: Vec<AttemptKey>,
    pub woken: BTreeSet<RunId>,
    pub flushes: Vec<oneshot::Sender<()>>,
}

/// A lock is poisoned only by a panic of a reader of these counters; the data itself is valid.
pub(crate) fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Delivers the feeds of one sink in a separate task.
pub struct Engine {
    config: Arc<SinkConfig>,
    environment: Environment,
    shared: Arc<EngineShared>,
    stop: CancellationToken,
    /// None once an ending has awaited it.
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Starts the sink's task; must be called inside a tokio runtime. Connects only when there is something to deliver.
    /// Its losses are counted from 0, in memory.
    ///
    /// # Errors
    /// None at present: a wrong configuration shows when the sink connects.
    pub fn start(config: SinkConfig, environment: Environment) -> SinkResult<Engine> {
        Ok(Engine::start_with_losses(config, environment, Losses::default(), None))
    }

    /// As [`Engine::start`], and counts its losses on from `losses`, in `store`.
    pub fn start_with_losses(
        config: SinkConfig,
        environment: Environment,
        losses: Losses,
        store: Option<Box<dyn LossStore>>,
    ) -> Engine {
        let config = Arc::new(config);
        let shared = Arc::new(EngineShared {
            health: Mutex::new(Health::new(losses)),
            loss_store: Mutex::new(store),
            ..EngineShared::default()
        });
        let stop = CancellationToken::new();
        let start = Start { config: &config, environment: &environment, shared: &shared, stop: &stop };
        let line_max = config.max_line.unwrap_or(LINE_BYTES_MAX);
        let task = match &config.kind {
            SinkKind::File(file) => start.task(FileSink::new(file.clone(), line_max)),
            SinkKind::Stdout(stdout) => start.task(StdoutSink::new(stdout.clone(), line_max)),
            SinkKind::Syslog(syslog) => start.task(syslog_sink(syslog, config.max_line, environment.steady_now)),
            SinkKind::Gelf(gelf) => start.task(gelf_sink(gelf, config.max_line, &environment)),
            SinkKind::CloudwatchLogs(logs) => {
                let sink = CloudwatchLogs::new(logs, &config, environment.clone());
                let batch = cloudwatch_logs::engine_batch(config.batch);
                let config = Arc::new(SinkConfig { batch, ..(*config).clone() });
                Start { config: &config, ..start }.task(sink)
            }
        };
        Engine { config, environment, shared, stop, task: tokio::sync::Mutex::new(Some(task)) }
    }

    /// Name of the sink.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// The sink's configuration.
    pub fn config(&self) -> &SinkConfig {
        &self.config
    }

    /// Whether the sink's `when` wants this run. A feed of an unwanted run may be added anyway: it is read to its end
    /// and no record of it is sent.
    pub fn wants(&self, header: &RunHeader) -> bool {
        self.config.when.wants_job(&header.group, &header.job)
    }

    /// Delivers the feed from its durable cursor on, until `run.finished` is confirmed; then drops it.
    pub fn add(&self, feed: Box<dyn Feed>) {
        let key = (feed.header().run_id.clone(), feed.header().attempt);
        let handle: FeedHandle = Arc::new(Mutex::new(TrackedFeed { feed, accepted: Position::START }));
        locked(&self.shared.feeds).insert(key.clone(), handle.clone());
        locked(&self.shared.inbox).added.push((key, handle));
        self.shared.notify.notify_one();
    }

    /// The run's spool has new records. Cheap: may be called for every block.
    pub fn wake(&self, run_id: &RunId) {
        let mut inbox = locked(&self.shared.inbox);
        if !inbox.woken.contains(run_id) {
            inbox.woken.insert(run_id.clone());
            drop(inbox);
            self.shared.notify.notify_one();
        }
    }

    /// Forgets the attempt, delivered or not.
    pub fn remove(&self, run_id: &RunId, attempt: u32) {
        let key = (run_id.clone(), attempt);
        locked(&self.shared.feeds).remove(&key);
        locked(&self.shared.inbox).removed.push(key);
        self.shared.notify.notify_one();
    }

    /// The sink's numbers, counted now over all its feeds.
    pub fn status(&self) -> SinkStatus {
        let feeds: Vec<(AttemptKey, FeedHandle)> =
            locked(&self.shared.feeds).iter().map(|(key, feed)| (key.clone(), feed.clone())).collect();
        let (mut total, mut unconfirmed) = (Lag::default(), Lag::default());
        let mut oldest_run = None;
        for ((run_id, _), feed) in feeds {
            let tracked = locked(&feed);
            let lag = tracked.feed.lag(tracked.accepted);
            if tracked.accepted > Position::START {
                let all = tracked.feed.lag(Position::START);
                unconfirmed.lines += all.lines.saturating_sub(lag.lines);
                unconfirmed.bytes += all.bytes.saturating_sub(lag.bytes);
            }
            drop(tracked);
            total.lines += lag.lines;
            total.bytes += lag.bytes;
            let older = match (lag.oldest, total.oldest) {
                (Some(at), Some(oldest)) => at < oldest,
                (Some(_), None) => true,
                (None, _) => false,
            };
            if older {
                total.oldest = lag.oldest;
                oldest_run = Some(run_id);
            }
        }
        let lag = total.oldest.map_or(Duration::ZERO, |at| self.environment.clock.age(at));
        let health = locked(&self.shared.health);
        let (state, waiting_since) = health.state();
        SinkStatus {
            name: self.config.name.clone(),
            kind: self.config.kind.name(),
            state,
            lag_lines: total.lines,
            lag_bytes: total.bytes,
            lag_seconds: lag.as_secs_f64(),
            unconfirmed_lines: unconfirmed.lines,
            unconfirmed_bytes: unconfirmed.bytes,
            rate_lines_per_second: health.rate(Instant::now()),
            last_error: health.last_error.as_ref().map(|(message, _)| message.clone()),
            last_error_at: health.last_error.as_ref().map(|(_, at)| *at),
            failing_since: health.failing.map(|failing| failing.since),
            waiting_since,
            set_up_fault: health.set_up_fault.as_ref().and_then(|fault| locked(fault).clone()),
            oldest_undelivered_run: oldest_run,
            delivered_lines: health.delivered_lines,
            dropped_lines: health.losses.dropped_lines,
            dropped_bytes: health.losses.dropped_bytes,
            refused_records: health.losses.refused_records,
            refused: health.losses.refused.iter().cloned().collect(),
            counted_since: health.losses.counted_since,
            alert_after_seconds: self.config.alert_after.as_secs_f64(),
        }
    }

    /// What the receiver has not accepted of one run, summed over all its attempts here.
    pub fn lag_of(&self, run_id: &RunId) -> Lag {
        let range = (run_id.clone(), 0)..=(run_id.clone(), u32::MAX);
        let feeds: Vec<FeedHandle> = locked(&self.shared.feeds).range(range).map(|(_, feed)| feed.clone()).collect();
        let mut total = Lag::default();
        for feed in feeds {
            let tracked = locked(&feed);
            let lag = tracked.feed.lag(tracked.accepted);
            total.lines += lag.lines;
            total.bytes += lag.bytes;
            total.oldest = total.oldest.into_iter().chain(lag.oldest).min();
        }
        total
    }

    /// Sends all available records and waits until they are confirmed and the cursors are stored. Returns false when
    /// `deadline` comes first. A connection without acknowledgements is ended for this when it has stood for 10 s: the
    /// receiver's end in answer confirms. A younger one is kept until then, so a flush can take 10 s.
    pub async fn flush(&self, deadline: Duration) -> bool {
        let (done, flushed) = oneshot::channel();
        locked(&self.shared.inbox).flushes.push(done);
        self.shared.notify.notify_one();
        matches!(tokio::time::timeout(deadline, flushed).await, Ok(Ok(())))
    }

    /// Reads and sends nothing more from now on; what was sent is confirmed as in [`Engine::flush`]. Feeds may still be
    /// added, so that their lag is counted. Permanent.
    pub fn begin_settling(&self) {
        self.shared.settle.cancel();
        self.shared.notify.notify_one();
    }

    /// Whether the sink reads nothing more.
    pub fn is_settling(&self) -> bool {
        self.shared.settle.is_cancelled()
    }

    /// Waits until everything that was sent is confirmed, and reads nothing more. Returns false when `deadline` comes
    /// first: the next engine then sends what is unconfirmed again. A sink that fails has nothing to wait for.
    pub async fn settle(&self, deadline: Duration) -> bool {
        self.begin_settling();
        self.flush(deadline).await
    }

    /// Sets the counters of lost lines to 0 and stores them. Returns those before.
    ///
    /// # Errors
    /// They cannot be stored. They are 0 in memory, and the sink's task retries.
    pub fn reset_losses(&self) -> io::Result<Losses> {
        let before = {
            let mut health = locked(&self.shared.health);
            health.losses_changed = true;
            std::mem::replace(&mut health.losses, Losses::new((self.environment.now)()))
        };
        self.shared.store_losses()?;
        Ok(before)
    }

    /// Hands the counters of an ended engine, and their store, to its successor.
    pub fn take_losses(&self) -> (Losses, Option<Box<dyn LossStore>>) {
        let store = locked(&self.shared.loss_store).take();
        (locked(&self.shared.health).losses.clone(), store)
    }

    /// Stops immediately. Confirmed records are committed; the rest stays in the feeds. Call `flush` before, to wait
    /// for it. Idempotent: each call returns when the task has ended.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let mut task = self.task.lock().await;
        if let Some(task) = task.take()
            && let Err(error) = task.await
        {
            tracing::error!(sink = %self.config.name, %error, "sink task failed");
        }
    }
}

struct Start<'s> {
    config: &'s Arc<SinkConfig>,
    environment: &'s Environment,
    shared: &'s Arc<EngineShared>,
    stop: &'s CancellationToken,
}

impl Start<'_> {
    fn task<S: Sink>(&self, sink: S) -> JoinHandle<()> {
        let mut health = locked(&self.shared.health);
        (health.unanswered, health.set_up_fault) = (sink.unanswered(), sink.set_up_fault());
        drop(health);
        let delivery = Delivery::new(sink, self.config.clone(), self.environment.clone(), self.shared.clone());
        tokio::spawn(delivery.run(self.stop.clone()))
    }
}

pub(crate) fn syslog_sink(config: &SyslogConfig, max_line: Option<usize>, clock: fn() -> Instant) -> WireSink<Syslog> {
    let wire = match config.address.scheme {
        Scheme::Udp | Scheme::Unix => Wire::Datagram(DatagramWire::new(config.address.clone())),
        _ => Wire::Stream(StreamWire::new(config.address.clone(), config.tls.clone(), clock)),
    };
    let format = Syslog::new(config.clone(), max_line.unwrap_or_else(|| syslog::message_bytes_max(config)));
    WireSink::new(format, wire, config.address.clone(), clock)
}

pub(crate) fn gelf_sink(config: &GelfConfig, max_line: Option<usize>, environment: &Environment) -> WireSink<Gelf> {
    let (clock, random) = (environment.steady_now, environment.random);
    let (address, tls) = (config.address.clone(), config.tls.clone());
    let wire = match address.scheme {
        Scheme::Udp | Scheme::Unix => Wire::Datagram(DatagramWire::new(address.clone())),
        Scheme::Tcp | Scheme::Tls => Wire::Stream(StreamWire::new(address.clone(), tls, clock)),
        Scheme::Http | Scheme::Https => {
            Wire::Http(HttpWire::new(address.clone(), config.compression, config.bulk, tls))
        }
    };
    // 128 chunks limit a datagram's message; on other transports the operator may allow more.
    let most = gelf::text_bytes_max(config);
    let bytes_max = match address.scheme {
        Scheme::Udp => max_line.unwrap_or(most).min(most),
        _ => max_line.unwrap_or(most),
    };
    WireSink::new(Gelf::new(config.clone(), bytes_max, random), wire, address, clock)
}
