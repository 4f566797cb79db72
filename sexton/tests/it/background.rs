//! Children that a job leaves in the background: they run on, and their output is kept.

use std::fs;

use serde_json::{Value, json};
use testbed::{DEADLINE, wait_for, wait_until};

use crate::driver::{Folder, Up, command};
use crate::evidence::job;

/// A command whose child prints a line and creates the file `done` once the file `go` exists.
fn background(folder: &Folder) -> String {
    let (go, done) = (folder.text("go"), folder.text("done"));
    format!("(until test -e {go}; do sleep 0.05; done; echo late; touch {done}) & echo first")
}

fn text<'v>(record: &'v Value, name: &str) -> &'v str {
    record[name].as_str().unwrap_or_default()
}

fn show(up: &Up, run_id: &str) -> Value {
    up.records(&["show", run_id]).remove(0)
}

#[test]
fn a_run_ends_with_its_process_and_its_child_runs_on() {
    let folder = Folder::new();
    let jobs =
        folder.write("jobs.toml", &job("bg", &background(&folder), "concurrency = \"forbid\"\nmin_duration = \"1h\""));
    let up = Up::start(&folder.path("state"), &["--jobs", &jobs]);
    let run = up.run(&["run", "t/bg", "--wait", "--json"]).expect(1).records().remove(0);
    let run_id = text(&run, "run_id");
    assert_eq!(text(&run, "outcome"), "false_success", "its process took less than an hour: {run}");
    assert_eq!((&run["stdout_lines"], &run["output_open"]), (&json!(1), &json!(true)));
    let shown = up.run(&["show", run_id]).expect(0).text();
    assert!(shown.contains("still open: a process of the run may print more"), "{shown}");
    assert_eq!(up.run(&["logs", run_id]).expect(0).text(), "first\n");
    // Overlap counts the process only.
    let next = up.run(&["run", "t/bg", "--wait", "--json"]).expect(1).records().remove(0);
    assert_eq!(text(&next, "outcome"), "false_success", "{next}");

    fs::write(folder.path("go"), "").expect("go");
    wait_until(DEADLINE, || show(&up, run_id)["late_lines"] == 1);
    assert!(folder.path("done").exists(), "nothing killed the child");
    let run = show(&up, run_id);
    assert_eq!((&run["stdout_lines"], &run["last_seq"], &run["output_open"]), (&json!(2), &json!(2), &json!(null)));
    assert_eq!(up.run(&["logs", run_id, "--follow"]).expect(0).text(), "first\nlate\n");
    let shown = up.run(&["show", run_id]).expect(0).text();
    assert!(shown.contains("1 line after the run"), "{shown}");
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn a_restart_of_up_loses_no_late_line() {
    let folder = Folder::new();
    let jobs = folder.write("jobs.toml", &job("bg", &background(&folder), ""));
    let up = Up::start(&folder.path("state"), &["--jobs", &jobs]);
    let run = up.run(&["run", "t/bg", "--wait", "--json"]).expect(0).records().remove(0);
    up.kill_and_keep_jobs();
    fs::write(folder.path("go"), "").expect("go");
    let up = Up::start(&folder.path("state"), &["--jobs", &jobs]);
    wait_until(DEADLINE, || show(&up, text(&run, "run_id"))["late_lines"] == 1);
    let log = folder.path("state/logs/t/bg.log");
    let log =
        wait_for("the last record", || fs::read_to_string(&log).ok().filter(|log| log.contains("F:run.output_ended")));
    assert!(log.contains(" stdout F late\n") && log.contains("late_lines=1 last_seq=2\n"), "{log}");
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn stop_ends_what_is_left_of_a_run() {
    let folder = Folder::new();
    let jobs = folder.write("jobs.toml", &job("bg", "sleep 1000 & echo $!", ""));
    let up = Up::start(&folder.path("state"), &["--jobs", &jobs]);
    let run = up.run(&["run", "t/bg", "--wait", "--json"]).expect(0).records().remove(0);
    let run_id = text(&run, "run_id");
    let child = up.run(&["logs", run_id]).expect(0).text();
    let child = format!("/proc/{}", child.trim());
    assert!(fs::exists(&child).expect("proc"));
    let stopped = up.run(&["stop", run_id]).expect(0).text();
    assert_eq!(stopped, format!("{run_id}: has ended; stop of its remaining processes requested\n"));
    wait_until(DEADLINE, || show(&up, run_id)["output_ended_at"].is_string());
    assert!(!fs::exists(&child).expect("proc"));
    assert_eq!(text(&show(&up, run_id), "outcome"), "succeeded");
    // Now nothing is left to stop.
    let refused = up.run(&["stop", run_id]).expect(1);
    assert!(refused.err.contains("has already ended"), "{}", refused.err);
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn a_stop_on_the_same_machine_waits_for_no_heartbeat() {
    let folder = Folder::new();
    let jobs = folder.write("jobs.toml", &job("long", "echo first; exec sleep 1000", ""));
    let up = Up::start(&folder.path("state"), &["--jobs", &jobs]);
    up.run(&["run", "t/long"]).expect(0);
    let run = up.wait_for_state("t/long", "running");
    let run_id = text(&run, "run_id");
    up.run(&["stop", run_id]).expect(0);
    let request = fs::read_to_string(folder.path("state/runner/runs").join(format!("{run_id}.1/stop")));
    // The answer came after the request to the keeper. A heartbeat would have named the scheduler.
    let request = request.expect("the request to the keeper is written");
    assert!(request.contains("\"by\"") && !request.contains("the scheduler"), "{request}");
    let run = up.wait_for_run("t/long", "stopped");
    assert!(text(&run, "reason").starts_with("stopped on request of"), "{run}");
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn exec_exits_with_its_command_and_late_lines_are_shipped() {
    let folder = Folder::new();
    let sinks =
        folder.write("sinks.toml", &format!("[sink.a]\ntype = \"file\"\npath = \"{}\"\n", folder.text("all.log")));
    let state = folder.text("state");
    let script = background(&folder);
    let mut exec = command(&["exec", "--name", "bg", "--state", &state, "--sinks", &sinks, "--", "sh", "-c", &script]);
    let output = exec.output().expect("exec");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(0), "first\n"));
    let exec_folder = folder.path("state/runner/exec");
    assert_eq!(fs::read_dir(&exec_folder).expect("exec").count(), 1, "its output is open");
    fs::write(folder.path("go"), "").expect("go");
    wait_until(DEADLINE, || fs::read_dir(&exec_folder).expect("exec").count() == 0);
    assert!(folder.path("done").exists(), "nothing killed the child");
    let log = fs::read_to_string(folder.path("all.log")).expect("log");
    assert!(log.contains(" stdout F late\n") && log.contains("late_lines=1 last_seq=2\n"), "{log}");
}
