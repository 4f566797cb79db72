//! The loop of a keeper until its job's process has ended: pipes, children, timeout and stop requests. What follows is
//! in `late_output`.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use domain::event::Ended;
use domain::line::Stream;
use domain::order::Order;
use domain::run::Leaked;
use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};

use crate::caller_process::{Control, KeeperMessage, Received, is_end_signal};
use crate::caller_stream::CallerStream;
use crate::cgroup::Cgroup;
use crate::directory::{RunDirectory, create_marker, read_json};
use crate::guard_check::GuardCheck;
use crate::late_output::LateOutput;
use crate::launch::Launched;
use crate::mask::Masker;
use crate::output_pipes::OutputPipes;
use crate::processes::Process;
use crate::records::{Exit, StopRequest};
use crate::reserve::Reserve;
use crate::signals::{self, Children, Reaped, Suspension};
use crate::stop_sequence::{self, Step, StopSequence};
use crate::writer::Writer;

/// After the end of the job's process, output is read for this time before the end is recorded. A process closes its
/// pipes a moment before it can be reaped. A process left after this time counts as leaked. Chosen, not measured.
const LAST_OUTPUT_TIME: Duration = Duration::from_millis(100);

/// Poll interval of the file `stop`, in case its signal was lost. Chosen, not measured.
const STOP_POLL_INTERVAL: Duration = Duration::from_secs(10);

pub(crate) struct Job {
    pid: u32,
    started_at: Timestamp,
    started: Instant,
    pub(crate) pipes: OutputPipes,
    stdin: Option<File>,
    /// The rest of the job's standard input.
    stdin_text: Vec<u8>,
    signals: OwnedFd,
    pub(crate) cgroup: Option<Cgroup>,
    guard_check: Option<GuardCheck>,
    reaped: Option<Reaped>,
    /// How long the job's process ran, once it was reaped.
    duration: Option<Duration>,
    /// CPU time of the job's orphans, which the keeper reaped.
    orphans_cpu_ms: u64,
    orphans_rss_bytes: u64,
    /// A signal arrived since the file `stop` was checked, or the check is due.
    check_stop: bool,
    stop_checked_at: Instant,
    /// The process in the foreground that the job belongs to.
    control: Option<Rc<Control>>,
    /// The message about the end, until it is sent.
    end_message: Option<KeeperMessage>,
}

enum Phase {
    Running,
    Stopping(StopSequence),
    /// The job's process has ended. What it printed is read to the end, and other output until `until`.
    Ending {
        until: Instant,
        unread_bytes: u64,
    },
    Over,
}

impl Job {
    /// `started` is the same instant as `started_at`, on the monotonic clock.
    pub(crate) fn new(
        launched: Launched,
        (started_at, started): (Timestamp, Instant),
        cgroup: Option<Cgroup>,
        masker: Option<Masker>,
        run: &RunDirectory,
        signals: OwnedFd,
    ) -> Job {
        Job {
            pid: launched.pid,
            started_at,
            started,
            pipes: OutputPipes::new(launched.stdout, launched.stderr, masker, Writer::new(run.spool())),
            stdin: launched.stdin.map(File::from),
            stdin_text: Vec::new(),
            signals,
            cgroup,
            guard_check: None,
            reaped: None,
            duration: None,
            orphans_cpu_ms: 0,
            orphans_rss_bytes: 0,
            // A request made before the signal was blocked is read now.
            check_stop: true,
            stop_checked_at: Instant::now(),
            control: None,
            end_message: None,
        }
    }

    /// Makes the job that of a caller: its output is copied, and signals come from there. `closed`: the streams that
    /// are closed in the caller.
    pub(crate) fn with_caller(
        mut self,
        control: Rc<Control>,
        copies: [Option<CallerStream>; 2],
        closed: [bool; 2],
    ) -> Job {
        self.pipes = self.pipes.with_copies(copies, closed);
        Job { control: Some(control), ..self }
    }

    /// Sets the guards to check when the job's process has ended.
    pub(crate) fn with_guard_check(self, guard_check: Option<GuardCheck>) -> Job {
        Job { guard_check, ..self }
    }

