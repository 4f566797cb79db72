//! `up` as process 1 of a pid namespace, as in a container.

use std::fs;
use std::path::Path;
use std::process::Command;

use keeper::processes::{self, Process};
use serde_json::Value;
use testbed::{DEADLINE, wait_for, wait_until};

use crate::driver::{Folder, Up, signal};
use crate::evidence::job;

/// Starts `up` as process 1. Without root, a user namespace gives the right to make the others.
fn start_as_process_one(state: &Path, arguments: &[&str]) -> Up {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", env!("CARGO_BIN_EXE_sexton"), "up"]);
    command.args(arguments).env_remove("XDG_STATE_HOME");
    Up::serve(state, command)
}

/// Process 1 of the namespace, as this test sees it.
fn process_one(up: &Up) -> Process {
    let all = processes::list().expect("processes");
    all.into_iter().find(|process| process.parent == up.pid()).expect("process 1")
}

/// All processes whose parent is process 1, also those that wait to be reaped.
fn children_of(parent: &Process) -> Vec<Process> {
    let all = processes::list().expect("processes");
    all.into_iter().filter(|process| process.parent == parent.pid).collect()
}

fn text<'v>(record: &'v Value, name: &str) -> &'v str {
    record[name].as_str().unwrap_or_default()
}

/// Sends TERM to process 1 and waits for its end.
fn terminate(mut up: Up) -> String {
    signal(process_one(&up).pid, "TERM");
    wait_until(DEADLINE, || up.has_ended());
    up.printed()
}

