//! Runs whose output another process keeps open after their end.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use domain::event::{Body, Ended, OutputEnd};
use domain::order::Order;
use domain::run::{Outcome, RunId};
use keeper::directory::RunDirectory;
use keeper::processes::{self, Process};
use serde_json::Value;
use testbed::wait_for;

use crate::world::{World, is_alive, shell};

/// A command with a child in the background that prints `late` once the file `go` exists.
fn background(world: &World, then: &str) -> String {
    let (go, done) = (world.path("go"), world.path("done"));
    format!(
        "(until test -e {}; do sleep 0.02; done; echo late; touch {}) & echo first; {then}",
        go.display(),
        done.display()
    )
}

fn output_end(world: &World, run_id: &RunId) -> OutputEnd {
    wait_for("the report of the output's end", || {
        world.events(run_id).into_iter().find_map(|event| match event.body {
            Body::OutputEnded(end) => Some(*end),
            _ => None,
        })
    })
}

/// The records of a run in the sink, once its last record is there.
fn whole_log(world: &World, path: &Path) -> Vec<Value> {
    wait_for("run.output_ended in the sink", || {
        let records: Vec<Value> = fs::read_to_string(world.path("log").join(path))
            .unwrap_or_default()
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).expect("json"))
            .collect();
        records.last().is_some_and(|record| record["event"] == "run.output_ended").then_some(records)
    })
}

/// A log is complete when its last record counts exactly the lines that arrived. After a kill, records may be repeated.
fn check_log(world: &World, run_id: &RunId) {
    let mut records: Vec<Value> = Vec::new();
    for record in whole_log(world, Path::new(&format!("{run_id}.log"))) {
        if !records.contains(&record) {
            records.push(record);
        }
    }
    let kinds: Vec<&str> =
        records.iter().map(|record| record["event"].as_str().or(record["message"].as_str()).expect("a kind")).collect();
    assert_eq!(kinds, ["run.started", "first", "run.finished", "late", "run.output_ended"]);
    assert_eq!((&records[2]["last_seq"], &records[2]["output_open"]), (&1.into(), &true.into()));
    assert_eq!(records[3]["seq"], 2);
    assert_eq!((&records[4]["last_seq"], &records[4]["late_lines"]), (&2.into(), &1.into()));
}

fn go(world: &World) {
    fs::write(world.path("go"), "").expect("go");
}

fn keeper_of(directory: &RunDirectory) -> Process {
    let pid = fs::read_to_string(directory.keeper()).expect("keeper").trim().parse().expect("pid");
    processes::find(pid).expect("keeper")
}

#[test]
fn the_end_is_reported_at_the_exit_and_late_lines_follow() {
    let mut world = World::new();
    world.start();
    let mut job =
        shell(&background(&world, "exit 0").replace("echo late", "echo 'Traceback (most recent call last):'"));
    job.rules = vec!["python".into()];
    let order = world.order(job);
    let report = world.report(&order.run_id);
    assert_eq!((report.ended, report.outcome, report.output_open), (Ended::Exited, Outcome::Succeeded, true));
    assert_eq!((report.output.last_seq, report.excerpt.len()), (1, 1));
    assert!(world.directory(&order).has_keeper().expect("lock"));
    let shipped = world.shipped(&order.run_id);
    assert_eq!(shipped.last().map(|record| record["last_seq"].clone()), Some(1.into()));
    go(&world);
    let end = output_end(&world, &order.run_id);
    assert_eq!((end.late_lines, end.output.stdout_lines, end.output.last_seq, end.note), (1, 2, 2, None));
    assert!(world.path("done").exists(), "the child ran to its end");
    let log = whole_log(&world, Path::new(&format!("{}.log", order.run_id)));
    assert_eq!(log[2]["outcome"], "succeeded", "the outcome is that of the exit");
    world.end();
}

#[test]
fn late_lines_reach_the_sink_after_a_restart_of_the_runner() {
    let mut world = World::new();
    world.start();
    let order = world.order(shell(&background(&world, "exit 0")));
    world.report(&order.run_id);
    world.kill();
    // Printed while there is no runner.
    go(&world);
    wait_for("the keeper's end", || (!world.directory(&order).has_keeper().expect("lock")).then_some(()));
    world.start();
    assert_eq!(output_end(&world, &order.run_id).late_lines, 1);
    check_log(&world, &order.run_id);
    // A further start repeats nothing.
    world.end();
    world.start();
    let next = world.order(shell("true"));
    world.report(&next.run_id);
    let ends = world.events(&order.run_id).iter().filter(|event| matches!(event.body, Body::OutputEnded(_))).count();
    assert_eq!(ends, 1);
}

#[test]
fn a_runner_that_is_restarted_before_late_lines_follows_them() {
    let mut world = World::new();
    world.start();
    let order = world.order(shell(&background(&world, "exit 0")));
    world.report(&order.run_id);
    world.end();
    world.start();
    let next = world.order(shell("true"));
    world.report(&next.run_id);
    go(&world);
    assert_eq!(output_end(&world, &order.run_id).late_lines, 1);
    check_log(&world, &order.run_id);
}

