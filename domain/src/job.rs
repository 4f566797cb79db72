//! A job: what to run, when, and how to classify its end. The format of the jobs file, of the jobs table and of the
//! API.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::mailto::MailSettings;
use crate::run::Outcome;
use crate::schedule::spread_seconds;
use crate::units;

/// Group and name: the identity of a job. Displayed as `group/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobKey {
    /// The unit that runners serve.
    pub group: String,
    /// Unique in its group.
    pub name: String,
}

impl JobKey {
    /// The key of these names, unchecked.
    pub fn new(group: impl Into<String>, name: impl Into<String>) -> JobKey {
        JobKey { group: group.into(), name: name.into() }
    }

    /// Reads `group/name`.
    ///
    /// # Errors
    /// One lower-case sentence with the remedy.
    pub fn parse(text: &str) -> Result<JobKey, String> {
        match text.split_once('/') {
            Some((group, name)) if !group.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(JobKey::new(group, name))
            }
            _ => Err(format!("`{text}` is not the name of a job; write GROUP/NAME, like default/backup")),
        }
    }
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.name)
    }
}

/// The definition of a job, with what the system adds to it (`anchor`, `paused`, `source`, `seed`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The unit that runners serve.
    pub group: String,
    /// Unique in its group.
    pub name: String,
    /// The schedule as it was written; see [`crate::schedule::Schedule::parse`].
    pub schedule: String,
    /// IANA name of the schedule's zone. A jobs file without one means `UTC`, a crontab the zone of the host that
    /// reads it; the name is stored.
    #[serde(default = "utc")]
    pub zone: String,
    /// Stored as `command` or `argv`.
    #[serde(flatten)]
    pub command: Command,
    /// `false`: the job does not fire. Set in the file.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// The user that the command runs as; the runner's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The command's working directory; the user's home by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Values may be references: `ssm:`, `secretsmanager:`, `env:`, `file:`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The command's standard input: in a crontab, the text after the first `%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Limit of the run; none by default.
    #[serde(default, with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Time between TERM and KILL.
    #[serde(default = "kill_grace", with = "units::duration")]
    pub kill_grace: Duration,
    /// A run that has not started this long after its nominal time is missed.
    #[serde(default, with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    pub start_within: Option<Duration>,
    /// Upper limit of the delay after the nominal time; see [`Job::delay`].
    #[serde(default, with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    pub random_delay: Option<Duration>,
    /// A run without output for this long raises an alert.
    #[serde(default, with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    pub quiet_limit: Option<Duration>,
    /// How long output is read after the end of the run's process, while another process still has it open; without a
    /// limit by default.
    #[serde(default, with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    pub late_output_limit: Option<Duration>,
    /// A run that succeeds in less time is a false success.
    #[serde(default, with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    pub min_duration: Option<Duration>,
    /// A run that succeeds after more time is a false success.
    #[serde(default, with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    pub max_duration: Option<Duration>,
    /// A run that succeeds with fewer lines of output, of both streams, is a false success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_lines: Option<u32>,
    /// Policy for overlapping runs.
    #[serde(default)]
    pub concurrency: Concurrency,
    /// Open runs at once while `concurrency` is `allow`; [`MAX_OPEN_DEFAULT`] by default. One machine only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_open: Option<u32>,
    /// Policy for missed firings.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// Exit codes that mean success, each 0 to 255; `[0]` by default.
    #[serde(default = "zero")]
    pub success_exit_codes: Vec<i32>,
    /// Retries of failed runs; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// Resources of one run.
    #[serde(default)]
    pub needs: Needs,
    /// Names of rule packs; `auto` chooses by the command.
    #[serde(default = "auto")]
    pub rules: Vec<String>,
    /// When and where alerts are sent.
    #[serde(default)]
    pub alert: AlertPolicy,
    /// Who gets the output as mail. Set from MAILTO of a crontab.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<MailSettings>,
    /// Free text, shown to users.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Free text, shown to users.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// When the job was first stored: `rate()` and `@every` count from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Timestamp>,
    /// Set by `sexton job pause`; independent of `enabled`, which belongs to the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Pause>,
    /// The file that the job was applied from; `--prune` deletes only jobs of the same file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What `H` and `a~b` in the schedule are derived from, where it is not the job's key: set for entries of a crontab
    /// without a name, so that their minute stays the same when their default name changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
}

