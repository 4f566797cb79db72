//! Decides which claimed order may start now. Pure: this module counts, the runner acts.
//!
//! Orders are admitted in the order of arrival, and none overtakes another. While the first does not fit, the others
//! wait behind it, so that small jobs do not starve a large one. Waiting orders are already claimed and on disk, so a
//! runner claims no more than it will start soon.

use std::collections::VecDeque;

use domain::job::Needs;
use domain::units::format_size;

/// How many runs may be active at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// One at a time.
    Serial,
    /// By the needs of jobs, up to the given capacity. A job without `needs` needs nothing.
    Resources {
        /// Cores.
        cpu: f64,
        /// Bytes of memory.
        memory_bytes: u64,
    },
    /// All at once.
    Free,
}

/// Orders received at once: the maximum of SQS (ReceiveMessage, MaxNumberOfMessages).
pub(crate) const RECEIVE_MAX: usize = 10;

/// Runs of one machine at a time, in every mode. Chosen: each has a keeper, a job, two inotify watches and six
/// descriptors.
pub(crate) const RUNNING_MAX: usize = 10_000;

pub(crate) struct Admission<K> {
    mode: Mode,
    /// Runs at a time, in every mode: at most [`RUNNING_MAX`], fewer where descriptors are few.
    running_max: usize,
    running: usize,
    used_cpu: f64,
    used_memory_bytes: u64,
    waiting: VecDeque<(K, Needs)>,
}

impl<K: PartialEq> Admission<K> {
    pub(crate) fn new(mode: Mode, running_max: usize) -> Admission<K> {
        Admission { mode, running_max, running: 0, used_cpu: 0.0, used_memory_bytes: 0, waiting: VecDeque::new() }
    }

    /// How many orders may be received now.
    pub(crate) fn receive_max(&self) -> usize {
        if !self.waiting.is_empty() || self.running >= self.running_max {
            return 0;
        }
        match self.mode {
            Mode::Serial => 1usize.saturating_sub(self.running),
            Mode::Resources { .. } | Mode::Free => RECEIVE_MAX,
        }
    }

    /// The number of active runs, when it is the largest that is possible and further runs wait.
    pub(crate) fn running_at_limit(&self) -> Option<usize> {
        (self.running >= self.running_max).then_some(self.running)
    }

    /// Why an order waits that does not start now: one with these needs, or one that is not received yet (`None`).
    /// Nothing in the mode `free`, whose limit is [`Admission::running_at_limit`].
    pub(crate) fn waiting_reason(&self, needs: Option<Needs>) -> Option<String> {
        match self.mode {
            _ if self.running == 0 => None,
            Mode::Free => None,
            Mode::Serial => Some("this machine runs one job at a time (`mode` is `serial`)".to_owned()),
            Mode::Resources { cpu, memory_bytes } => {
                let in_use = format!(
                    "{} of {cpu} CPUs and {} of {} of memory are in use",
                    rounded(self.used_cpu),
                    format_size(self.used_memory_bytes),
                    format_size(memory_bytes)
                );
                match needs {
                    Some(needs) if !self.fits(needs) => {
                        let wanted = format!("{} CPUs and {}", rounded(needs.cpu), format_size(needs.memory));
                        Some(format!("waits for {wanted} of memory; {in_use}"))
                    }
                    _ if !self.waiting.is_empty() => Some(format!("waits behind an earlier run; {in_use}")),
                    _ => None,
                }
            }
        }
    }

