//! A run: one nominal firing of one job, from `scheduled` to exactly one outcome, over as many attempts as it takes.
//!
//! [`Run::apply`] is the state machine. It takes events in any order and any number of times and always ends in the same
//! state; the collector only stores what it says.

mod lifecycle;

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::job::JobKey;
use crate::line::Stream;
pub use lifecycle::{Applied, GOOD_EXCERPT_BYTES_MAX, Verdict};

/// `20261123T075000Z-3f9a1c0e7b2d`: legal as a file name and as a CloudWatch stream name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub String);

impl RunId {
    /// The name of a scheduled run. Whoever computes it gets the same: two schedulers, a retry, a redelivery.
    pub fn scheduled(key: &JobKey, nominal: Timestamp) -> RunId {
        let digest = Sha256::digest(format!("{}\0{}\0{}", key.group, key.name, nominal.as_second()));
        RunId::with_suffix(nominal, &digest[..6])
    }

    /// The name of a run that somebody asked for; `random` comes from the caller.
    pub fn unscheduled(nominal: Timestamp, random: [u8; 6]) -> RunId {
        RunId::with_suffix(nominal, &random)
    }

    fn with_suffix(nominal: Timestamp, bytes: &[u8]) -> RunId {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        RunId(format!("{}-{hex}", nominal.strftime("%Y%m%dT%H%M%SZ")))
    }

    /// Whether a text from outside has the form of a run's name; only then may it become part of a path.
    pub fn is_valid(text: &str) -> bool {
        let bytes = text.as_bytes();
        bytes.len() == 29
            && bytes[8] == b'T'
            && bytes[15] == b'Z'
            && bytes[16] == b'-'
            && bytes[..8].iter().chain(&bytes[9..15]).all(u8::is_ascii_digit)
            && bytes[17..].iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a run is kept: stores keep runs by group, so that a runner can be let at those of its own group alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey {
    pub group: String,
    pub run_id: RunId,
}

impl RunKey {
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

/// Why there is a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    Schedule,
    Manual,
    Retry,
    CatchUp,
    Exec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Scheduled,
    Claimed,
    Running,
    Finished,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Succeeded,
    Failed,
    /// It exited 0 and lied.
    FalseSuccess,
    TimedOut,
    Stopped,
    /// Policy said no; the reason says which.
    Skipped,
    /// It should have started and did not.
    Missed,
    /// It started and nobody knows how it ended.
    Lost,
}

impl Outcome {
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

    pub fn parse(text: &str) -> Option<Outcome> {
        Outcome::ALL.into_iter().find(|outcome| outcome.name() == text)
    }

    /// Whether people are told. A stop was asked for and a skip was decided: neither is bad.
    pub const fn is_failure(self) -> bool {
        !matches!(self, Outcome::Succeeded | Outcome::Stopped | Outcome::Skipped)
    }
}

/// The record of a run, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub run_id: RunId,
    pub group: String,
    pub job: String,
    pub nominal: Timestamp,
    pub trigger: Trigger,
    /// From 1. The fencing token: reports of an older attempt are refused.
    pub attempt: u32,
    pub state: State,
    pub outcome: Option<Outcome>,
    pub reason: Option<String>,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub runner: Option<String>,
    pub host: Option<String>,
    pub scheduled_at: Timestamp,
    pub claimed_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub duration_ms: Option<u64>,
    pub stdout_lines: u64,
    pub stderr_lines: u64,
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    pub last_seq: u64,
    pub dropped_lines: u64,
    pub cpu_ms: Option<u64>,
    pub max_rss_bytes: Option<u64>,
    #[serde(default)]
    pub leaked: Vec<Leaked>,
    #[serde(default)]
    pub rules: Vec<RuleHit>,
    pub judged_on: Option<JudgedOn>,
    /// Head and tail of the output, bounded by [`EXCERPT_BYTES_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excerpt: Vec<ExcerptLine>,
    /// How the attempts before the current one ended.
    #[serde(rename = "earlier", default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_attempts: Vec<Attempt>,
    /// Waits for earlier runs of its job; no order has been given.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// The attempt must not begin before this instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Not started by then: missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_by: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_requested_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_since: Option<Timestamp>,
}

/// Head and tail that a report carries: with the report's other fields one SQS billing chunk of 64 KiB.
pub const EXCERPT_BYTES_MAX: usize = 16 * 1024;

impl Run {
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
            excerpt: Vec::new(),
            earlier_attempts: Vec::new(),
            held: false,
            not_before: None,
            start_by: None,
            stop_requested_at: None,
            quiet_since: None,
        }
    }

    pub fn key(&self) -> JobKey {
        JobKey::new(&self.group, &self.job)
    }

    pub fn run_key(&self) -> RunKey {
        RunKey::new(&self.group, self.run_id.clone())
    }

    pub fn is_open(&self) -> bool {
        self.state != State::Finished
    }
}

/// An attempt that another one followed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    pub attempt: u32,
    pub outcome: Outcome,
    pub reason: String,
    pub runner: Option<String>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
}

/// A process that outlived its run: it still held the output, or had left the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaked {
    pub pid: u32,
    pub name: String,
    /// Whether the stop ladder ended it.
    #[serde(default)]
    pub killed: bool,
}

/// What one rule found in all output of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleHit {
    pub rule: String,
    pub pack: String,
    pub severity: Severity,
    /// Matching lines; for a `require` rule that was never satisfied, 0.
    pub count: u64,
    pub first_seq: u64,
    /// Bounded; not valid UTF-8 is shown as U+FFFD.
    pub first_line: String,
    /// What the rule says a match means, one sentence; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub explain: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    #[default]
    Fail,
    /// Recorded and shown; the run stays succeeded.
    Warn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgedOn {
    All,
    Excerpt,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExcerptLine {
    pub seq: u64,
    pub stream: Stream,
    pub text: String,
}
