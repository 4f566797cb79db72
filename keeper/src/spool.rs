//! Reads a run's spool while its keeper writes it, or later. Every reader has its own position. No reader ever gets an
//! incomplete record.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use domain::line::{Block, Position, STAMP_BYTES, Stage};

use domain::run::OutputCounts;

/// `00000000000000000001.log`: the order by name is the order by number.
pub fn segment_name(first_seq: u64) -> String {
    format!("{first_seq:020}.log")
}

/// The first seq of each existing segment, in order.
pub fn segments(folder: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(".log"));
        found.extend(digits.filter(|digits| digits.len() == 20).and_then(|digits| digits.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// Segments that readers of this process keep open between reads.
static OPEN_SEGMENTS: AtomicUsize = AtomicUsize::new(0);

static OPEN_SEGMENTS_MAX: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Limits the segments that all readers of this process keep open between reads. Above the limit, a reader opens its
/// segment for each read.
pub fn set_open_segments_max(most: usize) {
    OPEN_SEGMENTS_MAX.store(most, Ordering::Relaxed);
}

/// An open segment, counted.
struct OpenSegment(File);

impl OpenSegment {
    fn new(file: File) -> OpenSegment {
        OPEN_SEGMENTS.fetch_add(1, Ordering::Relaxed);
        OpenSegment(file)
    }
}

impl Drop for OpenSegment {
    fn drop(&mut self) {
        OPEN_SEGMENTS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One reader of one spool.
pub struct SpoolReader {
    folder: PathBuf,
    position: Position,
    segment: Option<OpenSegment>,
}

impl SpoolReader {
    /// A reader that starts at `position`. The folder may still be empty.
    pub fn open(folder: impl Into<PathBuf>, position: Position) -> SpoolReader {
        SpoolReader { folder: folder.into(), position, segment: None }
    }

    /// The position of the next record.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Continues reading at `position`.
    pub fn seek(&mut self, position: Position) {
        if position.segment != self.position.segment {
            self.segment = None;
        }
        self.position = position;
    }

    /// Returns the next whole records: at most `bytes_max`, unless a single record is longer. None when there are no
    /// more yet.
    ///
    /// # Errors
    /// When a segment cannot be read. A segment that was deleted before it was read is skipped; the `first_seq` of the
    /// next block shows how many records are missing.
    pub fn read(&mut self, bytes_max: usize) -> io::Result<Option<Block>> {
        let block = self.read_next(bytes_max);
        if OPEN_SEGMENTS.load(Ordering::Relaxed) > OPEN_SEGMENTS_MAX.load(Ordering::Relaxed) {
            self.segment = None;
        }
        block
    }

    fn read_next(&mut self, bytes_max: usize) -> io::Result<Option<Block>> {
        loop {
            if let Some(block) = self.read_segment(bytes_max)? {
                return Ok(Some(block));
            }
            let Some(next) = self.next_segment()? else { return Ok(None) };
            // The keeper opens a segment after its last write to the previous one, so the previous one is now final.
            if let Some(block) = self.read_segment(bytes_max)? {
                return Ok(Some(block));
            }
            self.segment = None;
            self.position = Position { seq: next, segment: next, offset: 0, stage: self.position.stage };
        }
    }

    /// Bytes between the position and the end of the spool.
    pub fn bytes_behind(&self) -> io::Result<u64> {
        self.bytes_behind_in(u64::MAX)
    }

    /// The same, without segments that begin after `last_seq`.
    pub fn bytes_behind_in(&self, last_seq: u64) -> io::Result<u64> {
        let mut bytes = 0;
        for first_seq in segments(&self.folder)? {
            if first_seq >= self.position.segment && first_seq <= last_seq.max(1) {
                bytes += fs::metadata(self.folder.join(segment_name(first_seq))).map_or(0, |file| file.len());
            }
        }
        Ok(bytes.saturating_sub(self.position.offset))
    }

    fn next_segment(&self) -> io::Result<Option<u64>> {
        Ok(segments(&self.folder)?.into_iter().find(|first_seq| *first_seq > self.position.segment))
    }

    fn read_segment(&mut self, bytes_max: usize) -> io::Result<Option<Block>> {
        let offset = self.position.offset;
        let Some(file) = self.open_segment()? else { return Ok(None) };
        let whole = SCRATCH.with_borrow_mut(|scratch| read_whole_records(file, offset, bytes_max.max(1), scratch))?;
        let Some(bytes) = whole else { return Ok(None) };
        let first_seq = self.position.seq;
        self.position.seq += memchr::memchr_iter(b'\n', &bytes).count() as u64;
        self.position.offset += bytes.len() as u64;
        Ok(Some(Block { first_seq, bytes, end: self.position }))
    }

    fn open_segment(&mut self) -> io::Result<Option<&File>> {
        if self.segment.is_none() {
            match File::open(self.folder.join(segment_name(self.position.segment))) {
                Ok(file) => self.segment = Some(OpenSegment::new(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(self.segment.as_ref().map(|segment| &segment.0))
    }
}

/// Size of the buffer that each thread keeps. A larger one, for a longer record, is freed after use.
const SCRATCH_BYTES_KEPT: usize = 256 << 10;

thread_local! {
    // Shared by all readers of a thread, because 1,000 runs with three sinks each must not have 3,000 buffers.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn read_whole_records(
    file: &File,
    offset: u64,
    bytes_max: usize,
    scratch: &mut Vec<u8>,
) -> io::Result<Option<Arc<[u8]>>> {
    let mut wanted = bytes_max;
    let whole = loop {
        if scratch.len() < wanted {
            scratch.resize(wanted, 0);
        }
        let got = read_up_to(file, &mut scratch[..wanted], offset)?;
        if let Some(newline) = memchr::memrchr(b'\n', &scratch[..got]) {
            break Some(Arc::from(&scratch[..=newline]));
        }
        if got < wanted {
            break None;
        }
        wanted *= 2;
    };
    if scratch.len() > SCRATCH_BYTES_KEPT {
        scratch.truncate(SCRATCH_BYTES_KEPT);
        scratch.shrink_to_fit();
    }
    Ok(whole)
}

fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < bytes.len() {
        match file.read_at(&mut bytes[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

/// The last whole records of a finished spool: at most `bytes_max`, all of one segment, numbered from the end. None
/// when the spool's size is not exactly the size of the counted lines, or when a line is split into parts or dropped.
/// The counts then do not give the seq.
///
/// # Errors
/// When the spool cannot be read.
pub fn last_records(folder: &Path, counts: &OutputCounts, bytes_max: usize) -> io::Result<Option<Block>> {
    const HEAD_BYTES: u64 = STAMP_BYTES as u64 + " stdout F ".len() as u64;
    let lines = counts.stdout_lines + counts.stderr_lines;
    let counted = counts.stdout_bytes + counts.stderr_bytes + HEAD_BYTES * lines;
    // Lines that were printed after the counts are in later segments.
    let mut segments = segments(folder)?;
    segments.retain(|first_seq| *first_seq <= counts.last_seq);
    let Some(segment) = segments.last().copied() else { return Ok(None) };
    let mut bytes = 0;
    let mut segment_bytes = 0;
    for first_seq in segments {
        segment_bytes = fs::metadata(folder.join(segment_name(first_seq)))?.len();
        bytes += segment_bytes;
    }
    if lines != counts.last_seq || counts.dropped_lines > 0 || bytes != counted {
        return Ok(None);
    }
    let offset = segment_bytes.saturating_sub(bytes_max as u64);
    let mut records = vec![0; (segment_bytes - offset) as usize];
    File::open(folder.join(segment_name(segment)))?.read_exact_at(&mut records, offset)?;
    if offset > 0 {
        let Some(newline) = memchr::memchr(b'\n', &records) else { return Ok(None) };
        records.drain(..=newline);
    }
    let first_seq = (lines + 1).saturating_sub(memchr::memchr_iter(b'\n', &records).count() as u64);
    let end = Position { seq: lines + 1, segment, offset: segment_bytes, stage: Stage::Lines };
    Ok((first_seq >= segment).then(|| Block { first_seq, bytes: records.into(), end }))
}

/// The repair of a spool whose keeper died during a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    /// The seq of the last record.
    pub last_seq: u64,
    /// Bytes of a last record without its end; they are kept as a line.
    pub torn_bytes: u64,
}

/// Completes an incomplete last record, so that readers get it, and returns the last seq. Only for a spool without a
/// keeper. Idempotent.
pub fn repair_tail(folder: &Path) -> io::Result<Repair> {
    let Some(last) = segments(folder)?.pop() else { return Ok(Repair::default()) };
    let path = folder.join(segment_name(last));
    let mut reader = SpoolReader::open(folder, Position { seq: last, segment: last, offset: 0, ..Position::START });
    while reader.read(1 << 20)?.is_some() {}
    let position = reader.position();
    let torn_bytes = fs::metadata(&path)?.len().saturating_sub(position.offset);
    if torn_bytes == 0 {
        return Ok(Repair { last_seq: position.seq - 1, torn_bytes });
    }
    use io::Write;
    fs::OpenOptions::new().append(true).open(&path)?.write_all(b"\n")?;
    Ok(Repair { last_seq: position.seq, torn_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, first_seq: u64, text: &str) {
        use io::Write;
        let path = folder.join(segment_name(first_seq));
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).expect("segment");
        file.write_all(text.as_bytes()).expect("write");
    }

    fn next(reader: &mut SpoolReader) -> Option<(u64, String)> {
        let block = reader.read(16).expect("read")?;
        Some((block.first_seq, String::from_utf8_lossy(&block.bytes).into_owned()))
    }

    #[test]
    fn an_incomplete_record_is_not_returned() {
        let folder = tempfile::tempdir().expect("folder");
        let mut reader = SpoolReader::open(folder.path(), Position::START);
        assert_eq!(next(&mut reader), None);
        write(folder.path(), 1, "one\ntw");
        assert_eq!(next(&mut reader), Some((1, "one\n".into())));
        assert_eq!(next(&mut reader), None);
        write(folder.path(), 1, "o\n");
        assert_eq!(next(&mut reader), Some((2, "two\n".into())));
        assert_eq!(next(&mut reader), None);
    }

    #[test]
    fn a_record_longer_than_the_block_is_returned_whole() {
        let folder = tempfile::tempdir().expect("folder");
        let long = "x".repeat(1000);
        write(folder.path(), 1, &format!("{long}\nb\n"));
        let mut reader = SpoolReader::open(folder.path(), Position::START);
        let (seq, text) = next(&mut reader).expect("block");
        assert_eq!(seq, 1);
        assert!(text.starts_with(&format!("{long}\n")));
    }

    #[test]
    fn segments_are_read_in_order_also_after_a_gap() {
        let folder = tempfile::tempdir().expect("folder");
        let mut reader = SpoolReader::open(folder.path(), Position::START);
        write(folder.path(), 1, "1\n2\n");
        assert_eq!(next(&mut reader), Some((1, "1\n2\n".into())));
        write(folder.path(), 1, "3 gap to 9\n");
        write(folder.path(), 10, "10\n");
        assert_eq!(next(&mut reader), Some((3, "3 gap to 9\n".into())));
        assert_eq!(next(&mut reader), Some((10, "10\n".into())));
        assert_eq!(reader.position(), Position { seq: 11, segment: 10, offset: 3, ..Position::START });
        let mut later = SpoolReader::open(folder.path(), reader.position());
        write(folder.path(), 10, "11\n");
        assert_eq!(next(&mut later), Some((11, "11\n".into())));
        assert_eq!(later.bytes_behind().expect("bytes"), 0);
    }

    #[test]
    fn an_incomplete_record_of_a_dead_keeper_becomes_a_line() {
        let folder = tempfile::tempdir().expect("folder");
        assert_eq!(repair_tail(folder.path()).expect("empty"), Repair::default());
        write(folder.path(), 5, "five\nsi");
        assert_eq!(repair_tail(folder.path()).expect("torn"), Repair { last_seq: 6, torn_bytes: 2 });
        assert_eq!(repair_tail(folder.path()).expect("repaired"), Repair { last_seq: 6, torn_bytes: 0 });
    }
}
