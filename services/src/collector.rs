//! Turns reports into outcomes: judges them, applies them to their runs, and stores each run with the alert that its
//! end causes. Orders the next attempt if the job's `retries` allow one. Called in a loop. Never deletes a report
//! whose run is not stored.
//!
//! Runs are written together, but succeed independently: the reports of one that cannot be stored are redelivered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::alert::{JobState, Occurrence};
use domain::event::{Body, Event, Report};
use domain::job::{Concurrency, Job, JobKey};
use domain::order::{FORMAT_VERSION, Order};
use domain::ports::{Delivery, PortError, Ports, RunWrite, Stored, WriteResult};
use domain::run::{Applied, JudgedOn, Run, RunKey, Trigger, Verdict};
use jiff::Timestamp;
use rules::{ExitFacts, Limits, Packs, RuleSet};

use crate::error::CONFLICTS_MAX;
use crate::new_runs::new_order;
use crate::ordering::send_order;
use crate::run_end::{alert_step, late_loss_step, load_jobs, next_attempt};
use crate::scheduler::waits_for_a_runner;
use crate::{Error, Result};

/// Reports received in one call. Chosen, not measured: SQS returns at most 10, SQLite all that exist up to this
/// number.
pub const REPORTS_MAX: usize = 200;

/// Lease of a received report: it is redelivered after this time when the collector dies. Chosen, not measured.
pub const LEASE: Duration = Duration::from_secs(60);

/// What one [`collect`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectorSummary {
    /// Reports received.
    pub received: u32,
    /// Runs that were written.
    pub updated: u32,
    /// Of these, runs that ended.
    pub ended: u32,
    /// Declared outcomes (`lost`, `missed`) that a late report replaced.
    pub replaced: u32,
    /// Runs that got a further attempt.
    pub retried: u32,
    /// Reports of runs that are not stored. They are deleted.
    pub unknown: u32,
    /// Reports of a newer format, left in the queue until this build is upgraded.
    pub newer: u32,
    /// Runs that could not be stored. Their reports are redelivered.
    pub failed: u32,
    /// Jobs of which a run ended and a later one may have waited for that: for [`crate::release::release_jobs`].
    pub ended_jobs: BTreeSet<JobKey>,
}

/// Receives reports; waits up to `wait` for the first.
///
/// # Errors
/// Returns the port's error; the next call retries.
pub async fn receive(ports: &Ports, wait: Duration) -> Result<Vec<Delivery<Event>>> {
    Ok(ports.reports.receive(REPORTS_MAX, LEASE, wait).await?)
}

/// Judges and stores received reports. Separate from [`receive`], so that the caller reads rules and time after the
/// wait. A report judged by newer rules than it is collected with would be judged again on its excerpt only.
///
/// # Errors
/// Returns the port's error when no report could be processed; all are redelivered.
pub async fn collect(
    ports: &Ports,
    packs: &Packs,
    deliveries: Vec<Delivery<Event>>,
    now: Timestamp,
) -> Result<CollectorSummary> {
    let mut summary = CollectorSummary { received: deliveries.len() as u32, ..CollectorSummary::default() };
    let mut by_run: BTreeMap<RunKey, Vec<Delivery<Event>>> = BTreeMap::new();
    for delivery in deliveries {
        if delivery.message.version > FORMAT_VERSION {
            summary.newer += 1;
            tracing::warn!(run_id = %delivery.message.run_id, version = delivery.message.version,
                "report has a newer format; left in the queue until this build is upgraded");
            continue;
        }
        by_run.entry(delivery.message.run_key()).or_default().push(delivery);
    }
    if by_run.is_empty() {
        return Ok(summary);
    }
    let keys = by_run.values().flatten().map(|delivery| JobKey::new(&delivery.message.group, &delivery.message.job));
    let jobs = load_jobs(ports, keys).await?;
    let run_keys: Vec<RunKey> = by_run.keys().cloned().collect();
    let mut runs: BTreeMap<RunKey, Stored<Run>> =
        ports.runs.get(&run_keys).await?.into_iter().map(|stored| (stored.record.run_key(), stored)).collect();
    let mut waiting = Vec::with_capacity(by_run.len());
    for (run_key, mut deliveries) in by_run {
        deliveries.sort_by_key(|delivery| delivery.message.attempt);
        waiting.push(RunReports { stored: runs.remove(&run_key), run_key, deliveries, conflicts: 0 });
    }
    let mut collection = Collection { ports, packs, jobs: &jobs, now, summary, receipts: Vec::new() };
    while !waiting.is_empty() {
        let (round, later) = split_first_per_job(waiting);
        waiting = collection.collect_round(round).await;
        waiting.extend(later);
    }
    ports.reports.delete(&collection.receipts).await?;
    Ok(collection.summary)
}

/// The reports of one run, and the run as it was last read.
struct RunReports {
    run_key: RunKey,
    deliveries: Vec<Delivery<Event>>,
    stored: Option<Stored<Run>>,
    /// Conditional writes of this run that lost to another writer.
    conflicts: u32,
}

