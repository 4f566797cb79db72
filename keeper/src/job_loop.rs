//! The loop of a keeper while its job runs: pipes, children, timeout and stop requests.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use domain::event::Ended;
use domain::line::Stream;
use domain::order::Order;
use domain::run::{Leaked, OutputCounts};
use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::time::{ClockId, clock_gettime};

use crate::cgroup::Cgroup;
use crate::directory::{RunDirectory, read_json};
use crate::encoder::Encoder;
use crate::launch::Launched;
use crate::mask::Masker;
use crate::processes::Process;
use crate::records::{Exit, StopRequest};
use crate::reserve::Reserve;
use crate::signals::{self, Children, Reaped};
use crate::stop_sequence::{self, Step, StopSequence};
use crate::writer::Writer;

/// Bytes per read: the default capacity of a pipe (pipe(7)).
const READ_BYTES: usize = 64 << 10;

/// Encoded bytes after which records are written to the spool. A block of many empty lines grows to many times its size
/// when it is encoded.
const WRITE_BYTES: usize = 256 << 10;

/// After the job's end, the keeper reads from a pipe that another process still holds, until no byte came for this
/// time. Chosen, not measured.
const DRAIN_QUIET: Duration = Duration::from_secs(2);

/// Longest time of that reading, even if bytes still arrive. Chosen, not measured.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// A process closes its pipes a moment before it can be reaped. A process left after this time counts as leaked.
/// Chosen, not measured.
const REAP_GRACE: Duration = Duration::from_millis(100);

/// A masker holds lines back while a secret of several lines may continue. After this time they are written anyway.
/// Chosen, not measured.
const HOLD_MAX: Duration = Duration::from_millis(500);

/// Poll interval of the file `stop`, in case its signal was lost. Chosen, not measured.
const STOP_POLL_INTERVAL: Duration = Duration::from_secs(10);

pub(crate) struct Job {
    pid: u32,
    started_at: Timestamp,
    started: Instant,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    stdin: Option<File>,
    cgroup: Option<Cgroup>,
    reaped: Option<Reaped>,
    /// CPU time of the job's orphans, which the keeper reaped.
    orphans_cpu_ms: u64,
    orphans_rss_bytes: u64,
    /// None for a job without secrets.
    masker: Option<Masker>,
    encoder: Encoder,
}

enum Phase {
    Running,
    Stopping(StopSequence),
    /// The job's process has ended; another process may still hold its pipes.
    Draining {
        until: Instant,
        end: Instant,
    },
    Over,
}

impl Job {
    /// `started` is the same instant as `started_at`, on the monotonic clock.
    pub(crate) fn new(
        launched: Launched,
        started_at: Timestamp,
        started: Instant,
        cgroup: Option<Cgroup>,
        masker: Option<Masker>,
    ) -> Job {
        Job {
            pid: launched.pid,
            started_at,
            started,
            stdout: Some(launched.stdout),
            stderr: Some(launched.stderr),
            stdin: launched.stdin.map(File::from),
            cgroup,
            reaped: None,
            orphans_cpu_ms: 0,
            orphans_rss_bytes: 0,
            masker,
            encoder: Encoder::default(),
        }
    }

    /// Runs the loop until the job has ended and its output is read.
    ///
    /// # Errors
    /// When the kernel refuses `poll`; the run is then lost.
    pub(crate) fn run_to_end(
        mut self,
        run: &RunDirectory,
        order: &Order,
        signals: OwnedFd,
        reserve: &Reserve,
    ) -> io::Result<Exit> {
        let mut writer = Writer::new(run.spool());
        let mut stdin_text = order.job.stdin.as_deref().unwrap_or_default().as_bytes();
        if let Some(stdin) = &self.stdin {
            fcntl_setfl(stdin, OFlags::NONBLOCK)?;
        }
        let limit = order.job.timeout.map(|timeout| self.started + timeout);
        let mut buffer = vec![0; READ_BYTES];
        let mut phase = Phase::Running;
        let mut ending = None;
        // A request made before the signal was blocked is read now.
        let mut check_stop = true;
        let mut stop_checked_at = Instant::now();
        let mut held_since = None;
        loop {
            if let Phase::Running = phase {
                if std::mem::take(&mut check_stop)
                    && let Some(requested) = read_stop_request(run)
                {
                    phase = Phase::Stopping(StopSequence::start(Ended::Stopped, requested, order.job.kill_grace));
                } else if limit.is_some_and(|limit| limit <= Instant::now()) {
                    phase =
                        Phase::Stopping(StopSequence::start(Ended::TimedOut, "timeout".into(), order.job.kill_grace));
                }
            }
            let children_left = self.reap();
            let (next, wake_at) = self.advance(phase, children_left, &mut ending);
            phase = next;
            if let Phase::Over = phase {
                break;
            }
            let holds_lines = self.masker.as_ref().is_some_and(Masker::holds_lines);
            held_since = holds_lines.then(|| held_since.unwrap_or_else(Instant::now));
            let hold_until = held_since.map(|since| since + HOLD_MAX);
            let due = [wake_at, limit.filter(|_| matches!(phase, Phase::Running)), writer.retry_at(), hold_until];
            let wait = due.into_iter().flatten().min().map(|at| at.saturating_duration_since(Instant::now()));
            let ready = self.poll(&signals, wait.unwrap_or(STOP_POLL_INTERVAL).min(STOP_POLL_INTERVAL))?;
            if ready.signals {
                signals::drain(&signals);
            }
            // Not after every block of output: the `stat` would add a tenth to the cost of the block.
            if ready.signals || stop_checked_at.elapsed() >= STOP_POLL_INTERVAL {
                (check_stop, stop_checked_at) = (true, Instant::now());
            }
            if ready.stdin {
                self.write_stdin(&mut stdin_text);
            }
            let now = clock_gettime(ClockId::Realtime);
            self.encoder.set_time(now.tv_sec, now.tv_nsec as u32);
            let read = (ready.stdout && self.read(Stream::Stdout, &mut buffer, &mut writer))
                | (ready.stderr && self.read(Stream::Stderr, &mut buffer, &mut writer));
            if hold_until.is_some_and(|until| until <= Instant::now()) {
                self.write_held_lines(&mut writer);
            }
            writer.retry(self.encoder.stamp());
            if let (Phase::Draining { until, end }, true) = (&mut phase, read) {
                *until = (Instant::now() + DRAIN_QUIET).min(*end);
            }
        }
        Ok(self.finish(writer, reserve, ending))
    }

