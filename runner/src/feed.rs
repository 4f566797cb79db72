//! A run's spool as one sink reads it, from the sink's own cursor: `run.started`, the lines, `run.finished`; late lines
//! and `run.output_ended` where the output stays open.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use domain::line::{Block, Position, STAMP_BYTES, Stage, parse};
use keeper::directory::{Durability, read_json, write_json};
use keeper::spool::{SpoolReader, segment_name};
use sinks::feed::{Feed, Item, Lag, Next, Peek, RunHeader};

use crate::local_run::LocalRun;
use crate::output_end::is_late;

/// Path of a sink's cursor. A sink's name is any key of the sinks file. Characters that a file name cannot have are
/// replaced, and the length distinguishes such names.
pub(crate) fn cursor_path(run: &LocalRun, sink: &str) -> PathBuf {
    run.directory.cursors().join(cursor_name(sink))
}

pub(crate) fn cursor_name(sink: &str) -> String {
    format!("{}{CURSOR_EXTENSION}", file_stem(sink))
}

/// End of the names of cursors.
pub(crate) const CURSOR_EXTENSION: &str = ".sink";

/// The sink's name as part of file names.
pub(crate) fn file_stem(sink: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '~' };
    let name: String = sink.chars().take(100).map(plain).collect();
    match name == sink {
        true => name,
        false => format!("{name}~{}", sink.len()),
    }
}

/// The stored cursor of a sink. None where there is none, and where it cannot be read.
pub(crate) fn read_cursor(run: &LocalRun, sink: &str) -> Option<Position> {
    read_json(&cursor_path(run, sink)).ok().flatten()
}

/// What a sink lacks of the run after this position.
pub(crate) fn lag_after(run: &LocalRun, from: Position) -> Lag {
    if from.stage == Stage::Done {
        return Lag::default();
    }
    let behind = SpoolReader::open(run.directory.spool(), from).bytes_behind().unwrap_or(0);
    Lag {
        lines: (run.last_known_seq() + 1).saturating_sub(from.seq),
        bytes: behind,
        oldest: if behind > 0 { captured_at(run, from) } else { None },
    }
}

/// Capture time of the record at this position.
fn captured_at(run: &LocalRun, place: Position) -> Option<jiff::Timestamp> {
    use std::os::unix::fs::FileExt;
    let path = run.directory.spool().join(segment_name(place.segment));
    let mut head = [0; STAMP_BYTES + 16];
    let got = std::fs::File::open(path).ok()?.read_at(&mut head, place.offset).ok()?;
    Some(parse(head.get(..got)?, 0).at()).filter(|at| *at != jiff::Timestamp::UNIX_EPOCH)
}

pub(crate) struct SpoolFeed {
    run: Arc<LocalRun>,
    header: Arc<RunHeader>,
    cursor: PathBuf,
    stored: Position,
    reader: SpoolReader,
}

impl SpoolFeed {
    /// A feed of a run that has its header. An unreadable cursor starts from the beginning: lines twice are better than
    /// lost lines.
    pub(crate) fn open(run: Arc<LocalRun>, header: Arc<RunHeader>, sink: &str) -> SpoolFeed {
        let cursor = cursor_path(&run, sink);
        let stored = read_json(&cursor)
            .unwrap_or_else(|error| {
                tracing::warn!(%error, sink, run_id = %run.run_id(), "a cursor is damaged; the run is sent again");
                None
            })
            .unwrap_or(Position::START);
        let reader = SpoolReader::open(run.directory.spool(), stored);
        SpoolFeed { run, header, cursor, stored, reader }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.stored.stage == Stage::Done
    }

    fn pass_block(&self, block: Block) -> Next {
        self.run.note_read_position(block.end);
        let end = block.end;
        Next::Item { item: Item::Lines(block), end }
    }

    fn pass_item(&mut self, item: Item, stage: Stage) -> Next {
        let end = Position { stage, ..self.reader.position() };
        self.reader.seek(end);
        Next::Item { item, end }
    }
}

impl Feed for SpoolFeed {
    fn header(&self) -> &Arc<RunHeader> {
        &self.header
    }

    fn read(&mut self, bytes_max: usize) -> io::Result<Next> {
        match self.reader.position().stage {
            Stage::Before => Ok(self.pass_item(Item::Started, Stage::Lines)),
            Stage::Lines => {
                // Checked before reading: what a finished run printed is in its spool.
                let finished = self.run.finished().cloned();
                let before = self.reader.position();
                if let Some(block) = self.reader.read(bytes_max)? {
                    if !is_late(&self.run.directory, &block) {
                        return Ok(self.pass_block(block));
                    }
                    self.reader.seek(before);
                }
                Ok(match finished {
                    Some(record) => {
                        let stage = if record.output_open { Stage::Late } else { Stage::Done };
                        self.pass_item(Item::Finished(record), stage)
                    }
                    None => Next::Pending,
                })
            }
            Stage::Late => {
                let ended = self.run.output_ended().cloned();
                if let Some(block) = self.reader.read(bytes_max)? {
                    return Ok(self.pass_block(block));
                }
                Ok(match ended {
                    Some(record) => self.pass_item(Item::OutputEnded(record), Stage::Done),
                    None => Next::Pending,
                })
            }
            Stage::Done => Ok(Next::Done),
        }
    }

    fn peek(&self) -> Peek {
        let is_over = match self.reader.position().stage {
            Stage::Before => return Peek::Item,
            Stage::Lines => self.run.finished().is_some(),
            Stage::Late => self.run.output_ended().is_some(),
            Stage::Done => return Peek::Done,
        };
        let is_behind = || self.reader.bytes_behind().map_or(true, |bytes| bytes > 0);
        if is_over || is_behind() { Peek::Item } else { Peek::Pending }
    }

    fn rewind(&mut self) {
        self.reader.seek(self.stored);
    }

    fn commit(&mut self, position: Position) -> io::Result<()> {
        if position <= self.stored {
            return Ok(());
        }
        // Not synced: after a power cut a sink gets some lines twice, after a kill it does not.
        match write_json(&self.cursor, &position, Durability::Cache) {
            // The run directory was removed by another process; the feed in memory must not stop the sink.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.run.directory.path().exists() => {}
            written => written?,
        }
        self.stored = position;
        if position.stage == Stage::Done {
            self.run.note_change();
        }
        Ok(())
    }

    fn lag(&self, position: Position) -> Lag {
        lag_after(&self.run, self.stored.max(position))
    }
}
