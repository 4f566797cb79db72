//! Reports of runners. A runner writes each event to its outbox on disk, then sends it until it is accepted. The
//! collector applies events in any order; a repeated event has no effect.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::guard::FalseGuard;
use crate::order::{FORMAT_VERSION, Order};
use crate::run::{ExcerptLine, Leaked, Outcome, OutputCounts, RuleHit, RunId, RunKey, Trigger};

/// One report about one attempt, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// [`FORMAT_VERSION`] of the build that wrote it.
    pub version: u32,
    /// The run.
    pub run_id: RunId,
    /// Group of the job.
    pub group: String,
    /// Name of the job in its group.
    pub job: String,
    /// From 1.
    pub attempt: u32,
    /// Nominal time of the run.
    pub nominal: Timestamp,
    /// Cause of the attempt.
    pub trigger: Trigger,
    /// Name of the runner.
    pub runner: String,
    /// Host name of the runner.
    pub host: String,
    /// When the event happened, by the runner's clock.
    pub at: Timestamp,
    /// The kind of the event, stored as `event`, and its fields.
    #[serde(flatten)]
    pub body: Body,
}

impl Event {
    /// An event of `runner` about the attempt that the order asks for.
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

    /// The key of its run in the stores.
    pub fn run_key(&self) -> RunKey {
        RunKey::new(&self.group, self.run_id.clone())
    }

    /// Identifies the report: the same for every copy of it.
    pub fn id(&self) -> String {
        let kind = match &self.body {
            Body::Started { .. } => "started".to_owned(),
            Body::Finished(_) => "finished".to_owned(),
            Body::OutputEnded(_) => "output_ended".to_owned(),
            Body::Quiet { since } => format!("quiet-{}", since.as_second()),
        };
        format!("{}:{}:{kind}", self.run_id, self.attempt)
    }
}

/// The kind of an event, with its fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Body {
    /// The command started.
    Started {
        /// The job's process; absent when it could not be started (then `finished` has the cause).
        pid: Option<u32>,
        /// As executed. Shown to operators, never run.
        command: String,
    },
    /// The attempt ended.
    Finished(Box<Report>),
    /// The output of the attempt ended after its process did. Follows a report with `output_open`.
    OutputEnded(Box<OutputEnd>),
    /// No output for longer than the job's `quiet_limit`. Sent once per silence.
    Quiet {
        /// Time of the last line, or of the start when there was none.
        since: Timestamp,
    },
}

/// The end of one attempt, as its runner saw it. The collector judges it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How the command ended.
    pub ended: Ended,
    /// One sentence where `ended` is not enough: why the command could not be started, what the stop sequence did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Absent when a signal ended the command.
    pub exit_code: Option<i32>,
    /// Number of the signal that ended the command.
    pub signal: Option<i32>,
    /// Absent when the command never started.
    pub started_at: Option<Timestamp>,
    /// By the runner's clock.
    pub finished_at: Timestamp,
    /// By the monotonic clock; 0 when the command never started.
    pub duration_ms: u64,
    /// Stored without a level of their own.
    #[serde(flatten)]
    pub output: OutputCounts,
    /// User and system time of the command and its ended children.
    pub cpu_ms: Option<u64>,
    /// Largest resident set of one process of the run.
    pub max_rss_bytes: Option<u64>,
    /// The guard before `&&` that was false, so that the rest of the command did not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<FalseGuard>,
    /// Processes that the job left behind.
    #[serde(default)]
    pub leaked: Vec<Leaked>,
    /// Hits of the runner's rules over all output.
    #[serde(default)]
    pub rules: Vec<RuleHit>,
    /// Digest of the runner's rules; the collector compares it with the digest of its own rules.
    #[serde(default)]
    pub rules_digest: String,
    /// Digest of each of the runner's packs, by name. Where the collector has the same pack, the runner's matches over
    /// all output count, even if other packs differ.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pack_digests: BTreeMap<String, String>,
    /// The program that the first line (`#!`) of a file names, by the path that the command names. The choice of rule
    /// packs depends on it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub interpreters: BTreeMap<String, String>,
    /// Head and tail of the output.
    #[serde(default)]
    pub excerpt: Vec<ExcerptLine>,
    /// The runner's own verdict, as in the bracket record `run.finished`.
    pub outcome: Outcome,
    /// One sentence on the runner's verdict.
    pub reason: String,
    /// Another process still has the output open: a report of [`Body::OutputEnded`] follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub output_open: bool,
}

/// The end of an output that stayed open after the end of the run's process. Corrects the counts of the [`Report`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputEnd {
    /// By the runner's clock.
    pub ended_at: Timestamp,
    /// Of the whole output, late lines included. Stored without a level of their own.
    #[serde(flatten)]
    pub output: OutputCounts,
    /// Lines that were printed after the report.
    pub late_lines: u64,
    /// One sentence where the output did not simply end: a stop, the limit, a keeper that died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// With an exit code, or by a signal that Sexton did not send.
    Exited,
    /// Exceeded its `timeout` and was stopped.
    TimedOut,
    /// Stopped on request.
    Stopped,
    /// Never started: no such user, no such directory, refused by policy, too late.
    NotStarted,
    /// Its keeper died without recording an exit status.
    Lost,
}