impl Job {
    /// A job with all defaults, as from a line of a crontab.
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
            random_delay: None,
            quiet_limit: None,
            late_output_limit: None,
            min_duration: None,
            max_duration: None,
            min_lines: None,
            concurrency: Concurrency::default(),
            max_open: None,
            catch_up: CatchUp::default(),
            success_exit_codes: zero(),
            retries: None,
            needs: Needs::default(),
            rules: auto(),
            alert: AlertPolicy::default(),
            mail: None,
            description: String::new(),
            owner: String::new(),
            anchor: None,
            paused: None,
            source: None,
            seed: None,
        }
    }

    /// Its key in the stores.
    pub fn key(&self) -> JobKey {
        JobKey::new(&self.group, &self.name)
    }

    /// The time from a nominal time to the start of its run: below `random_delay`, in whole seconds, and a function of
    /// group and name, so the same for each run and on each machine.
    pub fn delay(&self) -> Duration {
        let limit_seconds = self.random_delay.map_or(0, |limit| limit.as_secs());
        Duration::from_secs(spread_seconds(&self.key().to_string(), limit_seconds))
    }

    /// A digest of all fields that decide the firings: 16 hexadecimal digits. It changes when the firings can change.
    pub fn timing(&self) -> String {
        let anchor = self.anchor.map_or(0, Timestamp::as_second);
        let off = if self.enabled { "" } else { "\0off" };
        let seed = self.seed.as_ref().map_or_else(String::new, |seed| format!("\0{seed}"));
        let delay_seconds = self.delay().as_secs();
        let delay = if delay_seconds == 0 { String::new() } else { format!("\0delay {delay_seconds}") };
        let names = format!("{}\0{}", self.group, self.name);
        let text = format!("{names}\0{}\0{}\0{anchor}{off}{seed}{delay}", self.schedule, self.zone);
        Sha256::digest(text)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Open runs of a job that sets no `max_open`. Chosen: no job of a crontab that works well has more.
pub const MAX_OPEN_DEFAULT: u32 = 16;

/// The command of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Run by the shell: `$SHELL -c TEXT`.
    #[serde(rename = "command")]
    Shell(String),
    /// Run without a shell; the first word is the program.
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

/// The policy for a run that is due while an earlier run of its job is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Concurrency {
    /// Both run, as cron does.
    #[default]
    Allow,
    /// The new run is skipped.
    Forbid,
    /// The new run waits for the earlier ones.
    Queue,
    /// The earlier runs are stopped, then the new one starts.
    Replace,
}

/// The policy for firings that were missed while the scheduler was down, or that fall into a maintenance window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// None of them runs.
    #[default]
    Skip,
    /// The latest of them runs.
    Once,
    /// All of them run.
    All,
}

/// The policy for retries of failed runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retries {
    /// Attempts after the first: 0 to 100.
    pub max: u32,
    /// Delay before the first retry.
    #[serde(with = "units::duration")]
    pub delay: Duration,
    /// The delay is multiplied by this for each further retry: 1 to 10.
    pub backoff: f64,
    /// Outcomes that are retried.
    pub on: Vec<Outcome>,
}

impl Retries {
    /// The delay before `attempt` (2 is the first retry), at most [`RETRY_DELAY_MAX`].
    pub fn delay_before(&self, attempt: u32) -> Duration {
        let factor = self.backoff.max(0.0).powi(attempt.saturating_sub(2).min(64) as i32);
        Duration::try_from_secs_f64(self.delay.as_secs_f64() * factor).unwrap_or(RETRY_DELAY_MAX).min(RETRY_DELAY_MAX)
    }
}

/// The longest delay before a retry. Chosen: the order's `not_before` plus a day stays far below `ORDER_TTL`.
pub const RETRY_DELAY_MAX: Duration = Duration::from_secs(86_400);

/// Resources of one run, for runners in the mode `resources`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Needs {
    /// Cores: 0 to 4096.
    #[serde(default)]
    pub cpu: f64,
    /// Bytes; stored like `512MiB`.
    #[serde(default, with = "units::size")]
    pub memory: u64,
}

/// When alerts are sent, and through which channels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertPolicy {
    /// Failed runs in a row before the first alert: 1 to 1000.
    #[serde(default = "one")]
    pub after: u32,
    /// The alert is repeated after this time while the job fails; never when absent.
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

/// A pause of a job: no new firings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// When the operator paused the job.
    pub since: Timestamp,
    /// End of the pause; without it, until `sexton job resume`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The operator's reason; may be empty.
    #[serde(default)]
    pub why: String,
    /// Who paused the job, as `user:NAME` or `owner`; absent in pauses of older builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

impl Pause {
    /// A pause without a record of who requested it.
    pub fn new(since: Timestamp, until: Option<Timestamp>, why: &str) -> Pause {
        Pause { since, until, why: why.to_owned(), by: None }
    }
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

/// Chosen: the default of Docker (10 s), between those of Kubernetes (30 s) and of shells (none).
fn kill_grace() -> Duration {
    Duration::from_secs(10)
}
