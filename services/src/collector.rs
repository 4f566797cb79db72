//! Reports become outcomes: judged, applied to their runs, stored with what they mean for alerts; a failed attempt gets
//! its next one when the job wants that. Called in a loop; a report is deleted only when its run is stored.
//!
//! Each run stands alone: one that cannot be stored leaves its reports to come again, and stops no other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::alert::Occurrence;
use domain::event::{Body, Event, Report};
use domain::job::{Concurrency, Job, JobKey};
use domain::order::{FORMAT_VERSION, Order};
use domain::ports::{Delivery, Ports, RunWrite, Stored, Written};
use domain::run::{Applied, JudgedOn, Run, RunKey, Trigger, Verdict};
use jiff::Timestamp;
use rules::{ExitFacts, Limits, Packs, RuleSet};

use crate::ending::{Known, jobs_of, retry, write_one, write_with_alerts};
use crate::error::CONFLICTS_MAX;
use crate::making::order_of;
use crate::scheduler::waits_for_a_runner;
use crate::{Error, Result};

/// Reports dealt with in one call: SQS gives at most 10 a call, SQLite as many as are there.
pub const REPORTS_MAX: usize = 200;

/// How long a report is kept from other collectors; it comes again when this one dies.
pub const LEASE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub received: u32,
    /// Runs that were written.
    pub moved: u32,
    /// Of these, runs that ended.
    pub ended: u32,
    /// Of these, outcomes that had been declared and were replaced by the truth.
    pub replaced: u32,
    pub retried: u32,
    /// Reports of runs that are not known.
    pub unknown: u32,
    /// Reports of a newer build: left until this one is newer too.
    pub newer: u32,
    /// Runs whose reports come again, because a port could not store them.
    pub failed: u32,
    /// Jobs of which a run ended, and a later one may have waited for that: for [`crate::release::after`].
    pub ended_jobs: BTreeSet<JobKey>,
}

/// What has been reported; waits up to `wait` for the first report.
///
/// # Errors
/// A port's.
pub async fn receive(ports: &Ports, wait: Duration) -> Result<Vec<Delivery<Event>>> {
    Ok(ports.reports.receive(REPORTS_MAX, LEASE, wait).await?)
}

/// Deals with received reports. Apart from [`receive`], so that rules and time are those of after the wait: reports that
/// were judged by newer rules than they are collected with would be judged on their excerpt.
///
/// # Errors
/// A port's, when no report could be dealt with; they come again.
pub async fn collect(
    ports: &Ports,
    packs: &Packs,
    deliveries: Vec<Delivery<Event>>,
    now: Timestamp,
) -> Result<Summary> {
    let mut summary = Summary { received: deliveries.len() as u32, ..Summary::default() };
    let mut by_run: BTreeMap<RunKey, Vec<Delivery<Event>>> = BTreeMap::new();
    for delivery in deliveries {
        if delivery.message.version > FORMAT_VERSION {
            summary.newer += 1;
            tracing::warn!(run_id = %delivery.message.run_id, version = delivery.message.version,
                "a report of a newer build is left until this one is upgraded");
            continue;
        }
        by_run.entry(delivery.message.run_key()).or_default().push(delivery);
    }
    if by_run.is_empty() {
        return Ok(summary);
    }
    let keys = by_run.values().flatten().map(|delivery| JobKey::new(&delivery.message.group, &delivery.message.job));
    let jobs = jobs_of(ports, keys).await?;
    let run_keys: Vec<RunKey> = by_run.keys().cloned().collect();
    let mut runs: BTreeMap<RunKey, Stored<Run>> =
        ports.runs.get(&run_keys).await?.into_iter().map(|stored| (stored.record.run_key(), stored)).collect();
    let mut receipts = Vec::new();
    for (run_key, mut deliveries) in by_run {
        deliveries.sort_by_key(|delivery| delivery.message.attempt);
        let events: Vec<&Event> = deliveries.iter().map(|delivery| &delivery.message).collect();
        let collection = Collection { ports, packs, jobs: &jobs, now };
        match collection.run(&events, runs.remove(&run_key), &mut summary).await {
            Ok(()) => receipts.extend(deliveries.into_iter().map(|delivery| delivery.receipt)),
            Err(error) => {
                summary.failed += 1;
                tracing::warn!(run_id = %run_key.run_id, %error, "reports of a run could not be stored and come again");
            }
        }
    }
    ports.reports.delete(&receipts).await?;
    Ok(summary)
}

struct Collection<'c> {
    ports: &'c Ports,
    packs: &'c Packs,
    jobs: &'c BTreeMap<JobKey, Job>,
    now: Timestamp,
}

