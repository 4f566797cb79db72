//! When people are told: the state that a job's alerts are in, the pure decision, and the message.
//!
//! A run that ends is an [`Occurrence`]. [`decide`] moves the job's [`JobState`] and says whether that is worth a
//! message. What is worth one becomes a [`Transition`], stored in the same step as the run; one worker claims it,
//! builds the [`Alert`] and sends it. Nothing here sends, sleeps or reads a clock.

pub mod wording;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::job::{AlertPolicy, JobKey};
use crate::run::{ExcerptLine, Outcome, RunId};

/// Changes between good and bad within [`FLAP_WINDOW`] that make a job a flapping one. Ours: three failures and three
/// recoveries a day is a job that nobody believes any more.
pub const FLAP_CHANGES: usize = 6;

/// How long a change counts towards flapping.
pub const FLAP_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// Runs in a row with the same verdict after which a flapping job is calm again. Ours.
pub const FLAP_CALM_RUNS: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    Failed,
    FalseSuccess,
    TimedOut,
    Missed,
    Lost,
    /// A run prints nothing, or no runner of a whole group shows life (then `job` is empty).
    Quiet,
    Recovered,
    /// Changes too often to tell each change; silent until it is calm.
    Flapping,
    SchedulerSilent,
    BadJob,
    /// Many alerts in one message.
    Digest,
}

impl AlertKind {
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
            AlertKind::Digest => "digest",
        }
    }

    /// What a bad outcome is called when people are told; none for an outcome that is not bad.
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
            | AlertKind::Digest => "error",
            AlertKind::Quiet | AlertKind::Flapping => "warning",
            AlertKind::Recovered => "info",
        }
    }
}

/// One message to people and their programs, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    pub kind: AlertKind,
    /// Empty when it concerns more than one group.
    pub group: String,
    /// Empty when it concerns no single job.
    pub job: String,
    pub run_id: Option<RunId>,
    pub nominal: Option<Timestamp>,
    pub outcome: Option<Outcome>,
    /// One sentence a person can act on.
    pub reason: String,
    pub exit_code: Option<i32>,
    pub host: Option<String>,
    /// Since when it is (or, for `recovered`, was) bad.
    pub since: Option<Timestamp>,
    /// Bad runs in a row; for a digest, the alerts in it.
    pub count: u32,
    /// The lines around the rule's match, else the last lines.
    pub excerpt: Vec<ExcerptLine>,
    /// The rule that failed the run.
    pub rule: Option<String>,
    /// `console`, `cloudwatch`, `graylog`: as configured.
    pub links: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    #[default]
    Good,
    /// At least `after` bad runs in a row.
    Bad,
}

/// What is remembered about a job between its runs, so that only changes are told. A good run after a good run leaves
/// it as it is: then nothing needs to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobState {
    pub status: Status,
    /// How the latest bad run ended.
    pub kind: Option<AlertKind>,
    /// Bad runs in a row.
    pub streak: u32,
    /// When the first of them ended.
    pub since: Option<Timestamp>,
    /// When people were last told that it is bad.
    #[serde(rename = "told_at")]
    pub alerted_at: Option<Timestamp>,
    /// The latest changes of `status`, oldest first, at most [`FLAP_CHANGES`].
    pub changes: Vec<Timestamp>,
    pub flapping: bool,
    /// While flapping: runs in a row that agreed with `status`.
    #[serde(rename = "steady")]
    pub steady_runs: u32,
    /// The run that was let in last, of a job whose runs may not overlap: whoever lets one in writes this state.
    #[serde(rename = "let_in", default, skip_serializing_if = "Option::is_none")]
    pub last_started: Option<RunId>,
}

/// What may be worth a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occurrence {
    /// A run ended (no attempt is to follow).
    Ended(Outcome),
    /// A run printed nothing for its silence limit. Reported once per silence.
    Quiet,
    /// Time passed: a reminder may be due.
    Clock,
}

/// Moves a job's alert state. The kind, when there is one, is what people are to be told at `at`.
pub fn decide(
    policy: &AlertPolicy,
    state: &JobState,
    occurrence: Occurrence,
    at: Timestamp,
) -> (JobState, Option<AlertKind>) {
    let mut next = state.clone();
    let told = match occurrence {
        Occurrence::Quiet => (!state.flapping).then_some(AlertKind::Quiet),
        Occurrence::Clock => remind(policy, &mut next, at),
        Occurrence::Ended(Outcome::Succeeded) => good(&mut next, at),
        Occurrence::Ended(outcome) => match AlertKind::from_outcome(outcome) {
            Some(kind) => bad(policy, &mut next, kind, at),
            None => None,
        },
    };
    (next, told)
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
    let told = match settle(state, changed, at) {
        Settled::Tell => Some(kind),
        Settled::Flapping => Some(AlertKind::Flapping),
        Settled::Silent => return remind(policy, state, at),
    };
    state.alerted_at = Some(at);
    told
}

