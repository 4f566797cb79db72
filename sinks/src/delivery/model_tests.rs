//! Random histories against a model: producers, a sink with every kind of fault, and a runner that is killed and comes back
//! over the same cursors. Time is stepped, so thousands of histories take seconds. A failure names its seed;
//! `SEXTON_MODEL_SEED=N` plays that one alone, `SEXTON_MODEL_CASES=N` plays so many.
//!
//! What must hold in each:
//! - what a cursor has passed has arrived, or was refused and is named;
//! - what has arrived was produced;
//! - each run arrives in order, without a hole, between its brackets;
//! - nothing is read while the sink is down.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::line::{Block, Position, Stage, Stream, Tag, stamp, write_head};
use domain::run::RunId;
use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Delivery;
use crate::config::{SinkConfig, SinksFile};
use crate::engine::{Environment, Key, Shared, Tracked, locked};
use crate::error::{SinkError, SinkResult};
use crate::feed::{Feed, FinishedRecord, Item, Lag, Next, RunHeader};
use crate::record::tests::{finished, header};
use crate::record::{Place, Record};
use crate::sink::{Refused, Sink};

/// Histories in an ordinary test run.
const CASES: u64 = 3000;
const RUNS_MAX: u64 = 4;
const STEPS: u64 = 40;
/// A history that is not through by then (stepped time) never will be.
const END: Duration = Duration::from_secs(3600);

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

/// A record as the other side got it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Got {
    run: RunId,
    place: Place,
    text: Vec<u8>,
}

/// The whole world of one history: what was produced, and what the other side has.
struct World {
    dice: Dice,
    runs: BTreeMap<RunId, Produced>,
    arrived: Vec<Got>,
    connected: bool,
    /// How many calls in ten fail.
    faults: u64,
    down: bool,
}

#[derive(Default)]
struct Produced {
    texts: Vec<Vec<u8>>,
    /// These the other side refuses for good.
    poison: BTreeSet<u64>,
    finished: bool,
    durable: Option<Position>,
    /// How far the arrived records reach without a hole: the next seq.
    next: u64,
    started_arrived: bool,
    finished_arrived: bool,
}

type SharedWorld = Arc<Mutex<World>>;

impl World {
    fn fails(&mut self) -> bool {
        self.down || (self.faults > 0 && self.dice.below(10) < self.faults)
    }

    /// The other side takes a record: it must be the next one of its run, or one that it had before.
    fn take(&mut self, got: Got) {
        let run = self.runs.get_mut(&got.run).expect("a run that was produced");
        let skip_poison = |run: &mut Produced| {
            while run.poison.contains(&run.next) {
                run.next += 1;
            }
        };
        match got.place {
            Place::Started => run.started_arrived = true,
            Place::Line { seq } => {
                assert!(run.started_arrived, "a line before run.started: {got:?}");
                assert_eq!(run.texts.get(seq as usize - 1), Some(&got.text), "what arrives was produced: {got:?}");
                assert!(!run.poison.contains(&seq), "a refused record arrived: {got:?}");
                skip_poison(run);
                assert!(seq <= run.next, "a hole before {got:?}: {} is missing", run.next);
                run.next = run.next.max(seq + 1);
                skip_poison(run);
            }
            Place::Finished => {
                assert!(run.finished, "run.finished before the end: {got:?}");
                skip_poison(run);
                assert_eq!(run.next, run.texts.len() as u64 + 1, "run.finished before the last line");
                run.finished_arrived = true;
            }
            Place::Gap { .. } => panic!("nothing was dropped: {got:?}"),
        }
        self.arrived.push(got);
    }

    /// What a cursor passes must have arrived.
    fn commit(&mut self, id: &RunId, position: Position) {
        let run = self.runs.get_mut(id).expect("a run that was produced");
        let before = run.durable.unwrap_or(Position::START);
        assert!(position >= before, "the cursor of {id} moved back");
        assert!(run.started_arrived, "the cursor of {id} moved, and run.started never arrived");
        let mut next = run.next;
        while run.poison.contains(&next) {
            next += 1;
        }
        assert!(position.seq <= next, "acknowledged to {} and arrived to {next} of {id}", position.seq);
        assert!(position.stage != Stage::Done || run.finished_arrived, "{id} is done without run.finished");
        run.durable = Some(position);
    }
}

