//! Finds runs that should have started, or whose runner should have sent a heartbeat, and did not. Called every
//! minute.
//!
//! A run that no runner took in time is `missed`: runners are refused its order from then on. A run whose runner sends
//! no heartbeat is `lost`. An order that may never have been sent is resent.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::job::{Job, JobKey};
use domain::order::Order;
use domain::ports::{Heartbeat, PortError, Ports, RunQuery, Stored};
use domain::run::{Outcome, Run, State, Trigger};
use jiff::Timestamp;

use crate::Result;
use crate::error::Failures;
use crate::maintenance::{self, Windows};
use crate::new_runs::{elapsed_since, new_order, saturating_add, saturating_sub};
use crate::ordering::{Ordered, alert_denied, send_orders};
use crate::release::too_late_reason;
use crate::run_end::{end_without_report, load_jobs};
use crate::scheduler::waits_for_a_runner;
use crate::settings::{self, OVERDUE, OverdueState};

/// A runner without a heartbeat for this time counts as dead: three heartbeats of 30 s.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(90);

/// How long a run of `sexton exec`, which sends no heartbeats, may be silent before it is lost. Chosen: longer than
/// any expected backup.
pub const EXEC_REPORT_TIMEOUT: Duration = Duration::from_secs(7 * 86_400);

/// Time after a run's timeout and kill grace, or after its latest start, until a live runner counts as having lost the
/// run. Chosen, not measured.
pub const OVERRUN_GRACE: Duration = Duration::from_secs(3600);

/// Age of a waiting run at which its order is resent; then at twice, four times ... this age. A lost order is
/// replaced, and a group without runners does not fill its queue.
pub const RESEND_AFTER: Duration = Duration::from_secs(120);

/// Open runs read in one page. Chosen, not measured.
pub const PAGE_MAX: usize = 500;

/// What one [`tick`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverdueSummary {
    /// Open runs that were checked.
    pub open: u32,
    /// Runs that were ended as `missed`.
    pub missed: u32,
    /// Attempts that were ended as `lost`.
    pub lost: u32,
    /// Orders that were resent.
    pub resent: u32,
    /// Runs that cannot be ended because of a fault of their own.
    pub failed: u32,
}

/// All open runs, read once a minute for `overdue`, `release` and `liveness` together.
///
/// # Errors
/// Returns the port's error; the next call retries.
pub async fn list_open_runs(ports: &Ports) -> Result<Vec<Stored<Run>>> {
    let (mut open, mut after) = (Vec::new(), None);
    loop {
        let page = ports.runs.list(&RunQuery::open(), after.as_ref(), PAGE_MAX).await?;
        open.extend(page.records);
        after = page.next;
        if after.is_none() {
            return Ok(open);
        }
    }
}

/// Checks all open runs: ends those that are missed or lost, and resends orders.
///
/// # Errors
/// Returns the port's error; the next call retries.
pub async fn tick(ports: &Ports, open: &[Stored<Run>], now: Timestamp) -> Result<OverdueSummary> {
    let mut state = settings::read::<OverdueState>(ports, OVERDUE).await?;
    let ticked_at = state.value.ticked_at;
    let is_continuous =
        ticked_at.is_some_and(|ticked_at| ticked_at <= now && elapsed_since(ticked_at, now) <= HEARTBEAT_TIMEOUT);
    // Without these checks, heartbeats may have been impossible too: each runner gets a full timeout for its next one.
    let watching_since = state.value.watching_since.filter(|_| is_continuous).unwrap_or(now);
    let check = OverdueCheck {
        ports,
        now,
        previous_at: ticked_at.unwrap_or(now),
        watching_since,
        heartbeats: ports.settings.heartbeats().await?,
        windows: match open.iter().any(|run| run.record.held && run.record.start_by.is_some_and(|by| by < now)) {
            true => maintenance::read(ports).await?,
            false => Windows::default(),
        },
    };
    let mut summary = OverdueSummary::default();
    let mut failures = Failures::default();
    for page in open.chunks(PAGE_MAX) {
        if let Err(error) = check.check_page(page, &mut summary).await {
            failures.add(error)?;
        }
    }
    state.value = OverdueState { ticked_at: Some(now), watching_since: Some(watching_since) };
    state.write(ports).await?;
    failures.result()?;
    Ok(summary)
}