fn good(state: &mut JobState, at: Timestamp) -> Option<AlertKind> {
    let changed = state.status == Status::Bad;
    state.status = Status::Good;
    state.streak = 0;
    state.kind = None;
    state.since = None;
    state.alerted_at = None;
    match settle(state, changed, at) {
        Settled::Tell => Some(AlertKind::Recovered),
        Settled::Flapping => Some(AlertKind::Flapping),
        Settled::Silent => None,
    }
}

enum Settled {
    Tell,
    Flapping,
    Silent,
}

/// Damps: a job that changed too often is told once as flapping, then again when it kept one status for a while.
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
        return Settled::Tell;
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
    Settled::Tell
}

fn remind(policy: &AlertPolicy, state: &mut JobState, at: Timestamp) -> Option<AlertKind> {
    if state.status != Status::Bad || state.flapping {
        return None;
    }
    passed(state.alerted_at?, at, policy.remind?)?;
    state.alerted_at = Some(at);
    state.kind
}

/// `Some` when `span` or more lies between the instants.
fn passed(from: Timestamp, at: Timestamp, span: Duration) -> Option<()> {
    let span = SignedDuration::try_from(span).ok()?;
    (at.duration_since(from) >= span).then_some(())
}

/// What becomes of a transition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    #[default]
    Pending,
    #[serde(rename = "told")]
    Sent,
    /// Told as one of many in a digest.
    Digested,
    /// A reminder that was no longer true when it was due.
    Overtaken,
    /// Every try failed; the last error is kept.
    GivenUp,
}

/// Something worth telling, stored until it is told. Small: what the message says about a run is read from the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// The same for every try to store the same transition.
    pub id: String,
    pub kind: AlertKind,
    pub group: String,
    pub job: String,
    pub run_id: Option<RunId>,
    pub nominal: Option<Timestamp>,
    pub outcome: Option<Outcome>,
    pub reason: String,
    pub at: Timestamp,
    pub since: Option<Timestamp>,
    pub count: u32,
    /// Names of channels; empty means all that are configured.
    pub channels: Vec<String>,
    /// Told again because it is still so; checked against the state before it is sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reminder: bool,
    /// Not to be sent before: reminders, and the wait between tries.
    pub not_before: Timestamp,
    #[serde(rename = "fate")]
    pub delivery: DeliveryState,
    pub tries: u32,
    /// Channels that have it already, so that a retry reaches only the others.
    #[serde(rename = "told", default, skip_serializing_if = "Vec::is_empty")]
    pub delivered_to: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

impl Transition {
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
            since: None,
            count: 1,
            channels: Vec::new(),
            reminder: false,
            not_before: at,
            delivery: DeliveryState::Pending,
            tries: 0,
            delivered_to: Vec::new(),
            last_error: None,
        }
    }

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

    /// One letter a minute: what happened, and after a colon what was told. `.` good, `F` failed, `T` timed out,
    /// `s` skipped, `q` quiet, `c` clock; told: `-` nothing, `F` `T` the kind, `R` recovered, `~` flapping, `q` quiet.
    #[track_caller]
    fn check(policy: &AlertPolicy, happened: &str, told: &str) {
        let mut state = JobState::default();
        let mut heard = String::new();
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
            heard.push(match kind {
                None => '-',
                Some(AlertKind::Failed) => 'F',
                Some(AlertKind::TimedOut) => 'T',
                Some(AlertKind::Recovered) => 'R',
                Some(AlertKind::Flapping) => '~',
                Some(AlertKind::Quiet) => 'q',
                Some(other) => panic!("{other:?} was told"),
            });
        }
        assert_eq!(heard, told, "after {happened}");
    }

    #[test]
    fn only_changes_are_told() {
        check(&policy(1, None), "..F..", "--FR-");
        check(&policy(1, None), "FFFTF.", "F----R");
        check(&policy(1, None), "FsF", "F--");
    }

    #[test]
    fn the_threshold_counts_bad_runs_in_a_row() {
        check(&policy(3, None), "FF.FF.FFF.", "--------FR");
        check(&policy(3, None), "FFsTT", "---T-");
    }

    #[test]
    fn a_reminder_comes_while_it_stays_bad_by_a_run_or_by_the_clock() {
        check(&policy(1, Some(3)), "FFFFFFF.", "F--F--FR");
        check(&policy(1, Some(3)), "Fccccccc", "F--F--F-");
        check(&policy(1, Some(3)), "F.cccc", "FR----");
        check(&policy(1, None), "Fcccccc", "F------");
    }

    #[test]
    fn a_flapping_job_is_told_once_and_again_when_it_is_calm() {
        check(&policy(1, Some(1)), "F.F.F.F.F.", "FRFRF~----");
        check(&policy(1, None), "F.F.F......", "FRFRF~---R-");
        check(&policy(1, None), "F.F.F.FFFFFF.", "FRFRF~----F-R");
    }

    #[test]
    fn silence_is_told_without_changing_the_state() {
        check(&policy(1, None), ".q.qF", "-q-qF");
    }

    #[test]
    fn a_good_run_after_a_good_run_leaves_the_state_as_it_was() {
        let (next, _) = decide(
            &policy(1, None),
            &JobState::default(),
            Occurrence::Ended(Outcome::Succeeded),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(next, JobState::default());
    }
}
