//! Alerts: the state of a job between its runs, the decision to alert, and the message.
//!
//! The end of a run is an [`Occurrence`]. [`decide`] returns the job's next [`JobState`] and the kind of alert, if one
//! is due. The alert is stored as a [`Transition`] in the same step as the run; a worker claims it, builds the
//! [`Alert`] and sends it. Nothing here sends, sleeps or reads a clock.

pub mod blocked;
pub mod channel_progress;
pub mod digest;
pub mod wording;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::job::{AlertPolicy, JobKey};
use crate::run::{ExcerptLine, Outcome, RunId};
use channel_progress::ChannelProgress;
use digest::DigestEntry;

/// Changes of [`Status`] within [`FLAP_WINDOW`] that make a job flapping. Chosen: with three failures and three
/// recoveries a day, single alerts are no longer read.
pub const FLAP_CHANGES: usize = 6;

/// How long a change of status counts towards flapping. Chosen: a daily job never flaps, an hourly one can.
pub const FLAP_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// Runs in a row with the same status after which a job stops flapping. Chosen, not measured.
pub const FLAP_CALM_RUNS: u32 = 5;

/// The kind of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    /// [`Outcome::Failed`].
    Failed,
    /// [`Outcome::FalseSuccess`].
    FalseSuccess,
    /// [`Outcome::TimedOut`].
    TimedOut,
    /// [`Outcome::Missed`].
    Missed,
    /// [`Outcome::Lost`].
    Lost,
    /// A run prints nothing, or no runner of a group sends heartbeats (then `job` is empty).
    Quiet,
    /// The job succeeded again.
    Recovered,
    /// The job fails and recovers too often for single alerts; no alerts until it is stable.
    Flapping,
    /// The scheduler has stopped ticking.
    SchedulerSilent,
    /// The job's definition is invalid.
    BadJob,
    /// [`blocked::STUCK_FIRINGS`] firings in a row could not start, because earlier runs have not ended.
    Stuck,
    /// Many alerts in one message.
    Digest,
}

impl AlertKind {
    /// The stored name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            AlertKind::Failed => "failed",
            AlertKind::FalseSuccess => "false_success",
            AlertKind::TimedOut => "timed_out",
            AlertKind::Missed => "missed",
            AlertKind::Lost => "lost",
            AlertKind::Quiet => "quiet",
            AlertKind::Recovered => "recovered",
            AlertKind::Flapping => "flapping",
            AlertKind::SchedulerSilent => "scheduler_silent",
            AlertKind::BadJob => "bad_job",
            AlertKind::Stuck => "stuck",
            AlertKind::Digest => "digest",
        }
    }

    /// The alert for a failure ([`Outcome::is_failure`]); none for any other outcome.
    pub const fn from_outcome(outcome: Outcome) -> Option<AlertKind> {
        match outcome {
            Outcome::Failed => Some(AlertKind::Failed),
            Outcome::FalseSuccess => Some(AlertKind::FalseSuccess),
            Outcome::TimedOut => Some(AlertKind::TimedOut),
            Outcome::Missed => Some(AlertKind::Missed),
            Outcome::Lost => Some(AlertKind::Lost),
            Outcome::Succeeded | Outcome::Stopped | Outcome::Skipped => None,
        }
    }

    /// The message attribute `severity`: `critical`, `error`, `warning` or `info`.
    pub const fn severity(self) -> &'static str {
        match self {
            AlertKind::SchedulerSilent => "critical",
            AlertKind::Failed
            | AlertKind::FalseSuccess
            | AlertKind::TimedOut
            | AlertKind::Missed
            | AlertKind::Lost
            | AlertKind::BadJob
            | AlertKind::Stuck
            | AlertKind::Digest => "error",
            AlertKind::Quiet | AlertKind::Flapping => "warning",
            AlertKind::Recovered => "info",
        }
    }
}

