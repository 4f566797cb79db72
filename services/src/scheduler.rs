//! Turns due entries into runs and orders. Called every minute, and at [`next_wake`] if that is earlier.
//!
//! The due index holds one entry for each job: its next firing. A tick reads the entries up to now and plans each job's
//! firings since its entry (`firing_plan`). Then it creates the runs, sends the orders and puts the next entries. Only
//! then does it remove the old ones. When a tick is interrupted between two of these steps, the entry remains. The next
//! tick repeats them: it finds the runs and resends their orders, which the claim makes harmless.

mod deliveries;
mod due_scan;
mod failed_jobs;
pub(crate) mod zone_changes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::job::{Concurrency, Job, JobKey};
use domain::order::Order;
use domain::ports::{Due, PortError, Ports, RunWrite, Stored, StoredJob, WriteResult};
use domain::run::{Outcome, Run, RunId, RunKey, State};
use domain::schedule::Schedule;
use domain::zones;
use jiff::Timestamp;

use crate::chunk_plan::{ChunkPlan, DueJob, UNWRITTEN};
use crate::error::CONFLICTS_MAX;
use crate::firing_plan::{Absence, FiringContext, LATE_MAX, PlannedAction, PlannedRun, plan_runs};
use crate::new_runs::{new_order, new_run, next_due_entry, saturating_add, schedule_of};
use crate::overlap::{apply_concurrency, hold_until_release, open_max, open_runs};
use crate::run_end::write_with_alerts;
use crate::settings::{self, SCHEDULER, SchedulerState};
use crate::tick_progress::ShardProgress;
pub use crate::tick_progress::{CLOCK_SKEW_MAX, FIRST_LOOKBACK, LOOKBACK, ticked_at};
use crate::{Result, maintenance, overlap, removed_jobs, tick_starts};
use deliveries::Deliveries;

/// Longest time between two ticks. Chosen: the resolution of crontabs.
pub const TICK_INTERVAL_MAX: Duration = Duration::from_secs(60);

/// Counts of one tick.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchedulerSummary {
    /// Runs that were created and ordered.
    pub started: u32,
    /// Runs that were created and are held.
    pub held: u32,
    /// Runs recorded as skipped.
    pub skipped: u32,
    /// Runs recorded as missed, also those of [`SchedulerSummary::started`] whose order can never be sent.
    pub missed: u32,
    /// Runs recorded as lost, because the ledger was restored from a copy.
    pub lost: u32,
    /// Orders resent for runs that an earlier tick created.
    pub resent: u32,
    /// Entries of jobs that were edited or deleted since.
    pub dropped: u32,
    /// Jobs whose definition is invalid.
    pub bad_jobs: u32,
    /// Jobs whose firings could not be stored; the next tick retries.
    pub failed: u32,
    /// More entries are due: tick again at once.
    pub more: bool,
}

/// Starts, holds, skips or misses all firings that are due at `now`.
///
/// # Errors
/// Returns the port's error; the next tick retries. An order that could not be sent is an error after all others.
pub async fn tick(ports: &Ports, now: Timestamp) -> Result<SchedulerSummary> {
    tick_while(ports, now, &|| true).await
}

