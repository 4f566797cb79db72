//! A run's output for readers: byte for byte as the job wrote it, or with time and stream before each line. Called by
//! `sexton logs` and the console. Needs only the run directory, no runner. Lines that retention deleted are never
//! skipped silently: they are returned as a separate piece.

use std::io;

use domain::event::OutputEnd;
use domain::line::{Block, Gap, Line, Position, Stream};
use domain::units::format_lines;

use crate::directory::{RunDirectory, read_json};
use crate::records::Exit;
use crate::spool::{self, SpoolReader};

/// Bytes per read of the spool.
const BLOCK_BYTES: usize = 64 << 10;

/// How lines are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFormat {
    /// The bytes as the job wrote them.
    Raw,
    /// With `2026-11-23T07:50:00.123456789Z stdout ` before each line.
    Timestamped,
}

/// One piece of a run's output.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Output of the chosen streams, at least one byte.
    Bytes(Vec<u8>),
    /// Lines that no longer exist.
    Missing(MissingLines),
    /// The job has not printed more yet.
    Pending,
    /// The run has ended and all of its output was returned.
    End,
}

/// Lines of both streams that retention deleted before they were read, or that a full disk did not store at the end of
/// a run. Each part of a long line counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingLines {
    /// The seq of the first missing line.
    pub first_seq: u64,
    /// The seq of the last missing line.
    pub last_seq: u64,
}

impl MissingLines {
    /// Number of missing lines.
    pub fn lines(&self) -> u64 {
        self.last_seq + 1 - self.first_seq
    }
}

impl std::fmt::Display for MissingLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let MissingLines { first_seq, last_seq } = self;
        let lines = format_lines(self.lines());
        write!(
            f,
            "{lines} (seq {first_seq}-{last_seq}) are missing: deleted by retention, or never stored because the disk was full"
        )
    }
}

/// Number of lines missing at the start of a run's output, as [`Output`] would return first; 0 when none is missing.
pub fn missing_at_start(run: &RunDirectory) -> u64 {
    let first = spool::segments(&run.spool()).ok().and_then(|segments| segments.first().copied());
    first.map_or(0, |first_seq| first_seq.saturating_sub(1))
}

/// A reader of one run's output.
pub struct Output {
    run: RunDirectory,
    reader: SpoolReader,
    stream: Option<Stream>,
    format: LineFormat,
    /// The stream whose last printed record was a part without the line's end.
    open_line: Option<Stream>,
    /// The next seq when no line is missing.
    next_seq: u64,
    /// Read from the spool; returned after the missing lines before it.
    pending: Option<Block>,
    /// The last seq of the whole run, once its keeper has recorded it.
    last_seq: Option<u64>,
}

impl Output {
    /// Starts at the beginning of the output. `stream` None means both.
    pub fn open(run: RunDirectory, stream: Option<Stream>, format: LineFormat) -> Output {
        let reader = SpoolReader::open(run.spool(), Position::START);
        Output { run, reader, stream, format, open_line: None, next_seq: 1, pending: None, last_seq: None }
    }

    /// Returns the next piece.
    ///
    /// # Errors
    /// When the spool cannot be read.
    pub fn read(&mut self) -> io::Result<Piece> {
        loop {
            // Checked before reading, so that the last records before the keeper's end are read.
            let over = self.is_over();
            let block = match self.pending.take() {
                Some(block) => block,
                None => match self.reader.read(BLOCK_BYTES)? {
                    Some(block) => block,
                    None if !over => return Ok(Piece::Pending),
                    None => {
                        return Ok(self
                            .take_missing_until(self.last_seq.unwrap_or(0))
                            .map_or(Piece::End, Piece::Missing));
                    }
                },
            };
            if let Some(missing) = self.take_missing_until(block.first_seq.saturating_sub(1)) {
                self.pending = Some(block);
                return Ok(Piece::Missing(missing));
            }
            let mut bytes = Vec::with_capacity(block.bytes.len());
            for line in block.lines() {
                self.next_seq = self.next_seq.max(last_seq(&line) + 1);
                if line.tag.gap || self.stream.is_none_or(|stream| stream == line.stream) {
                    self.show(&line, &mut bytes);
                }
            }
            if !bytes.is_empty() {
                return Ok(Piece::Bytes(bytes));
            }
        }
    }

    fn is_over(&mut self) -> bool {
        if self.last_seq.is_none() {
            self.last_seq = last_seq_of_ended(&self.run);
        }
        self.last_seq.is_some() || !self.run.path().exists()
    }

    /// The missing lines from the next seq to `last_seq`. Returned only once.
    fn take_missing_until(&mut self, last_seq: u64) -> Option<MissingLines> {
        let missing = MissingLines { first_seq: self.next_seq, last_seq };
        self.next_seq = self.next_seq.max(last_seq + 1);
        (missing.first_seq <= last_seq).then_some(missing)
    }

