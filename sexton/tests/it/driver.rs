//! Runs the binary for all tests. Processes are killed when their value is dropped.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use testbed::{DEADLINE, ReadyProcess};

/// Exit code and output of a command.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    pub code: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
}

impl CommandOutput {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Each line as JSON.
    #[track_caller]
    pub(crate) fn records(&self) -> Vec<Value> {
        self.text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect()
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> CommandOutput {
        assert_eq!(self.code, Some(code), "{}\n{}", self.text(), self.err);
        self
    }
}

pub(crate) fn command(arguments: &[&str]) -> Command {
    command_with_binary(Path::new(env!("CARGO_BIN_EXE_sexton")), arguments)
}

fn command_with_binary(binary: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary);
    command.args(arguments);
    for name in
        ["SEXTON_SERVER", "SEXTON_TOKEN", "SEXTON_AWS", "SEXTON_CONFIG", "SEXTON_STATE", "RUST_LOG", "XDG_STATE_HOME"]
    {
        command.env_remove(name);
    }
    // The zone of the machine must not decide what a test sees.
    command.env("TZ", "UTC");
    command
}

pub(crate) fn sexton(arguments: &[&str]) -> CommandOutput {
    sexton_with_input(arguments, b"")
}

/// Runs the binary with this standard input.
pub(crate) fn sexton_with_input(arguments: &[&str], input: &[u8]) -> CommandOutput {
    let mut child = command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("waited for");
    // Fails if the command exits without reading its input.
    let _closed = feeder.join().expect("fed");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    // Numbers of system errors are not for operators.
    assert!(!err.contains("(os error "), "{arguments:?}: {err}");
    CommandOutput { code: output.status.code(), out: output.stdout, err }
}

/// A temporary folder with files.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Folder {
        Folder(TempDir::new().expect("temporary directory"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes a file, and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).expect("written");
        self.text(name)
    }
}

/// A running `sexton up` or `sexton runner`.
pub(crate) struct Up {
    process: ReadyProcess,
    state: PathBuf,
    keeps_jobs: bool,
}

impl Up {
    /// Starts it and waits for `ready`.
    #[track_caller]
    pub(crate) fn start(state: &Path, arguments: &[&str]) -> Up {
        Up::start_as(Path::new(env!("CARGO_BIN_EXE_sexton")), state, arguments)
    }

    /// Like [`Up::start`], with another copy of the binary.
    #[track_caller]
    pub(crate) fn start_as(binary: &Path, state: &Path, arguments: &[&str]) -> Up {
        let mut command = command_with_binary(binary, &["up"]);
        command.args(arguments);
        Up::serve(state, command)
    }

    /// Starts another command that serves.
    #[track_caller]
    pub(crate) fn serve(state: &Path, command: Command) -> Up {
        let up = Up::spawn(state, command);
        assert!(up.process.is_ready_within(DEADLINE), "not ready; it printed: {}", up.printed());
        up
    }

    /// Starts an `up` that kills itself at a labelled step, without waiting for `ready`.
    pub(crate) fn start_crashing_at(state: &Path, arguments: &[&str], label: &str) -> Up {
        let mut command = command(&["up"]);
        command.args(arguments).env("SEXTON_CRASH_AT", label);
        Up::spawn(state, command)
    }

    fn spawn(state: &Path, mut command: Command) -> Up {
        command.args(["--listen", &testbed::free_port().to_string(), "--state"]).arg(state).process_group(0);
        let process = ReadyProcess::spawn(&mut command).expect("the binary starts");
        Up { process, state: state.to_owned(), keeps_jobs: false }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.has_ended()
    }

    /// What it printed so far; numbers of system errors are not for operators.
    #[track_caller]
    pub(crate) fn printed(&self) -> String {
        let printed = self.process.printed();
        assert!(!printed.contains("(os error "), "{printed}");
        printed
    }

    /// Runs a command against this `up`.
    pub(crate) fn run(&self, arguments: &[&str]) -> CommandOutput {
        let state = self.state.display().to_string();
        let at = arguments.iter().position(|argument| *argument == "--").unwrap_or(arguments.len());
        let mut all = arguments[..at].to_vec();
        all.extend(["--state", &state]);
        all.extend(&arguments[at..]);
        sexton(&all)
    }

    /// The records of a `--json` command, which must succeed.
    #[track_caller]
    pub(crate) fn records(&self, arguments: &[&str]) -> Vec<Value> {
        let mut all = arguments.to_vec();
        all.push("--json");
        let output = self.run(&all);
        // A test may ask for the runs of a job before it is stored or has a run.
        let is_early =
            arguments.first() == Some(&"runs") && output.code == Some(2) && output.err.starts_with("no job ");
        if is_early { Vec::new() } else { output.expect(0).records() }
    }

    /// Waits for a run of this job with this outcome.
    #[track_caller]
    pub(crate) fn wait_for_run(&self, job: &str, outcome: &str) -> Value {
        let mut found = None;
        let mut look = || {
            found = self.records(&["runs", job, "--outcome", outcome]).into_iter().next();
            found.is_some()
        };
        let start = std::time::Instant::now();
        while !look() {
            assert!(
                start.elapsed() < DEADLINE,
                "no {outcome} run of {job}: {:?}\n{}",
                self.records(&["runs"]),
                self.printed()
            );
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        found.expect("found")
    }

    /// Waits for a run of this job in this state.
    #[track_caller]
    pub(crate) fn wait_for_state(&self, job: &str, state: &str) -> Value {
        testbed::wait_for("a run in that state", || {
            self.records(&["runs", job]).into_iter().find(|run| run["state"] == state)
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Stops it in order and kills the jobs that still run.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Option<i32> {
        self.process.stop()
    }

    /// Stops it in order; jobs continue and the next `up` resumes them.
    #[track_caller]
    pub(crate) fn stop_and_keep_jobs(mut self) -> Option<i32> {
        self.keeps_jobs = true;
        self.process.stop()
    }

    /// Kills it and its jobs.
    pub(crate) fn kill(mut self) {
        self.process.kill();
    }

    /// Kills it; jobs continue and the next `up` resumes them.
    pub(crate) fn kill_and_keep_jobs(mut self) {
        self.keeps_jobs = true;
        self.kill();
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.process.kill();
        if !self.keeps_jobs {
            end_keepers(&self.state);
        }
    }
}

/// Kills keepers and jobs, which outlive their runner by design.
fn end_keepers(state: &Path) {
    let Ok(runs) = std::fs::read_dir(state.join("runner/runs")) else { return };
    for run in runs.flatten() {
        let started = std::fs::read_to_string(run.path().join("started.json")).unwrap_or_default();
        let job = serde_json::from_str::<Value>(&started).ok().and_then(|started| started["pid"].as_u64());
        let keeper = std::fs::read_to_string(run.path().join("keeper")).ok().and_then(|text| text.trim().parse().ok());
        if run.path().join("exit.json").exists() {
            continue;
        }
        for pid in keeper.into_iter().chain(job) {
            signal(u32::try_from(pid).unwrap_or(0), "KILL");
        }
    }
}

/// The standard output of a shell command.
#[track_caller]
pub(crate) fn shell_output(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().expect("a shell");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn signal(pid: u32, name: &str) {
    // Fails if the process has exited.
    let _exited = Command::new("kill").args([format!("-{name}"), pid.to_string()]).stderr(Stdio::null()).status();
}
