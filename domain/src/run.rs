//! A run: one firing of one job, from `scheduled` to exactly one outcome, over one or more attempts.
//!
//! [`Run::apply`] is the state machine. Events may arrive in any order and more than once; the final state is the same.
//! The collector only stores the result.

mod lifecycle;

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::job::JobKey;
use crate::line::Stream;
pub use lifecycle::{Applied, GOOD_EXCERPT_BYTES_MAX, Verdict};

/// The id of a run, like `20261123T075000Z-3f9a1c0e7b2d`: legal as a file name and as a CloudWatch stream name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub String);

impl RunId {
    /// The id of a scheduled run. A function of job and nominal time, so two schedulers create the same run.
    pub fn scheduled(key: &JobKey, nominal: Timestamp) -> RunId {
        let digest = Sha256::digest(format!("{}\0{}\0{}", key.group, key.name, nominal.as_second()));
        RunId::with_suffix(nominal, &digest[..6])
    }

    /// The id of a manual start or of `sexton exec`; the caller draws `random`.
    pub fn unscheduled(nominal: Timestamp, random: [u8; 6]) -> RunId {
        RunId::with_suffix(nominal, &random)
    }

    fn with_suffix(nominal: Timestamp, bytes: &[u8]) -> RunId {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        RunId(format!("{}-{hex}", nominal.strftime("%Y%m%dT%H%M%SZ")))
    }

    /// Whether a text from outside has the form of a run id. Only then may it become part of a path.
    pub fn is_valid(text: &str) -> bool {
        let bytes = text.as_bytes();
        bytes.len() == 29
            && bytes[8] == b'T'
            && bytes[15] == b'Z'
            && bytes[16] == b'-'
            && bytes[..8].iter().chain(&bytes[9..15]).all(u8::is_ascii_digit)
            && bytes[17..].iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte))
    }

    /// The id as text, 29 bytes of ASCII.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The key of a stored run. Stores keep runs by group, so that a runner can get access to its own groups only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey {
    /// Group of the run's job.
    pub group: String,
    /// Unique over all groups.
    pub run_id: RunId,
}

impl RunKey {
    /// The key of a run of this group.
    pub fn new(group: impl Into<String>, run_id: RunId) -> RunKey {
        RunKey { group: group.into(), run_id }
    }
}

impl fmt::Display for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of group {}", self.run_id, self.group)
    }
}

/// One attempt of one run: run id and attempt number, from 1.
pub type AttemptKey = (RunId, u32);

/// The cause of a run, or of its current attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A firing of the job's schedule.
    Schedule,
    /// `sexton job run`, or the same call of the API.
    Manual,
    /// The attempt before failed, and the job's `retries` allow another.
    Retry,
    /// A firing that was missed while the scheduler was down or maintenance was on.
    CatchUp,
    /// `sexton exec`: started by another scheduler.
    Exec,
}

/// How far the current attempt of a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No runner has claimed it.
    Scheduled,
    /// A runner has claimed it; the start is not reported.
    Claimed,
    /// The start is reported.
    Running,
    /// The run has an outcome.
    Finished,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A success exit code, and no rule with severity `fail` matched.
    Succeeded,
    /// Another exit code, a signal, or the command could not be started.
    Failed,
    /// A success exit code, but the output or the duration contradicts it.
    FalseSuccess,
    /// Exceeded the job's `timeout` and was stopped.
    TimedOut,
    /// Stopped on request.
    Stopped,
    /// Not started on purpose; the reason names the cause.
    Skipped,
    /// Not started in time.
    Missed,
    /// Started, and its end is unknown.
    Lost,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 8] = [
        Outcome::Succeeded,
        Outcome::Failed,
        Outcome::FalseSuccess,
        Outcome::TimedOut,
        Outcome::Stopped,
        Outcome::Skipped,
        Outcome::Missed,
        Outcome::Lost,
    ];

    /// The stored name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Succeeded => "succeeded",
            Outcome::Failed => "failed",
            Outcome::FalseSuccess => "false_success",
            Outcome::TimedOut => "timed_out",
            Outcome::Stopped => "stopped",
            Outcome::Skipped => "skipped",
            Outcome::Missed => "missed",
            Outcome::Lost => "lost",
        }
    }

    /// The outcome with this stored name.
    pub fn parse(text: &str) -> Option<Outcome> {
        Outcome::ALL.into_iter().find(|outcome| outcome.name() == text)
    }

    /// Whether it raises an alert. A stop was requested and a skip was decided: neither is a failure.
    pub const fn is_failure(self) -> bool {
        !matches!(self, Outcome::Succeeded | Outcome::Stopped | Outcome::Skipped)
    }
}

