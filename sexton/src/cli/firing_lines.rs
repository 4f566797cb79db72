//! The lines of `plan`: one per firing, and one for many firings of a job at equal steps, like every minute.

use std::collections::HashMap;

use domain::job::{Job, JobKey};
use domain::schedule::Firing;
use jiff::{SignedDuration, Timestamp};

/// Fewest firings at equal steps that share a line. Chosen: a window of a few hours shows every firing.
const GROUPED_MIN: usize = 10;

/// Firings with this step or a longer one have a line each.
const GROUPED_STEP: SignedDuration = SignedDuration::from_hours(1);

/// A line of `plan`.
#[derive(Debug)]
pub(crate) struct FiringLine<'j> {
    /// Position of its first firing in the plan.
    position: usize,
    pub(crate) job: &'j Job,
    pub(crate) first: Firing,
    pub(crate) more: Option<MoreFirings>,
}

/// Further firings of the same line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MoreFirings {
    /// From each firing to the next one.
    pub(crate) step: SignedDuration,
    /// The last firing.
    pub(crate) last: Timestamp,
    /// All firings of the line.
    pub(crate) count: usize,
}

/// The latest firings of a job.
#[derive(Default)]
struct Series<'j> {
    /// At equal steps, fewer than [`GROUPED_MIN`], when there is no line yet.
    pending: Vec<FiringLine<'j>>,
    /// The line that a next firing can continue.
    line: Option<FiringLine<'j>>,
}

impl<'j> Series<'j> {
    /// Adds a firing; moves the lines that it ends to `lines`.
    fn add(&mut self, firing: FiringLine<'j>, lines: &mut Vec<FiringLine<'j>>) {
        if let Some(more) = self.line.as_mut().and_then(|line| line.more.as_mut())
            && firing.first.note.is_none()
            && firing.first.at.duration_since(more.last) == more.step
        {
            more.last = firing.first.at;
            more.count += 1;
            return;
        }
        lines.extend(self.line.take());
        if !self.continues(&firing) {
            let keeps_last = self.pending.last().is_some_and(|last| last.first.note.is_none())
                && self.pending.len() > 1
                && firing.first.note.is_none();
            let ended = self.pending.len() - usize::from(keeps_last);
            lines.extend(self.pending.drain(..ended));
        }
        self.pending.push(firing);
        if self.pending.len() == GROUPED_MIN {
            let last = self.pending[GROUPED_MIN - 1].first.at;
            let step = last.duration_since(self.pending[GROUPED_MIN - 2].first.at);
            let line = self.pending.swap_remove(0);
            self.pending.clear();
            self.line = Some(FiringLine { more: Some(MoreFirings { step, last, count: GROUPED_MIN }), ..line });
        }
    }

    /// Whether the firing has the step of the pending ones, and none of them has a note.
    fn continues(&self, firing: &FiringLine<'j>) -> bool {
        let is_plain = |line: &FiringLine<'_>| line.first.note.is_none();
        let step = |from: &FiringLine<'_>, to: &FiringLine<'_>| to.first.at.duration_since(from.first.at);
        is_plain(firing)
            && match self.pending.as_slice() {
                [] => true,
                [only] => is_plain(only) && step(only, firing) < GROUPED_STEP,
                [.., before, last] => step(last, firing) == step(before, last),
            }
    }

    fn end(self, lines: &mut Vec<FiringLine<'j>>) {
        lines.extend(self.line);
        lines.extend(self.pending);
    }
}

/// Joins firings of a job at equal steps. The lines are in the order of their first firings.
pub(crate) fn join<'j>(plan: impl Iterator<Item = (&'j Job, Firing)>) -> Vec<FiringLine<'j>> {
    let mut lines: Vec<FiringLine<'j>> = Vec::new();
    let mut open: HashMap<JobKey, Series<'j>> = HashMap::new();
    for (position, (job, first)) in plan.enumerate() {
        let series = open.entry(job.key()).or_default();
        series.add(FiringLine { position, job, first, more: None }, &mut lines);
    }
    for series in open.into_values() {
        series.end(&mut lines);
    }
    lines.sort_unstable_by_key(|line| line.position);
    lines
}

#[cfg(test)]
mod tests {
    use domain::job::Command;

    use super::*;

    /// Joins firings at these minutes; a negative one has a note. Returns first minute, step in minutes, count.
    fn joined(minutes: &[i64]) -> Vec<(i64, i64, usize)> {
        let job = Job::new(JobKey::new("db", "dump"), "* * * * *", Command::Shell("true".into()));
        let firing = |minute: &i64| Firing {
            at: Timestamp::from_second(minute.abs() * 60).expect("instant"),
            nominal: Vec::new(),
            note: (*minute < 0).then(|| "a clock change".to_owned()),
        };
        let lines = join(minutes.iter().map(|minute| (&job, firing(minute))));
        lines
            .iter()
            .map(|line| {
                let (step, count) = line.more.as_ref().map_or((0, 1), |more| (more.step.as_secs() / 60, more.count));
                (line.first.at.as_second() / 60, step, count)
            })
            .collect()
    }

    #[test]
    fn ten_firings_at_equal_steps_are_one_line() {
        assert_eq!(joined(&Vec::from_iter(1..=10)), [(1, 1, 10)]);
        assert_eq!(joined(&Vec::from_iter(1..=9)).len(), 9);
        assert_eq!(joined(&Vec::from_iter((1..=12).map(|i| i * 60))).len(), 12, "hourly");
        assert_eq!(joined(&Vec::from_iter((1..=12).map(|i| i * 5))), [(5, 5, 12)]);
    }

    #[test]
    fn a_firing_off_the_step_or_with_a_note_has_its_own_line() {
        let mut minutes = Vec::from_iter(1..=12);
        minutes.extend([20, 21, 22]);
        assert_eq!(joined(&minutes), [(1, 1, 12), (20, 0, 1), (21, 0, 1), (22, 0, 1)]);
        minutes[11] = -12;
        assert_eq!(joined(&minutes)[..2], [(1, 1, 11), (12, 0, 1)]);
        // Every minute of two hours of a day, two minutes apart from others before.
        let minutes: Vec<i64> = [1, 3].into_iter().chain(4..=23).collect();
        assert_eq!(joined(&minutes), [(1, 0, 1), (3, 1, 21)]);
    }

    #[test]
    fn no_firing_is_lost() {
        let minutes: Vec<i64> = (1..400).filter(|minute| minute % 7 != 0 && minute % 97 > 13).collect();
        let lines = joined(&minutes);
        assert_eq!(lines.iter().map(|(_, _, count)| count).sum::<usize>(), minutes.len());
        assert!(lines.is_sorted(), "{lines:?}");
    }
}