/// As [`tick`], but processes no further entries when `has_time` returns `false`, after the first chunk: the next tick
/// continues there.
///
/// # Errors
/// Returns the errors of [`tick`]. What was processed before an error is stored, and not processed again.
pub async fn tick_while(
    ports: &Ports,
    now: Timestamp,
    has_time: &(dyn Fn() -> bool + Sync),
) -> Result<SchedulerSummary> {
    let mut state = settings::read::<SchedulerState>(ports, SCHEDULER).await?;
    let starts = tick_starts::record(ports, now).await?;
    let windows = maintenance::read(ports).await?;
    let context = FiringContext {
        now,
        ticked_at: state.value.ticked_at,
        windows: &windows,
        starts: &starts,
        put_late: false,
        absence: None,
        restored: state.value.restored,
    };
    let mut tick = Tick {
        ports,
        context,
        has_time,
        has_fired: false,
        put_late_before: None,
        summary: SchedulerSummary::default(),
        left: BTreeSet::new(),
        progress: ShardProgress::default(),
        deliveries: Deliveries::default(),
    };
    let tzdata = zones::release().identity();
    if state.value.tzdata.as_ref() != Some(&tzdata) {
        tick.follow_zone_changes(&tzdata).await?;
        state.value.tzdata = Some(tzdata);
    }
    let mut failed = None;
    let shards = ports.due.shards();
    for shard in 0..shards {
        if let Err(error) = tick.scan_shard(shard, &state.value).await {
            failed = failed.or(Some(error));
        }
    }
    let Tick { summary, progress, deliveries, .. } = tick;
    let unsent = match deliveries.alert(ports, &mut state.value.denied_groups, now).await {
        Ok(unsent) => unsent,
        Err(error) => {
            failed = failed.or(Some(error));
            None
        }
    };
    progress.store(&mut state.value, shards, now, failed.is_none());
    // A conflict is ignored: the progress that another scheduler wrote is valid too.
    let written = state.write(ports).await;
    match (failed, unsent) {
        (Some(error), _) => Err(error),
        (None, _) if written.is_err() => written.map(|_| summary),
        (None, Some(error)) => Err(PortError::Retry(error).into()),
        (None, None) => Ok(summary),
    }
}

/// When to tick next: at the next full minute, or when an entry is due before. Entries that came due since the last
/// tick count, so the result may be before `now`.
///
/// # Errors
/// Returns the port's error.
pub async fn next_wake(ports: &Ports, now: Timestamp) -> Result<Timestamp> {
    let minute = now.as_second().div_euclid(60) * 60 + TICK_INTERVAL_MAX.as_secs() as i64;
    let mut wake = Timestamp::from_second(minute).unwrap_or(Timestamp::MAX);
    let ticked_at = ticked_at(ports).await?;
    let from = saturating_add(ticked_at.unwrap_or(now).min(now), Duration::from_nanos(1));
    for shard in 0..ports.due.shards() {
        let next = ports.due.list(shard, from, wake, 1).await?;
        wake = next.first().map_or(wake, |entry| entry.at.min(wake));
    }
    Ok(wake)
}

struct Tick<'t> {
    ports: &'t Ports,
    context: FiringContext<'t>,
    has_time: &'t (dyn Fn() -> bool + Sync),
    has_fired: bool,
    /// Earlier entries that are read now were put after a tick had processed their instants.
    put_late_before: Option<Timestamp>,
    summary: SchedulerSummary,
    /// Entries that the next tick must process again.
    left: BTreeSet<Due>,
    progress: ShardProgress,
    deliveries: Deliveries,
}