    /// Runs the loop until the job's process has ended. Returns the rest of the output when another process still has
    /// it open.
    ///
    /// # Errors
    /// When the kernel refuses `poll`; the run is then lost.
    pub(crate) fn run_to_exit(
        mut self,
        run: &RunDirectory,
        order: &Order,
        reserve: &Reserve,
    ) -> io::Result<(Exit, Option<LateOutput>)> {
        if let Some(stdin) = &self.stdin {
            fcntl_setfl(stdin, OFlags::NONBLOCK)?;
            self.stdin_text = order.job.stdin.clone().unwrap_or_default().into_bytes();
        }
        let limit = order.job.timeout.map(|timeout| self.started + timeout);
        let mut phase = Phase::Running;
        let mut ending = None;
        loop {
            self.check_for_stop(&mut phase, run, order, limit);
            let children_left = self.reap();
            let (next, wake_at) = self.advance(phase, children_left, &mut ending);
            phase = next;
            if let Phase::Over = phase {
                break;
            }
            let limit = limit.filter(|_| matches!(phase, Phase::Running));
            let read_bytes = self.wait_and_read(wake_at.into_iter().chain(limit).min())?;
            if let Phase::Ending { unread_bytes, .. } = &mut phase {
                *unread_bytes = unread_bytes.saturating_sub(read_bytes);
            }
        }
        Ok(self.into_exit(reserve, ending))
    }

    /// Starts the stop sequence on request and at the limit; shortens its grace when a later request limits it.
    fn check_for_stop(&mut self, phase: &mut Phase, run: &RunDirectory, order: &Order, limit: Option<Instant>) {
        match phase {
            Phase::Running => {
                if let Some(request) = self.take_stop_request(run) {
                    *phase = Phase::Stopping(start_stop(run, Ended::Stopped, &request, order));
                } else if limit.is_some_and(|limit| limit <= Instant::now()) {
                    let request = StopText { requested: "timeout".to_owned(), grace_max: None };
                    *phase = Phase::Stopping(start_stop(run, Ended::TimedOut, &request, order));
                }
            }
            Phase::Stopping(sequence) => {
                if let Some(grace_max) = self.take_stop_request(run).and_then(|request| request.grace_max) {
                    sequence.shorten_grace(grace_max);
                }
            }
            Phase::Ending { .. } | Phase::Over => {}
        }
    }

    /// Moves to the next phase if its condition holds. Returns the time of the next check.
    fn advance(&mut self, phase: Phase, children_left: bool, ending: &mut Option<Ending>) -> (Phase, Option<Instant>) {
        let now = Instant::now();
        match phase {
            Phase::Running if self.reaped.is_some() => {
                let phase = self.ending_phase(now);
                self.advance(phase, children_left, ending)
            }
            Phase::Running => (Phase::Running, None),
            Phase::Stopping(mut sequence) => match sequence.advance(children_left, self.cgroup.as_ref()) {
                Step::Wait(at) => (Phase::Stopping(sequence), Some(at)),
                Step::Done => {
                    let (cause, left) =
                        (sequence.cause, if children_left { stop_sequence::living_descendants() } else { Vec::new() });
                    // A caller that does not read must not hold up the end.
                    self.pipes.stop_copying();
                    let (message, leaked) = sequence.summary(left);
                    *ending = Some(Ending { cause, note: message, leaked });
                    let phase = self.ending_phase(now);
                    self.advance(phase, children_left, ending)
                }
            },
            Phase::Ending { until, unread_bytes } => {
                let unread_bytes = if now < until { unread_bytes } else { unread_bytes.min(self.pipes.unread_bytes()) };
                let is_read = now >= until && unread_bytes == 0;
                if !is_read && !(self.pipes.are_closed() && (!children_left || ending.is_some())) {
                    return (Phase::Ending { until, unread_bytes }, Some(until).filter(|until| now < *until));
                }
                if ending.is_none() && children_left {
                    *ending = Some(Ending::exited(stop_sequence::living_descendants()));
                }
                (Phase::Over, None)
            }
            Phase::Over => (Phase::Over, None),
        }
    }

    fn ending_phase(&self, now: Instant) -> Phase {
        Phase::Ending { until: now + LAST_OUTPUT_TIME, unread_bytes: self.pipes.unread_bytes() }
    }

