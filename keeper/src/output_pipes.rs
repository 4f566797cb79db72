//! The keeper's ends of the job's output pipes: reads them, masks secrets, encodes records and passes them to the
//! spool's writer. Called by the loops of `job_loop` and `late_output`.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use domain::line::{STAMP_BYTES, Stream};
use domain::run::OutputCounts;
use rustix::event::{PollFd, PollFlags};
use rustix::io::ioctl_fionread;
use rustix::time::{ClockId, clock_gettime};

use crate::caller_stream::{CallerStream, Copied};
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
    stdout: Pipe,
    stderr: Pipe,
    /// None for a job without secrets.
    masker: Option<Masker>,
    encoder: Encoder,
    writer: Writer,
    buffer: Vec<u8>,
    /// Since when the masker holds lines.
    held_since: Option<Instant>,
    /// What is read is not kept.
    is_discarding: bool,
    /// Why a part of the output could not be copied to the caller.
    copy_error: Option<String>,
}

/// The keeper's end of one pipe.
struct Pipe {
    /// None after end of file.
    descriptor: Option<OwnedFd>,
    /// The caller's stream that gets a copy.
    copy: Option<CallerStream>,
    /// Why what is printed does not reach the caller, if so.
    unreachable: Option<&'static str>,
}

impl Pipe {
    fn new(descriptor: OwnedFd) -> Pipe {
        Pipe { descriptor: Some(descriptor), copy: None, unreachable: None }
    }

    fn is_copying(&self) -> bool {
        self.copy.as_ref().is_some_and(CallerStream::is_busy)
    }

    fn unread_bytes(&self) -> u64 {
        self.descriptor.as_ref().map_or(0, |pipe| ioctl_fionread(pipe).unwrap_or(0))
    }
}

impl OutputPipes {
    pub(crate) fn new(stdout: OwnedFd, stderr: OwnedFd, masker: Option<Masker>, writer: Writer) -> OutputPipes {
        OutputPipes {
            stdout: Pipe::new(stdout),
            stderr: Pipe::new(stderr),
            copy_error: None,
            masker,
            encoder: Encoder::default(),
            writer,
            buffer: vec![0; READ_BYTES],
            held_since: None,
            is_discarding: false,
        }
    }

    /// Copies both streams to those of a caller, from the first byte on. `closed`: the streams that are closed there.
    pub(crate) fn with_copies(
        mut self,
        [stdout, stderr]: [Option<CallerStream>; 2],
        [is_stdout_closed, is_stderr_closed]: [bool; 2],
    ) -> OutputPipes {
        (self.stdout.copy, self.stderr.copy) = (stdout, stderr);
        self.stdout.unreachable = is_stdout_closed.then_some("standard output is closed");
        self.stderr.unreachable = is_stderr_closed.then_some("standard error is closed");
        self
    }

    /// Whether no process has the output open any more.
    pub(crate) fn are_closed(&self) -> bool {
        self.stdout.descriptor.is_none() && self.stderr.descriptor.is_none()
    }

    /// Bytes that were printed and not read.
    pub(crate) fn unread_bytes(&self) -> u64 {
        self.stdout.unread_bytes() + self.stderr.unread_bytes()
    }

    /// Whether a block is still being written to the caller.
    pub(crate) fn are_copying(&self) -> bool {
        self.stdout.is_copying() || self.stderr.is_copying()
    }

    /// Why a part of the output could not be copied to the caller, if so.
    pub(crate) fn copy_error(&self) -> Option<String> {
        self.copy_error.clone()
    }

    /// Copies no more: a caller that does not read must not hold up the end of the run.
    pub(crate) fn stop_copying(&mut self) {
        (self.stdout.copy, self.stderr.copy) = (None, None);
    }

    /// Closes the pipes of the caller, whose readers wait for the end of the command. Late output is copied only
    /// to files and terminals.
    pub(crate) fn release_readers(&mut self) {
        for pipe in [&mut self.stdout, &mut self.stderr] {
            pipe.copy = pipe.copy.take().filter(|copy| !copy.is_awaited());
        }
    }

    /// Copies no more, because a signal ended the wait for a slow reader.
    pub(crate) fn interrupt_copying(&mut self) {
        if self.are_copying() {
            self.copy_error.get_or_insert_with(|| "a signal ended the wait for its reader".to_owned());
        }
        self.stop_copying();
    }

