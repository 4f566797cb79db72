//! The rules' reader of a spool: counts what matches and keeps the excerpt, at its own pace, and remembers on disk how far
//! it is, with what it found. Where a run has no rules, only what the excerpt shows is read.

use std::fs::metadata;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::line::{Block, Position, Stage};
use keeper::SEGMENT_BYTES_MAX;
use keeper::directory::{Durability, RunDirectory, read_json, write_json};
use keeper::records::OutputCounts;
use keeper::spool::{SpoolReader, last_records, segment_name, segments};
use rules::{Matcher, MatcherState, RuleSet};
use serde::{Deserialize, Serialize};

use crate::excerpt::Excerpt;
use crate::local_run::LocalRun;
use crate::runner_state::RunnerState;

/// What is read at once.
const BLOCK_BYTES: usize = 64 << 10;

/// One turn of a scan, so that a thousand runs share a few threads fairly.
const TURN_BYTES: usize = 4 << 20;

/// The end of an output that is looked at for the excerpt's tail; where the lines are so long that more is needed, all
/// is read.
const TAIL_BYTES_MAX: usize = 1 << 20;

/// The state is stored at most so often; what lies behind is scanned again after a crash.
const STORE_INTERVAL: Duration = Duration::from_secs(2);

/// The name of the rules' cursor.
pub const RULES_CURSOR: &str = "rules.scan";

/// What is known of a run's output at a turn.
#[derive(Clone, Copy, Debug)]
pub enum OutputState {
    /// `seen`: how far any reader is. `is_sent`: a sink has the run, and how far behind it is will be asked for.
    Growing { seen: Position, is_sent: bool },
    /// Nothing follows; this is all, as the keeper counted it.
    Whole(OutputCounts),
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct StoredScan {
    place: Position,
    matcher: MatcherState,
    excerpt: Excerpt,
    /// Without rules: what stands before this is not needed any more, although it was not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    needed_from: Option<Position>,
}

pub struct Scan {
    run: RunDirectory,
    /// Everything before its place is in the matcher and in the excerpt.
    reader: SpoolReader,
    /// Without rules: how far the output is known, by other readers or by counting.
    ahead: SpoolReader,
    needed_from: Option<Position>,
    matcher: Matcher,
    excerpt: Excerpt,
    stored_at: Instant,
}

impl Scan {
    /// Goes on where an earlier scan of this attempt was; what cannot be read is scanned again from the beginning.
    pub fn open(run: &RunDirectory, rules: Arc<RuleSet>) -> Scan {
        let path = run.cursors().join(RULES_CURSOR);
        let stored = read_json::<StoredScan>(&path).unwrap_or_else(|error| {
            tracing::warn!(%error, "the rules' cursor is damaged; the output is matched from its beginning again");
            None
        });
        let (place, matcher, excerpt, needed_from) = match stored {
            Some(stored) => (stored.place, Matcher::resume(rules, stored.matcher), stored.excerpt, stored.needed_from),
            None => {
                (Position { stage: Stage::Lines, ..Position::START }, Matcher::new(rules), Excerpt::default(), None)
            }
        };
        let reader = SpoolReader::open(run.spool(), place);
        let ahead = SpoolReader::open(run.spool(), needed_from.unwrap_or(place).max(place));
        Scan { run: run.clone(), reader, ahead, needed_from, matcher, excerpt, stored_at: Instant::now() }
    }

    /// Reads on for one turn; says whether there may be more.
    ///
    /// # Errors
    /// When the spool cannot be read; the next turn tries again.
    pub fn read_turn(&mut self, output: OutputState) -> io::Result<bool> {
        if self.matcher.rules().is_empty() && self.excerpt.has_head() {
            match output {
                OutputState::Growing { seen, is_sent } => return self.follow_sinks(seen, is_sent),
                OutputState::Whole(counts) if self.skip_to_tail(&counts)? => return Ok(false),
                OutputState::Whole(_) => {}
            }
        }
        let mut last = None;
        let more = self.continue_matching(&mut last);
        if let Some(last) = last {
            self.excerpt.feed(&last);
        }
        let more = more?;
        if more && self.stored_at.elapsed() >= STORE_INTERVAL {
            self.store()?;
        }
        Ok(more)
    }

    /// Matches block after block. `last` is the one that the excerpt has not got yet: when the next one shows that none of
    /// its lines can stay, it never does.
    fn continue_matching(&mut self, last: &mut Option<Block>) -> io::Result<bool> {
        let mut bytes = 0;
        while bytes < TURN_BYTES {
            let Some(block) = self.reader.read(BLOCK_BYTES)? else { return Ok(false) };
            self.matcher.feed(&block);
            bytes += block.bytes.len();
            let is_passed = self.excerpt.is_superseded_by(&block);
            if let Some(earlier) = last.replace(block)
                && !is_passed
            {
                self.excerpt.feed(&earlier);
            }
            if self.matcher.rules().is_empty() && self.excerpt.has_head() {
                return Ok(true);
            }
        }
        Ok(true)
    }

