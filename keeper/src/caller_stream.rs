//! Copies one stream of the job to its caller, with the exact bytes, before they are masked or written to the spool. A
//! thread writes, because the caller may read slowly: the next block is read from the job's pipe when the last one was
//! written. So the caller slows the job as it would without Sexton, and never the other stream.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;

/// Stack of the thread, which only writes. Chosen: std needs a few KiB of it.
const STACK_BYTES: usize = 64 << 10;

/// Poll interval of a caller's descriptor that does not block. Chosen: poll(2) returns when there is room.
const ROOM_INTERVAL: Duration = Duration::from_secs(60);

/// The result of a copy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Copied {
    /// Everything so far.
    All,
    /// The last block is still being written.
    Busy,
    /// The reader has closed its end.
    ReaderGone,
    /// The caller's descriptor refuses the bytes, with this error.
    Failed(String),
    /// The caller's descriptor is not for writing, with this error. Without Sexton, such a job gets an error at each
    /// write and usually continues.
    Closed(String),
    /// The terminal was closed. Its session gets HUP for it.
    TerminalGone,
}

pub(crate) struct CallerStream {
    descriptor: Arc<OwnedFd>,
    /// None where the machine has no thread or descriptor left: the keeper itself waits for the caller.
    writer: Option<StreamWriter>,
    result: Copied,
    /// A pipe whose reader cannot come back, so that its absence is an end.
    has_one_reader: bool,
    /// A pipe or socket, whose reader waits for the end of file.
    is_awaited: bool,
}

/// The thread that writes.
struct StreamWriter {
    /// Notified when a block was written.
    written: Arc<OwnedFd>,
    blocks: Sender<Vec<u8>>,
    results: Receiver<Result<(), Errno>>,
}

impl StreamWriter {
    /// None where the machine refuses it.
    fn start(to: &Arc<OwnedFd>) -> Option<StreamWriter> {
        let written = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).ok()?);
        let (blocks, received) = channel::<Vec<u8>>();
        let (result_sender, results) = channel();
        let (to, wake) = (to.clone(), written.clone());
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            while let Ok(block) = received.recv() {
                if result_sender.send(write_all(&to, &block)).is_err() {
                    return;
                }
                let _ = rustix::io::write(&*wake, &1u64.to_ne_bytes());
            }
        });
        thread.ok().map(|_| StreamWriter { written, blocks, results })
    }
}

impl CallerStream {
    /// `is_frugal`: starts no thread.
    pub(crate) fn new(descriptor: OwnedFd, is_frugal: bool) -> CallerStream {
        let has_one_reader = is_anonymous(&descriptor);
        let kind = fstat(&descriptor).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let is_awaited = kind.is_ok_and(|kind| matches!(kind, FileType::Fifo | FileType::Socket));
        let descriptor = Arc::new(descriptor);
        let writer = if is_frugal { None } else { StreamWriter::start(&descriptor) };
        CallerStream { descriptor, writer, result: Copied::All, has_one_reader, is_awaited }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.result == Copied::Busy
    }

    /// Copies a block. Only when it is not busy.
    pub(crate) fn push(&mut self, block: &[u8]) -> Copied {
        let sent = self.writer.as_ref().is_some_and(|writer| writer.blocks.send(block.to_vec()).is_ok());
        if sent {
            self.result = Copied::Busy;
            return Copied::Busy;
        }
        outcome(write_all(&self.descriptor, block))
    }

    /// Reads the result of the last block.
    pub(crate) fn check(&mut self) -> Copied {
        let Some(writer) = &self.writer else { return Copied::All };
        let Ok(result) = writer.results.try_recv() else {
            return if self.is_busy() { Copied::Busy } else { Copied::All };
        };
        let mut count = [0u8; 8];
        // A result is notified once, so this does not block for long.
        let _ = rustix::io::read(&*writer.written, &mut count[..]);
        self.result = Copied::All;
        outcome(result)
    }

    /// Whether a reader waits for the end of file.
    pub(crate) fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    /// Readable when the last block was written; None where no block is being written.
    pub(crate) fn written(&self) -> Option<PollFd<'_>> {
        let writer = self.writer.as_ref().filter(|_| self.is_busy())?;
        Some(PollFd::new(&*writer.written, PollFlags::IN))
    }

    /// Reports an error when the reader has closed its end; none where another reader may come.
    pub(crate) fn reader(&self) -> Option<PollFd<'_>> {
        self.has_one_reader.then(|| PollFd::new(&*self.descriptor, PollFlags::empty()))
    }
}

fn outcome(result: Result<(), Errno>) -> Copied {
    match result {
        Ok(()) => Copied::All,
        Err(Errno::PIPE | Errno::CONNRESET) => Copied::ReaderGone,
        Err(Errno::IO) => Copied::TerminalGone,
        Err(error @ Errno::BADF) => Copied::Closed(io::Error::from(error).to_string()),
        Err(error) => Copied::Failed(io::Error::from(error).to_string()),
    }
}

fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            // The caller made its descriptor non-blocking.
            Err(Errno::AGAIN) => {
                let wait = Timespec { tv_sec: ROOM_INTERVAL.as_secs() as i64, tv_nsec: 0 };
                let _ = poll(&mut [PollFd::new(to, PollFlags::OUT)], Some(&wait));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the descriptor is a pipe without a name, or a socket: a reader that has closed it cannot come back.
fn is_anonymous(descriptor: &OwnedFd) -> bool {
    use std::os::fd::AsRawFd;
    let Ok(stat) = fstat(descriptor) else { return false };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Socket => true,
        FileType::Fifo => std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
            .is_ok_and(|target| target.to_string_lossy().starts_with("pipe:")),
        _ => false,
    }
}
