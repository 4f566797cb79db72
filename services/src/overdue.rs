//! Who should have started, or shown life, and did not? Called every minute.
//!
//! A run that nobody took in time is `missed` (its order is worth nothing then, as the claim is refused); a run whose
//! runner shows no life is `lost`. Orders that may never have been sent are sent again.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::job::{Job, JobKey};
use domain::ports::{Heartbeat, Ports, RunQuery, Stored};
use domain::run::{Outcome, Run, State, Trigger};
use jiff::Timestamp;

use crate::Result;
use crate::new_runs::{earlier, later, order_of, since};
use crate::run_end::{Known, declare, jobs_of};
use crate::scheduler::waits_for_a_runner;
use crate::settings::{self, OVERDUE, OverdueState};

/// A runner that has not beaten for so long is dead: three beats of 30 s.
pub const RUNNER_LEASE: Duration = Duration::from_secs(90);

/// How long nothing is heard of a run whose runner never beats (`sexton exec`) before it is lost. Ours: longer than any
/// backup that anybody waits for.
pub const EXEC_SILENT_MAX: Duration = Duration::from_secs(7 * 86_400);

/// What a run gets beyond its own limit and its kill grace, or beyond the instant by which it must have begun, before its
/// runner is believed to have forgotten it.
pub const OVERRUN_GRACE: Duration = Duration::from_secs(3600);

/// An order is sent again when its run has waited this long, then twice, four times ... as long: a lost one is made
/// good, and a group without runners does not fill its queue.
pub const RESEND_AFTER: Duration = Duration::from_secs(120);

/// Open runs read together.
pub const PAGE_MAX: usize = 500;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub open: u32,
    pub missed: u32,
    pub lost: u32,
    pub sent_again: u32,
}

/// All open runs: what `overdue`, `release` and `liveness` look at every minute, read once for all of them.
///
/// # Errors
/// A port's.
pub async fn open(ports: &Ports) -> Result<Vec<Stored<Run>>> {
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

/// Looks at all open runs.
///
/// # Errors
/// A port's.
pub async fn tick(ports: &Ports, open: &[Stored<Run>], now: Timestamp) -> Result<Summary> {
    let mut state = settings::read::<OverdueState>(ports, OVERDUE).await?;
    let ticked_at = state.value.ticked_at;
    let watching = ticked_at.is_some_and(|ticked_at| ticked_at <= now && since(ticked_at, now) <= RUNNER_LEASE);
    // While nobody watched, nobody could beat either: everyone gets a full lease to show life again.
    let watching_since = state.value.watching_since.filter(|_| watching).unwrap_or(now);
    let look = Look {
        ports,
        now,
        before: ticked_at.unwrap_or(now),
        watching_since,
        beats: ports.settings.heartbeats().await?,
    };
    let mut summary = Summary::default();
    for page in open.chunks(PAGE_MAX) {
        look.page(page, &mut summary).await?;
    }
    state.value = OverdueState { ticked_at: Some(now), watching_since: Some(watching_since) };
    state.write(ports).await?;
    Ok(summary)
}

struct Look<'l> {
    ports: &'l Ports,
    now: Timestamp,
    /// When the last look was.
    before: Timestamp,
    watching_since: Timestamp,
    beats: Vec<Heartbeat>,
}

enum Finding {
    Missed(String),
    Lost(String),
    SendAgain,
}

