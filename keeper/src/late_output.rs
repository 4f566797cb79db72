//! The output that other processes print after the job's process has ended: a child in the background, a daemon. The
//! outcome of the run is decided by then. The keeper reads until end of file and kills nothing, unless a stop is
//! requested.

use std::io;
use std::time::{Duration, Instant};

use domain::event::{Ended, OutputEnd};
use domain::order::Order;
use domain::run::OutputCounts;
use domain::units::format_duration;
use jiff::Timestamp;

use crate::directory::RunDirectory;
use crate::job_loop::{Job, start_stop};
use crate::stop_sequence::{Step, StopSequence, living_descendants};

/// After a stop sequence that left no process, output that other processes hold is read for this time. Chosen: as after
/// the end of a job.
const LAST_OUTPUT_TIME: Duration = Duration::from_millis(100);

pub(crate) struct LateOutput {
    job: Job,
    /// Counts at the end of the run.
    counts: OutputCounts,
    since: Instant,
}

/// How far a stop of the remaining processes is.
enum Stop {
    None,
    Running(StopSequence),
    /// No process is left that the keeper could stop; output is read until this instant.
    Done(Instant),
}

impl LateOutput {
    pub(crate) fn new(job: Job, counts: OutputCounts) -> LateOutput {
        LateOutput { job, counts, since: Instant::now() }
    }

    /// Reads until end of file. Calls `record` once: at the end, or when `late_output_limit` has passed. From then on
    /// output is read and not kept, so that its writers are neither blocked nor ended.
    ///
    /// # Errors
    /// When the kernel refuses `poll`, or the end cannot be recorded.
    pub(crate) fn run_to_end(
        mut self,
        run: &RunDirectory,
        order: &Order,
        record: impl Fn(&OutputEnd) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut limit = order.job.late_output_limit;
        let mut stop = Stop::None;
        let mut note = None;
        let mut recorded = false;
        loop {
            let children_left = self.job.reap();
            self.job.send_end();
            if let Some(request) = self.job.take_stop_request(run) {
                match (&mut stop, request.grace_max) {
                    (Stop::Running(sequence), Some(grace_max)) => sequence.shorten_grace(grace_max),
                    (Stop::Running(_), None) => {}
                    _ => stop = Stop::Running(start_stop(run, Ended::Stopped, &request, order)),
                }
            }
            let (next, stop_at) = self.advance_stop(stop, children_left, &mut note);
            stop = next;
            let is_closed = self.job.pipes.are_closed();
            let is_over = match stop {
                Stop::None => is_closed,
                Stop::Running(_) => false,
                Stop::Done(until) => is_closed || (until <= Instant::now() && self.job.pipes.unread_bytes() == 0),
            };
            if is_over {
                break;
            }
            let limit_at = limit.map(|limit| self.since + limit);
            if let (Some(at), Some(time)) = (limit_at, limit)
                && at <= Instant::now()
            {
                limit = None;
                let time = format_duration(time);
                let text = format!("its late_output_limit of {time} passed; later output is not kept");
                record(&self.end(Some(text)))?;
                recorded = true;
                self.job.pipes.discard();
            }
            self.job.wait_and_read(stop_at.into_iter().chain(limit.and(limit_at)).min())?;
        }
        match recorded {
            true => Ok(()),
            false => record(&self.end(note)),
        }
    }

    fn advance_stop(&mut self, stop: Stop, children_left: bool, note: &mut Option<String>) -> (Stop, Option<Instant>) {
        match stop {
            Stop::None => (Stop::None, None),
            Stop::Done(until) => (Stop::Done(until), Some(until)),
            Stop::Running(mut sequence) => match sequence.advance(children_left, self.job.cgroup.as_ref()) {
                Step::Wait(at) => (Stop::Running(sequence), Some(at)),
                Step::Done => {
                    let left = if children_left { living_descendants() } else { Vec::new() };
                    *note = Some(sequence.summary(left).0);
                    let until = Instant::now() + LAST_OUTPUT_TIME;
                    (Stop::Done(until), Some(until))
                }
            },
        }
    }

    fn end(&mut self, note: Option<String>) -> OutputEnd {
        self.job.pipes.set_time();
        let output = self.job.pipes.end(|| {});
        let lines = |counts: &OutputCounts| counts.stdout_lines + counts.stderr_lines;
        OutputEnd { ended_at: Timestamp::now(), output, late_lines: lines(&output) - lines(&self.counts), note }
    }
}
