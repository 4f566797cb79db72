//! Records as lines of a file: the spool's own format (CRI), or one JSON object per line. Used by the sinks `file` and
//! `stdout`.

use domain::document::Section;
use domain::line::{STAMP_BYTES, Stream, Tag};
use jiff::Timestamp;

use crate::bracket_records;
use crate::feed::RunHeader;
use crate::json::JsonRun;
use crate::record::{Piece, Record};
use crate::stamp;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineFormat {
    #[default]
    Cri,
    Json,
}

impl LineFormat {
    pub fn read(section: &mut Section) -> LineFormat {
        section.choice("format", &[("cri", LineFormat::Cri), ("json", LineFormat::Json)]).unwrap_or_default()
    }
}

/// The parts that all lines of a run share.
pub(crate) enum LineRun {
    Cri { names: String, started_at: Timestamp, started: String },
    Json(JsonRun),
}

impl LineRun {
    pub(crate) fn new(format: LineFormat, header: &RunHeader) -> LineRun {
        match format {
            LineFormat::Json => LineRun::Json(JsonRun::new(header)),
            LineFormat::Cri => LineRun::Cri {
                names: format!("run_id={} attempt={}", header.run_id, header.attempt),
                started_at: header.started_at,
                started: bracket_records::started_text(header),
            },
        }
    }

    /// Appends the record and a newline.
    pub(crate) fn write(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        match self {
            LineRun::Json(run) => run.write(record, out),
            LineRun::Cri { names, started_at, started } => match record {
                Record::Line(piece) => write_piece(piece, out),
                Record::Started => {
                    write_event(*started_at, bracket_records::STARTED, &format!("{started} {names}"), out)
                }
                Record::Gap(gap) => write_event(gap.at, bracket_records::GAP, &gap.text(), out),
                Record::Finished(finished) => {
                    let text = bracket_records::finished_text(finished);
                    let text = format!("{text} {names} last_seq={}", finished.last_seq);
                    write_event(finished.finished_at, bracket_records::FINISHED, &text, out);
                }
                Record::OutputEnded(ended) => {
                    let text = bracket_records::output_ended_text(ended);
                    let (late, last) = (ended.late_lines, ended.last_seq);
                    let text = format!("{text} {names} late_lines={late} last_seq={last}");
                    write_event(ended.ended_at, bracket_records::OUTPUT_ENDED, &text, out);
                }
            },
        }
        out.push(b'\n');
    }
}

fn write_piece(piece: &Piece<'_>, out: &mut Vec<u8>) {
    const _: () = assert!(STAMP_BYTES == 30);
    out.extend_from_slice(piece.stamp);
    out.push(b' ');
    out.extend_from_slice(piece.stream.name().as_bytes());
    out.push(b' ');
    if piece.part == 0 && !piece.gap {
        out.push(b'F');
    } else {
        let part = u32::try_from(piece.part).unwrap_or(u32::MAX);
        Tag { part, last: piece.part_last, newline: true, gap: piece.gap }.write(out);
    }
    out.push(b' ');
    out.extend_from_slice(piece.text);
}

/// Appends an event: its name follows the tag, as in `F:run.started`.
fn write_event(at: Timestamp, event: &str, text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&stamp::format(at));
    out.extend_from_slice(format!(" {} F:{event} {text}", Stream::Stderr.name()).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Gap;
    use crate::record::tests::piece;
    use crate::sample_records::{finished, header, output_ended};

    fn check(record: Record<'_>, wanted: &str) {
        let mut out = Vec::new();
        LineRun::new(LineFormat::Cri, &header()).write(&record, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), format!("{wanted}\n"));
        let line = domain::line::parse(&out[..out.len() - 1], 1);
        assert_ne!(line.at(), Timestamp::UNIX_EPOCH, "{wanted} parses as a record");
    }

    #[test]
    fn lines_have_the_format_of_the_spool() {
        check(Record::Line(piece(1, Stream::Stdout, b"a b")), "2026-11-23T07:50:00.123456789Z stdout F a b");
        check(
            Record::Line(Piece { part: 3, part_last: false, ..piece(1, Stream::Stderr, b"x") }),
            "2026-11-23T07:50:00.123456789Z stderr P:3 x",
        );
        check(
            Record::Started,
            "2026-11-23T07:50:00.250000000Z stderr F:run.started run started: dump.sh \"all\" run_id=20261123T075000Z-3f9a1c0e7b2d attempt=1",
        );
        check(
            Record::Finished(&finished()),
            "2026-11-23T07:50:01.750000000Z stderr F:run.finished run failed after 1s500ms: exit code 3 (3 lines) run_id=20261123T075000Z-3f9a1c0e7b2d attempt=1 last_seq=3",
        );
        check(
            Record::OutputEnded(&output_ended()),
            "2026-11-23T07:50:07.500000000Z stderr F:run.output_ended run output ended: 2 late lines (5 lines) run_id=20261123T075000Z-3f9a1c0e7b2d attempt=1 late_lines=2 last_seq=5",
        );
        let at = "2026-11-23T07:50:01Z".parse().expect("instant");
        check(
            Record::Gap(Gap { first_seq: 7, last_seq: 18, lines: 12, bytes: 900, at }),
            "2026-11-23T07:50:01.000000000Z stderr F:gap 12 lines, 900 bytes dropped (seq 7-18): older than this sink's max_age",
        );
    }
}
