//! Sends alerts to a command of the user: the alert as JSON on standard input, the main facts in the environment.
//!
//! The command runs in its own process group, which is killed at the timeout. Exit code 0 means delivered. 126 and 127
//! (of the shell: cannot be executed, not found) are permanent errors; any other exit code is retried.

#![expect(unsafe_code, reason = "only an unsafe call can run code between fork and exec")]

use std::ffi::OsString;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use domain::alert::Alert;
use domain::document::Section;
use domain::job::Command as JobCommand;
use domain::ports::{PortError, PortResult};
use rustix::fs::Mode;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process_group, setrlimit, umask};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};

/// Default timeout of the command. Chosen, not measured.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// At most this much of standard error is read; its last line is quoted when the command fails.
const QUOTE_BYTES_MAX: u64 = 2000;

/// How long standard error is read after the command has exited: its last output is still in the pipe, but a
/// grandchild can keep the pipe open for any time.
const STDERR_DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// The keys `command` or `argv`, `timeout` and `pass_env`.
#[derive(Debug)]
pub struct Options {
    command: JobCommand,
    timeout: Duration,
    /// Further variables of Sexton's own environment that the command gets.
    pass_env: Vec<String>,
}

/// Variables that every command gets. All others may be credentials: the environment of a process is readable by all
/// processes of its user.
const PASSED: [&str; 14] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NO_PROXY",
    "no_proxy",
];

/// Addresses of proxies, which may contain a password.
const PROXIES: [&str; 6] = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Settings that commands get instead of Sexton's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct CommandLimits {
    /// The file mode creation mask.
    pub umask: Option<u32>,
    /// The soft limit of open files.
    pub open_files: Option<u64>,
}

impl Options {
    pub(crate) fn read(section: &mut Section) -> Option<Options> {
        let (text, argv) = (section.text("command"), section.texts("argv"));
        let timeout = section.duration("timeout").unwrap_or(TIMEOUT_DEFAULT);
        let pass_env = section.texts("pass_env").unwrap_or_default();
        let command = match (text, argv) {
            (Some(text), None) if !text.trim().is_empty() => JobCommand::Shell(text),
            (None, Some(argv)) if !argv.is_empty() => JobCommand::Argv(argv),
            _ => {
                section.fault(
                    section.line(),
                    "",
                    "no command; write either command = \"...\" for the shell, or argv = [\"...\"]",
                );
                return None;
            }
        };
        Some(Options { command, timeout, pass_env })
    }
}

pub(crate) struct CommandChannel {
    options: Options,
    pub(crate) limits: CommandLimits,
}

impl CommandChannel {
    pub(crate) fn new(options: Options) -> CommandChannel {
        CommandChannel { options, limits: CommandLimits::default() }
    }

    pub(crate) async fn send(&self, alert: &Alert) -> PortResult<()> {
        let input = serde_json::to_vec(alert)
            .map_err(|error| PortError::Permanent(format!("cannot write the alert as JSON: {error}")))?;
        let mut command = self.command();
        command.envs(environment(alert));
        let mut child = command.spawn().map_err(|why| match why.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => {
                PortError::Permanent(format!("cannot start `{}`: {why}", self.options.command))
            }
            _ => PortError::Retry(format!("cannot start `{}`: {why}", self.options.command)),
        })?;
        let _group = child.id().map(ProcessGroup);
        let result = tokio::time::timeout(self.options.timeout, feed_and_wait(&mut child, &input)).await;
        match result {
            Ok(Ok((status, quote))) => self.check_status(status, &quote),
            Ok(Err(why)) => Err(PortError::Retry(format!("`{}`: {why}", self.options.command))),
            Err(_) => {
                let limit = domain::units::format_duration(self.options.timeout);
                Err(PortError::Retry(format!("`{}` ran longer than {limit} and was killed", self.options.command)))
            }
        }
    }

    /// Checks that the program exists; executes nothing.
    pub(crate) fn probe(&self) -> PortResult<&'static str> {
        match &self.options.command {
            JobCommand::Shell(_) => Ok("is a shell command (not executed)"),
            JobCommand::Argv(words) => {
                let program = words.first().map(String::as_str).unwrap_or_default();
                let found = if program.contains('/') {
                    std::path::Path::new(program).is_file()
                } else {
                    let path = std::env::var_os("PATH").unwrap_or_default();
                    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
                };
                if found {
                    Ok("found (not executed)")
                } else {
                    Err(PortError::Permanent(format!("`{program}` not found")))
                }
            }
        }
    }

    fn command(&self) -> Command {
        let mut command = match &self.options.command {
            JobCommand::Shell(text) => {
                let mut command = Command::new("/bin/sh");
                command.arg("-c").arg(text);
                command
            }
            JobCommand::Argv(words) => {
                let mut words = words.iter();
                let mut command = Command::new(words.next().map(String::as_str).unwrap_or_default());
                command.args(words);
                command
            }
        };
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        command.env_clear().envs(passed_environment(&self.options.pass_env));
        let limits = self.limits;
        // SAFETY: the closure only makes system calls.
        unsafe { command.pre_exec(move || limits.apply()) };
        command
    }

    fn check_status(&self, status: ExitStatus, quote: &[u8]) -> PortResult<()> {
        if status.success() {
            return Ok(());
        }
        let message = format!("`{}` ended with {status}{}", self.options.command, last_line(quote));
        if matches!(status.code(), Some(126 | 127)) {
            Err(PortError::Permanent(message))
        } else {
            Err(PortError::Retry(message))
        }
    }
}

