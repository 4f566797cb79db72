//! What runners report. Written to an outbox on the runner's disk before it is sent, sent until accepted, applied by the
//! collector in any order and any number of times.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::order::{FORMAT_VERSION, Order};
use crate::run::{ExcerptLine, Leaked, Outcome, RuleHit, RunId, RunKey, Trigger};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub version: u32,
    pub run_id: RunId,
    pub group: String,
    pub job: String,
    pub attempt: u32,
    pub nominal: Timestamp,
    pub trigger: Trigger,
    pub runner: String,
    pub host: String,
    pub at: Timestamp,
    #[serde(flatten)]
    pub body: Body,
}

impl Event {
    /// What `runner` has to say at `at` of the attempt that the order asks for.
    pub fn new(order: &Order, runner: &str, host: &str, at: Timestamp, body: Body) -> Event {
        Event {
            version: FORMAT_VERSION,
            run_id: order.run_id.clone(),
            group: order.job.group.clone(),
            job: order.job.name.clone(),
            attempt: order.attempt,
            nominal: order.nominal,
            trigger: order.trigger,
            runner: runner.to_owned(),
            host: host.to_owned(),
            at,
            body,
        }
    }

    pub fn run_key(&self) -> RunKey {
        RunKey::new(&self.group, self.run_id.clone())
    }

    /// The same for every copy of the same report.
    pub fn id(&self) -> String {
        let kind = match &self.body {
            Body::Started { .. } => "started".to_owned(),
            Body::Finished(_) => "finished".to_owned(),
            Body::Quiet { since } => format!("quiet-{}", since.as_second()),
        };
        format!("{}:{}:{kind}", self.run_id, self.attempt)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Body {
    Started {
        /// The job's process; absent when it could not be started, and `finished` says why.
        pid: Option<u32>,
        /// As executed, for people.
        command: String,
    },
    Finished(Box<Report>),
    /// No line since then, for longer than the job's silence limit. Sent once per silence.
    Quiet {
        since: Timestamp,
    },
}

/// How one attempt ended, as its runner saw it. The collector judges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub ended: Ended,
    /// One sentence when `ended` alone does not tell: why it could not be started, what the stop ladder did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
    pub duration_ms: u64,
    pub stdout_lines: u64,
    pub stderr_lines: u64,
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    pub last_seq: u64,
    pub dropped_lines: u64,
    pub dropped_bytes: u64,
    pub cpu_ms: Option<u64>,
    pub max_rss_bytes: Option<u64>,
    #[serde(default)]
    pub leaked: Vec<Leaked>,
    #[serde(default)]
    pub rules: Vec<RuleHit>,
    /// Digest of the rules that were applied; the collector compares it with its own.
    #[serde(default)]
    pub rules_digest: String,
    #[serde(default)]
    pub excerpt: Vec<ExcerptLine>,
    /// The runner's own verdict, as the brackets in the sinks carry it.
    pub outcome: Outcome,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// By itself: exit code or signal.
    Exited,
    /// The run limit.
    TimedOut,
    /// Somebody asked.
    Stopped,
    /// It never began: no such user, no such directory, refused by policy, too late.
    NotStarted,
    /// Its keeper is gone and left no exit status.
    Lost,
}