    /// The orders that wait, in their order.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &K> {
        self.waiting.iter().map(|(key, _)| key)
    }

    /// Adds an order to the end of the queue.
    pub(crate) fn enqueue(&mut self, key: K, needs: Needs) {
        self.waiting.push_back((key, needs));
    }

    /// Counts a run that is already running.
    pub(crate) fn count_running(&mut self, needs: Needs) {
        self.count(needs);
    }

    /// Admits the next order that may start; it counts as running from now on.
    pub(crate) fn admit_next(&mut self) -> Option<K> {
        let (_, needs) = self.waiting.front()?;
        if !self.fits(*needs) {
            return None;
        }
        let (key, needs) = self.waiting.pop_front()?;
        self.count(needs);
        Some(key)
    }

    /// Removes a waiting order. Returns whether it was waiting.
    pub(crate) fn cancel(&mut self, key: &K) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|(waiting, _)| waiting != key);
        self.waiting.len() < before
    }

    /// Whether this order waits.
    pub(crate) fn is_waiting(&self, key: &K) -> bool {
        self.waiting.iter().any(|(waiting, _)| waiting == key)
    }

    /// Counts down a run that has ended.
    pub(crate) fn release(&mut self, needs: Needs) {
        self.running = self.running.saturating_sub(1);
        self.used_cpu = if self.running == 0 { 0.0 } else { (self.used_cpu - needs.cpu).max(0.0) };
        self.used_memory_bytes = self.used_memory_bytes.saturating_sub(needs.memory);
    }

    fn count(&mut self, needs: Needs) {
        self.running += 1;
        self.used_cpu += needs.cpu;
        self.used_memory_bytes = self.used_memory_bytes.saturating_add(needs.memory);
    }

    fn fits(&self, needs: Needs) -> bool {
        match self.mode {
            // A job that needs more than the capacity runs alone. Otherwise it would never start.
            _ if self.running == 0 => true,
            Mode::Serial => false,
            Mode::Resources { cpu, memory_bytes } => {
                self.used_cpu + needs.cpu <= cpu
                    && self.used_memory_bytes.saturating_add(needs.memory) <= memory_bytes
                    && self.running < self.running_max
            }
            Mode::Free => self.running < self.running_max,
        }
    }
}

/// Sums of decimal fractions have binary rests.
fn rounded(cpu: f64) -> f64 {
    (cpu * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(cpu: f64, memory: u64) -> Needs {
        Needs { cpu, memory }
    }

    #[test]
    fn serial_means_one_at_a_time_in_order_of_arrival() {
        let mut admission = Admission::new(Mode::Serial, RUNNING_MAX);
        assert_eq!(admission.receive_max(), 1);
        admission.enqueue('a', needs(0.0, 0));
        admission.enqueue('b', needs(0.0, 0));
        assert_eq!((admission.admit_next(), admission.admit_next(), admission.receive_max()), (Some('a'), None, 0));
        admission.release(needs(0.0, 0));
        assert_eq!((admission.admit_next(), admission.receive_max()), (Some('b'), 0));
        admission.release(needs(0.0, 0));
        assert_eq!(admission.receive_max(), 1);
    }

    #[test]
    fn small_jobs_do_not_starve_a_large_one() {
        let mut admission = Admission::new(Mode::Resources { cpu: 4.0, memory_bytes: 100 }, RUNNING_MAX);
        admission.enqueue("small", needs(1.0, 10));
        admission.enqueue("big", needs(4.0, 10));
        admission.enqueue("small too", needs(1.0, 10));
        assert_eq!(admission.admit_next(), Some("small"));
        assert_eq!(admission.admit_next(), None);
        assert_eq!(admission.receive_max(), 0);
        admission.release(needs(1.0, 10));
        assert_eq!(admission.admit_next(), Some("big"));
        assert_eq!(admission.admit_next(), None);
        admission.release(needs(4.0, 10));
        assert_eq!(admission.admit_next(), Some("small too"));
    }

    #[test]
    fn a_job_that_needs_more_than_the_capacity_runs_alone() {
        let mut admission = Admission::new(Mode::Resources { cpu: 1.0, memory_bytes: 100 }, RUNNING_MAX);
        admission.count_running(needs(0.0, 10));
        admission.enqueue((), needs(0.0, 1_000));
        assert_eq!(admission.admit_next(), None);
        admission.release(needs(0.0, 10));
        assert_eq!(admission.admit_next(), Some(()));
    }

    #[test]
    fn a_cancelled_order_is_not_admitted() {
        let mut admission = Admission::new(Mode::Free, RUNNING_MAX);
        admission.enqueue(1, needs(0.0, 0));
        assert!(admission.cancel(&1) && !admission.cancel(&1));
        assert_eq!(admission.admit_next(), None);
    }

    #[test]
    fn fewer_runs_are_admitted_where_descriptors_are_few() {
        let mut admission = Admission::new(Mode::Free, 2);
        (1..=3).for_each(|key| admission.enqueue(key, needs(0.0, 0)));
        assert_eq!([(); 3].map(|()| admission.admit_next()), [Some(1), Some(2), None]);
        assert_eq!((admission.running_at_limit(), admission.receive_max()), (Some(2), 0));
        admission.release(needs(0.0, 0));
        assert_eq!((admission.running_at_limit(), admission.admit_next()), (None, Some(3)));
    }
}