    /// Nothing but the tail is wanted of an output that still grows, and that only at its end. How far it is must be known
    /// where it is sent, though: when no sink's reader tells, lines are counted here.
    fn follow_sinks(&mut self, seen: Position, is_sent: bool) -> io::Result<bool> {
        let folder = self.run.spool();
        let size = |segment: &u64| metadata(folder.join(segment_name(*segment))).map_or(0, |file| file.len());
        // A full segment that is closed has more lines than a tail.
        let full = segments(&folder)?.into_iter().rev().skip(1).find(|segment| size(segment) >= SEGMENT_BYTES_MAX);
        let needed_from = full.map(start_of);
        let is_told = seen > self.ahead.position();
        if is_told {
            self.ahead.seek(Position { stage: Stage::Lines, ..seen });
        }
        let more = is_sent && !is_told && self.count_lines_ahead()?;
        if needed_from > self.needed_from && self.stored_at.elapsed() >= STORE_INTERVAL {
            self.needed_from = needed_from;
            self.store()?;
        }
        Ok(more)
    }

    fn count_lines_ahead(&mut self) -> io::Result<bool> {
        let mut bytes = 0;
        while bytes < TURN_BYTES {
            let Some(block) = self.ahead.read(BLOCK_BYTES)? else { return Ok(false) };
            bytes += block.bytes.len();
        }
        Ok(true)
    }

    /// Goes to the end of a whole output and takes the tail from there, if the spool is to the byte what was counted and
    /// its last lines fill the tail; else says no, and everything is to be read.
    fn skip_to_tail(&mut self, counts: &OutputCounts) -> io::Result<bool> {
        let mut bytes = BLOCK_BYTES;
        while bytes <= TAIL_BYTES_MAX {
            let Some(block) = last_records(&self.run.spool(), counts, bytes)? else { return Ok(false) };
            if block.first_seq < self.reader.position().seq {
                return Ok(false);
            }
            if self.excerpt.is_superseded_by(&block) {
                self.reader.seek(block.end);
                self.excerpt.feed(&block);
                return Ok(true);
            }
            bytes *= 2;
        }
        Ok(false)
    }

    /// # Errors
    /// When the cursor cannot be written; the scan itself goes on.
    pub fn store(&mut self) -> io::Result<()> {
        self.stored_at = Instant::now();
        let stored = StoredScan {
            place: self.reader.position(),
            matcher: self.matcher.state(),
            excerpt: self.excerpt.clone(),
            needed_from: self.needed_from,
        };
        write_json(&self.run.cursors().join(RULES_CURSOR), &stored, Durability::Cache)
    }

    /// How far it is; everything before has been seen, or passed without need.
    pub fn position(&self) -> Position {
        self.reader.position()
    }

    /// How far the output is known: at least as far as it is read.
    pub fn scanned_position(&self) -> Position {
        self.reader.position().max(self.ahead.position())
    }

    pub fn matcher(&self) -> &Matcher {
        &self.matcher
    }

    pub fn excerpt(&self) -> &Excerpt {
        &self.excerpt
    }
}

fn start_of(segment: u64) -> Position {
    Position { seq: segment, segment, offset: 0, stage: Stage::Lines }
}

/// Before what the scan of an attempt needs nothing any more, as it was stored last.
pub fn stored_position(run: &RunDirectory) -> Option<Position> {
    let stored = read_json::<StoredScan>(&run.cursors().join(RULES_CURSOR)).ok().flatten()?;
    Some(stored.needed_from.map_or(stored.place, |needed_from| needed_from.max(stored.place)))
}

/// Lets the rules read for a turn; says whether there may be more. `ended` is what a run that has ended printed.
pub async fn match_new_output(
    shared: &Arc<RunnerState>,
    run: &Arc<LocalRun>,
    scan: &mut Option<Scan>,
    ended: Option<OutputCounts>,
) -> bool {
    let mut reading = scan.take().unwrap_or_else(|| Scan::open(&run.directory, shared.rules_of(run.job())));
    let _turn = shared.scan_permits.acquire().await;
    let output = match ended {
        Some(counts) => OutputState::Whole(counts),
        None => OutputState::Growing { seen: run.read_position(), is_sent: !run.fed_sinks().is_empty() },
    };
    let read = tokio::task::spawn_blocking(move || (reading.read_turn(output), reading)).await;
    match read {
        Ok((more, reading)) => {
            run.note_read_position(reading.scanned_position());
            *scan = Some(reading);
            more.unwrap_or_else(|error| {
                tracing::error!(%error, run_id = %run.run_id(), "the rules cannot read the spool; they try again");
                false
            })
        }
        Err(error) => {
            tracing::error!(%error, run_id = %run.run_id(), "matching ended badly; it begins again from its cursor");
            false
        }
    }
}

#[cfg(test)]
mod tests;
