//! Settles a ledger that was restored from a copy: records the runs of the gap between copy and restore, so that
//! nothing is started twice and no run stays open. Called once, when `sexton up` starts, before the scheduler and the
//! runner.
//!
//! A run of the gap with a run directory on this machine gets its outcome from the report that the runner sends again.
//! A run without one ends as `lost`. Firings of the gap are handled by the scheduler (`firing_plan`). Neither
//! `catch_up` nor `retries` starts any of them.

use std::collections::{BTreeMap, BTreeSet};

use domain::alert::Occurrence;
use domain::job::{Job, JobKey};
use domain::ports::{Ports, RunWrite, Stored};
use domain::restored::{AttemptTrace, RESTORED, RestoredLedger};
use domain::run::{Outcome, Run, RunId, RunKey, State, Trigger};
use jiff::Timestamp;

use crate::Result;
use crate::overdue::{PAGE_MAX, list_open_runs};
use crate::run_end::{load_jobs, write_run, write_with_alerts};
use crate::settings::{self, SCHEDULER, SchedulerState};

/// The runner of this machine, which has the traces.
#[derive(Clone, Copy, Debug)]
pub struct LocalRunner<'n> {
    /// Its name.
    pub name: &'n str,
    /// Its host name.
    pub host: &'n str,
}

/// What one [`settle`] recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreSummary {
    /// Runs whose report will be sent again.
    pub traced: u32,
    /// Runs that were ended as `lost`.
    pub lost: u32,
}

/// The restore that is not settled yet; `None` when there is nothing to do.
///
/// # Errors
/// Returns the port's error.
pub async fn unsettled(ports: &Ports) -> Result<Option<RestoredLedger>> {
    let stored = ports.settings.read(RESTORED).await?;
    let restored = stored.and_then(|stored| serde_json::from_value::<RestoredLedger>(stored.record).ok());
    Ok(restored.filter(|restored| !restored.settled))
}

/// Records the runs of the gap. `traces`: every attempt with a directory on this machine. Repeating it is harmless.
///
/// # Errors
/// Returns the port's error; the next start repeats it.
pub async fn settle(
    ports: &Ports,
    restored: &RestoredLedger,
    traces: &[AttemptTrace],
    runner: LocalRunner<'_>,
    now: Timestamp,
) -> Result<RestoreSummary> {
    // From now on, no tick starts a firing of the gap.
    let mut scheduler = settings::read::<SchedulerState>(ports, SCHEDULER).await?;
    scheduler.value.restored = Some(RestoredLedger { settled: true, ..*restored });
    scheduler.write(ports).await?;
    let settling = Settling { ports, restored, runner, now };
    let mut summary = RestoreSummary::default();
    let newest = newest_attempts(traces);
    settling.record_traced_runs(&newest, &mut summary).await?;
    settling.settle_open_runs(&newest, &mut summary).await?;
    let stored = ports.settings.read(RESTORED).await?;
    let done = serde_json::to_value(RestoredLedger { settled: true, ..*restored })
        .map_err(|error| domain::ports::PortError::Permanent(format!("setting {RESTORED}: {error}")))?;
    ports.settings.write(RESTORED, &done, stored.map(|stored| stored.version)).await?;
    Ok(summary)
}

fn newest_attempts(traces: &[AttemptTrace]) -> BTreeMap<&RunId, &AttemptTrace> {
    let mut newest: BTreeMap<&RunId, &AttemptTrace> = BTreeMap::new();
    for trace in traces {
        let known = newest.entry(&trace.run_id).or_insert(trace);
        if known.attempt < trace.attempt {
            *known = trace;
        }
    }
    newest
}

struct Settling<'s> {
    ports: &'s Ports,
    restored: &'s RestoredLedger,
    runner: LocalRunner<'s>,
    now: Timestamp,
}

