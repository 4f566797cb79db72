//! `exec`: the command's own code and output, and everything else besides.

use std::process::Stdio;

use crate::attempt::wait_for;
use crate::world::World;

#[test]
fn exec_gives_the_command_s_code_and_output() {
    let check = |command: &[&str], code: i32, stdout: &str, stderr: &str| {
        let world = World::new();
        let words: Vec<&str> = ["exec"].into_iter().chain(command.iter().copied()).collect();
        let output = world.command(&words).output().expect("exec");
        assert_eq!(output.status.code(), Some(code), "{command:?}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), stdout, "{command:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), stderr, "{command:?}");
        let reports = std::fs::read_to_string(world.path("reports.jsonl")).expect("reports");
        assert!(reports.lines().last().is_some_and(|line| line.contains("\"finished\"")), "{reports}");
        let left = std::fs::read_dir(world.path("state").join("exec")).expect("exec").count();
        assert_eq!(left, 0, "everything was delivered");
    };
    check(&["sh", "-c", "echo out; printf err >&2; exit 3"], 3, "out\n", "err");
    check(&["true"], 0, "", "");
    check(&["sh", "-c", "kill -9 $$"], 137, "", "");
    check(&["no-such-program-anywhere"], 127, "", "");
    check(&["sh", "-c", "echo 'Traceback (most recent call last):'"], 1, "Traceback (most recent call last):\n", "");
}

#[test]
fn a_signal_stops_the_wrapped_command() {
    let world = World::new();
    let words = ["exec", "sh", "-c", "trap 'echo bye; exit 6' TERM; echo up; while :; do sleep 0.02; done"];
    let child = world.command(&words).stdout(Stdio::piped()).spawn().expect("exec");
    wait_for("the job", || {
        let exec = std::fs::read_dir(world.path("state").join("exec")).ok()?.flatten().next()?;
        let run = std::fs::read_dir(exec.path().join("runs")).ok()?.flatten().next()?;
        std::fs::read_dir(run.path().join("spool")).ok()?.next().map(drop)
    });
    let process = runner::processes::process(child.id()).expect("exec");
    runner::processes::signal(&process, rustix::process::Signal::INT);
    let output = child.wait_with_output().expect("exec");
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "up\nbye\n");
}

#[test]
fn what_a_killed_exec_left_is_finished_by_the_next_one() {
    let world = World::new();
    let go = world.path("go");
    let script = format!("echo up; while [ ! -e {} ]; do sleep 0.02; done; echo over", go.display());
    let mut first = world.command(&["exec", "sh", "-c", &script]).stdout(Stdio::null()).spawn().expect("exec");
    let run = wait_for("the job", || {
        let exec = std::fs::read_dir(world.path("state").join("exec")).ok()?.flatten().next()?;
        let run = std::fs::read_dir(exec.path().join("runs")).ok()?.flatten().next()?;
        let run = runner::directory::RunDirectory::at(run.path());
        run.started().exists().then_some(run)
    });
    first.kill().expect("kill");
    first.wait().expect("wait");
    std::fs::write(&go, "").expect("go");
    wait_for("its end", || (run.exit().exists() && !run.is_kept().expect("lock")).then_some(()));
    // The names of runs of one second are told apart by their caller; here it has only one.
    wait_for("the next second", || (!is_this_second(&run)).then_some(()));
    assert!(world.command(&["exec", "true"]).status().expect("exec").success());
    let reports = std::fs::read_to_string(world.path("reports.jsonl")).expect("reports");
    assert_eq!(reports.matches("\"event\":\"finished\"").count(), 2, "{reports}");
    let left = std::fs::read_dir(world.path("state").join("exec")).expect("exec").count();
    assert_eq!(left, 0, "everything was delivered");
}

fn is_this_second(run: &runner::directory::RunDirectory) -> bool {
    let name = run.path().file_name().expect("name").to_string_lossy().into_owned();
    name.starts_with(&jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string())
}
