//! Appends records to the spool's segments. When the disk refuses them, or has only its reserve left
//! ([`domain::disk_space`]), the job is never blocked: the middle is dropped and counted, and the newest records stay
//! in memory until there is space again.
//!
//! A gap has the seq of the first dropped record and is the last record of its segment. The next segment is named by
//! the seq after the dropped ones. So a record's position always gives its number.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use domain::disk_space::WriteAllowance;
use domain::line::{Gap, STAMP_BYTES, Stream, Tag, parse, write_head};
use domain::system_error::plain_text;

use crate::free_space;

/// A segment is closed at the first write beyond this size. Chosen: small enough that delivered output is freed early,
/// large enough that a day of output is a handful of files.
pub const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// The newest records that are kept in memory while the disk refuses writes. Chosen: fits the reserve together with
/// exit.json.
const TAIL_BYTES_MAX: usize = 64 << 10;

/// Retry interval of a disk that refused a write. Chosen, not measured.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The time between the disk's first refusal and its recovery.
struct Outage {
    reason: String,
    /// Whole records kept in memory.
    tail: Vec<u8>,
    tail_records: u64,
    dropped: Dropped,
    retry_at: Instant,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub records: u64,
    pub bytes: u64,
}

pub(crate) struct Writer {
    folder: PathBuf,
    /// The open segment. None before the first record and after a gap.
    segment: Option<File>,
    segment_bytes: u64,
    segment_bytes_max: u64,
    /// The seq of the next record that is written, or of the first one that is being dropped.
    next_seq: u64,
    dropped: Dropped,
    outage: Option<Outage>,
    allowance: WriteAllowance,
    /// The last records may use the disk's reserve.
    may_use_reserve: bool,
}

impl Writer {
    pub(crate) fn new(folder: PathBuf) -> Writer {
        Writer::with_segment_bytes_max(folder, SEGMENT_BYTES_MAX)
    }

    pub(crate) fn with_segment_bytes_max(folder: PathBuf, segment_bytes_max: u64) -> Writer {
        Writer {
            folder,
            segment: None,
            segment_bytes: 0,
            segment_bytes_max,
            next_seq: 1,
            dropped: Dropped::default(),
            outage: None,
            allowance: WriteAllowance::default(),
            may_use_reserve: false,
        }
    }

    /// The seq of the last record: written, kept or dropped.
    pub(crate) fn last_seq(&self) -> u64 {
        let waiting = self.outage.as_ref().map_or(0, |outage| outage.tail_records + outage.dropped.records);
        self.next_seq - 1 + waiting
    }

    /// Records that no reader will ever get.
    pub(crate) fn dropped(&self) -> Dropped {
        let waiting = self.outage.as_ref().map(|outage| outage.dropped).unwrap_or_default();
        Dropped { records: self.dropped.records + waiting.records, bytes: self.dropped.bytes + waiting.bytes }
    }