    /// Reaps every child that has ended. Returns whether any child is left.
    pub(crate) fn reap(&mut self) -> bool {
        self.report_suspension();
        loop {
            let (pid, is_reaped, guard_check) = (self.pid, self.reaped.is_some(), self.guard_check.as_mut());
            let observe = |exited: u32| {
                if let Some(check) = guard_check.filter(|_| exited == pid && !is_reaped) {
                    check.observe(pid);
                }
            };
            match signals::reap(observe) {
                Children::None => return false,
                Children::Running => return true,
                Children::Reaped(child) if child.pid == self.pid && self.reaped.is_none() => {
                    self.reaped = Some(child);
                    self.duration = Some(self.started.elapsed());
                }
                Children::Reaped(orphan) => {
                    self.orphans_cpu_ms += orphan.cpu_ms;
                    self.orphans_rss_bytes = self.orphans_rss_bytes.max(orphan.max_rss_bytes);
                }
            }
        }
    }

    /// Waits for signals, output, room in the standard input, or `wake_at`, and handles what came. Returns the number
    /// of bytes read.
    pub(crate) fn wait_and_read(&mut self, wake_at: Option<Instant>) -> io::Result<u64> {
        let due = wake_at.into_iter().chain(self.pipes.due_at()).min();
        let wait = due.map_or(STOP_POLL_INTERVAL, |at| at.saturating_duration_since(Instant::now()));
        let ready = self.poll(wait.min(STOP_POLL_INTERVAL))?;
        if ready.signals {
            signals::drain(&self.signals);
        }
        // Not after every block of output: the `stat` would add a tenth to the cost of the block.
        if ready.signals || self.stop_checked_at.elapsed() >= STOP_POLL_INTERVAL {
            (self.check_stop, self.stop_checked_at) = (true, Instant::now());
        }
        if ready.stdin {
            self.write_stdin();
        }
        if ready.control {
            self.handle_caller();
        }
        self.pipes.set_time();
        ready.gone.into_iter().flatten().for_each(|stream| self.pipes.close(stream));
        let mut bytes = 0;
        for stream in ready.streams.into_iter().flatten() {
            bytes += self.pipes.read(stream);
        }
        self.pipes.write_due();
        Ok(bytes)
    }

    fn poll(&self, wait: Duration) -> io::Result<Ready> {
        let mut descriptors = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let (mut streams, mut readers) = ([None; 2], [None; 2]);
        for (index, (stream, descriptor)) in self.pipes.poll_descriptors().enumerate() {
            streams[index] = Some(stream);
            descriptors.push(descriptor);
        }
        for (index, (stream, descriptor)) in self.pipes.poll_readers().enumerate() {
            readers[index] = Some(stream);
            descriptors.push(descriptor);
        }
        descriptors.extend(self.stdin.as_ref().map(|stdin| PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::OUT)));
        let control = self.control.as_ref();
        descriptors.extend(control.map(|control| PollFd::new(control.descriptor(), PollFlags::IN)));
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        match poll(&mut descriptors, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = descriptors.iter().map(|descriptor| !descriptor.revents().is_empty());
        let mut next = || ready.next().unwrap_or(false);
        let signals = next();
        let streams = streams.map(|stream| stream.filter(|_| next()));
        let gone = readers.map(|stream| stream.filter(|_| next()));
        let stdin = self.stdin.is_some() && next();
        Ok(Ready { signals, streams, gone, stdin, control: control.is_some() && next() })
    }

    /// Passes a signal of the caller on to the job. After the end of the job, the caller does not want to wait for the
    /// reader of its output.
    fn handle_caller(&mut self) {
        let Some(control) = self.control.clone() else { return };
        loop {
            match control.receive() {
                Received::Signal { number, is_delivered: false } if self.reaped.is_none() => {
                    signals::send(self.pid, number);
                }
                Received::Signal { number, .. } if self.reaped.is_some() && is_end_signal(number) => {
                    self.pipes.interrupt_copying();
                }
                Received::Signal { .. } => {}
                Received::Nothing => return,
                Received::CallerGone => {
                    self.control = None;
                    return;
                }
            }
        }
    }

    /// Suspends the caller with the job, and continues it with the job: the shell of a terminal waits for the caller.
    fn report_suspension(&self) {
        let Some(control) = self.control.as_ref().filter(|_| self.reaped.is_none()) else { return };
        match signals::suspension_of(self.pid) {
            Suspension::Suspended => control.send(&KeeperMessage::Suspended),
            Suspension::Continued => control.continue_caller(),
            Suspension::None => {}
        }
    }