/// What the events of one run came to.
#[derive(Default)]
struct Effect {
    moved: bool,
    /// The run has ended for good (and what had been declared, was).
    ended: bool,
    replaced: bool,
    quiet: bool,
    retried: bool,
    order: Option<Order>,
}

impl Collection<'_> {
    async fn run(&self, events: &[&Event], mut stored: Option<Stored<Run>>, summary: &mut Summary) -> Result<()> {
        let Some(first) = events.first() else { return Ok(()) };
        for _ in 0..CONFLICTS_MAX {
            let (mut run, expected) = match stored {
                Some(stored) => (stored.record, Some(stored.version)),
                None if first.trigger == Trigger::Exec => (Run::reported(first), None),
                None => {
                    summary.unknown += events.len() as u32;
                    tracing::warn!(run_id = %first.run_id, job = %first.job, "a report of a run that is not known");
                    return Ok(());
                }
            };
            let job = self.jobs.get(&run.key());
            let effect = self.apply(&mut run, events, job);
            match self.store(&run, expected, job, &effect).await? {
                Written::Done => {
                    summary.moved += u32::from(effect.moved);
                    summary.ended += u32::from(effect.ended);
                    if effect.ended && job.is_some_and(|job| job.concurrency != Concurrency::Allow) {
                        summary.ended_jobs.insert(run.key());
                    }
                    summary.replaced += u32::from(effect.replaced);
                    summary.retried += u32::from(effect.retried);
                    if let Some(order) = effect.order {
                        self.ports.orders.send(&[order]).await?;
                    }
                    return Ok(());
                }
                Written::Conflict(now_stored) => stored = now_stored.map(|stored| *stored),
                Written::AlertConflict => {
                    return Err(Error::Contended(format!("the alert state of job {}", run.key())));
                }
            }
        }
        Err(Error::Contended(format!("run {}", first.run_id)))
    }

    fn apply(&self, run: &mut Run, events: &[&Event], job: Option<&Job>) -> Effect {
        let mut effect = Effect::default();
        for event in events {
            match run.apply(event, |report| self.judge(event.trigger, job, report)) {
                Applied::Unchanged => {}
                Applied::Moved => {
                    effect.moved = true;
                    effect.quiet |= matches!(event.body, Body::Quiet { .. });
                }
                Applied::Ended { replaced } => {
                    effect.moved = true;
                    effect.replaced |= replaced.is_some();
                    let wanted = job.filter(|_| replaced.is_none() && event.trigger != Trigger::Exec);
                    effect.order = retry(Known(wanted), run, self.now);
                    effect.retried |= effect.order.is_some();
                    effect.ended = effect.order.is_none();
                }
                // The call that stored this retry may have died before it sent the order.
                Applied::OlderAttempt if waits_for_a_runner(run) && run.attempt == event.attempt + 1 => {
                    effect.order = job.map(|job| order_of(run, job, self.now));
                }
                Applied::OlderAttempt => {}
                Applied::NotOrdered => {
                    let (run_id, attempt) = (&event.run_id, event.attempt);
                    tracing::warn!(%run_id, attempt, "a report of an attempt that nobody ordered");
                }
            }
        }
        effect.quiet &= run.is_open();
        effect
    }

    async fn store(&self, run: &Run, expected: Option<u64>, job: Option<&Job>, effect: &Effect) -> Result<Written> {
        let occurrence = match (effect.ended, run.outcome) {
            (true, Some(outcome)) => Some(Occurrence::Ended(outcome)),
            _ if effect.quiet => Some(Occurrence::Quiet),
            _ => None,
        };
        match occurrence {
            Some(occurrence) => write_with_alerts(self.ports, Known(job), run, expected, occurrence, self.now).await,
            None if effect.moved => write_one(self.ports, RunWrite { run: run.clone(), expected, alert: None }).await,
            None => Ok(Written::Done),
        }
    }

    /// Judges by the job as it is now. Where there is none (removed, or a run of `sexton exec`), and where its rules
    /// cannot be had, the runner's own hits count.
    fn judge(&self, trigger: Trigger, job: Option<&Job>, report: &Report) -> Verdict {
        let Some(job) = job.filter(|_| trigger != Trigger::Exec) else {
            return Verdict {
                outcome: report.outcome,
                reason: report.reason.clone(),
                judged_on: Some(JudgedOn::All),
                rules: report.rules.clone(),
            };
        };
        let set =
            rules::choose(self.packs, &job.rules, &job.command).and_then(|names| RuleSet::compile(self.packs, &names));
        let verdict = match set {
            Ok(set) => rules::judge_report(report, &Limits::of(job), &set),
            Err(error) => {
                tracing::warn!(job = %job.key(), %error, "a run is judged by what its runner's rules found");
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