fn locked_world(world: &SharedWorld) -> std::sync::MutexGuard<'_, World> {
    world.lock().expect("a failure elsewhere in this history")
}

struct ModelFeed {
    world: SharedWorld,
    header: Arc<RunHeader>,
    place: Position,
}

impl ModelFeed {
    fn open(world: &SharedWorld, id: &RunId) -> Box<dyn Feed> {
        let header = Arc::new(RunHeader { run_id: id.clone(), ..header() });
        let place = locked_world(world).runs[id].durable.unwrap_or(Position::START);
        Box::new(ModelFeed { world: world.clone(), header, place })
    }
}

impl Feed for ModelFeed {
    fn header(&self) -> &Arc<RunHeader> {
        &self.header
    }

    fn read(&mut self, bytes_max: usize) -> io::Result<Next> {
        let mut world = locked_world(&self.world);
        assert!(world.connected, "a feed was read while the sink is down");
        if world.dice.one_in(50) {
            return Err(io::Error::other("the disk has a bad day"));
        }
        let run = &world.runs[&self.header.run_id];
        let (item, end) = match self.place.stage {
            Stage::Done => return Ok(Next::Done),
            Stage::Before => (Item::Started, Position { stage: Stage::Lines, ..self.place }),
            Stage::Lines => {
                let (mut bytes, mut end) = (Vec::new(), self.place);
                for text in run.texts.iter().skip(self.place.seq as usize - 1) {
                    if !bytes.is_empty() && bytes.len() + text.len() > bytes_max {
                        break;
                    }
                    write_head(&stamp(Timestamp::now()), Stream::Stdout, Tag::WHOLE, &mut bytes);
                    bytes.extend_from_slice(text);
                    bytes.push(b'\n');
                    end.seq += 1;
                }
                match (bytes.is_empty(), run.finished) {
                    (false, _) => (Item::Lines(Block { first_seq: self.place.seq, bytes: bytes.into(), end }), end),
                    (true, true) => (Item::Finished(record(run)), Position { stage: Stage::Done, ..self.place }),
                    (true, false) => return Ok(Next::Pending),
                }
            }
        };
        self.place = end;
        Ok(Next::Item { item, end })
    }

    fn rewind(&mut self) {
        self.place = locked_world(&self.world).runs[&self.header.run_id].durable.unwrap_or(Position::START);
    }

    fn commit(&mut self, position: Position) -> io::Result<()> {
        let mut world = locked_world(&self.world);
        if world.dice.one_in(30) {
            return Err(io::Error::other("the disk is full"));
        }
        world.commit(&self.header.run_id, position);
        Ok(())
    }

    fn lag(&self, position: Position) -> Lag {
        let world = locked_world(&self.world);
        let run = &world.runs[&self.header.run_id];
        let from = run.durable.unwrap_or(Position::START).max(position);
        Lag { lines: (run.texts.len() as u64 + 1).saturating_sub(from.seq), bytes: 0, oldest: None }
    }
}

fn record(run: &Produced) -> FinishedRecord {
    FinishedRecord { last_seq: run.texts.len() as u64, ..finished() }
}

/// The other side: what was sent lies in its kernel until it reads it; when a connection breaks, what it has not read is
/// lost, and what it has read stays, whether an answer came back or not.
struct ModelSink {
    world: SharedWorld,
    filled: Vec<Got>,
    connected: bool,
    in_kernel: Vec<(u64, Got)>,
    sent: u64,
}

impl ModelSink {
    fn set_connected(&mut self, connected: bool) {
        self.connected = connected;
        locked_world(&self.world).connected = connected;
    }

    fn read_some(&mut self, all: bool) {
        let mut world = locked_world(&self.world);
        let most = self.in_kernel.len() as u64;
        let count = if all { most } else { world.dice.below(most + 1) };
        for (_, got) in self.in_kernel.drain(..count as usize) {
            world.take(got);
        }
    }

    fn fails(&self, doing: &str) -> SinkResult<()> {
        let mut world = locked_world(&self.world);
        match (world.fails(), world.dice.one_in(5)) {
            (false, _) => Ok(()),
            (true, false) => Err(SinkError::retry(format!("{doing} failed"))),
            (true, true) => Err(SinkError::misconfigured(format!("{doing} is not allowed"))),
        }
    }
}

impl Sink for ModelSink {
    type Run = RunId;

    fn open(&self, header: &RunHeader) -> RunId {
        header.run_id.clone()
    }

