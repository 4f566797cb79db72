//! A run's output for people: byte for byte as the job wrote it, or with the time and the stream in front of each line.
//! For `sexton logs` and the console; needs no runner, only the run's directory.

use std::io;

use domain::line::{Line, Position, Stream};

use crate::directory::RunDirectory;
use crate::spool::SpoolReader;

/// What is read at once.
const BLOCK_BYTES: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// As the job wrote it.
    Bytes,
    /// `2026-11-23T07:50:00.123456789Z stdout ` in front of each line.
    WithTimes,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Bytes(Vec<u8>),
    /// The job has printed no more yet.
    Pending,
    /// The run is over and all of it was given.
    End,
}

pub struct Output {
    run: RunDirectory,
    reader: SpoolReader,
    stream: Option<Stream>,
    shown: Shown,
    /// Of what is shown, the last line of each stream was a part without its end.
    begun: Option<Stream>,
}

impl Output {
    /// From the beginning; `stream` none for both.
    pub fn open(run: RunDirectory, stream: Option<Stream>, shown: Shown) -> Output {
        let reader = SpoolReader::open(run.spool(), Position::START);
        Output { run, reader, stream, shown, begun: None }
    }

    /// The next piece.
    ///
    /// # Errors
    /// When the spool cannot be read.
    pub fn read(&mut self) -> io::Result<Piece> {
        loop {
            // Asked before reading: what the keeper wrote before its end is then seen.
            let over = self.run.exit().exists() || !self.run.path().exists();
            let Some(block) = self.reader.read(BLOCK_BYTES)? else {
                return Ok(if over { Piece::End } else { Piece::Pending });
            };
            let mut bytes = Vec::with_capacity(block.bytes.len());
            for line in block.lines() {
                if line.tag.gap || self.stream.is_none_or(|stream| stream == line.stream) {
                    self.show(&line, &mut bytes);
                }
            }
            if !bytes.is_empty() {
                return Ok(Piece::Bytes(bytes));
            }
        }
    }

    fn show(&mut self, line: &Line<'_>, out: &mut Vec<u8>) {
        if line.tag.gap {
            // Not the job's words, so that nobody takes the output for whole.
            out.extend_from_slice(b"[sexton: ");
            out.extend_from_slice(line.text);
            out.extend_from_slice(b"]\n");
            return;
        }
        let continues = line.tag.part > 1 && self.begun == Some(line.stream);
        if self.shown == Shown::WithTimes && !continues {
            out.extend_from_slice(line.stamp);
            out.push(b' ');
            out.extend_from_slice(line.stream.name().as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        // With times in front, every line is given its end, also the last.
        if line.tag.last && (line.tag.newline || self.shown == Shown::WithTimes) {
            out.push(b'\n');
        }
        self.begun = (!line.tag.last).then_some(line.stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::segment_name;

    fn shown(records: &str, stream: Option<Stream>, shown: Shown) -> String {
        let folder = tempfile::tempdir().expect("folder");
        let run = RunDirectory::at(folder.path());
        run.create().expect("directory");
        std::fs::write(run.spool().join(segment_name(1)), records).expect("segment");
        let mut output = Output::open(run.clone(), stream, shown);
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
    fn what_was_printed_is_shown() {
        let at = "2026-11-23T07:50:00.123456789Z";
        let records = format!(
            "{at} stdout F one\n{at} stderr P:1 long\n{at} stderr F:2 er\n{at} stderr F:gap 3 lines dropped\n\
             {at} stdout F:noeol last\n"
        );
        let check = |stream: Option<Stream>, how: Shown, expected: &str| {
            assert_eq!(shown(&records, stream, how), expected, "{stream:?} {how:?}");
        };
        check(None, Shown::Bytes, "one\nlonger\n[sexton: 3 lines dropped]\nlast");
        check(Some(Stream::Stdout), Shown::Bytes, "one\n[sexton: 3 lines dropped]\nlast");
        check(Some(Stream::Stderr), Shown::WithTimes, &format!("{at} stderr longer\n[sexton: 3 lines dropped]\n"));
    }
}