struct OverdueCheck<'l> {
    ports: &'l Ports,
    now: Timestamp,
    /// When the previous check was.
    previous_at: Timestamp,
    watching_since: Timestamp,
    heartbeats: Vec<Heartbeat>,
    /// Read only when the latest start of a held run has passed.
    windows: Windows,
}

/// The next latest start of a run that has not started; none when there is no such run.
pub fn next_start_by(open: &[Stored<Run>], now: Timestamp) -> Option<Timestamp> {
    let waiting = open.iter().map(|run| &run.record).filter(|run| run.state == State::Scheduled);
    waiting.filter_map(|run| run.start_by).filter(|start_by| *start_by >= now).min()
}

enum Finding {
    Missed(String),
    Lost(String),
    Resend,
}

impl OverdueCheck<'_> {
    async fn check_page(&self, page: &[Stored<Run>], summary: &mut OverdueSummary) -> Result<()> {
        summary.open += page.len() as u32;
        let wanted = page.iter().filter(|run| self.needs_check(&run.record)).map(|run| run.record.key());
        let jobs: BTreeMap<JobKey, Job> = load_jobs(self.ports, wanted).await?;
        let mut waiting: Vec<(&Run, Order)> = Vec::new();
        let mut failures = Failures::default();
        for stored in page {
            let job = jobs.get(&stored.record.key());
            let Some(finding) = self.check_run(&stored.record, job) else { continue };
            let (outcome, reason) = match finding {
                Finding::Resend => {
                    waiting.extend(job.map(|job| (&stored.record, new_order(&stored.record, job, self.now))));
                    continue;
                }
                Finding::Missed(reason) => (Outcome::Missed, reason),
                Finding::Lost(reason) => (Outcome::Lost, reason),
            };
            match end_without_report(self.ports, job, stored, outcome, reason, self.now).await {
                Ok(Some(_)) if outcome == Outcome::Missed => summary.missed += 1,
                Ok(Some(_)) => summary.lost += 1,
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(run_id = %stored.record.run_id, %error, "cannot end a run; trying again later");
                    summary.failed += 1;
                    failures.add(error)?;
                }
            }
        }
        let resent = self.resend(waiting, summary).await;
        failures.result().and(resent)
    }

    async fn resend(&self, waiting: Vec<(&Run, Order)>, summary: &mut OverdueSummary) -> Result<()> {
        let (runs, orders): (Vec<&Run>, Vec<Order>) = waiting.into_iter().unzip();
        let sent = send_orders(self.ports, &orders, self.now).await?;
        let mut failed = None;
        for (run, ordered) in runs.into_iter().zip(sent) {
            match ordered {
                Ordered::Sent => {
                    summary.resent += 1;
                    if run.reason.is_some() {
                        // Its order was refused before.
                        alert_denied(self.ports, &run.group, None, self.now).await?;
                    }
                }
                Ordered::Retry(error) => failed = Some(error),
                Ordered::Denied(reason) => alert_denied(self.ports, &run.group, Some(&reason), self.now).await?,
                Ordered::Ended(_) => summary.missed += 1,
            }
        }
        match failed {
            Some(error) => Err(PortError::Retry(error).into()),
            None => Ok(()),
        }
    }

    /// Whether anything may be found about the run. Only then is its job read.
    fn needs_check(&self, run: &Run) -> bool {
        let over_some_limit =
            run.started_at.is_some_and(|started_at| elapsed_since(started_at, self.now) > OVERRUN_GRACE);
        over_some_limit || self.check_run(run, None).is_some()
    }

    fn check_run(&self, run: &Run, job: Option<&Job>) -> Option<Finding> {
        match run.state {
            State::Scheduled if run.held => too_late_reason(run, &self.windows, self.now).map(Finding::Missed),
            State::Scheduled => self.check_unstarted(run),
            State::Claimed | State::Running => self.lost_reason(run, job).map(Finding::Lost),
            State::Finished => None,
        }
    }

    fn check_unstarted(&self, run: &Run) -> Option<Finding> {
        if let Some(start_by) = run.start_by.filter(|start_by| *start_by < self.now) {
            let alive = self
                .heartbeats
                .iter()
                .filter(|heartbeat| serves_group(heartbeat, &run.group))
                .max_by_key(|heartbeat| heartbeat.at);
            let runners = match alive {
                Some(Heartbeat { runner, at, held: Some(why), .. }) => {
                    format!("runner {runner} is alive (last heartbeat {at}) but starts nothing: {why}")
                }
                Some(heartbeat) => format!("the last heartbeat of a runner of this group was at {}", heartbeat.at),
                None => "no heartbeat from any runner of this group".to_owned(),
            };
            return Some(Finding::Missed(format!("no runner of group {} took it by {start_by}; {runners}", run.group)));
        }
        let from = run.not_before.map_or(run.scheduled_at, |not_before| not_before.max(run.scheduled_at));
        (waits_for_a_runner(run)
            && crossed_resend_age(elapsed_since(from, self.previous_at), elapsed_since(from, self.now)))
        .then_some(Finding::Resend)
    }

    /// Why no runner will report the end of this run; `None` while one may.
    fn lost_reason(&self, run: &Run, job: Option<&Job>) -> Option<String> {
        let runner = run.runner.as_deref().unwrap_or("unknown");
        let host = run.host.as_deref().unwrap_or("an unknown host");
        let last_report_at = run.started_at.or(run.claimed_at).unwrap_or(run.scheduled_at);
        let heartbeat = self.heartbeats.iter().find(|heartbeat| Some(&heartbeat.runner) == run.runner.as_ref());
        if heartbeat.is_none() && run.trigger == Trigger::Exec {
            let silent = elapsed_since(last_report_at, self.now) > EXEC_REPORT_TIMEOUT;
            return silent.then(|| format!("no report from {host} since {last_report_at}"));
        }
        let alive = heartbeat.map_or(last_report_at, |heartbeat| heartbeat.at.max(last_report_at));
        // A heartbeat in the future is of a clock that was set back since: it proves nothing.
        let last_alive = Some(alive).filter(|alive| *alive <= saturating_add(self.now, HEARTBEAT_TIMEOUT));
        let watched = self.watching_since;
        if elapsed_since(last_alive.map_or(watched, |last_alive| last_alive.max(watched)), self.now) > HEARTBEAT_TIMEOUT
        {
            let last_alive = last_alive.unwrap_or(watched);
            return Some(format!("no heartbeat from runner {runner} on {host} since {last_alive}"));
        }
        let (due_by, missing) = match run.started_at {
            // A runner starts what it claimed, or refuses it as too late; one that lost its disk does neither.
            None => (run.start_by?, "the start; the latest start time passed over 1 h ago"),
            Some(started_at) => (
                saturating_add(started_at, job?.timeout? + job?.kill_grace),
                "the end; its timeout passed over 1 h ago",
            ),
        };
        let is_overdue = saturating_add(due_by, OVERRUN_GRACE) < self.now;
        is_overdue.then(|| format!("runner {runner} on {host} is alive but did not report {missing}"))
    }
}

