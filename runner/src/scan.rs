//! The rules' reader of a spool, up to the end of the run's process. It counts matches, keeps the excerpt, and stores
//! its position and results on disk. For a run without rules it reads only what the excerpt needs.

use std::fs::metadata;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::line::{Block, Position, Stage};
use domain::run::OutputCounts;
use keeper::SEGMENT_BYTES_MAX;
use keeper::directory::{Durability, RunDirectory, read_json, write_json};
use keeper::spool::{SpoolReader, last_records, segment_name, segments};
use rules::{Matcher, MatcherState, RuleSet};
use serde::{Deserialize, Serialize};

use crate::excerpt::Excerpt;
use crate::local_run::LocalRun;
use crate::output_end::is_late;
use crate::runner_state::RunnerState;

/// Bytes per read of the spool.
const BLOCK_BYTES: usize = 64 << 10;

/// Bytes per turn of a scan, so that 1,000 runs share a few threads fairly. Chosen, not measured.
const TURN_BYTES: usize = 4 << 20;

/// How far before the end the excerpt's tail is searched. When longer lines need more, the whole output is read.
const TAIL_BYTES_MAX: usize = 1 << 20;

/// The state is stored at most once in this time; the output since then is scanned again after a crash. Chosen, not
/// measured.
const STORE_INTERVAL: Duration = Duration::from_secs(2);

/// File name of the rules' cursor.
pub(crate) const RULES_CURSOR: &str = "rules.scan";

/// The state of a run's output at the start of a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OutputState {
    /// `seen`: position of the reader that is furthest ahead. `is_sent`: a sink has the run, so its lag must be known.
    Growing { seen: Position, is_sent: bool },
    /// The output is complete, with the keeper's counts.
    Whole(OutputCounts),
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct StoredScan {
    place: Position,
    matcher: MatcherState,
    excerpt: Excerpt,
    /// Without rules: output before this position is not needed, although it was not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    needed_from: Option<Position>,
}

pub(crate) struct Scan {
    run: RunDirectory,
    /// Everything before its position is in the matcher and in the excerpt.
    reader: SpoolReader,
    /// Without rules: how far the output is known, from other readers or by counting.
    ahead: SpoolReader,
    needed_from: Option<Position>,
    matcher: Matcher,
    excerpt: Excerpt,
    stored_at: Instant,
}

impl Scan {
    /// Continues from the stored state of an earlier scan. An unreadable state starts again from the beginning.
    pub(crate) fn open(run: &RunDirectory, rules: Arc<RuleSet>) -> Scan {
        let path = run.cursors().join(RULES_CURSOR);
        let stored = read_json::<StoredScan>(&path).unwrap_or_else(|error| {
            tracing::warn!(%error, "the rules' cursor is damaged; matching the output again from its beginning");
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

    /// Reads for one turn. Returns whether there may be more.
    ///
    /// # Errors
    /// When the spool cannot be read; the next turn retries.
    pub(crate) fn read_turn(&mut self, output: OutputState) -> io::Result<bool> {
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

    /// Matches block after block. `last` is a block that the excerpt does not have yet. It is left out when the next
    /// block alone fills the tail.
    fn continue_matching(&mut self, last: &mut Option<Block>) -> io::Result<bool> {
        let mut bytes = 0;
        while bytes < TURN_BYTES {
            let before = self.reader.position();
            let Some(block) = self.reader.read(BLOCK_BYTES)? else { return Ok(false) };
            if is_late(&self.run, &block) {
                self.reader.seek(before);
                return Ok(false);
            }
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

    /// Without rules, only the tail of the output is needed, and only at its end. But the number of lines must be known
    /// while a sink has the run. When no sink reads ahead, the lines are counted here.
    fn follow_sinks(&mut self, seen: Position, is_sent: bool) -> io::Result<bool> {
        let folder = self.run.spool();
        let size = |segment: &u64| metadata(folder.join(segment_name(*segment))).map_or(0, |file| file.len());
        // A closed segment of full size has more lines than a tail.
        let full = segments(&folder)?.into_iter().rev().skip(1).find(|segment| size(segment) >= SEGMENT_BYTES_MAX);
        let needed_from = full.map(start_of);
        let is_known = seen > self.ahead.position();
        if is_known {
            self.ahead.seek(Position { stage: Stage::Lines, ..seen });
        }
        let more = is_sent && !is_known && self.count_lines_ahead()?;
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

    /// Moves to the end of a complete output and reads the tail there. Returns false when the spool's size differs from
    /// the counts, or when its last lines do not fill the tail; everything must then be read.
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

    /// Stores position and results.
    ///
    /// # Errors
    /// When the cursor cannot be written; the scan itself continues.
    pub(crate) fn store(&mut self) -> io::Result<()> {
        self.stored_at = Instant::now();
        let stored = StoredScan {
            place: self.reader.position(),
            matcher: self.matcher.state(),
            excerpt: self.excerpt.clone(),
            needed_from: self.needed_from,
        };
        write_json(&self.run.cursors().join(RULES_CURSOR), &stored, Durability::Cache)
    }

    /// Everything before this position was read, or skipped because it is not needed.
    pub(crate) fn position(&self) -> Position {
        self.reader.position()
    }

    /// How far the output is known: at least as far as it was read.
    pub(crate) fn scanned_position(&self) -> Position {
        self.reader.position().max(self.ahead.position())
    }

    pub(crate) fn matcher(&self) -> &Matcher {
        &self.matcher
    }

    pub(crate) fn excerpt(&self) -> &Excerpt {
        &self.excerpt
    }
}

fn start_of(segment: u64) -> Position {
    Position { seq: segment, segment, offset: 0, stage: Stage::Lines }
}

/// The position before which the stored scan of an attempt needs no output.
pub(crate) fn stored_position(run: &RunDirectory) -> Option<Position> {
    let stored = read_json::<StoredScan>(&run.cursors().join(RULES_CURSOR)).ok().flatten()?;
    Some(stored.needed_from.map_or(stored.place, |needed_from| needed_from.max(stored.place)))
}

/// Lets the rules read for one turn. Returns whether there may be more. `ended` has the counts of a run that has ended.
pub(crate) async fn match_new_output(
    shared: &Arc<RunnerState>,
    run: &Arc<LocalRun>,
    scan: &mut Option<Scan>,
    ended: Option<OutputCounts>,
) -> bool {
    let earlier = scan.take();
    let _turn = shared.scan_permits.acquire().await;
    let output = match ended {
        Some(counts) => OutputState::Whole(counts),
        None => OutputState::Growing { seen: run.read_position(), is_sent: !run.fed_sinks().is_empty() },
    };
    let (own_shared, own_run) = (Arc::clone(shared), Arc::clone(run));
    let read = tokio::task::spawn_blocking(move || {
        let open = || Scan::open(&own_run.directory, own_shared.rules_of(own_run.job()));
        let mut reading = earlier.unwrap_or_else(open);
        (reading.read_turn(output), reading)
    })
    .await;
    match read {
        Ok((more, reading)) => {
            run.note_read_position(reading.scanned_position());
            *scan = Some(reading);
            more.unwrap_or_else(|error| {
                tracing::error!(%error, run_id = %run.run_id(), "the rules cannot read the spool, retrying");
                false
            })
        }
        Err(error) => {
            tracing::error!(%error, run_id = %run.run_id(), "matching task failed; it continues from its cursor");
            false
        }
    }
}

#[cfg(test)]
mod tests;