/// The message of an alert. Webhooks and commands get it as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Decides headline and severity.
    pub kind: AlertKind,
    /// Empty when it concerns more than one group.
    pub group: String,
    /// Empty when it concerns no single job.
    pub job: String,
    /// The run that caused it.
    pub run_id: Option<RunId>,
    /// Nominal time of that run.
    pub nominal: Option<Timestamp>,
    /// Outcome of that run.
    pub outcome: Option<Outcome>,
    /// One sentence that an operator can act on.
    pub reason: String,
    /// Exit code of that run.
    pub exit_code: Option<i32>,
    /// Host of that run; without one, the machine of `sexton up`.
    pub host: Option<String>,
    /// When the first failed run of the streak ended; for `recovered`, of the streak before it. For other kinds: when
    /// the silence or the first change began, or when the cause was found.
    pub since: Option<Timestamp>,
    /// Failed runs in a row; for a digest, the number of its alerts.
    pub count: u32,
    /// The lines around the rule's match, else the last lines.
    pub excerpt: Vec<ExcerptLine>,
    /// The rule that failed the run.
    pub rule: Option<String>,
    /// Addresses by name: `console`, `cloudwatch`, `graylog`, as configured.
    pub links: BTreeMap<String, String>,
    /// The alerts of a digest. Not part of the JSON, where `reason` names them.
    #[serde(skip)]
    pub digest: Vec<DigestEntry>,
}

/// Whether a job fails, by its alert policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Fewer failed runs in a row than the policy's `after`.
    #[default]
    Good,
    /// At least `after` failed runs in a row.
    Bad,
}

/// The stored state of a job between its runs, so that only changes raise alerts. A success after a success does not
/// change it, so nothing is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobState {
    /// Whether the job fails.
    pub status: Status,
    /// Kind of the latest failure.
    pub kind: Option<AlertKind>,
    /// Failed runs in a row.
    pub streak: u32,
    /// When the first run of the streak ended.
    pub since: Option<Timestamp>,
    /// Time of the latest alert about the current failures; stored as `told_at`.
    #[serde(rename = "told_at")]
    pub alerted_at: Option<Timestamp>,
    /// The latest changes of `status`, oldest first, at most [`FLAP_CHANGES`].
    pub changes: Vec<Timestamp>,
    /// Whether alerts are suspended because of [`FLAP_CHANGES`].
    pub flapping: bool,
    /// While flapping: runs in a row with the same status; stored as `steady`.
    #[serde(rename = "steady")]
    pub steady_runs: u32,
    /// The latest run that was started, for a job whose runs may not overlap: each start also writes this state. Stored
    /// as `let_in`.
    #[serde(rename = "let_in", default, skip_serializing_if = "Option::is_none")]
    pub last_started: Option<RunId>,
    /// The latest firings that could not start; `None` when the latest one could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<blocked::Blocked>,
}

/// An event that can raise an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occurrence {
    /// A run ended, and no retry follows.
    Ended(Outcome),
    /// A run printed nothing for the job's `quiet_limit`. Occurs once per silence.
    Quiet,
    /// Time passed: a reminder may be due.
    Clock,
}

/// Returns a job's next state, and the kind of the alert to send at `at`, if one is due.
pub fn decide(
    policy: &AlertPolicy,
    state: &JobState,
    occurrence: Occurrence,
    at: Timestamp,
) -> (JobState, Option<AlertKind>) {
    let mut next = state.clone();
    let alert = match occurrence {
        Occurrence::Quiet => (!state.flapping).then_some(AlertKind::Quiet),
        Occurrence::Clock => remind(policy, &mut next, at),
        Occurrence::Ended(Outcome::Succeeded) => good(&mut next, at),
        Occurrence::Ended(outcome) => match AlertKind::from_outcome(outcome) {
            Some(kind) => bad(policy, &mut next, kind, at),
            None => None,
        },
    };
    (next, alert)
}

fn bad(policy: &AlertPolicy, state: &mut JobState, kind: AlertKind, at: Timestamp) -> Option<AlertKind> {
    state.streak = state.streak.saturating_add(1);
    state.kind = Some(kind);
    state.since = state.since.or(Some(at));
    if state.status == Status::Good && state.streak < policy.after.max(1) {
        state.steady_runs = 0;
        return None;
    }
    let changed = state.status == Status::Good;
    state.status = Status::Bad;
    let alert = match settle(state, changed, at) {
        Settled::Alert => Some(kind),
        Settled::Flapping => Some(AlertKind::Flapping),
        Settled::Silent => return remind(policy, state, at),
    };
    state.alerted_at = Some(at);
    alert
}