#[test]
fn a_run_that_ended_without_a_runner_is_judged_by_its_exit() {
    let mut world = World::new();
    let begin = world.path("begin");
    world.start();
    let text = format!("until test -e {}; do sleep 0.02; done; {}", begin.display(), background(&world, "exit 7"));
    let order = world.order(shell(&text));
    wait_for("the job", || world.directory(&order).started().exists().then_some(()));
    world.kill();
    fs::write(begin, "").expect("begin");
    wait_for("the exit", || world.directory(&order).exit().exists().then_some(()));
    // Late lines are in the spool before any reader has seen the end.
    go(&world);
    wait_for("the output's end", || world.directory(&order).output_end().exists().then_some(()));
    world.start();
    let report = world.report(&order.run_id);
    assert_eq!((report.outcome, report.exit_code, report.output.last_seq), (Outcome::Failed, Some(7), 1));
    assert_eq!(output_end(&world, &order.run_id).output.last_seq, 2);
    check_log(&world, &order.run_id);
}

#[test]
fn the_output_of_a_killed_keeper_ends_with_its_last_line_and_nothing_is_killed() {
    let mut world = World::new();
    world.start();
    let order = world.order(shell("sleep 1000 & echo $!"));
    let report = world.report(&order.run_id);
    let child: u32 = report.excerpt[0].text.parse().expect("pid");
    let directory = world.directory(&order);
    processes::send_signal(&keeper_of(&directory), rustix::process::Signal::KILL);
    let end = output_end(&world, &order.run_id);
    assert_eq!((end.late_lines, end.output.last_seq, end.output.stdout_lines), (0, 1, 1));
    assert_eq!(end.note.as_deref(), Some("its keeper died; what was printed later is lost"));
    let left = processes::find(child).expect("the child is alive");
    processes::send_signal(&left, rustix::process::Signal::KILL);
}

#[test]
fn an_open_output_holds_up_no_other_run_and_no_shutdown() {
    let mut world = World::new();
    world.start_as("serial", "drain", None);
    let first = world.order(shell(&background(&world, "exit 0")));
    world.report(&first.run_id);
    let second = world.order(shell("echo next"));
    assert_eq!(world.report(&second.run_id).outcome, Outcome::Succeeded);
    world.end();
    assert!(world.directory(&first).has_keeper().expect("lock"), "left to its keeper");
    go(&world);
}

fn request_stop(world: &World, order: &Order) {
    fs::write(world.path("stops").join(order.run_id.as_str()), "").expect("stop");
}

#[test]
fn a_stop_ends_what_is_left_of_a_run_that_has_ended() {
    let mut world = World::new();
    world.start();
    let order = world.order(shell("sleep 1000 & echo $!"));
    let report = world.report(&order.run_id);
    let child: u32 = report.excerpt[0].text.parse().expect("pid");
    request_stop(&world, &order);
    let end = output_end(&world, &order.run_id);
    assert!(!is_alive(child));
    assert!(end.note.as_deref().is_some_and(|note| note.starts_with("stop requested by the scheduler")), "{end:?}");
    let reports = world.events(&order.run_id).iter().filter(|event| matches!(event.body, Body::Finished(_))).count();
    assert_eq!((reports, world.report(&order.run_id).outcome), (1, Outcome::Succeeded));
}

#[test]
fn exec_exits_with_its_command_and_its_sender_delivers_late_lines() {
    let world = World::new();
    let words = ["exec", "sh", "-c", &background(&world, "exit 3")];
    let output = world.command(&words).stderr(Stdio::null()).output().expect("exec");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(3), "first\n"));
    let states = || fs::read_dir(world.path("state").join("exec")).expect("exec").flatten().map(|state| state.path());
    let state = states().next().expect("the state is kept");
    go(&world);
    wait_for("the delivery", || (states().count() == 0).then_some(()));
    check_log(&world, &RunId(state.file_name().expect("name").to_string_lossy().into_owned()));
}

#[test]
fn late_lines_of_an_exec_without_a_sender_are_delivered_by_a_runner() {
    let mut world = World::new();
    let words = ["exec", "sh", "-c", &background(&world, "exit 0")];
    assert!(world.command(&words).stdout(Stdio::null()).status().expect("exec").success());
    world.end_senders();
    let exec = world.path("state").join("exec");
    let state = fs::read_dir(&exec).expect("exec").flatten().next().expect("the state is kept").path();
    go(&world);
    let run = fs::read_dir(state.join("runs")).expect("runs").flatten().next().expect("run").path();
    wait_for("the keeper's end", || (!RunDirectory::open(&run).has_keeper().expect("lock")).then_some(()));
    world.start();
    check_log(&world, &RunId(state.file_name().expect("name").to_string_lossy().into_owned()));
    wait_for("the removed state", || (fs::read_dir(&exec).expect("exec").count() == 0).then_some(()));
}

#[test]
fn a_late_output_limit_closes_the_log_and_leaves_the_process_alone() {
    let mut world = World::new();
    world.start();
    let mut job = shell(&background(&world, "exit 0"));
    job.late_output_limit = Some(Duration::from_millis(50));
    let order = world.order(job);
    let end = output_end(&world, &order.run_id);
    assert_eq!((end.late_lines, end.output.last_seq), (0, 1));
    let log = whole_log(&world, Path::new(&format!("{}.log", order.run_id)));
    let reason = log.last().and_then(|record| record["reason"].as_str()).unwrap_or_default();
    assert!(reason.contains("late_output_limit of 50ms passed"), "{reason}");
    go(&world);
    wait_for("the child's end", || world.path("done").exists().then_some(()));
}