    /// Moves to the next phase if its condition holds. Returns the time of the next check.
    fn advance(&mut self, phase: Phase, children_left: bool, ending: &mut Option<Ending>) -> (Phase, Option<Instant>) {
        let now = Instant::now();
        let drain = || Phase::Draining { until: now + DRAIN_QUIET, end: now + DRAIN_MAX };
        match phase {
            Phase::Running if self.reaped.is_some() => self.advance(drain(), children_left, ending),
            Phase::Running => (Phase::Running, None),
            Phase::Stopping(mut sequence) => match sequence.advance(children_left, self.cgroup.as_ref()) {
                Step::Wait(at) => (Phase::Stopping(sequence), Some(at)),
                Step::Done => {
                    let (cause, left) =
                        (sequence.cause, if children_left { stop_sequence::living_descendants() } else { Vec::new() });
                    let (message, leaked) = sequence.summary(left);
                    *ending = Some(Ending { cause, note: message, leaked });
                    self.advance(drain(), children_left, ending)
                }
            },
            Phase::Draining { until, end } => {
                let closed = self.stdout.is_none() && self.stderr.is_none();
                let over = now >= until || (closed && (!children_left || ending.is_some()));
                if !over {
                    let until = if closed { until.min(now + REAP_GRACE) } else { until };
                    return (Phase::Draining { until, end }, Some(until));
                }
                if ending.is_none() && children_left {
                    *ending = Some(Ending::exited(stop_sequence::living_descendants()));
                }
                (Phase::Over, None)
            }
            Phase::Over => (Phase::Over, None),
        }
    }

    /// Reaps every child that has ended. Returns whether any child is left.
    fn reap(&mut self) -> bool {
        loop {
            match signals::reap() {
                Children::None => return false,
                Children::Running => return true,
                Children::Reaped(child) if child.pid == self.pid => self.reaped = Some(child),
                Children::Reaped(orphan) => {
                    self.orphans_cpu_ms += orphan.cpu_ms;
                    self.orphans_rss_bytes = self.orphans_rss_bytes.max(orphan.max_rss_bytes);
                }
            }
        }
    }

