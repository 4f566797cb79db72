//! `exec` on a machine that refuses processes and threads, with streams that are closed, and what it leaves.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use testbed::{DEADLINE, wait_until};

use crate::driver::{CommandOutput, Folder, command, sexton};

fn output(command: &mut Command) -> CommandOutput {
    let output = command.output().expect("starts");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    CommandOutput { code: output.status.code(), out: output.stdout, err }
}

/// A user without any other process.
const USER: &str = "64242";

#[test]
fn the_command_runs_with_any_limit_of_file_sizes() {
    let folder = Folder::new();
    for limit in [0, 1, 2, 4, 8, 64] {
        let mut call = Command::new("bash");
        call.arg("-c").arg(format!("ulimit -f {limit} && exec \"$@\"")).args(["bash", env!("CARGO_BIN_EXE_sexton")]);
        call.args(["exec", "--name", "n", "--state", &folder.text("state"), "--", "sh", "-c", "echo ran; exit 3"]);
        let result = output(call.env("TZ", "UTC")).expect(3);
        assert_eq!(result.text(), "ran\n", "{limit}: {}", result.err);
    }
}

#[test]
fn the_command_runs_with_few_processes_and_its_lines_are_delivered_later() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can become another user; left out");
        return;
    }
    let folder = Folder::new();
    fs::set_permissions(folder.path(""), fs::Permissions::from_mode(0o777)).expect("mode");
    let binary = folder.text("sexton");
    fs::copy(env!("CARGO_BIN_EXE_sexton"), &binary).expect("copied");
    let state = folder.text("state");
    let call = |limit: u32, name: &str| {
        let mut call = Command::new("setpriv");
        call.args(["--reuid", USER, "--regid", USER, "--clear-groups", "bash", "-c"]);
        call.arg(format!("ulimit -u {limit} && exec \"$@\"")).args(["bash", &binary, "exec", "--name", name]);
        call.args(["--state", &state, "--", "sh", "-c", "echo ran; echo err >&2; exit 3"]).env("TZ", "UTC");
        let result = output(call.env("HOME", "/nonexistent").current_dir("/")).expect(3);
        assert_eq!(result.text(), "ran\n", "{limit}: {}", result.err);
        assert!(result.err.contains("err\n") && !result.err.contains("internal error"), "{limit}: {}", result.err);
        let warnings = result.err.matches("sexton: ").count();
        assert_eq!(warnings, 1, "one sentence: {}", result.err);
        result.err
    };
    for limit in [1, 2, 3, 4, 5, 6, 7, 8] {
        let name = format!("few-{limit}");
        let err = call(limit, &name);
        let is_alone = err.contains("the command runs without Sexton");
        assert!(limit > 1 || is_alone, "{err}");
        if is_alone {
            continue;
        }
        // The run is known, and its lines are delivered at the latest by a call with more processes.
        let more = call(200, "more");
        assert!(more.contains("default/more failed: exit code 3"), "{more}");
        let count_lines = || {
            let log = output(command(&["logs", &format!("default/{name}"), "--state", &state]).env("TZ", "UTC"));
            log.text().lines().filter(|line| *line == "ran").count()
        };
        // A sender may move the run to another directory just now.
        wait_until(DEADLINE, || count_lines() == 1);
        wait_until(DEADLINE, || fs::read_dir(folder.path("state/runner/exec")).map_or(0, Iterator::count) == 0);
    }
}

#[test]
fn closed_streams_are_closed_for_the_command_and_its_output_is_recorded() {
    let folder = Folder::new();
    let state = folder.text("state");
    let check = |streams: &str, script: &str, code: i32, part: &str| {
        let mut shell = command(&["exec", "--name", "closed", "--state", &state, "--", "sh", "-c", script]);
        let words: Vec<_> = shell.get_args().map(std::ffi::OsStr::to_owned).collect();
        shell = Command::new("sh");
        shell.args(["-c", &format!("exec \"$@\" {streams}"), "sh", env!("CARGO_BIN_EXE_sexton")]).args(words);
        let result = output(shell.env("TZ", "UTC").env_remove("SEXTON_STATE"));
        assert_eq!(result.code, Some(code), "{streams} {script}: {}", result.err);
        assert!(result.err.contains(part), "{streams} {script}: {}", result.err);
    };
    let both = "echo out-line; echo err-line >&2; exit 7";
    for streams in ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-", "1</dev/null"] {
        check(streams, both, 7, "");
        // A sender may move the run to another directory just now.
        let logged = || sexton(&["logs", "default/closed", "--state", &state]).text();
        wait_until(DEADLINE, || logged().contains("out-line\n") && logged().contains("err-line\n"));
    }
    // As in a shell: what cannot be printed is an error, and there is nothing to read.
    check(">&-", "echo lost", 1, "could not be written: standard output is closed");
    check("2>&-", "echo lost >&2", 1, "");
    check("<&-", "cat", 1, "Bad file descriptor");
    check(">&-", "exit 0", 0, "");
    // An empty variable makes the program start itself again, which must not open the streams.
    let script =
        format!("SEXTON_CONFIG= exec {} exec --name closed --state {state} -- cat <&-", env!("CARGO_BIN_EXE_sexton"));
    output(Command::new("sh").args(["-c", &script]).env("TZ", "UTC")).expect(1);
}

#[test]
fn a_leaked_process_that_has_ended_is_not_shown_as_running() {
    let folder = Folder::new();
    let (state, stop) = (folder.text("state"), folder.path("stop"));
    let script = format!("(while [ ! -e {} ]; do sleep 0.05; done) & echo started", stop.display());
    sexton(&["exec", "--name", "leaky", "--state", &state, "--", "sh", "-c", &script]).expect(0);
    let shown = || {
        let run = sexton(&["runs", "--state", &state, "--json"]).expect(0).records().remove(0);
        sexton(&["show", run["run_id"].as_str().expect("run_id"), "--state", &state]).expect(0).text()
    };
    wait_until(DEADLINE, || shown().contains("still runs"));
    fs::write(&stop, "").expect("stop");
    // The shell and its `sleep`, which ends by itself.
    wait_until(DEADLINE, || {
        let shown = shown();
        shown.contains("has ended since") && !shown.contains("still runs")
    });
}