impl Tick<'_> {
    /// Fires a chunk, then again those of its jobs whose writes conflicted; at most [`CONFLICTS_MAX`] times.
    async fn fire_until_no_conflict(
        &mut self,
        by_job: &BTreeMap<JobKey, Vec<Due>>,
        jobs: &BTreeMap<JobKey, StoredJob>,
    ) -> Result<()> {
        let mut conflicted = self.fire_chunk(by_job, jobs).await?;
        for _ in 1..CONFLICTS_MAX {
            let mut retry = by_job.clone();
            retry.retain(|key, _| conflicted.contains(key));
            if retry.is_empty() {
                return Ok(());
            }
            conflicted = self.fire_chunk(&retry, jobs).await?;
        }
        for (_, entries) in by_job.iter().filter(|(key, _)| conflicted.contains(key)) {
            self.left.extend(entries.iter().cloned());
        }
        Ok(())
    }

    /// Returns the jobs whose writes conflicted with another scheduler: none of their changes was stored.
    async fn fire_chunk(
        &mut self,
        by_job: &BTreeMap<JobKey, Vec<Due>>,
        jobs: &BTreeMap<JobKey, StoredJob>,
    ) -> Result<BTreeSet<JobKey>> {
        let mut plan = ChunkPlan::default();
        let mut due_jobs = Vec::with_capacity(by_job.len());
        let absences = self.absences(by_job).await?;
        for (key, entries) in by_job {
            match jobs.get(key).map(|stored| &stored.job) {
                None => self.summary.dropped += entries.len() as u32,
                Some(Err(reason)) => self.alert_bad_job(key, reason).await?,
                Some(Ok(job)) => match schedule_of(job) {
                    Err(reason) => self.alert_bad_job(key, &reason).await?,
                    Ok(schedule) => due_jobs.extend(self.match_entries(job, schedule, entries, absences.get(key))),
                },
            }
            plan.done.extend(entries.iter().cloned());
        }
        plan.guards = overlap::read_guards(self.ports, due_jobs.iter().map(|due_job| due_job.job)).await?;
        if self.ports.enforces_max_open {
            plan.open = overlap::all_open_runs(self.ports).await?;
        }
        let already_fired = self.already_fired(&due_jobs).await?;
        for due_job in due_jobs {
            self.plan_job(&mut plan, due_job, &already_fired).await?;
        }
        self.execute_plan(plan).await
    }

    /// When the jobs whose entry was put too late were missing from their file.
    async fn absences(&self, by_job: &BTreeMap<JobKey, Vec<Due>>) -> Result<BTreeMap<JobKey, Absence>> {
        let Some(ticked_at) = self.context.ticked_at else { return Ok(BTreeMap::new()) };
        let is_late = |entries: &[Due]| entries.iter().any(|entry| entry.at <= ticked_at);
        let late = by_job.iter().filter(|(_, entries)| is_late(entries)).map(|(key, _)| key);
        removed_jobs::absences(self.ports, late).await
    }

    /// The runs for a job's entries; `None` when the job was edited after they were written.
    fn match_entries<'j>(
        &mut self,
        job: &'j Job,
        schedule: Schedule,
        entries: &[Due],
        absence: Option<&Absence>,
    ) -> Option<DueJob<'j>> {
        let timing = job.timing();
        let valid = entries.iter().filter(|entry| entry.timing == timing).map(|entry| entry.at);
        let Some(from) = valid.min() else {
            self.summary.dropped += entries.len() as u32;
            return None;
        };
        let put_late = self.put_late_before.is_some_and(|before| from < before);
        let context = FiringContext { absence: absence.copied(), put_late, ..self.context };
        let planned = plan_runs(job, &schedule, from, &context);
        Some(DueJob { job, schedule, planned })
    }

    /// Plans one job. A missed run is written here, because its alert changes the state of the job.
    async fn plan_job(
        &mut self,
        plan: &mut ChunkPlan,
        due_job: DueJob<'_>,
        already_fired: &BTreeSet<RunId>,
    ) -> Result<()> {
        let DueJob { job, schedule, planned } = due_job;
        let mut open = match (open_max(self.ports, job), &plan.open) {
            (None, _) => Vec::new(),
            (Some(_), Some(open)) if job.concurrency == Concurrency::Allow => {
                open.get(&job.key()).cloned().unwrap_or_default()
            }
            (Some(_), _) => open_runs(self.ports, &job.key(), plan.guards.get(&job.key())).await?,
        };
        for planned_run in planned {
            if !already_fired.contains(&RunId::scheduled(&job.key(), planned_run.nominal)) {
                self.plan_firing(plan, job, planned_run, &mut open).await?;
            }
        }
        plan.next.extend(next_due_entry(job, &schedule, self.context.now));
        plan.jobs.insert(job.key(), job.clone());
        Ok(())
    }

    /// Existing runs of these firings that neither wait for a runner nor start again. An entry may be read twice.
    /// Planned again, a run that has ended would count as open and block the next one.
    async fn already_fired(&self, due_jobs: &[DueJob<'_>]) -> Result<BTreeSet<RunId>> {
        let limited = due_jobs.iter().filter(|due_job| open_max(self.ports, due_job.job).is_some());
        let run_keys: Vec<RunKey> = limited.flat_map(DueJob::run_keys).collect();
        if run_keys.is_empty() {
            return Ok(BTreeSet::new());
        }
        let stored = self.ports.runs.get(&run_keys).await?.into_iter().map(|stored| stored.record);
        let starts = |run: &Run| waits_for_a_runner(run) || was_ended_by_wrong_clock(run, self.context.now);
        Ok(stored.filter(|run| !starts(run)).map(|run| run.run_id).collect())
    }

    async fn plan_firing(
        &mut self,
        plan: &mut ChunkPlan,
        job: &Job,
        planned_run: PlannedRun,
        open: &mut Vec<Stored<Run>>,
    ) -> Result<()> {
        let now = self.context.now;
        let trigger = match &planned_run.action {
            PlannedAction::Start(trigger) => *trigger,
            PlannedAction::Hold(_) => domain::run::Trigger::CatchUp,
            _ => domain::run::Trigger::Schedule,
        };
        let mut run = new_run(job, planned_run.nominal, trigger, now);
        match planned_run.action {
            PlannedAction::Skip(reason) => run.finish(Outcome::Skipped, reason, now),
            PlannedAction::Hold(reason) => hold_until_release(&mut run, reason),
            PlannedAction::Miss(reason) => {
                run.finish(Outcome::Missed, reason, now);
                let occurrence = domain::alert::Occurrence::Ended(Outcome::Missed);
                let written = write_with_alerts(self.ports, Some(job), &run, None, occurrence, now).await?;
                self.summary.missed += u32::from(written == WriteResult::Done);
                return Ok(());
            }
            PlannedAction::Lose(reason) => {
                run.finish(Outcome::Lost, reason, now);
                let occurrence = domain::alert::Occurrence::Ended(Outcome::Lost);
                let written = write_with_alerts(self.ports, Some(job), &run, None, occurrence, now).await?;
                self.summary.lost += u32::from(written == WriteResult::Done);
                return Ok(());
            }
            PlannedAction::Start(_) | PlannedAction::StartLate(_) => {
                if let PlannedAction::StartLate(reason) = planned_run.action {
                    run.late_reason = Some(reason);
                }
                if job.concurrency == Concurrency::Replace {
                    plan.skip_replaced(open, &run, now);
                }
                let guard = plan.guards.get_mut(&job.key());
                apply_concurrency(self.ports, job, &mut run, open, guard, now).await?;
            }
        }
        // A run that an earlier tick created is in `open` already.
        if run.is_open() && !open.iter().any(|other| other.record.run_id == run.run_id) {
            open.push(Stored { record: run.clone(), version: UNWRITTEN });
        }
        let start = run.is_open() && !run.held;
        plan.runs.push((run, start));
        Ok(())
    }

    /// Returns the jobs whose writes conflicted with another scheduler.
    async fn execute_plan(&mut self, plan: ChunkPlan) -> Result<BTreeSet<JobKey>> {
        let mut conflicted = BTreeSet::new();
        let write = |(run, _): &(Run, bool)| {
            let alert = plan.guards.get(&run.key()).and_then(|guard| guard.alert_step(run));
            RunWrite { run: run.clone(), expected: None, alert }
        };
        let writes: Vec<RunWrite> = plan.runs.iter().map(write).collect();
        let written = if writes.is_empty() { Vec::new() } else { self.ports.runs.write(&writes).await? };
        let mut orders: Vec<Order> = Vec::new();
        let (mut unstored, mut resent) = (BTreeSet::new(), BTreeSet::new());
        let mut wrongly_ended: Vec<RunWrite> = Vec::new();
        for ((run, start), written) in plan.runs.iter().zip(written) {
            let Some(job) = plan.jobs.get(&run.key()) else { continue };
            match written {
                WriteResult::Done if *start => {
                    self.summary.started += 1;
                    orders.push(new_order(run, job, self.context.now));
                }
                WriteResult::Done if run.held => self.summary.held += 1,
                WriteResult::Done => self.summary.skipped += 1,
                WriteResult::Conflict(Some(stored))
                    if run.is_open() && was_ended_by_wrong_clock(&stored.record, self.context.now) =>
                {
                    wrongly_ended.push(RunWrite { run: run.clone(), expected: Some(stored.version), alert: None });
                }
                WriteResult::Conflict(Some(stored)) if waits_for_a_runner(&stored.record) => {
                    self.summary.resent += 1;
                    resent.insert(run.run_id.clone());
                    orders.push(new_order(&stored.record, job, self.context.now));
                }
                WriteResult::Conflict(_) => {}
                WriteResult::AlertConflict => drop(conflicted.insert(run.key())),
                WriteResult::Retry(error) => {
                    unstored.insert(run.key());
                    self.deliveries.note_failure(error);
                }
                WriteResult::Never(reason) => self.end_unstorable(run, job, &reason).await?,
            }
        }
        orders.extend(self.restart_wrongly_ended(wrongly_ended, &plan.jobs).await?);
        let mut again = self.send_orders(&orders, &resent).await?;
        again.extend(unstored);
        self.left.extend(plan.done.iter().filter(|entry| again.contains(&entry.key)).cloned());
        let is_done = |entry: &&Due| !conflicted.contains(&entry.key) && !again.contains(&entry.key);
        let next: BTreeSet<Due> = plan.next.iter().filter(is_done).cloned().collect();
        if !next.is_empty() {
            self.ports.due.put(&next.iter().cloned().collect::<Vec<_>>()).await?;
        }
        // An entry may be its own successor after the clock was set back; it must then remain.
        let done = plan.done.iter().filter(is_done).filter(|entry| !next.contains(entry));
        self.ports.due.remove(&done.cloned().collect::<Vec<_>>()).await?;
        Ok(conflicted)
    }

    /// Starts runs that a wrong clock had ended before their time. Returns their orders.
    async fn restart_wrongly_ended(
        &mut self,
        writes: Vec<RunWrite>,
        jobs: &BTreeMap<JobKey, Job>,
    ) -> Result<Vec<Order>> {
        let mut orders = Vec::new();
        if writes.is_empty() {
            return Ok(orders);
        }
        let written = self.ports.runs.write(&writes).await?;
        if let Some(WriteResult::Retry(error)) = written.iter().find(|one| matches!(one, WriteResult::Retry(_))) {
            return Err(PortError::Retry(error.clone()).into());
        }
        for (write, _) in writes.iter().zip(written).filter(|(_, written)| *written == WriteResult::Done) {
            match jobs.get(&write.run.key()) {
                Some(job) if !write.run.held => {
                    self.summary.started += 1;
                    orders.push(new_order(&write.run, job, self.context.now));
                }
                _ => self.summary.held += 1,
            }
        }
        Ok(orders)
    }
}

/// Whether a clock that was ahead ended the run, and no runner ever claimed it.
fn was_ended_by_wrong_clock(run: &Run, now: Timestamp) -> bool {
    let declared = matches!(run.outcome, Some(Outcome::Missed | Outcome::Skipped));
    let untouched = run.attempt == 1 && run.claimed_at.is_none() && !run.has_report();
    declared && untouched && run.finished_at.is_some_and(|at| at > saturating_add(now, LATE_MAX))
}

/// Whether the run's order may be in the queue, or may never have been sent.
pub(crate) fn waits_for_a_runner(run: &Run) -> bool {
    run.state == State::Scheduled && !run.held
}