#[test]
fn at_term_jobs_end_within_their_grace_and_are_reported() {
    let folder = Folder::new();
    let polite = "trap 'echo cleaned; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let late = "trap '' TERM; sleep 1000 & echo ready";
    let jobs =
        [job("polite", polite, ""), job("deaf", deaf, "kill_grace = \"1h\""), job("late", late, "kill_grace = \"1h\"")];
    let jobs = folder.write("jobs.toml", &jobs.concat());
    let up = start_as_process_one(&folder.path("state"), &["--jobs", &jobs]);
    for name in ["t/polite", "t/deaf", "t/late"] {
        up.run(&["run", name]).expect(0);
        wait_until(DEADLINE, || up.records(&["runs", name]).iter().any(|run| run["state"] != "scheduled"));
    }
    let log = |name: &str| fs::read_to_string(folder.path(&format!("state/logs/t/{name}.log"))).unwrap_or_default();
    wait_until(DEADLINE, || ["polite", "deaf", "late"].iter().all(|name| log(name).contains(" F ready")));
    let printed = terminate(up);
    assert!(printed.contains("running jobs get TERM") && printed.contains("nothing is running"), "{printed}");
    assert!(log("polite").contains(" F cleaned\n"), "{}", log("polite"));

    let up = Up::start(&folder.path("state"), &["--jobs", &jobs]);
    let polite = up.wait_for_run("t/polite", "stopped");
    assert!(text(&polite, "reason").contains("the shutdown of its runner"), "{polite}");
    let deaf = up.wait_for_run("t/deaf", "stopped");
    // Docker kills 10 s after TERM.
    let grace = text(&deaf, "reason").split_once(", after ").expect("a grace").1.split(' ').next().expect("a time");
    let grace = domain::units::parse_duration(grace).expect("a duration");
    assert!(grace <= std::time::Duration::from_secs(9), "{deaf}");
    let late = up.wait_for_run("t/late", "succeeded");
    assert!(late["output_ended_at"].is_string(), "{late}");
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn process_one_reaps_the_orphans_of_jobs() {
    let folder = Folder::new();
    let (go, orphan) =
        (folder.text("go"), "setsid sh -c 'until test -e GO; do sleep 0.05; done' </dev/null >/dev/null 2>&1 &");
    let jobs = folder.write("jobs.toml", &job("leave", &orphan.replace("GO", &go), ""));
    let up = start_as_process_one(&folder.path("state"), &["--jobs", &jobs]);
    let first = process_one(&up);
    up.run(&["run", "t/leave", "--wait"]).expect(0);
    // The keeper has exited, so the orphan is a child of process 1, beside the server.
    let orphan = wait_for("the orphan", || {
        children_of(&first).into_iter().find(|process| process.name == "sh" && !process.is_zombie())
    });
    fs::write(folder.path("go"), "").expect("go");
    wait_until(DEADLINE, || processes::find(orphan.pid).is_none_or(|process| !process.is_same(&orphan)));
    wait_until(DEADLINE, || children_of(&first).iter().all(|process| !process.is_zombie()));
    assert_eq!(children_of(&first).len(), 1, "only the server is left");
    assert!(terminate(up).contains("nothing is running"));
}

#[test]
fn reboot_jobs_run_once_at_each_start_of_the_container() {
    let folder = Folder::new();
    let crontab = folder.write("crontab", "# sexton: name=boot\n@reboot echo booted\n");
    let runs = |up: &Up| up.records(&["runs", "default/boot", "--outcome", "succeeded"]).len();
    for start in 1..=2 {
        let up = start_as_process_one(&folder.path("state"), &["--crontab", &crontab]);
        wait_until(DEADLINE, || runs(&up) == start);
        let ticks = |up: &Up| up.records(&["runs", "default/boot"]).len();
        assert_eq!(ticks(&up), start);
        terminate(up);
        // Another start has another second, from which the run has its name.
        let second = jiff::Timestamp::now().as_second();
        wait_until(DEADLINE, || jiff::Timestamp::now().as_second() > second);
    }
}

#[test]
fn without_process_one_the_configuration_decides_about_running_jobs() {
    let folder = Folder::new();
    let jobs = folder.write("jobs.toml", &job("long", "echo ready; exec sleep 1000", ""));
    let config = folder.write("sexton.toml", "[runner]\non_shutdown = \"stop\"\n");
    let up = Up::start(&folder.path("state"), &["--jobs", &jobs, "--config", &config]);
    up.run(&["run", "t/long"]).expect(0);
    up.wait_for_state("t/long", "running");
    assert_eq!(up.stop(), Some(0));
    let up = Up::start(&folder.path("state"), &["--jobs", &jobs]);
    let run = up.wait_for_run("t/long", "stopped");
    assert!(text(&run, "reason").contains("the shutdown of its runner"), "{run}");
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn draining_waits_for_running_jobs_and_the_api_answers() {
    let folder = Folder::new();
    let go = folder.text("go");
    let jobs = folder.write("jobs.toml", &job("long", &format!("until test -e {go}; do sleep 0.05; done"), ""));
    let config = folder.write("sexton.toml", "[runner]\non_shutdown = \"drain\"\n");
    let mut up = Up::start(&folder.path("state"), &["--jobs", &jobs, "--config", &config]);
    up.run(&["run", "t/long"]).expect(0);
    up.wait_for_state("t/long", "running");
    signal(up.pid(), "TERM");
    wait_until(DEADLINE, || up.printed().contains("running jobs are awaited"));
    assert_eq!(text(&up.wait_for_state("t/long", "running"), "job"), "long");
    fs::write(folder.path("go"), "").expect("go");
    wait_until(DEADLINE, || up.has_ended());
    let up = Up::start(&folder.path("state"), &["--jobs", &jobs]);
    up.wait_for_run("t/long", "succeeded");
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn at_term_a_suspended_keeper_and_its_job_are_killed_in_time() {
    let folder = Folder::new();
    let jobs = folder.write("jobs.toml", &job("hung", "echo ready; exec sleep 1000", "kill_grace = \"1h\""));
    let up = start_as_process_one(&folder.path("state"), &["--jobs", &jobs]);
    up.run(&["run", "t/hung"]).expect(0);
    let log = || fs::read_to_string(folder.path("state/logs/t/hung.log")).unwrap_or_default();
    wait_until(DEADLINE, || log().contains(" F ready"));
    let of_job = |process: &Process| process.name == "sleep";
    let sleeper = wait_for("the job", || {
        let servers = children_of(&process_one(&up)).into_iter();
        servers.flat_map(|server| processes::descendants(server.pid).expect("processes")).find(of_job)
    });
    signal(sleeper.parent, "STOP");
    let printed = terminate(up);
    assert!(printed.contains("nothing is running"), "{printed}");
    let up = Up::start(&folder.path("state"), &["--jobs", &jobs]);
    let run = up.wait_for_run("t/hung", "stopped");
    assert!(text(&run, "reason").contains("did not act"), "{run}");
    assert_eq!(up.stop(), Some(0));
}
