//! A job: what to run, when, and what to make of how it ends. The shape of the jobs file, of the jobs table and of the API.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::run::Outcome;
use crate::units;

/// Group and name: what a job is called everywhere. Shown as `group/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobKey {
    pub group: String,
    pub name: String,
}

impl JobKey {
    pub fn new(group: impl Into<String>, name: impl Into<String>) -> JobKey {
        JobKey { group: group.into(), name: name.into() }
    }

    /// Reads `group/name`.
    ///
    /// # Errors
    /// One lower-case sentence that says what to write.
    pub fn parse(text: &str) -> Result<JobKey, String> {
        match text.split_once('/') {
            Some((group, name)) if !group.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(JobKey::new(group, name))
            }
            _ => Err(format!("`{text}` does not name a job; write GROUP/NAME, like default/backup")),
        }
    }
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub group: String,
    pub name: String,
    /// The schedule as it was written; see [`crate::schedule::Schedule::parse`].
    pub schedule: String,
    /// IANA name. The schedule's own zone, whatever the host's is.
    #[serde(default = "utc")]
    pub zone: String,
    #[serde(flatten)]
    pub command: Command,
    #[serde(default = "yes")]
    pub enabled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Values may be references: `ssm:`, `secretsmanager:`, `env:`, `file:`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What the command reads from its standard input: crontab's text after the first `%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Run limit.
    #[serde(default, with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Between TERM and KILL.
    #[serde(default = "kill_grace", with = "units::duration")]
    pub kill_grace: Duration,
    /// Later than this after the nominal instant: missed.
    #[serde(default, with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    pub start_within: Option<Duration>,
    /// No line for this long: alert.
    #[serde(default, with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    pub quiet_limit: Option<Duration>,
    /// Quicker than this and a good exit: false success.
    #[serde(default, with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    pub min_duration: Option<Duration>,
    #[serde(default)]
    pub concurrency: Concurrency,
    #[serde(default)]
    pub catch_up: CatchUp,
    #[serde(default = "zero")]
    pub success_exit_codes: Vec<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    #[serde(default)]
    pub needs: Needs,
    /// Names of rule packs; `auto` chooses by the command.
    #[serde(default = "auto")]
    pub rules: Vec<String>,
    #[serde(default)]
    pub alert: AlertPolicy,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// Where `rate()` and `@every` begin to count: when the job was first stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Timestamp>,
    /// Set by `sexton job pause`, apart from `enabled`, which is the file's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Pause>,
    /// The file that the job came from, when it came from one; `--prune` removes only those of the same file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl Job {
    /// A job with every default, as a crontab line makes it.
    pub fn new(key: JobKey, schedule: impl Into<String>, command: Command) -> Job {
        Job {
            group: key.group,
            name: key.name,
            schedule: schedule.into(),
            zone: utc(),
            command,
            enabled: true,
            user: None,
            cwd: None,
            env: BTreeMap::new(),
            stdin: None,
            timeout: None,
            kill_grace: kill_grace(),
            start_within: None,
            quiet_limit: None,
            min_duration: None,
            concurrency: Concurrency::default(),
            catch_up: CatchUp::default(),
            success_exit_codes: zero(),
            retries: None,
            needs: Needs::default(),
            rules: auto(),
            alert: AlertPolicy::default(),
            description: String::new(),
            owner: String::new(),
            anchor: None,
            paused: None,
            source: None,
        }
    }

    pub fn key(&self) -> JobKey {
        JobKey::new(&self.group, &self.name)
    }

    /// What the firings are a function of, as a short text: the same as long as they are.
    pub fn timing(&self) -> String {
        let anchor = self.anchor.map_or(0, Timestamp::as_second);
        let off = if self.enabled { "" } else { "\0off" };
        let text = format!("{}\0{}\0{}\0{}\0{anchor}{off}", self.group, self.name, self.schedule, self.zone);
        Sha256::digest(text)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What is executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// By the shell: `$SHELL -c TEXT`.
    #[serde(rename = "command")]
    Shell(String),
    /// Without a shell; the first word is the program.
    #[serde(rename = "argv")]
    Argv(Vec<String>),
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Shell(text) => f.write_str(text),
            Command::Argv(words) => f.write_str(&words.join(" ")),
        }
    }
}

/// What happens when a run is due while an earlier one of the same job is still open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Concurrency {
    /// Both run, as cron does.
    #[default]
    Allow,
    /// The new one is skipped.
    Forbid,
    /// The new one waits for the earlier ones.
    Queue,
    /// The earlier ones are stopped, then the new one starts.
    Replace,
}

/// What firings are worth that the scheduler slept through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    #[default]
    Skip,
    Once,
    All,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retries {
    /// Attempts after the first.
    pub max: u32,
    #[serde(with = "units::duration")]
    pub delay: Duration,
    /// The delay is multiplied by this from retry to retry.
    pub backoff: f64,
    pub on: Vec<Outcome>,
}

impl Retries {
    /// How long to wait before `attempt` (2 is the first retry).
    pub fn delay_before(&self, attempt: u32) -> Duration {
        let factor = self.backoff.max(0.0).powi(attempt.saturating_sub(2).min(64) as i32);
        Duration::try_from_secs_f64(self.delay.as_secs_f64() * factor).unwrap_or(RETRY_DELAY_MAX).min(RETRY_DELAY_MAX)
    }
}

/// No backoff waits longer than a day.
pub const RETRY_DELAY_MAX: Duration = Duration::from_secs(86_400);

/// What a run takes from its machine, for runners in the mode `resources`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Needs {
    /// Cores.
    #[serde(default)]
    pub cpu: f64,
    /// Bytes.
    #[serde(default, with = "units::size")]
    pub memory: u64,
}

/// When people are told, and through which channels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertPolicy {
    /// Bad runs in a row before the first alert.
    #[serde(default = "one")]
    pub after: u32,
    /// Told again after this long while it stays bad; never when absent.
    #[serde(default, with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    pub remind: Option<Duration>,
    /// Names of channels; empty means all that are configured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
}

impl Default for AlertPolicy {
    fn default() -> AlertPolicy {
        AlertPolicy { after: 1, remind: None, channels: Vec::new() }
    }
}

/// Why a job does not fire for now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub since: Timestamp,
    /// Resumes by itself at this instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    #[serde(default)]
    pub why: String,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn yes() -> bool {
    true
}

fn one() -> u32 {
    1
}

fn zero() -> Vec<i32> {
    vec![0]
}

fn auto() -> Vec<String> {
    vec!["auto".to_owned()]
}

/// What Docker, systemd and Kubernetes settle around; long enough to flush, short enough to wait for.
fn kill_grace() -> Duration {
    Duration::from_secs(10)
}