/// The variables of this process that a child gets: harmless ones, and those that the configuration names.
pub(crate) fn passed_environment(named: &[String]) -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(move |(name, value)| {
        let name = name.to_string_lossy();
        PASSED.contains(&&*name)
            || name.starts_with("LC_")
            || (PROXIES.contains(&&*name) && !value.to_string_lossy().contains('@'))
            || named.iter().any(|passed| *passed == name)
    })
}

impl CommandLimits {
    /// Applies them to this process, which is about to become the command.
    fn apply(self) -> std::io::Result<()> {
        if let Some(mask) = self.umask {
            umask(Mode::from_raw_mode(mask));
        }
        if let Some(soft) = self.open_files {
            let maximum = getrlimit(Resource::Nofile).maximum;
            let current = Some(maximum.map_or(soft, |hard| soft.min(hard)));
            setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
        }
        Ok(())
    }
}

/// The last line of standard error, to be appended to a fault; empty when there is none.
pub(crate) fn last_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.map_or_else(String::new, |line| format!(": {}", line.trim()))
}

/// Writes the input, reads standard error and waits for the exit. A command may ignore its input.
pub(crate) async fn feed_and_wait(child: &mut Child, input: &[u8]) -> std::io::Result<(ExitStatus, Vec<u8>)> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let mut quote = Vec::new();
    let status = {
        let talk = async { tokio::join!(write_input(stdin, input), read_stderr(stderr, &mut quote)) };
        tokio::pin!(talk);
        tokio::select! {
            status = child.wait() => {
                // A grandchild can hold standard error open; only the exit of the command itself counts.
                let _held = tokio::time::timeout(STDERR_DRAIN_TIMEOUT, &mut talk).await;
                status?
            }
            _ = &mut talk => child.wait().await?,
        }
    };
    Ok((status, quote))
}

async fn write_input(stdin: Option<ChildStdin>, input: &[u8]) {
    if let Some(mut stdin) = stdin
        && let Err(why) = stdin.write_all(input).await
    {
        tracing::debug!(%why, "alert command did not read all of its input");
    }
}

async fn read_stderr(stderr: Option<ChildStderr>, quote: &mut Vec<u8>) {
    let Some(stderr) = stderr else { return };
    let mut stderr = stderr.take(QUOTE_BYTES_MAX);
    if let Err(why) = stderr.read_to_end(quote).await {
        tracing::debug!(%why, "cannot read standard error of an alert command");
    }
    // The rest is discarded, so that the command never blocks on a full pipe.
    let _rest = tokio::io::copy(&mut stderr.into_inner(), &mut tokio::io::sink()).await;
}

/// Kills what remains of the command's process group when dropped: after delivery, failure or timeout.
pub(crate) struct ProcessGroup(pub(crate) u32);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0).ok().and_then(Pid::from_raw)
            && let Err(why) = kill_process_group(group, Signal::KILL)
            && why != rustix::io::Errno::SRCH
        {
            tracing::warn!(%why, "cannot kill an alert command");
        }
    }
}

