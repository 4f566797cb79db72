//! The world of one history: what was produced, what has arrived, and the invariants of both.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use domain::line::{Block, Position, Stage, Stream, Tag, stamp, write_head};
use domain::run::RunId;
use jiff::Timestamp;

use crate::feed::{Feed, FinishedRecord, Item, Lag, Next, Peek, RunHeader};
use crate::record::RecordId;
use crate::sample_records::{finished, header};

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(super) struct Dice(pub u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    pub(super) fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

/// A record as the receiver got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Got {
    pub run: RunId,
    pub place: RecordId,
    pub text: Vec<u8>,
}

/// The state of one history: produced records, and the receiver's records.
pub(super) struct World {
    pub dice: Dice,
    pub runs: BTreeMap<RunId, Produced>,
    pub arrived: Vec<Got>,
    pub connected: bool,
    /// How many of ten calls fail.
    pub faults: u64,
    pub down: bool,
}

#[derive(Default)]
pub(super) struct Produced {
    pub texts: Vec<Vec<u8>>,
    /// Seqs that the receiver permanently refuses.
    pub poison: BTreeSet<u64>,
    pub finished: bool,
    pub durable: Option<Position>,
    /// The first seq that has not arrived: all before it have, without a missing record.
    pub next: u64,
    pub started_arrived: bool,
    pub finished_arrived: bool,
}

pub(super) type SharedWorld = Arc<Mutex<World>>;

impl World {
    pub(super) fn fails(&mut self) -> bool {
        self.down || (self.faults > 0 && self.dice.below(10) < self.faults)
    }

    /// The receiver accepts a record: it must be the next of its run, or one that arrived before.
    pub(super) fn take(&mut self, got: Got) {
        let run = self.runs.get_mut(&got.run).expect("a run that was produced");
        let skip_poison = |run: &mut Produced| {
            while run.poison.contains(&run.next) {
                run.next += 1;
            }
        };
        match got.place {
            RecordId::Started => run.started_arrived = true,
            RecordId::Line { seq } => {
                assert!(run.started_arrived, "a line before run.started: {got:?}");
                assert_eq!(run.texts.get(seq as usize - 1), Some(&got.text), "not as it was produced: {got:?}");
                assert!(!run.poison.contains(&seq), "a refused record arrived: {got:?}");
                skip_poison(run);
                assert!(seq <= run.next, "{got:?} arrived, and {} is missing", run.next);
                run.next = run.next.max(seq + 1);
                skip_poison(run);
            }
            RecordId::Finished => {
                assert!(run.finished, "run.finished before the run ended: {got:?}");
                skip_poison(run);
                assert_eq!(run.next, run.texts.len() as u64 + 1, "run.finished before the last line");
                run.finished_arrived = true;
            }
            RecordId::OutputEnded => panic!("no output stays open here: {got:?}"),
            RecordId::Gap { .. } => panic!("nothing was dropped: {got:?}"),
        }
        self.arrived.push(got);
    }

    /// Every record before a cursor must have arrived.
    pub(super) fn commit(&mut self, id: &RunId, position: Position) {
        let run = self.runs.get_mut(id).expect("a run that was produced");
        let before = run.durable.unwrap_or(Position::START);
        assert!(position >= before, "the cursor of {id} moved back");
        assert!(run.started_arrived, "the cursor of {id} moved, and run.started never arrived");
        let mut next = run.next;
        while run.poison.contains(&next) {
            next += 1;
        }
        assert!(
            position.seq <= next,
            "the cursor is at {}, but only records before {next} of {id} have arrived",
            position.seq
        );
        assert!(position.stage != Stage::Done || run.finished_arrived, "{id} is done without run.finished");
        run.durable = Some(position);
    }
}

/// The clock of the engine and of the producers.
pub(super) fn now() -> Timestamp {
    header().started_at
}

pub(super) fn locked_world(world: &SharedWorld) -> std::sync::MutexGuard<'_, World> {
    world.lock().expect("a failure elsewhere in this history")
}

pub(super) struct ModelFeed {
    pub world: SharedWorld,
    pub header: Arc<RunHeader>,
    pub place: Position,
}

impl ModelFeed {
    pub(super) fn open(world: &SharedWorld, id: &RunId) -> Box<dyn Feed> {
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
            return Err(io::Error::other("the disk fails"));
        }
        let run = &world.runs[&self.header.run_id];
        let (item, end) = match self.place.stage {
            Stage::Late | Stage::Done => return Ok(Next::Done),
            Stage::Before => (Item::Started, Position { stage: Stage::Lines, ..self.place }),
            Stage::Lines => {
                let (mut bytes, mut end) = (Vec::new(), self.place);
                for text in run.texts.iter().skip(self.place.seq as usize - 1) {
                    if !bytes.is_empty() && bytes.len() + text.len() > bytes_max {
                        break;
                    }
                    write_head(&stamp(now()), Stream::Stdout, Tag::WHOLE, &mut bytes);
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

    fn peek(&self) -> Peek {
        let world = locked_world(&self.world);
        let run = &world.runs[&self.header.run_id];
        match self.place.stage {
            Stage::Late | Stage::Done => Peek::Done,
            Stage::Lines if !run.finished && self.place.seq as usize > run.texts.len() => Peek::Pending,
            Stage::Before | Stage::Lines => Peek::Item,
        }
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

pub(super) fn record(run: &Produced) -> FinishedRecord {
    FinishedRecord { last_seq: run.texts.len() as u64, ..finished() }
}
