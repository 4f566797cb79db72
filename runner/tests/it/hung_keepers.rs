//! Keepers that are suspended: their runs end at their limit, or on a stop request, by the runner.

use std::fs;
use std::time::Duration;

use domain::event::{Body, Ended};
use domain::job::Job;
use domain::order::Order;
use domain::run::Outcome;
use keeper::directory::{Durability, read_json, write_json};
use keeper::processes::{self, Process};
use keeper::records::{Started, StopRequest};
use rustix::process::Signal;
use testbed::wait_for;

use crate::world::{World, is_alive, shell};

/// Starts a job and suspends its keeper. Returns the keeper and all processes below it.
fn start_suspended(world: &World, job: Job, processes_min: usize) -> (Order, Process, Vec<Process>) {
    let order = world.order(job);
    let (keeper, family) = suspend(world, &order, processes_min);
    (order, keeper, family)
}

fn suspend(world: &World, order: &Order, processes_min: usize) -> (Process, Vec<Process>) {
    let directory = world.directory(order);
    wait_for("the job", || directory.started().exists().then_some(()));
    let pid = fs::read_to_string(directory.keeper()).expect("keeper").trim().parse().expect("pid");
    let keeper = processes::find(pid).expect("keeper");
    let family = wait_for("the job's processes", || {
        let family = processes::descendants(keeper.pid).expect("descendants");
        (family.len() >= processes_min).then_some(family)
    });
    assert!(processes::send_signal(&keeper, Signal::STOP));
    (keeper, family)
}

fn check_end(world: &World, order: &Order, ended: Ended, outcome: Outcome, reason: &str) {
    let report = world.report(&order.run_id);
    assert_eq!((report.ended, report.outcome), (ended, outcome), "{}", report.reason);
    assert!(report.reason.contains(reason), "{}", report.reason);
    assert!(report.reason.contains("KILL to the keeper and"), "{}", report.reason);
    let reports = world.events(&order.run_id).into_iter().filter(|event| matches!(event.body, Body::Finished(_)));
    assert_eq!(reports.count(), 1);
}

#[test]
fn a_limit_is_kept_when_the_keeper_is_suspended() {
    let mut world = World::new();
    world.start();
    // Below the keeper in another session, without its environment and its output.
    let mut job = shell("env -i setsid sleep 1001 </dev/null >/dev/null 2>&1 & echo first; sleep 1002");
    (job.timeout, job.kill_grace) = (Some(Duration::from_secs(5)), Duration::from_millis(100));
    let order = world.order(job);
    // A line that its keeper has not read dies with the pipe.
    let mut spool = keeper::spool::SpoolReader::open(world.directory(&order).spool(), domain::line::Position::START);
    wait_for("the line", || spool.read(4096).expect("read"));
    let (keeper, family) = suspend(&world, &order, 3);
    check_end(&world, &order, Ended::TimedOut, Outcome::TimedOut, "exceeded its timeout of 5s and was stopped");
    assert!(!is_alive(keeper.pid));
    for process in family {
        assert!(!is_alive(process.pid), "{process:?}");
    }
    let log = world.shipped(&order.run_id);
    assert_eq!(log.last().map(|record| record["last_seq"].clone()), Some(1.into()));
    world.end();
}

#[test]
fn a_stop_has_effect_when_the_keeper_is_suspended() {
    let mut world = World::new();
    world.start();
    let mut job = shell("sleep 1000");
    job.kill_grace = Duration::from_millis(100);
    let (order, keeper, family) = start_suspended(&world, job, 1);
    fs::write(world.path("stops").join(order.run_id.as_str()), "").expect("stop");
    check_end(&world, &order, Ended::Stopped, Outcome::Stopped, "stop requested by the scheduler");
    assert!(!is_alive(keeper.pid) && family.iter().all(|process| !is_alive(process.pid)));
}

#[test]
fn the_next_runner_keeps_the_limit_of_a_suspended_keeper() {
    let mut world = World::new();
    world.start();
    let mut job = shell("sleep 1000");
    (job.timeout, job.kill_grace) = (Some(Duration::from_secs(5)), Duration::from_millis(100));
    let (order, keeper, family) = start_suspended(&world, job, 1);
    world.kill();
    world.start();
    check_end(&world, &order, Ended::TimedOut, Outcome::TimedOut, "exceeded its timeout");
    assert!(!is_alive(keeper.pid) && family.iter().all(|process| !is_alive(process.pid)));
}

/// The next runner reads a stop request of this time after the start, when the limit of 5 s has passed.
fn check_stop_before_restart(requested_after: Duration, ended: Ended, outcome: Outcome) {
    let mut world = World::new();
    world.start();
    let mut job = shell("sleep 1000");
    (job.timeout, job.kill_grace) = (Some(Duration::from_secs(5)), Duration::from_millis(100));
    let (order, keeper, _) = start_suspended(&world, job, 1);
    world.kill();
    let directory = world.directory(&order);
    let started: Started = read_json(&directory.started()).expect("read").expect("started");
    let at = started.started_at + jiff::SignedDuration::try_from(requested_after).expect("short");
    let request = StopRequest { at, by: "the operator".to_owned(), grace_max_ms: None };
    write_json(&directory.stop(), &request, Durability::Cache).expect("stop");
    std::thread::sleep(Duration::from_secs(6));
    world.start();
    check_end(&world, &order, ended, outcome, "");
    assert!(!is_alive(keeper.pid));
}

#[test]
fn after_a_restart_a_stop_request_after_the_limit_leaves_the_run_timed_out() {
    check_stop_before_restart(Duration::from_millis(5500), Ended::TimedOut, Outcome::TimedOut);
}

#[test]
fn after_a_restart_a_stop_request_before_the_limit_still_ends_the_run() {
    check_stop_before_restart(Duration::ZERO, Ended::Stopped, Outcome::Stopped);
}

#[test]
fn a_stop_of_late_output_has_effect_when_the_keeper_is_suspended() {
    let mut world = World::new();
    world.start();
    let mut job = shell("sleep 1000 & echo $!");
    job.kill_grace = Duration::from_millis(100);
    let order = world.order(job);
    let report = world.report(&order.run_id);
    let child: u32 = report.excerpt[0].text.parse().expect("pid");
    let pid = fs::read_to_string(world.directory(&order).keeper()).expect("keeper").trim().parse().expect("pid");
    assert!(processes::send_signal(&processes::find(pid).expect("keeper"), Signal::STOP));
    fs::write(world.path("stops").join(order.run_id.as_str()), "").expect("stop");
    wait_for("the end of the output", || {
        world.events(&order.run_id).into_iter().find(|event| matches!(event.body, Body::OutputEnded(_)))
    });
    assert!(!is_alive(child));
    assert_eq!(world.report(&order.run_id).outcome, Outcome::Succeeded);
}