    /// When [`Writer::retry`] is due, during an outage.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.outage.as_ref().map(|outage| outage.retry_at)
    }

    /// Appends whole records. Never fails: records that the disk refuses are kept or dropped, and counted.
    pub(crate) fn append(&mut self, records: &[u8], count: u64, stamp: &[u8; STAMP_BYTES]) {
        if records.is_empty() {
            return;
        }
        if self.outage.is_some() {
            self.keep_tail(records, count);
            self.retry(stamp);
        } else if let Err((error, rest, rest_count)) = self.write(records, count) {
            self.start_outage(&error);
            self.keep_tail(&records[records.len() - rest..], rest_count);
        }
    }

    /// Writes the kept records if a retry is due.
    pub(crate) fn retry(&mut self, stamp: &[u8; STAMP_BYTES]) {
        if self.retry_at().is_some_and(|at| at <= Instant::now()) {
            self.recover(stamp);
        }
    }

    /// Ends a part of the spool: later records go into a new segment. Called after the reserve was freed: records that
    /// still do not fit are dropped, and their gap is written when there is space again.
    pub(crate) fn finish_part(&mut self, stamp: &[u8; STAMP_BYTES]) {
        self.may_use_reserve = true;
        self.recover(stamp);
        if let Some(outage) = &mut self.outage {
            let (tail, count) = (std::mem::take(&mut outage.tail), std::mem::take(&mut outage.tail_records));
            outage.dropped.records += count;
            outage.dropped.bytes += text_bytes(&tail);
            self.recover(stamp);
        }
        self.may_use_reserve = false;
        self.segment = None;
    }

    /// Ends the spool. Called after the reserve was freed, as [`Writer::finish_part`].
    pub(crate) fn finish(&mut self, stamp: &[u8; STAMP_BYTES]) {
        self.finish_part(stamp);
        if let Some(outage) = self.outage.take() {
            self.next_seq += outage.dropped.records;
            self.dropped.records += outage.dropped.records;
            self.dropped.bytes += outage.dropped.bytes;
        }
    }

    /// Writes all records, or returns how many bytes and records at the end are missing. An incomplete record is
    /// removed.
    fn write(&mut self, records: &[u8], count: u64) -> Result<(), (io::Error, usize, u64)> {
        let all = (records.len(), count);
        if !self.may_use_reserve
            && let Err(error) = self.allowance.consume(records.len() as u64, || free_space::read(&self.folder))
        {
            return Err((error, all.0, all.1));
        }
        if self.segment_bytes >= self.segment_bytes_max {
            self.segment = None;
        }
        let segment = match &mut self.segment {
            Some(segment) => segment,
            None => match open_segment(&self.folder, self.next_seq) {
                Ok(file) => {
                    self.segment_bytes = 0;
                    self.segment.insert(file)
                }
                Err(error) => return Err((error, all.0, all.1)),
            },
        };
        let mut written = 0;
        let error = loop {
            match segment.write(&records[written..]) {
                Ok(0) => break io::Error::from(io::ErrorKind::WriteZero),
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break error,
            }
            if written == records.len() {
                self.segment_bytes += written as u64;
                self.next_seq += count;
                return Ok(());
            }
        };
        let whole = memchr::memrchr(b'\n', &records[..written]).map_or(0, |newline| newline + 1);
        let whole_count = memchr::memchr_iter(b'\n', &records[..whole]).count() as u64;
        self.segment_bytes += whole as u64;
        self.next_seq += whole_count;
        if let Err(again) = segment.set_len(self.segment_bytes) {
            // The incomplete record stays and reads as one damaged record; the next segment keeps the numbers right.
            self.segment = None;
            return Err((again, records.len() - whole, count - whole_count));
        }
        Err((error, records.len() - whole, count - whole_count))
    }

    fn start_outage(&mut self, error: &io::Error) {
        self.outage = Some(Outage {
            reason: reason_text(error),
            tail: Vec::new(),
            tail_records: 0,
            dropped: Dropped::default(),
            retry_at: Instant::now() + RETRY_INTERVAL,
        });
    }

    /// Keeps the newest records in memory and drops the oldest of them.
    fn keep_tail(&mut self, records: &[u8], count: u64) {
        let Some(outage) = &mut self.outage else { return };
        outage.tail.extend_from_slice(records);
        outage.tail_records += count;
        if outage.tail.len() <= TAIL_BYTES_MAX {
            return;
        }
        let over = outage.tail.len() - TAIL_BYTES_MAX;
        let cut = memchr::memchr(b'\n', &outage.tail[over - 1..]).map_or(outage.tail.len(), |newline| over + newline);
        let dropped = memchr::memchr_iter(b'\n', &outage.tail[..cut]).count() as u64;
        outage.dropped.records += dropped;
        outage.dropped.bytes += text_bytes(&outage.tail[..cut]);
        outage.tail_records -= dropped;
        outage.tail.drain(..cut);
        outage.tail.shrink_to(2 * TAIL_BYTES_MAX);
    }

    /// Writes the gap, then the kept records.
    fn recover(&mut self, stamp: &[u8; STAMP_BYTES]) {
        let Some(mut outage) = self.outage.take() else { return };
        if outage.dropped.records > 0 {
            let gap = gap_record(stamp, outage.dropped, self.next_seq, &outage.reason);
            if let Err((error, ..)) = self.write(&gap, 1) {
                outage.reason = reason_text(&error);
                outage.retry_at = Instant::now() + RETRY_INTERVAL;
                self.outage = Some(outage);
                return;
            }
            self.next_seq += outage.dropped.records - 1;
            self.segment = None;
            self.dropped.records += outage.dropped.records;
            self.dropped.bytes += outage.dropped.bytes;
        }
        if outage.tail.is_empty() {
            return;
        }
        if let Err((error, rest, rest_count)) = self.write(&outage.tail, outage.tail_records) {
            self.start_outage(&error);
            self.keep_tail(&outage.tail[outage.tail.len() - rest..], rest_count);
        }
    }
}

fn open_segment(folder: &std::path::Path, first_seq: u64) -> io::Result<File> {
    let path = folder.join(crate::spool::segment_name(first_seq));
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn gap_record(stamp: &[u8; STAMP_BYTES], dropped: Dropped, first_seq: u64, reason: &str) -> Vec<u8> {
    let Dropped { records: lines, bytes } = dropped;
    let gap = Gap { lines, bytes, first_seq, last_seq: first_seq + lines - 1 };
    let mut record = Vec::new();
    write_head(stamp, Stream::Stderr, Tag::GAP, &mut record);
    record.extend_from_slice(gap.write(reason).as_bytes());
    record.push(b'\n');
    record
}

/// Bytes of these records as the job wrote them, newlines included.
fn text_bytes(records: &[u8]) -> u64 {
    let mut bytes = 0;
    for record in records.split_inclusive(|byte| *byte == b'\n') {
        let line = parse(record.strip_suffix(b"\n").unwrap_or(record), 0);
        bytes += line.text.len() as u64 + u64::from(line.tag.last && line.tag.newline);
    }
    bytes
}

fn reason_text(error: &io::Error) -> String {
    plain_text(error).replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use domain::line::stamp;
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_gap_keeps_its_form_on_disk() {
        let record = gap_record(&stamp(Timestamp::UNIX_EPOCH), Dropped { records: 12, bytes: 345 }, 7, "no space left");
        let golden =
            "1970-01-01T00:00:00.000000000Z stderr F:gap 12 lines, 345 bytes dropped (seq 7-18): no space left\n";
        assert_eq!(String::from_utf8(record).expect("text"), golden);
    }
}