impl RunReports {
    fn events(&self) -> impl Iterator<Item = &Event> {
        self.deliveries.iter().map(|delivery| &delivery.message)
    }
}

/// The oldest run of each job, and the others: an end is judged by the alert state that the previous end left.
fn split_first_per_job(waiting: Vec<RunReports>) -> (Vec<RunReports>, Vec<RunReports>) {
    let mut jobs = BTreeSet::new();
    waiting.into_iter().partition(|reports| {
        reports.events().next().is_none_or(|event| jobs.insert(JobKey::new(&event.group, &event.job)))
    })
}

struct Collection<'c> {
    ports: &'c Ports,
    packs: &'c Packs,
    jobs: &'c BTreeMap<JobKey, Job>,
    now: Timestamp,
    summary: CollectorSummary,
    /// Of processed reports, which are deleted at the end.
    receipts: Vec<String>,
}

/// The effect of the reports of one run.
#[derive(Default)]
struct Effect {
    changed: bool,
    /// The run has ended, without a further attempt. `replaced`: a declared outcome was replaced.
    ended: bool,
    replaced: bool,
    quiet: bool,
    /// Late lines were dropped.
    lost_late_lines: bool,
    retried: bool,
    order: Option<Order>,
}

/// A run with its reports applied, to be written.
struct UpdatedRun {
    reports: RunReports,
    run: Run,
    expected: Option<u64>,
    effect: Effect,
}

impl UpdatedRun {
    /// The occurrence that decides about an alert.
    fn occurrence(&self) -> Option<Occurrence> {
        match (self.effect.ended, self.run.outcome) {
            (true, Some(outcome)) => Some(Occurrence::Ended(outcome)),
            _ if self.effect.quiet => Some(Occurrence::Quiet),
            _ => None,
        }
    }
}