/// The record of a run, as JSON. What is measured is that of the current attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The same for all attempts.
    pub run_id: RunId,
    /// Group of the job.
    pub group: String,
    /// Name of the job in its group.
    pub job: String,
    /// The instant that the schedule names; of a manual start, the instant of the request.
    pub nominal: Timestamp,
    /// Cause of the current attempt.
    pub trigger: Trigger,
    /// From 1. The fencing token: reports of an older attempt are refused.
    pub attempt: u32,
    /// How far the current attempt is.
    pub state: State,
    /// Present when `state` is `finished`.
    pub outcome: Option<Outcome>,
    /// One sentence on the outcome.
    pub reason: Option<String>,
    /// Of the command; absent when a signal ended it.
    pub exit_code: Option<i32>,
    /// Number of the signal that ended the command.
    pub signal: Option<i32>,
    /// Name of the runner that claimed or reported the attempt.
    pub runner: Option<String>,
    /// Host name of that runner.
    pub host: Option<String>,
    /// The random id of the runner that claimed the attempt; absent for a runner of an older build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_id: Option<String>,
    /// When the scheduler created the run.
    pub scheduled_at: Timestamp,
    /// When a runner claimed the attempt.
    pub claimed_at: Option<Timestamp>,
    /// When the command started, by the runner's clock.
    pub started_at: Option<Timestamp>,
    /// When the command ended, by the runner's clock, or when the outcome was declared without a report.
    pub finished_at: Option<Timestamp>,
    /// Of the command, by the monotonic clock. Present only with a report of the end.
    pub duration_ms: Option<u64>,
    /// Lines on stdout; a line longer than a record counts once.
    pub stdout_lines: u64,
    /// Lines on stderr.
    pub stderr_lines: u64,
    /// Newlines included.
    pub stdout_bytes: u64,
    /// Newlines included.
    pub stderr_bytes: u64,
    /// `seq` of the last record in the spool; 0 when there was no output.
    pub last_seq: u64,
    /// Records that the spool lacks.
    pub dropped_lines: u64,
    /// User and system time of the command and its ended children.
    pub cpu_ms: Option<u64>,
    /// Largest resident set of one process of the run.
    pub max_rss_bytes: Option<u64>,
    /// Processes that the job left behind.
    #[serde(default)]
    pub leaked: Vec<Leaked>,
    /// The hits that the outcome rests on.
    #[serde(default)]
    pub rules: Vec<RuleHit>,
    /// The output that the rules of the verdict have seen.
    pub judged_on: Option<JudgedOn>,
    /// Names of the rule packs that the runner applied; empty where their rules changed during the run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packs: Vec<String>,
    /// Head and tail of the output, bounded by [`EXCERPT_BYTES_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excerpt: Vec<ExcerptLine>,
    /// Ends of the attempts before the current one, oldest first; stored as `earlier`.
    #[serde(rename = "earlier", default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_attempts: Vec<Attempt>,
    /// Waits for another run or for the end of maintenance; has no order yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// The attempt must not start before this instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// A run that has not started by this instant is missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_by: Option<Timestamp>,
    /// When an operator, the API or another run's `replace` asked for a stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_requested_at: Option<Timestamp>,
    /// The request for the stop, for the `reason` of the run: who requested it, or which run replaces this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<String>,
    /// Start of the latest silence longer than the job's `quiet_limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_since: Option<Timestamp>,
    /// The run has ended, and another process still has its output open: more lines may come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub output_open: bool,
    /// When the output ended, where that was later than the end of the run's process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_ended_at: Option<Timestamp>,
    /// Lines that were printed after the end of the run's process. The other counts include them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub late_lines: u64,
    /// The attempt ended between copy and restore of the ledger: this is the instant of the copy. No retry follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<Timestamp>,
    /// Why the scheduler ordered it late, although it was running. Ends the reason of its outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_reason: Option<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Bytes of text in the excerpt of a report, half for the head, half for the tail. With its other fields the report
/// stays within one SQS billing chunk of 64 KiB.
pub const EXCERPT_BYTES_MAX: usize = 16 * 1024;

