//! What the scheduler plans for a chunk of due entries, before it writes anything.

use std::collections::BTreeMap;

use domain::job::{Job, JobKey};
use domain::ports::{Due, Stored};
use domain::run::{Outcome, Run, RunId, RunKey};
use domain::schedule::Schedule;
use jiff::Timestamp;

use crate::firing_plan::PlannedRun;
use crate::job_guard::JobGuard;
use crate::overlap::replaced_reason;

/// The version of a run that is planned but not written.
pub(crate) const UNWRITTEN: u64 = 0;

/// The plan for a chunk of entries, before anything is written.
#[derive(Default)]
pub(crate) struct ChunkPlan {
    /// Runs to create, and whether to send their order.
    pub(crate) runs: Vec<(Run, bool)>,
    pub(crate) next: Vec<Due>,
    pub(crate) done: Vec<Due>,
    pub(crate) jobs: BTreeMap<JobKey, Job>,
    pub(crate) guards: BTreeMap<JobKey, JobGuard>,
    /// All open runs by job, newest first; `None` when they were not read, or are too many.
    pub(crate) open: Option<BTreeMap<JobKey, Vec<Stored<Run>>>>,
}

/// A job that is due, and the runs for its firings.
pub(crate) struct DueJob<'j> {
    pub(crate) job: &'j Job,
    pub(crate) schedule: Schedule,
    pub(crate) planned: Vec<PlannedRun>,
}

impl DueJob<'_> {
    pub(crate) fn run_keys(&self) -> impl Iterator<Item = RunKey> {
        let key = self.job.key();
        self.planned.iter().map(move |run| RunKey::new(&key.group, RunId::scheduled(&key, run.nominal)))
    }
}

impl ChunkPlan {
    /// Skips the planned runs of the job that `by` replaces.
    pub(crate) fn skip_replaced(&mut self, open: &mut Vec<Stored<Run>>, by: &Run, now: Timestamp) {
        for (run, start) in &mut self.runs {
            let unwritten = |other: &Stored<Run>| other.version == UNWRITTEN && other.record.run_id == run.run_id;
            if let Some(index) = open.iter().position(unwritten) {
                open.remove(index);
                run.finish(Outcome::Skipped, replaced_reason(by), now);
                *start = false;
            }
        }
    }
}