impl Collection<'_> {
    /// Processes runs of different jobs together; returns those that another process changed at the same time.
    async fn collect_round(&mut self, round: Vec<RunReports>) -> Vec<RunReports> {
        let all: Vec<UpdatedRun> = round.into_iter().filter_map(|reports| self.apply_reports(reports)).collect();
        let (updated, mut stored): (Vec<UpdatedRun>, Vec<UpdatedRun>) =
            all.into_iter().partition(|updated| updated.effect.changed);
        let mut conflicted = Vec::new();
        let written = self.store(&updated).await;
        for (updated, written) in updated.into_iter().zip(written) {
            match written {
                Ok(WriteResult::Done) => stored.push(updated),
                Ok(WriteResult::Conflict(now_stored)) => {
                    conflicted.push(RunReports { stored: now_stored.map(|stored| *stored), ..updated.reports });
                }
                Ok(WriteResult::AlertConflict) => conflicted.push(updated.reports),
                Ok(WriteResult::Retry(message) | WriteResult::Never(message)) | Err(message) => {
                    self.log_failure(&updated.reports, &message);
                }
            }
        }
        for updated in stored {
            match &updated.effect.order {
                Some(order) => match send_order(self.ports, order.clone(), self.now).await {
                    Ok(_) => self.count_stored(updated),
                    Err(error) => self.log_failure(&updated.reports, &error.to_string()),
                },
                None => self.count_stored(updated),
            }
        }
        conflicted.into_iter().filter_map(|reports| self.requeue_conflict(reports)).collect()
    }

    /// Applies the reports to their run. Returns `None` when the run is not stored.
    fn apply_reports(&mut self, reports: RunReports) -> Option<UpdatedRun> {
        let first = reports.events().next()?;
        let (mut run, expected) = match &reports.stored {
            Some(stored) => (stored.record.clone(), Some(stored.version)),
            None if first.trigger == Trigger::Exec => (Run::from_report(first), None),
            None => {
                self.summary.unknown += reports.deliveries.len() as u32;
                tracing::warn!(run_id = %first.run_id, job = %first.job, "report for an unknown run");
                self.receipts.extend(reports.deliveries.into_iter().map(|delivery| delivery.receipt));
                return None;
            }
        };
        let job = self.jobs.get(&run.key());
        let effect = self.apply_events(&mut run, reports.events(), job);
        Some(UpdatedRun { reports, run, expected, effect })
    }

    fn apply_events<'e>(&self, run: &mut Run, events: impl Iterator<Item = &'e Event>, job: Option<&Job>) -> Effect {
        let mut effect = Effect::default();
        for event in events {
            let dropped_before = run.dropped_lines;
            match run.apply(event, |report| self.judge(event.trigger, job, report)) {
                Applied::Unchanged => {}
                Applied::Moved => {
                    effect.changed = true;
                    effect.quiet |= matches!(event.body, Body::Quiet { .. });
                    effect.lost_late_lines |= run.dropped_lines > dropped_before;
                }
                Applied::Ended { replaced } => {
                    effect.changed = true;
                    effect.replaced |= replaced.is_some();
                    let wanted = job.filter(|_| replaced.is_none() && event.trigger != Trigger::Exec);
                    effect.order = next_attempt(wanted, run, self.now);
                    effect.retried |= effect.order.is_some();
                    effect.ended = effect.order.is_none();
                }
                // The call that stored this retry may have died before it sent the order.
                Applied::OlderAttempt if waits_for_a_runner(run) && run.attempt == event.attempt + 1 => {
                    effect.order = job.map(|job| new_order(run, job, self.now));
                }
                Applied::OlderAttempt => {}
                Applied::NotOrdered => {
                    let (run_id, attempt) = (&event.run_id, event.attempt);
                    tracing::warn!(%run_id, attempt, "report for an attempt that was never ordered");
                }
            }
        }
        effect.quiet &= run.is_open();
        effect
    }

    /// The results of the writes, in order. When a port refuses all permanently, each run is written alone.
    async fn store(&self, updated: &[UpdatedRun]) -> Vec<std::result::Result<WriteResult, String>> {
        match self.write(updated).await {
            Ok(written) => written.into_iter().map(Ok).collect(),
            Err(Error::Port(PortError::Permanent(_))) if updated.len() > 1 => {
                let mut written = Vec::with_capacity(updated.len());
                for single in updated.chunks(1) {
                    match self.write(single).await {
                        Ok(one) => written.extend(one.into_iter().map(Ok)),
                        Err(error) => written.push(Err(error.to_string())),
                    }
                }
                written
            }
            Err(error) => vec![Err(error.to_string()); updated.len()],
        }
    }

    async fn write(&self, updated: &[UpdatedRun]) -> Result<Vec<WriteResult>> {
        if updated.is_empty() {
            return Ok(Vec::new());
        }
        let with_alerts = updated.iter().filter(|updated| updated.occurrence().is_some());
        let keys: Vec<JobKey> = with_alerts.map(|updated| updated.run.key()).collect();
        let states = if keys.is_empty() { Vec::new() } else { self.ports.alerts.states(&keys).await? };
        let states: BTreeMap<JobKey, Stored<JobState>> = keys.into_iter().zip(states).collect();
        let writes = updated.iter().map(|updated| {
            let key = updated.run.key();
            let job = self.jobs.get(&key);
            let step = |occurrence| alert_step(job, &updated.run, states.get(&key)?, occurrence, self.now);
            let late_loss = updated.effect.lost_late_lines.then(|| late_loss_step(&updated.run, self.now)).flatten();
            RunWrite {
                run: updated.run.clone(),
                expected: updated.expected,
                alert: updated.occurrence().and_then(step).or(late_loss),
            }
        });
        Ok(self.ports.runs.write(&writes.collect::<Vec<_>>()).await?)
    }

    fn count_stored(&mut self, updated: UpdatedRun) {
        let UpdatedRun { reports, run, effect, .. } = updated;
        self.summary.updated += u32::from(effect.changed);
        self.summary.ended += u32::from(effect.ended);
        self.summary.replaced += u32::from(effect.replaced);
        self.summary.retried += u32::from(effect.retried);
        let waited_for = self.jobs.get(&run.key()).is_some_and(|job| job.concurrency != Concurrency::Allow);
        if effect.ended && waited_for {
            self.summary.ended_jobs.insert(run.key());
        }
        self.receipts.extend(reports.deliveries.into_iter().map(|delivery| delivery.receipt));
    }

    fn requeue_conflict(&mut self, reports: RunReports) -> Option<RunReports> {
        let conflicts = reports.conflicts + 1;
        if conflicts < CONFLICTS_MAX {
            return Some(RunReports { conflicts, ..reports });
        }
        self.log_failure(&reports, &Error::Conflict(format!("run {}", reports.run_key)).to_string());
        None
    }

    fn log_failure(&mut self, reports: &RunReports, error: &str) {
        self.summary.failed += 1;
        let run_id = &reports.run_key.run_id;
        tracing::warn!(%run_id, error, "cannot store reports; they will be redelivered");
    }

    /// Judges by the job as it is now. The runner's own matches count where there is no job (deleted, or a run of
    /// `sexton exec`), and where its rules cannot be loaded.
    fn judge(&self, trigger: Trigger, job: Option<&Job>, report: &Report) -> Verdict {
        let Some(job) = job.filter(|_| trigger != Trigger::Exec) else {
            return Verdict {
                outcome: report.outcome,
                reason: report.reason.clone(),
                judged_on: Some(JudgedOn::All),
                rules: report.rules.clone(),
            };
        };
        let chosen = rules::choose_packs_with(self.packs, &job.rules, &job.command, &report.interpreters);
        let verdict = match RuleSet::compile_for(self.packs, &chosen) {
            Ok(rule_set) => rules::judge_report(report, &Limits::of(job), &rule_set),
            Err(error) => {
                tracing::warn!(job = %job.key(), %error, "cannot load rules; judging by the runner's matches");
                rules::judge(&ExitFacts::of(report), &Limits::of(job), &report.rules)
            }
        };
        Verdict {
            outcome: verdict.outcome,
            reason: verdict.reason,
            judged_on: Some(verdict.judged_on),
            rules: verdict.hits,
        }
    }
}
