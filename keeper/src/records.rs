//! The files through which runner and keeper communicate. Their JSON names are stored and never change.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use domain::event::Ended;
use domain::guard::FalseGuard;
use domain::order::{FORMAT_VERSION, Order};
use domain::run::{Leaked, OutputCounts};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::caller_process::Caller;
use crate::directory::{RunDirectory, read_json};

/// `order.json`: the order as it was received, with time and boot of the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// Stored in the same JSON object as the other fields.
    #[serde(flatten)]
    pub order: Order,
    /// When the runner stored the order.
    pub accepted_at: Timestamp,
    /// The machine's boot at that time.
    pub boot_id: String,
    /// Set when the order must not be started: refused by policy, too late. The run ends with this as its note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
}

impl Accepted {
    /// Reads the order of a run directory. None when the directory has none yet.
    ///
    /// # Errors
    /// Returns a sentence with the path when the file cannot be read, or when a newer build wrote it. Only a newer
    /// build can then finish the run.
    pub fn read(directory: &RunDirectory) -> io::Result<Option<Accepted>> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let file = directory.order();
        if is_empty_after_power_cut(&file)? {
            return Ok(None);
        }
        let Some(Versioned { version }) = read_json(&file)? else { return Ok(None) };
        if version > FORMAT_VERSION {
            let message = format!(
                "{} has version {version}, and this build reads up to {FORMAT_VERSION}; start a newer build, which \
                 finishes the run",
                file.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        read_json(&file)
    }
}

/// Whether a file has no content, or only NUL bytes: the machine lost power before the file was synced.
fn is_empty_after_power_cut(file: &Path) -> io::Result<bool> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(bytes.iter().all(|byte| *byte == 0)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Why an order was not started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Decides the outcome of the run.
    pub why: RefusalKind,
    /// One sentence for the run's note.
    #[serde(rename = "says")]
    pub message: String,
}

/// The kind of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The policy of this machine does not allow it. The run fails.
    Policy,
    /// The latest start time has passed. The run is missed.
    TooLate,
    /// Stopped before the start.
    Stopped,
    /// It cannot be started on this machine. The run fails.
    Impossible,
}

/// What a keeper reads from its standard input and never stores: values that were references in the order. Without
/// `Debug`, so that no secret gets into a log.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The job's own environment, with references resolved.
    pub env: BTreeMap<String, String>,
    /// Variables of `env` whose values are masked in the output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secret_names: Vec<String>,
    /// Variables of the runner that the configuration passes to jobs, with their values.
    pub passed: BTreeMap<String, String>,
    /// Whether the keeper may create a control group for the job.
    pub cgroup: bool,
    /// What the job gets instead of the runner's own settings.
    #[serde(default, skip_serializing_if = "Inherited::is_empty")]
    pub inherited: Inherited,
    /// Where the job must start, by the policy of the machine; any directory when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_directories: Option<AllowedDirectories>,
    /// The process in the foreground that the job belongs to; absent for a job of a runner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<Caller>,
}

/// Settings that Sexton got from its parent process and changed for itself. Jobs get them as they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inherited {
    /// The file mode creation mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// The soft limit of open files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
}

impl Inherited {
    fn is_empty(&self) -> bool {
        *self == Inherited::default()
    }
}

/// The directories in which the policy allows a job to start, with links resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowedDirectories {
    /// The job may start in one of these or below.
    pub paths: Vec<String>,
    /// The sentence for the run when it would start elsewhere.
    pub refusal: String,
}

impl Launch {
    /// The values to mask.
    pub fn secret_values(&self) -> impl Iterator<Item = &str> {
        self.secret_names.iter().filter_map(|name| self.env.get(name)).map(String::as_str)
    }
}

/// `started.json`: the job's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Leader of the job's session and process group.
    pub pid: u32,
    /// Field 22 of /proc/PID/stat. Together with the boot id it identifies the process when its number was reused.
    pub start_ticks: u64,
    /// The machine's boot, for `start_ticks`.
    pub boot_id: String,
    /// When the job was started.
    pub started_at: Timestamp,
    /// The same instant on the monotonic clock of this boot, in ms. Absent in files of older builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monotonic_ms: Option<u64>,
    /// The job's control group, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Inodes of the pipes of the job's output. A process that has one open belongs to the job.
    #[serde(default)]
    pub pipes: Vec<u64>,
    /// Process id of the keeper, which is also in the job's environment. Absent in files of builds that did not set the
    /// variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeper: Option<u32>,
}

/// `stop`: a stop request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRequest {
    /// When the stop was requested.
    pub at: Timestamp,
    /// The requester, for the run's note.
    pub by: String,
    /// The longest time between TERM and KILL, from when the keeper reads the request; the job's `kill_grace` where
    /// that is shorter. Absent: the job's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_max_ms: Option<u64>,
}

/// `exit.json`: everything that the keeper knows about the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// How the attempt ended.
    pub ended: Ended,
    /// One sentence for the run's reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// None when the job was ended by a signal or never started.
    pub exit_code: Option<i32>,
    /// The signal that ended the job.
    pub signal: Option<i32>,
    /// None when the job never started.
    pub started_at: Option<Timestamp>,
    /// Never before `started_at` plus the duration.
    pub finished_at: Timestamp,
    /// Of the job's process, measured on the monotonic clock.
    pub duration_ms: u64,
    /// Counts of the output up to here.
    pub output: OutputCounts,
    /// User and system time of the job and its reaped descendants.
    pub cpu_ms: Option<u64>,
    /// Largest resident set of one process of the job.
    pub max_rss_bytes: Option<u64>,
    /// The guard before `&&` that was false, so that the rest of the command did not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<FalseGuard>,
    /// Processes left after the end of the job.
    #[serde(default)]
    pub leaked: Vec<Leaked>,
    /// Another process still had the output open. `output.json`, with the counts of all of it, follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub output_open: bool,
}

impl Exit {
    /// The exit of an attempt that was never started.
    pub fn not_started(note: impl Into<String>, at: Timestamp) -> Exit {
        Exit {
            ended: Ended::NotStarted,
            note: Some(note.into()),
            exit_code: None,
            signal: None,
            started_at: None,
            finished_at: at,
            duration_ms: 0,
            output: OutputCounts::default(),
            cpu_ms: None,
            max_rss_bytes: None,
            guard: None,
            leaked: Vec::new(),
            output_open: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::job::{Command, Job, JobKey};
    use domain::run::{RunId, Trigger};

    use super::*;

    #[test]
    fn an_accepted_order_reads_as_it_was_written() {
        let at: Timestamp = "2026-11-23T07:50:00Z".parse().expect("instant");
        let mut job = Job::new(JobKey::new("db", "dump"), "@daily", Command::Argv(vec!["true".into()]));
        job.timeout = Some(std::time::Duration::from_secs(3));
        job.needs.cpu = 1.5;
        let order = Order {
            version: 1,
            run_id: RunId::unscheduled(at, [1; 6]),
            attempt: 2,
            nominal: at,
            trigger: Trigger::Manual,
            issued_at: at,
            not_before: None,
            start_by: Some(at),
            job,
        };
        let accepted = Accepted { order, accepted_at: at, boot_id: "b".into(), refused: None };
        let text = serde_json::to_string(&accepted).expect("json");
        assert_eq!(serde_json::from_str::<Accepted>(&text).expect("accepted"), accepted);
        assert_eq!(serde_json::from_str::<Order>(&text).expect("order"), accepted.order);
    }
}
