//! The keeper's ends of the job's output pipes: reads them, masks secrets, encodes records and passes them to the
//! spool's writer. Called by the loops of `job_loop` and `late_output`.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use domain::line::{STAMP_BYTES, Stream};
use domain::run::OutputCounts;
use rustix::event::{PollFd, PollFlags};
use rustix::io::ioctl_fionread;
use rustix::time::{ClockId, clock_gettime};

use crate::encoder::Encoder;
use crate::mask::Masker;
use crate::writer::Writer;

/// Bytes per read: the default capacity of a pipe (pipe(7)).
const READ_BYTES: usize = 64 << 10;

/// Encoded bytes after which records are written to the spool. A block of many empty lines grows to many times its size
/// when it is encoded.
const WRITE_BYTES: usize = 256 << 10;

/// A masker holds lines back while a secret of several lines may continue. After this time they are written anyway.
/// Chosen, not measured.
const HOLD_MAX: Duration = Duration::from_millis(500);

pub(crate) struct OutputPipes {
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    /// None for a job without secrets.
    masker: Option<Masker>,
    encoder: Encoder,
    writer: Writer,
    buffer: Vec<u8>,
    /// Since when the masker holds lines.
    held_since: Option<Instant>,
    /// What is read is not kept.
    is_discarding: bool,
}

impl OutputPipes {
    pub(crate) fn new(stdout: OwnedFd, stderr: OwnedFd, masker: Option<Masker>, writer: Writer) -> OutputPipes {
        OutputPipes {
            stdout: Some(stdout),
            stderr: Some(stderr),
            masker,
            encoder: Encoder::default(),
            writer,
            buffer: vec![0; READ_BYTES],
            held_since: None,
            is_discarding: false,
        }
    }

    /// Whether no process has the output open any more.
    pub(crate) fn are_closed(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    /// Bytes that were printed and not read.
    pub(crate) fn unread_bytes(&self) -> u64 {
        [&self.stdout, &self.stderr].into_iter().flatten().map(|pipe| ioctl_fionread(pipe).unwrap_or(0)).sum()
    }

    /// The open pipes, for `poll`.
    pub(crate) fn poll_descriptors(&self) -> impl Iterator<Item = (Stream, PollFd<'_>)> {
        [(Stream::Stdout, &self.stdout), (Stream::Stderr, &self.stderr)]
            .into_iter()
            .filter_map(|(stream, pipe)| Some((stream, PollFd::new(pipe.as_ref()?, PollFlags::IN))))
    }

    /// When [`OutputPipes::write_due`] has something to do: held lines, or a retry of a disk that refused records.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        let held = self.held_since.map(|since| since + HOLD_MAX);
        held.into_iter().chain(self.writer.retry_at()).min()
    }

    /// Takes the time for the records that are encoded next.
    pub(crate) fn set_time(&mut self) {
        let now = clock_gettime(ClockId::Realtime);
        self.encoder.set_time(now.tv_sec, now.tv_nsec as u32);
    }

    /// Reads once from a readable pipe. Returns the number of bytes.
    pub(crate) fn read(&mut self, stream: Stream) -> u64 {
        let pipe = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let Some(descriptor) = pipe else { return 0 };
        let bytes = match rustix::io::read(&*descriptor, &mut self.buffer[..]) {
            Ok(bytes) => bytes,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return 0,
            // No other error is known for a pipe; after one, the pipe counts as closed.
            Err(_) => 0,
        };
        if bytes == 0 {
            *pipe = None;
        }
        if self.is_discarding {
            return bytes as u64;
        }
        if bytes == 0 {
            self.end_line(stream);
        }
        let buffer = std::mem::take(&mut self.buffer);
        for piece in buffer[..bytes].chunks(READ_BYTES / 4) {
            match &mut self.masker {
                None => self.encoder.push(stream, piece),
                Some(masker) => self.encoder.push(stream, masker.push(stream, piece)),
            }
            if self.encoder.out.len() >= WRITE_BYTES {
                self.write();
            }
        }
        self.buffer = buffer;
        self.write();
        let holds_lines = self.masker.as_ref().is_some_and(Masker::holds_lines);
        self.held_since = holds_lines.then(|| self.held_since.unwrap_or_else(Instant::now));
        bytes as u64
    }

    /// Writes what is due: lines that the masker held for long enough, and records that the disk refused.
    pub(crate) fn write_due(&mut self) {
        if self.held_since.is_some_and(|since| since.elapsed() >= HOLD_MAX) {
            self.held_since = None;
            for stream in [Stream::Stdout, Stream::Stderr] {
                if let Some(masker) = &mut self.masker {
                    self.encoder.push(stream, masker.release_lines(stream));
                }
            }
            self.write();
        }
        self.writer.retry(self.encoder.stamp());
    }

    /// Ends the lines without a newline, and with them the output up to here. Later output goes into a new segment, so
    /// that no block of a reader has lines of both sides. `release` frees the disk's reserve and is called when the
    /// disk refuses records.
    pub(crate) fn end_part(&mut self, release: impl FnOnce()) -> OutputCounts {
        self.end_lines(release);
        self.writer.finish_part(self.encoder.stamp());
        self.counts()
    }

    /// Ends the output.
    pub(crate) fn end(&mut self, release: impl FnOnce()) -> OutputCounts {
        self.end_lines(release);
        self.writer.finish(self.encoder.stamp());
        self.counts()
    }

    /// From now on, output is read and not kept: its writers are not blocked.
    pub(crate) fn discard(&mut self) {
        self.is_discarding = true;
    }

    fn end_lines(&mut self, release: impl FnOnce()) {
        self.held_since = None;
        self.end_line(Stream::Stdout);
        self.end_line(Stream::Stderr);
        self.write();
        if self.writer.retry_at().is_some() {
            release();
        }
    }

    fn end_line(&mut self, stream: Stream) {
        if let Some(masker) = &mut self.masker {
            self.encoder.push(stream, masker.end(stream));
        }
        self.encoder.end_stream(stream);
    }

    fn write(&mut self) {
        let stamp: &[u8; STAMP_BYTES] = self.encoder.stamp();
        self.writer.append(&self.encoder.out, self.encoder.out_records, stamp);
        self.encoder.out.clear();
        self.encoder.out_records = 0;
    }

    fn counts(&self) -> OutputCounts {
        let dropped = self.writer.dropped();
        OutputCounts {
            last_seq: self.writer.last_seq(),
            dropped_lines: dropped.records,
            dropped_bytes: dropped.bytes,
            ..self.encoder.counts
        }
    }
}
