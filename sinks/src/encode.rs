//! Encodes one item of a feed into a sink's batch: leaves out unwanted streams, replaces lines that are too old by a
//! gap, and cuts long lines. Called for every turn; knows no connection.

use domain::line::{Block, Line, STAMP_BYTES};
use jiff::{SignedDuration, Timestamp};

use crate::ansi;
use crate::clock_history::{AgeLimits, ClockHistory};
use crate::config::SinkConfig;
use crate::feed::Item;
use crate::record::{Gap, Record, RecordId, pieces};
use crate::sink::Sink;

/// Replaces the stamp of a damaged record: its age is unknown, so it is never too old.
const UNKNOWN_STAMP: &[u8] = b"1970-01-01T00:00:00.000000000Z";

/// The result of encoding items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchCounts {
    /// Records encoded into the batch.
    pub events: usize,
    /// Lines of the job among them; a line cut into parts counts once.
    pub lines: u64,
    pub dropped_lines: u64,
    pub dropped_bytes: u64,
}

impl BatchCounts {
    pub(crate) fn add(&mut self, other: &BatchCounts) {
        self.events += other.events;
        self.lines += other.lines;
        self.dropped_lines += other.dropped_lines;
        self.dropped_bytes += other.dropped_bytes;
    }
}

/// A sink and the list of the records encoded into its batch: refused records are named from this list.
pub(crate) struct BatchWriter<'s, S> {
    pub sink: &'s mut S,
    /// The feed of the run.
    pub feed_id: u64,
    pub sent_records: &'s mut Vec<(u64, RecordId)>,
}

impl<S: Sink> BatchWriter<'_, S> {
    fn encode(&mut self, run: &S::Run, record: &Record<'_>, counts: &mut BatchCounts) {
        self.sink.encode(run, record);
        self.sent_records.push((self.feed_id, record.id()));
        counts.events += 1;
    }
}

pub(crate) struct Encoding<'c> {
    config: &'c SinkConfig,
    now: Timestamp,
    age_limits: AgeLimits,
    wanted: bool,
}

impl<'c> Encoding<'c> {
    pub(crate) fn new(config: &'c SinkConfig, now: Timestamp, clock: &ClockHistory, wanted: bool) -> Encoding<'c> {
        let max_age = SignedDuration::try_from(config.retry.max_age).unwrap_or(SignedDuration::MAX);
        Encoding { config, now, age_limits: clock.limits(max_age), wanted }
    }

    /// Encodes the item's records.
    pub(crate) fn encode_item<S: Sink>(
        &self,
        mut writer: BatchWriter<'_, S>,
        run: &S::Run,
        item: &Item,
    ) -> BatchCounts {
        let mut counts = BatchCounts::default();
        if !self.wanted {
            return counts;
        }
        match item {
            Item::Started => writer.encode(run, &Record::Started, &mut counts),
            Item::Finished(finished) => writer.encode(run, &Record::Finished(finished), &mut counts),
            Item::OutputEnded(ended) => writer.encode(run, &Record::OutputEnded(ended), &mut counts),
            Item::Lines(block) => self.encode_block(&mut writer, run, block, &mut counts),
        }
        counts
    }

    fn encode_block<S: Sink>(
        &self,
        writer: &mut BatchWriter<'_, S>,
        run: &S::Run,
        block: &Block,
        counts: &mut BatchCounts,
    ) {
        let text_bytes_max = writer.sink.text_bytes_max(run);
        let mut scratch = Vec::new();
        let mut gap: Option<Gap> = None;
        // Hundreds of consecutive lines share one stamp: its checks are done once.
        let mut good = *b"none, and so equal to no stamp";
        for mut line in block.lines() {
            let is_good = line.stamp.first_chunk() == Some(&good);
            if !is_good && !is_stamp(line.stamp) {
                line.stamp = UNKNOWN_STAMP;
            }
            if !self.config.when.wants_stream(line.stream) {
                continue;
            }
            if !is_good && self.is_too_old(&line) {
                let gap = gap.get_or_insert(Gap { first_seq: line.seq, last_seq: 0, lines: 0, bytes: 0, at: self.now });
                gap.last_seq = line.seq;
                gap.lines += 1;
                gap.bytes += line.text.len() as u64;
                continue;
            }
            if !is_good && let Some(stamp) = line.stamp.first_chunk::<STAMP_BYTES>() {
                good = *stamp;
            }
            if let Some(gap) = gap.take() {
                encode_gap(writer, run, gap, counts);
            }
            let text = if self.config.strip_ansi { ansi::strip(line.text, &mut scratch) } else { line.text };
            pieces(&line, text, text_bytes_max, |piece| writer.encode(run, &Record::Line(piece), counts));
            counts.lines += 1;
        }
        if let Some(gap) = gap {
            encode_gap(writer, run, gap, counts);
        }
    }

    fn is_too_old(&self, line: &Line<'_>) -> bool {
        line.stamp != UNKNOWN_STAMP && self.age_limits.is_too_old(line.stamp)
    }
}

/// Whether receivers can read these bytes as a time: a damaged record may hold anything.
fn is_stamp(stamp: &[u8]) -> bool {
    const SHAPE: &[u8; STAMP_BYTES] = b"0000-00-00T00:00:00.000000000Z";
    stamp.first_chunk::<STAMP_BYTES>().is_some_and(|stamp| {
        stamp.iter().zip(SHAPE).fold(true, |all, (byte, shape)| {
            let fits = if *shape == b'0' { byte.is_ascii_digit() } else { byte == shape };
            all & fits
        })
    })
}

/// Writes the gap into the sink itself, in place of the lines that it will never get.
fn encode_gap<S: Sink>(writer: &mut BatchWriter<'_, S>, run: &S::Run, gap: Gap, counts: &mut BatchCounts) {
    writer.encode(run, &Record::Gap(gap), counts);
    counts.dropped_lines += gap.lines;
    counts.dropped_bytes += gap.bytes;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_stamps_are_detected() {
        assert!(is_stamp(b"2026-11-23T07:50:00.123456789Z") && is_stamp(UNKNOWN_STAMP));
        for damaged in [&b""[..], b"2026-11-23T07:50:00.12345678\"Z", b"2026-11-23 07:50:00.123456789Z", &[b'0'; 30]] {
            assert!(!is_stamp(damaged), "{damaged:?}");
        }
    }
}