    fn poll(&self, signals: &OwnedFd, wait: Duration) -> io::Result<Ready> {
        let mut descriptors = vec![PollFd::new(signals, PollFlags::IN)];
        let pipes = [&self.stdout, &self.stderr].map(Option::as_ref);
        descriptors.extend(pipes.into_iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        descriptors.extend(self.stdin.as_ref().map(|stdin| PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::OUT)));
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        match poll(&mut descriptors, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = descriptors.iter().map(|descriptor| !descriptor.revents().is_empty());
        let mut next = |is_polled: bool| is_polled && ready.next().unwrap_or(false);
        Ok(Ready {
            signals: next(true),
            stdout: next(self.stdout.is_some()),
            stderr: next(self.stderr.is_some()),
            stdin: next(self.stdin.is_some()),
        })
    }

    /// Reads once from a readable pipe. Returns whether it had bytes.
    fn read(&mut self, stream: Stream, buffer: &mut [u8], writer: &mut Writer) -> bool {
        let pipe = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let Some(descriptor) = pipe else { return false };
        let bytes = match rustix::io::read(&*descriptor, &mut *buffer) {
            Ok(bytes) => bytes,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return false,
            // No other error is known for a pipe; after one, the pipe counts as closed.
            Err(_) => 0,
        };
        if bytes == 0 {
            *pipe = None;
            self.end_stream(stream);
        }
        for piece in buffer[..bytes].chunks(READ_BYTES / 4) {
            match &mut self.masker {
                None => self.encoder.push(stream, piece),
                Some(masker) => self.encoder.push(stream, masker.push(stream, piece)),
            }
            if self.encoder.out.len() >= WRITE_BYTES {
                self.write(writer);
            }
        }
        self.write(writer);
        bytes > 0
    }

    fn end_stream(&mut self, stream: Stream) {
        if let Some(masker) = &mut self.masker {
            self.encoder.push(stream, masker.end(stream));
        }
        self.encoder.end_stream(stream);
    }

    fn write_held_lines(&mut self, writer: &mut Writer) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(masker) = &mut self.masker {
                self.encoder.push(stream, masker.release_lines(stream));
            }
        }
        self.write(writer);
    }

    fn write(&mut self, writer: &mut Writer) {
        writer.append(&self.encoder.out, self.encoder.out_records, self.encoder.stamp());
        self.encoder.out.clear();
        self.encoder.out_records = 0;
    }

    /// Writes the rest of the job's standard input. Closes the pipe at the end of the text, or when the job has closed
    /// its end of the pipe.
    fn write_stdin(&mut self, rest: &mut &[u8]) {
        let Some(stdin) = &mut self.stdin else { return };
        match stdin.write(rest) {
            Ok(written) => *rest = &rest[written..],
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
            Err(_) => *rest = &[],
        }
        if rest.is_empty() {
            self.stdin = None;
        }
    }

    fn finish(mut self, mut writer: Writer, reserve: &Reserve, ending: Option<Ending>) -> Exit {
        self.end_stream(Stream::Stdout);
        self.end_stream(Stream::Stderr);
        self.write(&mut writer);
        if writer.retry_at().is_some() {
            reserve.release();
        }
        writer.finish(self.encoder.stamp());
        let dropped = writer.dropped();
        let output = OutputCounts {
            last_seq: writer.last_seq(),
            dropped_lines: dropped.records,
            dropped_bytes: dropped.bytes,
            ..self.encoder.counts
        };
        let ending = ending.unwrap_or_else(|| Ending::exited(Vec::new()));
        let duration = self.started.elapsed();
        let reaped = self.reaped.as_ref();
        Exit {
            ended: ending.cause,
            note: Some(ending.note).filter(|note| !note.is_empty()),
            exit_code: reaped.and_then(|reaped| reaped.exit_code),
            signal: reaped.and_then(|reaped| reaped.signal),
            started_at: Some(self.started_at),
            finished_at: finish_time(self.started_at, duration, Timestamp::now()),
            duration_ms: duration.as_millis() as u64,
            output,
            cpu_ms: reaped.map(|reaped| reaped.cpu_ms + self.orphans_cpu_ms),
            max_rss_bytes: reaped.map(|reaped| reaped.max_rss_bytes.max(self.orphans_rss_bytes)),
            leaked: ending.leaked,
        }
    }
}

/// The wall-clock time of the end of a job that started at `started_at` and ran for `duration`. Never before
/// `started_at + duration`, also when the clock was set back.
fn finish_time(started_at: Timestamp, duration: Duration, now: Timestamp) -> Timestamp {
    started_at.checked_add(duration).map_or(now, |end| end.max(now))
}

struct Ready {
    signals: bool,
    stdout: bool,
    stderr: bool,
    stdin: bool,
}

/// How the job ended.
struct Ending {
    cause: Ended,
    note: String,
    leaked: Vec<Leaked>,
}

impl Ending {
    fn exited(family: Vec<Process>) -> Ending {
        let leaked = family.into_iter().map(|process| Leaked { pid: process.pid, name: process.name, killed: false });
        Ending { cause: Ended::Exited, note: String::new(), leaked: leaked.collect() }
    }
}

fn read_stop_request(run: &RunDirectory) -> Option<String> {
    if !run.stop().exists() {
        return None;
    }
    // The file's existence is the request; its content only names the requester.
    let by = read_json::<StopRequest>(&run.stop()).ok().flatten().map(|request| request.by).unwrap_or_default();
    Some(if by.is_empty() { "stop requested".to_owned() } else { format!("stop requested by {by}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_never_makes_a_job_end_before_its_start() {
        let at = |second: i64| Timestamp::from_second(second).expect("instant");
        let check = |duration_s: u64, now: i64, expected: i64| {
            assert_eq!(
                finish_time(at(1_000), Duration::from_secs(duration_s), at(now)),
                at(expected),
                "{duration_s} {now}"
            );
        };
        check(60, 1_060, 1_060);
        // Clock set back by an hour; set forward by an hour, or machine suspended.
        check(60, 1_060 - 3_600, 1_060);
        check(60, 1_060 + 3_600, 1_060 + 3_600);
    }
}