impl Settling<'_> {
    /// Creates the runs of the gap that the ledger does not know.
    async fn record_traced_runs(
        &self,
        newest: &BTreeMap<&RunId, &AttemptTrace>,
        summary: &mut RestoreSummary,
    ) -> Result<()> {
        // An earlier run that the ledger does not know was deleted before the copy. `sexton exec` reports its own runs.
        let of_gap =
            |trace: &&&AttemptTrace| trace.accepted_at >= self.restored.copied_at && trace.trigger != Trigger::Exec;
        let traces: Vec<&AttemptTrace> = newest.values().filter(of_gap).copied().collect();
        for page in traces.chunks(PAGE_MAX) {
            let keys: Vec<RunKey> =
                page.iter().map(|trace| RunKey::new(&trace.key.group, trace.run_id.clone())).collect();
            let stored = self.ports.runs.get(&keys).await?;
            let known: BTreeSet<&RunId> = stored.iter().map(|stored| &stored.record.run_id).collect();
            let unknown = page.iter().filter(|trace| !known.contains(&trace.run_id));
            let writes: Vec<RunWrite> = unknown
                .map(|trace| {
                    let mut run =
                        Run::new(trace.run_id.clone(), &trace.key, trace.nominal, trace.trigger, trace.accepted_at);
                    self.continue_as(&mut run, trace);
                    RunWrite { run, expected: None, alert: None }
                })
                .collect();
            if !writes.is_empty() {
                summary.traced += writes.len() as u32;
                self.ports.runs.write(&writes).await?;
            }
        }
        Ok(())
    }

    /// Makes the run that of its newest attempt on this machine, as claimed.
    fn continue_as(&self, run: &mut Run, trace: &AttemptTrace) {
        while run.attempt < trace.attempt {
            run.finish(Outcome::Lost, self.restored.reason(), self.now);
            run.retry(trace.accepted_at);
        }
        if run.state == State::Scheduled {
            run.state = State::Claimed;
            run.claimed_at = Some(trace.accepted_at);
            run.runner = Some(self.runner.name.to_owned());
            run.host = Some(self.runner.host.to_owned());
            run.held = false;
            run.not_before = None;
        }
        run.restored_from = trace.has_ended.then_some(self.restored.copied_at);
    }

    async fn settle_open_runs(
        &self,
        newest: &BTreeMap<&RunId, &AttemptTrace>,
        summary: &mut RestoreSummary,
    ) -> Result<()> {
        let open = list_open_runs(self.ports).await?;
        for page in open.chunks(PAGE_MAX) {
            let jobs = load_jobs(self.ports, page.iter().map(|stored| stored.record.key())).await?;
            for stored in page {
                let trace = newest.get(&stored.record.run_id).copied();
                self.settle_run(stored, trace, &jobs, summary).await?;
            }
        }
        Ok(())
    }

    async fn settle_run(
        &self,
        stored: &Stored<Run>,
        trace: Option<&AttemptTrace>,
        jobs: &BTreeMap<JobKey, Job>,
        summary: &mut RestoreSummary,
    ) -> Result<()> {
        let mut run = stored.record.clone();
        if let Some(trace) = trace.filter(|trace| trace.attempt >= run.attempt) {
            self.continue_as(&mut run, trace);
            if run != stored.record {
                summary.traced += 1;
                let write = RunWrite { run, expected: Some(stored.version), alert: None };
                write_run(self.ports, write).await?;
            }
            return Ok(());
        }
        // A retry that was due only after the restore cannot have been started.
        if run.state == State::Scheduled && run.not_before.is_some_and(|at| at > self.restored.restored_at) {
            return Ok(());
        }
        run.finish(Outcome::Lost, self.restored.reason(), self.now);
        let job = jobs.get(&run.key());
        let occurrence = Occurrence::Ended(Outcome::Lost);
        write_with_alerts(self.ports, job, &run, Some(stored.version), occurrence, self.now).await?;
        summary.lost += 1;
        Ok(())
    }
}