    /// The open pipes, for `poll`; while a block of a stream is being copied, the end of that copy.
    pub(crate) fn poll_descriptors(&self) -> impl Iterator<Item = (Stream, PollFd<'_>)> {
        [(Stream::Stdout, &self.stdout), (Stream::Stderr, &self.stderr)].into_iter().filter_map(|(stream, pipe)| {
            let descriptor = pipe.descriptor.as_ref()?;
            let copied = pipe.copy.as_ref().and_then(CallerStream::written);
            Some((stream, copied.unwrap_or_else(|| PollFd::new(descriptor, PollFlags::IN))))
        })
    }

    /// The caller's streams whose readers may go away, for `poll`.
    pub(crate) fn poll_readers(&self) -> impl Iterator<Item = (Stream, PollFd<'_>)> {
        [(Stream::Stdout, &self.stdout), (Stream::Stderr, &self.stderr)]
            .into_iter()
            .filter_map(|(stream, pipe)| Some((stream, pipe.copy.as_ref()?.reader()?)))
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

    fn pipe(&mut self, stream: Stream) -> &mut Pipe {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Handles a stream that `poll` reported: reads once from its pipe, or takes the result of its copy. Returns the
    /// number of bytes read.
    pub(crate) fn read(&mut self, stream: Stream) -> u64 {
        let pipe = self.pipe(stream);
        if let Some(copy) = pipe.copy.as_mut().filter(|copy| copy.is_busy()) {
            let copied = copy.check();
            self.handle_copied(stream, copied);
            return 0;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let bytes = self.read_into(stream, &mut buffer);
        if let Some(bytes) = bytes {
            let copied = match &mut self.pipe(stream).copy {
                Some(copy) if bytes > 0 => copy.push(&buffer[..bytes]),
                _ => Copied::All,
            };
            if let Some(why) = self.pipe(stream).unreachable.filter(|_| bytes > 0) {
                self.copy_error.get_or_insert_with(|| why.to_owned());
            }
            self.record(stream, &buffer[..bytes]);
            self.handle_copied(stream, copied);
        }
        self.buffer = buffer;
        bytes.unwrap_or(0) as u64
    }

    /// None when there is nothing to read now; 0 at end of file, which closes the pipe.
    fn read_into(&mut self, stream: Stream, buffer: &mut [u8]) -> Option<usize> {
        let pipe = self.pipe(stream);
        let bytes = match rustix::io::read(pipe.descriptor.as_ref()?, buffer) {
            Ok(bytes) => bytes,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return None,
            // No other error is known for a pipe; after one, the pipe counts as closed.
            Err(_) => 0,
        };
        if bytes == 0 {
            *pipe = Pipe { descriptor: None, copy: None, unreachable: None };
        }
        Some(bytes)
    }

    /// Masks and encodes a block, and passes it to the writer of the spool. An empty block ends the stream.
    fn record(&mut self, stream: Stream, block: &[u8]) {
        if self.is_discarding {
            return;
        }
        if block.is_empty() {
            self.end_line(stream);
        }
        for piece in block.chunks(READ_BYTES / 4) {
            match &mut self.masker {
                None => self.encoder.push(stream, piece),
                Some(masker) => self.encoder.push(stream, masker.push(stream, piece)),
            }
            if self.encoder.out.len() >= WRITE_BYTES {
                self.write();
            }
        }
        self.write();
        let holds_lines = self.masker.as_ref().is_some_and(Masker::holds_lines);
        self.held_since = holds_lines.then(|| self.held_since.unwrap_or_else(Instant::now));
    }

    /// Acts on the result of a copy. A job whose caller takes no more bytes gets SIGPIPE, as it would without Sexton.
    fn handle_copied(&mut self, stream: Stream, copied: Copied) {
        match copied {
            Copied::All | Copied::Busy => {}
            Copied::TerminalGone => self.pipe(stream).copy = None,
            Copied::ReaderGone => self.close(stream),
            Copied::Closed(error) => {
                self.copy_error.get_or_insert(error);
                self.pipe(stream).copy = None;
            }
            Copied::Failed(error) => {
                self.copy_error.get_or_insert(error);
                self.close(stream);
            }
        }
    }

    /// Closes the pipe of a stream: the job's next write to it fails. What was printed before is recorded.
    pub(crate) fn close(&mut self, stream: Stream) {
        self.pipe(stream).copy = None;
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut left = self.pipe(stream).unread_bytes();
        while left > 0 {
            let Some(bytes @ 1..) = self.read_into(stream, &mut buffer) else { break };
            self.record(stream, &buffer[..bytes]);
            left = left.saturating_sub(bytes as u64);
        }
        self.buffer = buffer;
        if self.pipe(stream).descriptor.take().is_some() {
            self.record(stream, &[]);
        }
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