impl Look<'_> {
    async fn page(&self, page: &[Stored<Run>], summary: &mut Summary) -> Result<()> {
        summary.open += page.len() as u32;
        let wanted = page.iter().filter(|run| self.concerns(&run.record)).map(|run| run.record.key());
        let jobs: BTreeMap<JobKey, Job> = jobs_of(self.ports, wanted).await?;
        for stored in page {
            let job = jobs.get(&stored.record.key());
            let Some(finding) = self.finding(&stored.record, job) else { continue };
            let (outcome, reason) = match finding {
                Finding::SendAgain => {
                    if let Some(job) = job {
                        self.ports.orders.send(&[order_of(&stored.record, job, self.now)]).await?;
                        summary.sent_again += 1;
                    }
                    continue;
                }
                Finding::Missed(reason) => (Outcome::Missed, reason),
                Finding::Lost(reason) => (Outcome::Lost, reason),
            };
            if declare(self.ports, Known(job), stored, outcome, reason, self.now).await?.is_some() {
                match outcome {
                    Outcome::Missed => summary.missed += 1,
                    _ => summary.lost += 1,
                }
            }
        }
        Ok(())
    }

    /// Whether anything may be found about the run; only then its job is read.
    fn concerns(&self, run: &Run) -> bool {
        let over_some_limit = run.started_at.is_some_and(|started_at| since(started_at, self.now) > OVERRUN_GRACE);
        over_some_limit || self.finding(run, None).is_some()
    }

    fn finding(&self, run: &Run, job: Option<&Job>) -> Option<Finding> {
        match run.state {
            State::Scheduled if run.held => None,
            State::Scheduled => self.unstarted(run),
            State::Claimed | State::Running => self.lifeless(run, job).map(Finding::Lost),
            State::Finished => None,
        }
    }

    fn unstarted(&self, run: &Run) -> Option<Finding> {
        if let Some(start_by) = run.start_by.filter(|start_by| *start_by < self.now) {
            let alive = self.beats.iter().filter(|beat| serves(beat, &run.group)).max_by_key(|beat| beat.at);
            let runners = match alive {
                Some(Heartbeat { runner, at, held: Some(why), .. }) => {
                    format!("runner {runner} lives (at {at}) and says: {why}")
                }
                Some(beat) => format!("a runner of this group last showed life at {}", beat.at),
                None => "no runner of this group has shown life".to_owned(),
            };
            return Some(Finding::Missed(format!("no runner of group {} took it by {start_by}; {runners}", run.group)));
        }
        let from = run.not_before.map_or(run.scheduled_at, |not_before| not_before.max(run.scheduled_at));
        (waits_for_a_runner(run) && doubled(since(from, self.before), since(from, self.now)))
            .then_some(Finding::SendAgain)
    }

    /// Why nobody will ever report the end of this run.
    fn lifeless(&self, run: &Run, job: Option<&Job>) -> Option<String> {
        let runner = run.runner.as_deref().unwrap_or("unknown");
        let place = run.host.as_deref().unwrap_or("an unknown host");
        let heard = run.started_at.or(run.claimed_at).unwrap_or(run.scheduled_at);
        let beat = self.beats.iter().find(|beat| Some(&beat.runner) == run.runner.as_ref());
        if beat.is_none() && run.trigger == Trigger::Exec {
            let silent = since(heard, self.now) > EXEC_SILENT_MAX;
            return silent.then(|| format!("nothing was heard of it on {place} since {heard}"));
        }
        let alive = beat.map_or(heard, |beat| beat.at.max(heard));
        // What lies ahead was written by a clock that has been set back since: no sign of life.
        let shown = Some(alive).filter(|alive| *alive <= later(self.now, RUNNER_LEASE));
        let watched = self.watching_since;
        if since(shown.map_or(watched, |shown| shown.max(watched)), self.now) > RUNNER_LEASE {
            let shown = shown.unwrap_or(watched);
            return Some(format!("runner {runner} on {place} has shown no life since {shown}"));
        }
        let (ought_to_be_told, says) = match run.started_at {
            // A runner begins what it has taken, or refuses it as too late; one that lost its disk does neither.
            None => (run.start_by?, "whether it began; it was to begin long ago"),
            Some(started_at) => {
                (later(started_at, job?.timeout? + job?.kill_grace), "how it ended; its limit was over long ago")
            }
        };
        let forgotten = later(ought_to_be_told, OVERRUN_GRACE) < self.now;
        forgotten.then(|| format!("runner {runner} on {place} lives, and never told {says}"))
    }
}

/// Whether the runner takes orders of the group.
pub fn serves(beat: &Heartbeat, group: &str) -> bool {
    beat.groups.is_empty() || beat.groups.iter().any(|own| own == group)
}

/// Whether a run that had waited `before` and has waited `now` has passed [`RESEND_AFTER`] times a power of two
/// meanwhile.
fn doubled(before: Duration, now: Duration) -> bool {
    let passed = |waited: Duration| (waited.as_secs() / RESEND_AFTER.as_secs()).checked_ilog2();
    passed(now) > passed(before)
}

/// Runners that have not beaten for a week are forgotten.
pub const RUNNER_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// Forgets runners that are long gone.
///
/// # Errors
/// A port's.
pub async fn forget_runners(ports: &Ports, now: Timestamp) -> Result<()> {
    Ok(ports.settings.delete_heartbeats(earlier(now, RUNNER_KEPT)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_sent_again_at_doubling_ages() {
        let minutes: Vec<u64> = (1..=70)
            .filter(|minute| doubled(Duration::from_secs((minute - 1) * 60), Duration::from_secs(minute * 60)))
            .collect();
        assert_eq!(minutes, [2, 4, 8, 16, 32, 64]);
    }
}