    fn text_bytes_max(&self, _: &RunId) -> usize {
        1000
    }

    fn encode(&mut self, run: &RunId, record: &Record<'_>) {
        let text = if let Record::Line(piece) = record { piece.text.to_vec() } else { Vec::new() };
        self.filled.push(Got { run: run.clone(), place: record.place(), text });
    }

    fn filled_bytes(&self) -> usize {
        self.filled.iter().map(|got| got.text.len() + 1).sum()
    }

    fn turn_bytes(&self) -> usize {
        200
    }

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
        self.sent = 0;
        self.set_connected(false);
    }

    async fn send(&mut self) -> SinkResult<Vec<Refused>> {
        let wait = locked_world(&self.world).dice.below(50);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let mut refused = Vec::new();
        for (frame, got) in std::mem::take(&mut self.filled).into_iter().enumerate() {
            let poison = matches!(got.place, Place::Line { seq }
                if locked_world(&self.world).runs[&got.run].poison.contains(&seq));
            match poison {
                true => refused.push(Refused { frame, says: "poison".to_owned() }),
                false => self.in_kernel.push((self.sent + 1, got)),
            }
        }
        // It breaks before, amid, or after the reading: then only the answer is lost.
        if let Err(error) = self.fails("sending") {
            let all = locked_world(&self.world).dice.one_in(3);
            self.read_some(all);
            return Err(error);
        }
        self.sent += 1;
        Ok(refused)
    }

    fn confirmed(&mut self) -> SinkResult<u64> {
        self.fails("confirming")?;
        self.read_some(false);
        Ok(self.in_kernel.first().map_or(self.sent, |(batch, _)| batch - 1))
    }

    fn arrived(&self) -> u64 {
        self.sent
    }

    async fn drain(&mut self) -> SinkResult<()> {
        self.fails("draining")?;
        self.read_some(true);
        // What was in the kernel is read; `confirmed` says so.
        Ok(())
    }

    async fn broken(&mut self) -> SinkError {
        let breaks = locked_world(&self.world).dice.one_in(20);
        match breaks && self.connected {
            true => SinkError::retry("the other side hung up"),
            false => std::future::pending().await,
        }
    }

    async fn sync(&mut self) -> SinkResult<()> {
        self.fails("syncing")
    }
}

/// One life of the runner.
struct Life {
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
}

