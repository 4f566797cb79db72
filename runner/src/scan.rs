//! The rules' reader of a spool: counts what matches and keeps the excerpt, at its own pace, and remembers on disk how far
//! it is, with what it found.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::line::{Block, Position, Stage};
use rules::{Matcher, MatcherState, RuleSet};
use serde::{Deserialize, Serialize};

use crate::directory::{Durability, RunDirectory, read_json, write_json};
use crate::excerpt::Excerpt;
use crate::spool::SpoolReader;

/// What is read at once.
const BLOCK_BYTES: usize = 64 << 10;

/// One turn of a scan, so that a thousand runs share a few threads fairly.
const TURN_BYTES: usize = 4 << 20;

/// The state is stored at most so often; what lies behind is scanned again after a crash.
const STORE_INTERVAL: Duration = Duration::from_secs(2);

/// The name of the rules' cursor.
pub const CURSOR: &str = "rules.scan";

#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    place: Position,
    matcher: MatcherState,
    excerpt: Excerpt,
}

pub struct Scan {
    run: RunDirectory,
    reader: SpoolReader,
    matcher: Matcher,
    excerpt: Excerpt,
    stored_at: Instant,
}

impl Scan {
    /// Goes on where an earlier scan of this attempt was; what cannot be read is scanned again from the beginning.
    pub fn open(run: &RunDirectory, rules: Arc<RuleSet>) -> Scan {
        let path = run.cursors().join(CURSOR);
        let stored = read_json::<Stored>(&path).unwrap_or_else(|error| {
            tracing::warn!(%error, "the rules' cursor is damaged; the output is matched from its beginning again");
            None
        });
        let (place, matcher, excerpt) = match stored {
            Some(stored) => (stored.place, Matcher::resume(rules, stored.matcher), stored.excerpt),
            None => (Position { stage: Stage::Lines, ..Position::START }, Matcher::new(rules), Excerpt::default()),
        };
        let reader = SpoolReader::open(run.spool(), place);
        Scan { run: run.clone(), reader, matcher, excerpt, stored_at: Instant::now() }
    }

    /// Reads on for one turn; says whether there may be more.
    ///
    /// # Errors
    /// When the spool cannot be read; the next turn tries again.
    pub fn turn(&mut self) -> io::Result<bool> {
        let mut last = None;
        let more = self.read_on(&mut last);
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
    fn read_on(&mut self, last: &mut Option<Block>) -> io::Result<bool> {
        let mut bytes = 0;
        while bytes < TURN_BYTES {
            let Some(block) = self.reader.read(BLOCK_BYTES)? else { return Ok(false) };
            self.matcher.feed(&block);
            bytes += block.bytes.len();
            let is_passed = self.excerpt.is_passed_by(&block);
            if let Some(earlier) = last.replace(block)
                && !is_passed
            {
                self.excerpt.feed(&earlier);
            }
        }
        Ok(true)
    }

    /// # Errors
    /// When the cursor cannot be written; the scan itself goes on.
    pub fn store(&mut self) -> io::Result<()> {
        self.stored_at = Instant::now();
        let stored =
            Stored { place: self.reader.place(), matcher: self.matcher.state(), excerpt: self.excerpt.clone() };
        write_json(&self.run.cursors().join(CURSOR), &stored, Durability::Cache)
    }

    /// How far it is; everything before has been seen.
    pub fn place(&self) -> Position {
        self.reader.place()
    }

    pub fn matcher(&self) -> &Matcher {
        &self.matcher
    }

    pub fn excerpt(&self) -> &Excerpt {
        &self.excerpt
    }
}

/// How far the scan of an attempt had come when it was stored last.
pub fn stored_place(run: &RunDirectory) -> Option<Position> {
    read_json::<Stored>(&run.cursors().join(CURSOR)).ok().flatten().map(|stored| stored.place)
}