/// Whether the runner takes orders of the group.
pub fn serves_group(heartbeat: &Heartbeat, group: &str) -> bool {
    heartbeat.groups.is_empty() || heartbeat.groups.iter().any(|own| own == group)
}

/// Whether the waiting time of a run has passed [`RESEND_AFTER`] times a power of two between `before` and `now`.
fn crossed_resend_age(before: Duration, now: Duration) -> bool {
    let passed = |waited: Duration| (waited.as_secs() / RESEND_AFTER.as_secs()).checked_ilog2();
    passed(now) > passed(before)
}

/// How long a runner without heartbeats is remembered. Chosen, not measured.
pub const RUNNER_RECORD_TTL: Duration = Duration::from_secs(7 * 86_400);

/// Deletes the records of runners without a heartbeat for [`RUNNER_RECORD_TTL`].
///
/// # Errors
/// Returns the port's error; the next call retries.
pub async fn delete_old_runners(ports: &Ports, now: Timestamp) -> Result<()> {
    Ok(ports.settings.delete_heartbeats(saturating_sub(now, RUNNER_RECORD_TTL)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_resent_at_doubling_ages() {
        let minutes: Vec<u64> = (1..=70)
            .filter(|minute| {
                crossed_resend_age(Duration::from_secs((minute - 1) * 60), Duration::from_secs(minute * 60))
            })
            .collect();
        assert_eq!(minutes, [2, 4, 8, 16, 32, 64]);
    }
}