fn environment(alert: &Alert) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("SEXTON_ALERT_KIND", alert.kind.name().to_owned()),
        ("SEXTON_ALERT_SEVERITY", alert.kind.severity().to_owned()),
        ("SEXTON_ALERT_GROUP", alert.group.clone()),
        ("SEXTON_ALERT_JOB", alert.job.clone()),
        ("SEXTON_ALERT_REASON", crate::alert_text::reason(alert).replace('\0', "\u{fffd}")),
        ("SEXTON_ALERT_SUBJECT", crate::alert_text::subject(alert)),
    ];
    variables.extend(alert.run_id.as_ref().map(|run_id| ("SEXTON_ALERT_RUN_ID", run_id.to_string())));
    variables.extend(alert.outcome.map(|outcome| ("SEXTON_ALERT_OUTCOME", outcome.name().to_owned())));
    variables.extend(alert.exit_code.map(|code| ("SEXTON_ALERT_EXIT_CODE", code.to_string())));
    variables.extend(alert.host.clone().map(|host| ("SEXTON_ALERT_HOST", host)));
    variables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert_text::tests::{failed_alert, long_alert};

    fn channel(command: &str, timeout: Duration) -> CommandChannel {
        CommandChannel::new(Options { command: JobCommand::Shell(command.to_owned()), timeout, pass_env: Vec::new() })
    }

    const GENEROUS: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn the_command_gets_json_and_the_main_facts() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (json, facts) = (dir.path().join("json"), dir.path().join("facts"));
        let command = format!(
            "cat > {}; echo $SEXTON_ALERT_KIND $SEXTON_ALERT_GROUP/$SEXTON_ALERT_JOB $SEXTON_ALERT_EXIT_CODE > {}",
            json.display(),
            facts.display()
        );
        channel(&command, GENEROUS).send(&failed_alert()).await.expect("delivered");
        let read: Alert = serde_json::from_slice(&std::fs::read(json).expect("written")).expect("JSON");
        assert_eq!(read, failed_alert());
        assert_eq!(std::fs::read_to_string(facts).expect("written"), "failed db/nightly-dump 2\n");
    }

    #[tokio::test]
    async fn a_failing_command_is_retried_and_a_missing_one_is_not() {
        let error = channel("echo line 1 >&2; echo no network >&2; exit 3", GENEROUS).send(&failed_alert()).await;
        assert!(matches!(&error, Err(PortError::Retry(message)) if message.ends_with(": no network")), "{error:?}");
        let error = channel("/nowhere/at-all", GENEROUS).send(&failed_alert()).await;
        assert!(matches!(&error, Err(PortError::Permanent(_))), "{error:?}");
        let command = JobCommand::Argv(vec!["/nowhere/at-all".into()]);
        let argv = Options { command, timeout: GENEROUS, pass_env: Vec::new() };
        let error = CommandChannel::new(argv).send(&failed_alert()).await;
        assert!(matches!(&error, Err(PortError::Permanent(_))), "{error:?}");
    }

    #[tokio::test]
    async fn a_command_that_reads_nothing_still_succeeds() {
        channel("exit 0", GENEROUS).send(&long_alert()).await.expect("delivered");
    }

    #[tokio::test]
    async fn a_command_beyond_its_limit_is_killed_with_its_children() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let pids = dir.path().join("pids");
        let command = format!("sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait", pids.display());
        let error = channel(&command, Duration::from_secs(2)).send(&failed_alert()).await;
        assert!(matches!(&error, Err(PortError::Retry(message)) if message.contains("was killed")), "{error:?}");
        let pid = std::fs::read_to_string(&pids).expect("the child was started in time");
        let stat = format!("/proc/{}/stat", pid.trim());
        testbed::wait_until(testbed::DEADLINE, || !runs(&stat));
    }

    /// A killed orphan stays a zombie where no process reaps it.
    fn runs(stat: &str) -> bool {
        std::fs::read_to_string(stat).is_ok_and(|text| !text.rsplit(')').next().unwrap_or("").trim().starts_with('Z'))
    }
}