fn good(state: &mut JobState, at: Timestamp) -> Option<AlertKind> {
    let changed = state.status == Status::Bad;
    state.status = Status::Good;
    state.streak = 0;
    state.kind = None;
    state.since = None;
    state.alerted_at = None;
    match settle(state, changed, at) {
        Settled::Alert => Some(AlertKind::Recovered),
        Settled::Flapping => Some(AlertKind::Flapping),
        Settled::Silent => None,
    }
}

enum Settled {
    Alert,
    Flapping,
    Silent,
}

/// Suppresses the alerts of a flapping job: one alert when flapping starts, and one when it ends.
fn settle(state: &mut JobState, changed: bool, at: Timestamp) -> Settled {
    if changed {
        state.changes.push(at);
        if state.changes.len() > FLAP_CHANGES {
            state.changes.remove(0);
        }
    }
    if state.flapping {
        state.steady_runs = if changed { 1 } else { state.steady_runs + 1 };
        if state.steady_runs < FLAP_CALM_RUNS {
            return Settled::Silent;
        }
        state.flapping = false;
        state.steady_runs = 0;
        state.changes.clear();
        return Settled::Alert;
    }
    if !changed {
        return Settled::Silent;
    }
    let within = state.changes.iter().filter(|change| passed(**change, at, FLAP_WINDOW).is_none()).count();
    if within >= FLAP_CHANGES {
        state.flapping = true;
        state.steady_runs = 1;
        return Settled::Flapping;
    }
    Settled::Alert
}

fn remind(policy: &AlertPolicy, state: &mut JobState, at: Timestamp) -> Option<AlertKind> {
    if state.status != Status::Bad || state.flapping {
        return None;
    }
    passed(state.alerted_at?, at, policy.remind?)?;
    state.alerted_at = Some(at);
    state.kind
}

/// `Some` when at least `span` lies between the instants.
fn passed(from: Timestamp, at: Timestamp, span: Duration) -> Option<()> {
    let span = SignedDuration::try_from(span).ok()?;
    (at.duration_since(from) >= span).then_some(())
}

/// How far the sending of a transition is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Not sent yet.
    #[default]
    Pending,
    /// Sent to all its channels, or to those that accepted it.
    #[serde(rename = "told")]
    Sent,
    /// Sent as one of many in a digest.
    Digested,
    /// A reminder that was no longer true when it was due.
    Overtaken,
    /// No channel accepted it; the last error is kept.
    GivenUp,
}

/// A change that raises an alert, stored until the alert is sent. Small: details of a run are read from the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// The same for each attempt to store the same transition.
    pub id: String,
    /// Kind of the alert.
    pub kind: AlertKind,
    /// Empty when it concerns more than one group.
    pub group: String,
    /// Empty when it concerns no single job.
    pub job: String,
    /// The run that caused it.
    pub run_id: Option<RunId>,
    /// Nominal time of that run.
    pub nominal: Option<Timestamp>,
    /// Outcome of that run.
    pub outcome: Option<Outcome>,
    /// One sentence that an operator can act on.
    pub reason: String,
    /// When it happened.
    pub at: Timestamp,
    /// As [`Alert::since`].
    pub since: Option<Timestamp>,
    /// Failed runs in a row.
    pub count: u32,
    /// Names of channels; empty means all that are configured.
    pub channels: Vec<String>,
    /// Repeats an alert because the job still fails; checked against the job's state before it is sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reminder: bool,
    /// Must not be sent before this instant: the time of a reminder, or of the next retry.
    pub not_before: Timestamp,
    /// Stored as `fate`.
    #[serde(rename = "fate")]
    pub delivery: DeliveryState,
    /// Failed sends so far, of the channel with the most.
    pub tries: u32,
    /// Channels that have accepted it, so that a retry sends only to the others.
    #[serde(rename = "told", default, skip_serializing_if = "Vec::is_empty")]
    pub delivered_to: Vec<String>,
    /// The channels that failed to accept it at least once, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub progress: BTreeMap<String, ChannelProgress>,
    /// Errors of the channels that have not accepted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