impl Run {
    /// A run in the state `scheduled`, with attempt 1 and nothing measured.
    pub fn new(run_id: RunId, key: &JobKey, nominal: Timestamp, trigger: Trigger, scheduled_at: Timestamp) -> Run {
        Run {
            run_id,
            group: key.group.clone(),
            job: key.name.clone(),
            nominal,
            trigger,
            attempt: 1,
            state: State::Scheduled,
            outcome: None,
            reason: None,
            exit_code: None,
            signal: None,
            runner: None,
            host: None,
            runner_id: None,
            scheduled_at,
            claimed_at: None,
            started_at: None,
            finished_at: None,
            duration_ms: None,
            stdout_lines: 0,
            stderr_lines: 0,
            stdout_bytes: 0,
            stderr_bytes: 0,
            last_seq: 0,
            dropped_lines: 0,
            cpu_ms: None,
            max_rss_bytes: None,
            leaked: Vec::new(),
            rules: Vec::new(),
            judged_on: None,
            packs: Vec::new(),
            excerpt: Vec::new(),
            earlier_attempts: Vec::new(),
            held: false,
            not_before: None,
            start_by: None,
            stop_requested_at: None,
            stop_reason: None,
            quiet_since: None,
            output_open: false,
            output_ended_at: None,
            late_lines: 0,
            restored_from: None,
            late_reason: None,
        }
    }

    /// The key of its job.
    pub fn key(&self) -> JobKey {
        JobKey::new(&self.group, &self.job)
    }

    /// Its own key in the stores.
    pub fn run_key(&self) -> RunKey {
        RunKey::new(&self.group, self.run_id.clone())
    }

    /// Whether it has no outcome yet.
    pub fn is_open(&self) -> bool {
        self.state != State::Finished
    }

    /// Whether its runner has to get its stop request: a process of it may be running.
    pub fn needs_stop_request(&self) -> bool {
        self.stop_requested_at.is_some() && (matches!(self.state, State::Claimed | State::Running) || self.output_open)
    }
}

/// The end of an attempt that was followed by a retry. Fields mean the same as in [`Run`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// From 1.
    pub attempt: u32,
    /// Of this attempt alone.
    pub outcome: Outcome,
    /// One sentence.
    pub reason: String,
    /// Name of its runner.
    pub runner: Option<String>,
    /// By its runner's clock.
    pub started_at: Option<Timestamp>,
    /// By its runner's clock.
    pub finished_at: Option<Timestamp>,
    /// Absent when a signal ended the command.
    pub exit_code: Option<i32>,
    /// Number of the signal that ended the command.
    pub signal: Option<i32>,
}

/// Counts of the job's output. A line longer than a record counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputCounts {
    /// Lines of standard output.
    pub stdout_lines: u64,
    /// Lines of standard error.
    pub stderr_lines: u64,
    /// Bytes read from the pipe, newlines included. For a job with secrets: after masking.
    pub stdout_bytes: u64,
    /// As `stdout_bytes`.
    pub stderr_bytes: u64,
    /// The seq of the last record; 0 without output.
    pub last_seq: u64,
    /// Records that the spool lacks.
    pub dropped_lines: u64,
    /// Bytes of their text, newlines included.
    pub dropped_bytes: u64,
}

/// A process that outlived its run: it still held the output, or had left the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaked {
    /// On the runner's host.
    pub pid: u32,
    /// As the kernel shortens it (`comm`, proc(5)).
    pub name: String,
    /// Whether the stop sequence ended it.
    #[serde(default)]
    pub killed: bool,
}

/// The lines of a run that one rule matched, or the absence of a required line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleHit {
    /// Id of the rule.
    pub rule: String,
    /// Name of its pack.
    pub pack: String,
    /// Whether the hit fails the run.
    pub severity: Severity,
    /// Matching lines; 0 for a `require` rule without a match.
    pub count: u64,
    /// `seq` of the first matching line; 0 when there is none.
    pub first_seq: u64,
    /// The text of that line, shortened; invalid UTF-8 is shown as U+FFFD.
    pub first_line: String,
    /// The rule's own `explain`: what a match means, one sentence; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub explain: String,
    /// The matching lines that a `require` rule needs, where their number was another; absent for a `pattern` rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<u64>,
    /// The `at_most` of the rule, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<u64>,
}

/// The effect of a rule's hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// A run with a success exit code becomes a false success.
    #[default]
    Fail,
    /// Recorded and shown; the run stays succeeded.
    Warn,
}

/// The output that the rules of a verdict have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgedOn {
    /// All output: the runner applied the same rules.
    All,
    /// Head and tail only: the runner applied other rules.
    Excerpt,
}

/// One line of an excerpt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExcerptLine {
    /// Number of its record.
    pub seq: u64,
    /// The stream that the job wrote it to.
    pub stream: Stream,
    /// Without the newline, shortened; invalid UTF-8 is shown as U+FFFD.
    pub text: String,
}