impl Life {
    fn begin(world: &SharedWorld, config: &Arc<SinkConfig>) -> Life {
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            notify: Notify::new(),
            feeds: Mutex::default(),
            health: Mutex::default(),
        });
        let (events, _) = mpsc::channel(1);
        let environment = Environment { now: Timestamp::now, random: || 0x1234_5678_9abc_def0, events };
        locked_world(world).connected = false;
        let sink =
            ModelSink { world: world.clone(), filled: Vec::new(), connected: false, in_kernel: Vec::new(), sent: 0 };
        let stop = CancellationToken::new();
        let delivery = Delivery::new(sink, config.clone(), environment, shared.clone());
        let task = tokio::spawn(delivery.run(stop.clone()));
        let life = Life { shared, task, stop };
        let open: Vec<RunId> = {
            let world = locked_world(world);
            let is_open = |run: &Produced| run.durable.is_none_or(|at| at.stage != Stage::Done);
            world.runs.iter().filter(|(_, run)| is_open(run)).map(|(id, _)| id.clone()).collect()
        };
        open.iter().for_each(|id| life.add(world, id));
        life
    }

    fn add(&self, world: &SharedWorld, id: &RunId) {
        let key: Key = (id.clone(), 1);
        let tracked = Tracked { feed: ModelFeed::open(world, id), arrived: Position::START };
        let handle = Arc::new(Mutex::new(tracked));
        locked(&self.shared.feeds).insert(key.clone(), handle.clone());
        locked(&self.shared.inbox).added.push((key, handle));
        self.shared.notify.notify_one();
    }

    fn wake(&self, id: &RunId) {
        locked(&self.shared.inbox).woken.insert(id.clone());
        self.shared.notify.notify_one();
    }

    /// The world's own assertions fail inside the task: its end is theirs.
    async fn end(self, kill: bool) {
        if kill {
            self.task.abort();
        } else {
            self.stop.cancel();
        }
        if let Err(error) = self.task.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

async fn play(seed: u64) {
    let config =
        "[sink.a]\ntype = \"stdout\"\nretry = { initial = \"10ms\", max = \"1s\" }\nbatch = { max_bytes = \"1KiB\" }\n";
    let (mut configs, faults) = SinksFile::parse("sinks.toml", config);
    assert_eq!(faults.to_string(), "");
    let config = Arc::new(configs.remove(0));
    let dice = Dice(seed);
    let world: SharedWorld = Arc::new(Mutex::new(World {
        dice,
        runs: BTreeMap::new(),
        arrived: Vec::new(),
        connected: false,
        faults: 0,
        down: false,
    }));
    let mut script = Dice(!seed);
    let mut life = Life::begin(&world, &config);
    for _ in 0..STEPS {
        match script.below(10) {
            0 => {
                let number = locked_world(&world).runs.len() as u64;
                if number < RUNS_MAX {
                    let id = RunId(format!("20261123T075000Z-{number:012x}"));
                    locked_world(&world).runs.insert(id.clone(), Produced { next: 1, ..Produced::default() });
                    life.add(&world, &id);
                }
            }
            1..=4 => produce(&world, &mut script, &life),
            5 => locked_world(&world).faults = script.below(6),
            6 => {
                let mut world = locked_world(&world);
                world.down = !world.down;
            }
            7 => {
                let kill = script.one_in(2);
                life.end(kill).await;
                life = Life::begin(&world, &config);
            }
            _ => tokio::time::sleep(Duration::from_millis(script.below(2000))).await,
        }
    }
    // The faults end: then everything must come through.
    let ids: Vec<RunId> = {
        let mut world = locked_world(&world);
        (world.faults, world.down) = (0, false);
        world.runs.values_mut().for_each(|run| run.finished = true);
        world.runs.keys().cloned().collect()
    };
    ids.iter().for_each(|id| life.wake(id));
    let (done, flushed) = oneshot::channel();
    locked(&life.shared.inbox).flushes.push(done);
    life.shared.notify.notify_one();
    let flushed = tokio::time::timeout(END, flushed).await;
    if life.task.is_finished() {
        return life.end(false).await;
    }
    assert!(flushed.is_ok_and(|flushed| flushed.is_ok()), "not everything came through in time");
    // A cursor or a spool that failed once more is tried again.
    let all_done =
        || locked_world(&world).runs.values().all(|run| run.durable.is_some_and(|at| at.stage == Stage::Done));
    let end = tokio::time::Instant::now() + END;
    while !all_done() {
        assert!(tokio::time::Instant::now() < end, "a run was not delivered to its end");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    check_refused(&world, &life);
    life.end(false).await;
}

fn produce(world: &SharedWorld, script: &mut Dice, life: &Life) {
    let mut world = locked_world(world);
    let open: Vec<RunId> = world.runs.iter().filter(|(_, run)| !run.finished).map(|(id, _)| id.clone()).collect();
    if open.is_empty() {
        return;
    }
    let id = open[script.below(open.len() as u64) as usize].clone();
    let run = world.runs.get_mut(&id).expect("one of them");
    for _ in 0..script.below(20) {
        let seq = run.texts.len() as u64 + 1;
        if script.one_in(100) {
            run.poison.insert(seq);
        }
        run.texts.push(format!("{id} {seq} {}", "x".repeat(script.below(60) as usize)).into_bytes());
    }
    run.finished = script.one_in(10);
    drop(world);
    life.wake(&id);
}

/// Whatever this life says was refused is poison.
fn check_refused(world: &SharedWorld, life: &Life) {
    let world = locked_world(world);
    let health = locked(&life.shared.health);
    for refused in &health.refused {
        let seq = refused.seq.expect("only lines are poison");
        assert!(world.runs[&refused.run_id].poison.contains(&seq), "{} was not refused", refused.name());
    }
    let counted = health.refused_records >= health.refused.len() as u64;
    assert!(counted, "{} named and {} counted", health.refused.len(), health.refused_records);
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn whatever_happens_every_line_arrives_in_order_and_no_cursor_runs_ahead() {
    let seeds: Vec<u64> = match number("SEXTON_MODEL_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SEXTON_MODEL_CASES").unwrap_or(CASES)).collect(),
    };
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(play(seed))));
        if let Err(panic) = played {
            eprintln!("the history of seed {seed} failed; SEXTON_MODEL_SEED={seed} plays it again");
            std::panic::resume_unwind(panic);
        }
    }
}