    /// Informs the caller of the end, once all output up to it is copied.
    pub(crate) fn send_end(&mut self) {
        if self.pipes.are_copying() {
            return;
        }
        let Some(mut message) = self.end_message.take() else { return };
        if let KeeperMessage::Ended { copy_error, .. } = &mut message {
            *copy_error = self.pipes.copy_error();
        }
        self.pipes.release_readers();
        if let Some(control) = &self.control {
            control.send(&message);
        }
    }

    /// Writes the rest of the job's standard input. Closes the pipe at the end of the text, or when the job has closed
    /// its end of the pipe.
    fn write_stdin(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        match stdin.write(&self.stdin_text) {
            Ok(written) => drop(self.stdin_text.drain(..written)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
            Err(_) => self.stdin_text.clear(),
        }
        if self.stdin_text.is_empty() {
            self.stdin = None;
        }
    }

    /// The stop request, if there is one and it may be new.
    pub(crate) fn take_stop_request(&mut self, run: &RunDirectory) -> Option<StopText> {
        if !std::mem::take(&mut self.check_stop) || !run.stop().exists() {
            return None;
        }
        // The file's existence is the request; its content only names the requester.
        let request = read_json::<StopRequest>(&run.stop()).ok().flatten();
        let by = request.as_ref().map(|request| request.by.clone()).unwrap_or_default();
        let requested = if by.is_empty() { "stop requested".to_owned() } else { format!("stop requested by {by}") };
        let grace_max = request.and_then(|request| request.grace_max_ms).map(Duration::from_millis);
        Some(StopText { requested, grace_max })
    }

    fn into_exit(mut self, reserve: &Reserve, ending: Option<Ending>) -> (Exit, Option<LateOutput>) {
        let is_open = !self.pipes.are_closed();
        let output = match is_open {
            true => self.pipes.end_part(|| reserve.release()),
            false => self.pipes.end(|| reserve.release()),
        };
        let ending = ending.unwrap_or_else(|| Ending::exited(Vec::new()));
        let duration = self.duration.unwrap_or_else(|| self.started.elapsed());
        let reaped = self.reaped.as_ref();
        let exit = Exit {
            ended: ending.cause,
            note: Some(ending.note).filter(|note| !note.is_empty()),
            exit_code: reaped.and_then(|reaped| reaped.exit_code),
            signal: reaped.and_then(|reaped| reaped.signal),
            started_at: Some(self.started_at),
            finished_at: finish_time(self.started_at, duration, Timestamp::now()),
            duration_ms: duration.as_millis() as u64,
            output,
            guard: self.guard_check.as_ref().filter(|_| ending.cause == Ended::Exited).and_then(|check| {
                let printed = output.last_seq > 0 || output.dropped_lines > 0;
                check.find_false(reaped.and_then(|reaped| reaped.exit_code), printed)
            }),
            cpu_ms: reaped.map(|reaped| reaped.cpu_ms + self.orphans_cpu_ms),
            max_rss_bytes: reaped.map(|reaped| reaped.max_rss_bytes.max(self.orphans_rss_bytes)),
            leaked: ending.leaked,
            output_open: is_open,
        };
        // A request that came during the last phase is for what is left.
        self.check_stop = true;
        self.end_message =
            Some(KeeperMessage::Ended { exit_code: exit.exit_code, signal: exit.signal, copy_error: None });
        self.send_end();
        let late = is_open.then(|| LateOutput::new(self, output));
        (exit, late)
    }
}

/// Starts a stop sequence. The marker shows the runner that this keeper acts.
pub(crate) fn start_stop(run: &RunDirectory, cause: Ended, request: &StopText, order: &Order) -> StopSequence {
    let _ = create_marker(&run.stopping());
    let grace = order.job.kill_grace;
    let grace = request.grace_max.map_or(grace, |max| grace.min(max));
    StopSequence::start(cause, request.requested.clone(), grace)
}

/// A stop request: what requested it, for the run's note, and the longest grace.
pub(crate) struct StopText {
    pub requested: String,
    pub grace_max: Option<Duration>,
}

/// The wall-clock time of the end of a job that started at `started_at` and ran for `duration`. Never before
/// `started_at + duration`, also when the clock was set back.
fn finish_time(started_at: Timestamp, duration: Duration, now: Timestamp) -> Timestamp {
    started_at.checked_add(duration).map_or(now, |end| end.max(now))
}

struct Ready {
    signals: bool,
    streams: [Option<Stream>; 2],
    /// The caller's streams whose reader has closed them.
    gone: [Option<Stream>; 2],
    stdin: bool,
    control: bool,
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