    fn show(&mut self, line: &Line<'_>, out: &mut Vec<u8>) {
        if line.tag.gap {
            // Marked as not the job's text, so that no reader takes the output for complete.
            out.extend_from_slice(b"[sexton: ");
            out.extend_from_slice(line.text);
            out.extend_from_slice(b"]\n");
            return;
        }
        let continues = line.tag.part > 1 && self.open_line == Some(line.stream);
        if self.format == LineFormat::Timestamped && !continues {
            out.extend_from_slice(line.stamp);
            out.push(b' ');
            out.extend_from_slice(line.stream.name().as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        // With timestamps every line gets a newline, also the last.
        if line.tag.last && (line.tag.newline || self.format == LineFormat::Timestamped) {
            out.push(b'\n');
        }
        self.open_line = (!line.tag.last).then_some(line.stream);
    }
}

/// The last seq of an output that has ended; 0 when its record is damaged. None while it may grow.
fn last_seq_of_ended(run: &RunDirectory) -> Option<u64> {
    match read_json::<Exit>(&run.exit()) {
        Ok(None) => None,
        Ok(Some(exit)) if !exit.output_open => Some(exit.output.last_seq),
        Ok(Some(_)) => match read_json::<OutputEnd>(&run.output_end()) {
            Ok(end) => end.map(|end| end.output.last_seq),
            Err(_) => run.output_end().exists().then_some(0),
        },
        Err(_) => run.exit().exists().then_some(0),
    }
}

/// The seq of the last line that a record is or replaces.
fn last_seq(line: &Line<'_>) -> u64 {
    let gap = line.tag.gap.then(|| Gap::parse(line.text)).flatten();
    gap.map_or(line.seq, |gap| gap.last_seq)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::segment_name;

    fn printed(records: &str, stream: Option<Stream>, format: LineFormat) -> String {
        let folder = tempfile::tempdir().expect("folder");
        let run = RunDirectory::open(folder.path());
        run.create().expect("directory");
        std::fs::write(run.spool().join(segment_name(1)), records).expect("segment");
        let mut output = Output::open(run.clone(), stream, format);
        let mut text = Vec::new();
        while let Piece::Bytes(bytes) = output.read().expect("read") {
            text.extend(bytes);
        }
        assert_eq!(output.read().expect("read"), Piece::Pending);
        std::fs::write(run.exit(), "{}").expect("exit");
        assert_eq!(output.read().expect("read"), Piece::End);
        String::from_utf8(text).expect("text")
    }

    #[test]
    fn output_is_returned_in_both_formats() {
        let at = "2026-11-23T07:50:00.123456789Z";
        let records = format!(
            "{at} stdout F one\n{at} stderr P:1 long\n{at} stderr F:2 er\n{at} stderr F:gap 3 lines dropped\n\
             {at} stdout F:noeol last\n"
        );
        let check = |stream: Option<Stream>, how: LineFormat, expected: &str| {
            assert_eq!(printed(&records, stream, how), expected, "{stream:?} {how:?}");
        };
        check(None, LineFormat::Raw, "one\nlonger\n[sexton: 3 lines dropped]\nlast");
        check(Some(Stream::Stdout), LineFormat::Raw, "one\n[sexton: 3 lines dropped]\nlast");
        check(
            Some(Stream::Stderr),
            LineFormat::Timestamped,
            &format!("{at} stderr longer\n[sexton: 3 lines dropped]\n"),
        );
    }

    #[test]
    fn missing_lines_are_returned_with_their_seqs() {
        let at = "2026-11-23T07:50:00.123456789Z";
        let folder = tempfile::tempdir().expect("folder");
        let run = RunDirectory::open(folder.path());
        run.create().expect("directory");
        let segment = |first_seq: u64, records: String| {
            std::fs::write(run.spool().join(segment_name(first_seq)), records).expect("segment");
        };
        assert_eq!(missing_at_start(&run), 0);
        segment(5, format!("{at} stdout F five\n{at} stderr F:gap 4 lines, 9 bytes dropped (seq 6-9): full\n"));
        segment(10, format!("{at} stdout F ten\n"));
        segment(20, format!("{at} stderr F twenty\n"));
        assert_eq!(missing_at_start(&run), 4);
        let mut exit = Exit::not_started("", jiff::Timestamp::UNIX_EPOCH);
        exit.output.last_seq = 22;
        crate::directory::write_json(&run.exit(), &exit, crate::directory::Durability::Cache).expect("exit");
        let missing = |first_seq, last_seq| Piece::Missing(MissingLines { first_seq, last_seq });
        let bytes = |text: &str| Piece::Bytes(text.as_bytes().to_vec());
        let check = |stream: Option<Stream>, expected: &[Piece]| {
            let mut output = Output::open(run.clone(), stream, LineFormat::Raw);
            let pieces: Vec<Piece> = expected.iter().map(|_| output.read().expect("read")).collect();
            assert_eq!(pieces, expected, "{stream:?}");
            assert_eq!(output.read().expect("read"), Piece::End);
        };
        let gap = "[sexton: 4 lines, 9 bytes dropped (seq 6-9): full]\n";
        let five = format!("five\n{gap}");
        let all = [missing(1, 4), bytes(&five), bytes("ten\n"), missing(11, 19), bytes("twenty\n"), missing(21, 22)];
        check(None, &all);
        check(Some(Stream::Stderr), &[missing(1, 4), bytes(gap), missing(11, 19), bytes("twenty\n"), missing(21, 22)]);
    }
}