impl Transition {
    /// A pending transition without a run, whose cause is known since `at`.
    pub fn new(id: String, kind: AlertKind, key: &JobKey, reason: impl Into<String>, at: Timestamp) -> Transition {
        Transition {
            id,
            kind,
            group: key.group.clone(),
            job: key.name.clone(),
            run_id: None,
            nominal: None,
            outcome: None,
            reason: reason.into(),
            at,
            since: Some(at),
            count: 1,
            channels: Vec::new(),
            reminder: false,
            not_before: at,
            delivery: DeliveryState::Pending,
            tries: 0,
            delivered_to: Vec::new(),
            progress: BTreeMap::new(),
            last_error: None,
        }
    }

    /// The key of its job.
    pub fn key(&self) -> JobKey {
        JobKey::new(&self.group, &self.job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(after: u32, remind_minutes: Option<u64>) -> AlertPolicy {
        let remind = remind_minutes.map(|minutes| Duration::from_secs(minutes * 60));
        AlertPolicy { after, remind, channels: Vec::new() }
    }

    /// One letter per minute. Occurrences: `.` succeeded, `F` failed, `T` timed out, `s` skipped, `q` quiet, `c` clock.
    /// Alerts: `-` none, `F` failed, `T` timed out, `R` recovered, `~` flapping, `q` quiet.
    #[track_caller]
    fn check(policy: &AlertPolicy, happened: &str, expected: &str) {
        let mut state = JobState::default();
        let mut alerts = String::new();
        for (minute, letter) in happened.chars().enumerate() {
            let occurrence = match letter {
                '.' => Occurrence::Ended(Outcome::Succeeded),
                'F' => Occurrence::Ended(Outcome::Failed),
                'T' => Occurrence::Ended(Outcome::TimedOut),
                's' => Occurrence::Ended(Outcome::Skipped),
                'q' => Occurrence::Quiet,
                _ => Occurrence::Clock,
            };
            let at = Timestamp::from_second(minute as i64 * 60).unwrap();
            let (next, kind) = decide(policy, &state, occurrence, at);
            state = next;
            alerts.push(match kind {
                None => '-',
                Some(AlertKind::Failed) => 'F',
                Some(AlertKind::TimedOut) => 'T',
                Some(AlertKind::Recovered) => 'R',
                Some(AlertKind::Flapping) => '~',
                Some(AlertKind::Quiet) => 'q',
                Some(other) => panic!("alert {other:?}"),
            });
        }
        assert_eq!(alerts, expected, "after {happened}");
    }

    #[test]
    fn only_changes_raise_alerts() {
        check(&policy(1, None), "..F..", "--FR-");
        check(&policy(1, None), "FFFTF.", "F----R");
        check(&policy(1, None), "FsF", "F--");
    }

    #[test]
    fn the_threshold_counts_failed_runs_in_a_row() {
        check(&policy(3, None), "FF.FF.FFF.", "--------FR");
        check(&policy(3, None), "FFsTT", "---T-");
    }

    #[test]
    fn a_run_or_the_clock_raises_a_reminder_while_the_job_fails() {
        check(&policy(1, Some(3)), "FFFFFFF.", "F--F--FR");
        check(&policy(1, Some(3)), "Fccccccc", "F--F--F-");
        check(&policy(1, Some(3)), "F.cccc", "FR----");
        check(&policy(1, None), "Fcccccc", "F------");
    }

    #[test]
    fn a_flapping_job_raises_one_alert_and_another_when_it_is_stable() {
        check(&policy(1, Some(1)), "F.F.F.F.F.", "FRFRF~----");
        check(&policy(1, None), "F.F.F......", "FRFRF~---R-");
        check(&policy(1, None), "F.F.F.FFFFFF.", "FRFRF~----F-R");
    }

    #[test]
    fn silence_raises_an_alert_without_changing_the_state() {
        check(&policy(1, None), ".q.qF", "-q-qF");
    }

    #[test]
    fn a_success_after_a_success_leaves_the_state_unchanged() {
        let (next, _) = decide(
            &policy(1, None),
            &JobState::default(),
            Occurrence::Ended(Outcome::Succeeded),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(next, JobState::default());
    }
}
