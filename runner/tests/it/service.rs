//! A whole runner: orders in, reports and lines out, with kills of every process.

use std::fs;
use std::time::Duration;

use domain::event::{Body, Ended};
use domain::job::Job;
use domain::run::Outcome;

use crate::world::World;
use crate::world::{argv, is_alive, shell};
use testbed::wait_for;

/// A job that adds a line to a file each time it is really started.
fn counted_job(world: &World, then: &str) -> Job {
    shell(&format!("echo started >> {}; {then}", world.path("starts").display()))
}

fn count_starts(world: &World) -> usize {
    fs::read_to_string(world.path("starts")).unwrap_or_default().lines().count()
}

#[test]
fn an_order_becomes_a_run_with_reports_and_shipped_lines() {
    let mut world = World::new();
    world.start();
    let go = world.path("go");
    let waits = format!("while [ ! -e {} ]; do sleep 0.02; done", go.display());
    let order = world.order(shell(&format!("echo one; {waits}; echo two >&2; exit 4")));
    let started = wait_for("the report of the start", || world.events(&order.run_id).into_iter().next());
    assert!(matches!(&started.body, Body::Started { pid: Some(_), command } if command.starts_with("echo one")));
    fs::write(go, "").expect("go");
    let report = world.report(&order.run_id);
    assert_eq!((report.ended, report.exit_code, report.outcome), (Ended::Exited, Some(4), Outcome::Failed));
    assert_eq!((report.output.stdout_lines, report.output.stderr_lines, report.output.last_seq), (1, 1, 2));
    let excerpt: Vec<&str> = report.excerpt.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(excerpt.len(), 2, "{excerpt:?}");
    assert_eq!(world.events(&order.run_id).len(), 2);
    let shipped = world.shipped(&order.run_id);
    assert_eq!(shipped.first().map(|record| record["event"].clone()), Some("run.started".into()));
    assert_eq!(shipped.len(), 4, "{shipped:?}");
    assert_eq!(shipped[3]["outcome"], "failed");
    assert_eq!(fs::read_dir(world.path("orders")).expect("orders").count(), 0);
    world.end();
}

#[test]
fn a_false_success_is_in_the_report_and_in_the_log() {
    let mut world = World::new();
    world.start();
    let mut job = shell("echo 'Traceback (most recent call last):' >&2; exit 0");
    job.rules = vec!["default".into(), "python".into()];
    let order = world.order(job);
    let report = world.report(&order.run_id);
    assert_eq!(report.outcome, Outcome::FalseSuccess, "{}", report.reason);
    assert_eq!(
        world.shipped(&order.run_id).last().map(|record| record["outcome"].clone()),
        Some("false_success".into())
    );
}

#[test]
fn jobs_of_a_killed_runner_continue_and_the_next_runner_finishes_them() {
    let mut world = World::new();
    let go = world.path("go");
    world.start();
    let order = world
        .order(counted_job(&world, &format!("echo a; while [ ! -e {} ]; do sleep 0.02; done; echo b", go.display())));
    let running = wait_for("the job", || {
        keeper::directory::read_json::<keeper::records::Started>(&world.directory(&order).started()).expect("started")
    });
    world.kill();
    assert!(is_alive(running.pid), "a job outlives its runner");
    world.start();
    fs::write(&go, "").expect("go");
    let report = world.report(&order.run_id);
    assert_eq!((report.outcome, report.exit_code, report.output.last_seq), (Outcome::Succeeded, Some(0), 2));
    assert_eq!(count_starts(&world), 1);
    let lines: Vec<_> = world.shipped(&order.run_id).iter().filter_map(|record| record["seq"].as_u64()).collect();
    assert!(lines.contains(&1) && lines.contains(&2), "{lines:?}");
}

#[test]
fn a_job_that_ends_without_a_runner_is_reported_by_the_next() {
    let mut world = World::new();
    let go = world.path("go");
    world.start();
    let order =
        world.order(counted_job(&world, &format!("while [ ! -e {} ]; do sleep 0.02; done; exit 9", go.display())));
    wait_for("the job", || world.directory(&order).started().exists().then_some(()));
    world.kill();
    fs::write(&go, "").expect("go");
    wait_for("its end", || world.directory(&order).exit().exists().then_some(()));
    world.start();
    let report = world.report(&order.run_id);
    assert_eq!((report.exit_code, count_starts(&world)), (Some(9), 1));
}

#[test]
fn the_run_of_a_killed_keeper_is_lost_and_leaves_no_process() {
    let mut world = World::new();
    world.start();
    let order = world.order(counted_job(&world, "echo line; setsid sleep 1000 & sleep 1000"));
    let directory = world.directory(&order);
    wait_for("the line", || world.events(&order.run_id).first().map(|_| ()));
    let mut reader = keeper::spool::SpoolReader::open(directory.spool(), domain::line::Position::START);
    wait_for("the spool", || reader.read(4096).expect("read"));
    let keeper: u32 = fs::read_to_string(directory.keeper()).expect("keeper").trim().parse().expect("pid");
    let keeper = keeper::processes::find(keeper).expect("keeper");
    let family = wait_for("the job's processes", || {
        let family = keeper::processes::descendants(keeper.pid).expect("descendants");
        (family.iter().filter(|process| process.name == "sleep").count() == 2).then_some(family)
    });
    keeper::processes::send_signal(&keeper, rustix::process::Signal::KILL);
    let report = world.report(&order.run_id);
    assert_eq!((report.ended, report.outcome, report.output.last_seq), (Ended::Lost, Outcome::Lost, 1));
    assert_eq!((report.output.stdout_lines, report.exit_code), (1, None));
    assert!(report.leaked.iter().all(|leaked| leaked.killed) && report.leaked.len() == 3, "{:?}", report.leaked);
    assert!(family.iter().all(|process| !is_alive(process.pid)));
    assert_eq!(count_starts(&world), 1);
}

#[test]
fn without_a_control_group_a_daemon_without_session_and_environment_is_found_by_its_output() {
    let mut world = World::new();
    fs::write(world.path("no-cgroup"), "").expect("no-cgroup");
    world.start();
    let order = world.order(shell("env -i setsid sleep 1000 & echo $!; sleep 1000"));
    let directory = world.directory(&order);
    wait_for("the start", || world.events(&order.run_id).first().map(|_| ()));
    let mut reader = keeper::spool::SpoolReader::open(directory.spool(), domain::line::Position::START);
    let block = wait_for("the spool", || reader.read(4096).expect("read"));
    let line = block.lines().next().expect("a line").text.to_vec();
    let daemon: u32 = String::from_utf8_lossy(&line).parse().expect("pid");
    wait_for("its exec", || {
        keeper::processes::find(daemon).is_some_and(|process| process.name == "sleep").then_some(())
    });
    let keeper: u32 = fs::read_to_string(directory.keeper()).expect("keeper").trim().parse().expect("pid");
    let keeper = keeper::processes::find(keeper).expect("keeper");
    keeper::processes::send_signal(&keeper, rustix::process::Signal::KILL);
    let report = world.report(&order.run_id);
    assert!(report.leaked.iter().any(|leaked| leaked.pid == daemon && leaked.killed), "{report:?}");
    assert!(!is_alive(daemon));
}

#[test]
fn leftovers_of_a_killed_keeper_are_killed_and_an_equal_run_of_another_installation_is_not() {
    let (mut ours, mut theirs) = (World::new(), World::new());
    let order = ours.order(shell("setsid sleep 1000 & sleep 1000"));
    theirs.send(&order);
    let keepers = [&mut ours, &mut theirs].map(|world| {
        world.start();
        let directory = world.directory(&order);
        wait_for("the start", || world.events(&order.run_id).first().map(|_| ()));
        let keeper = fs::read_to_string(directory.keeper()).expect("keeper").trim().parse().expect("pid");
        keeper::processes::find(keeper).expect("keeper")
    });
    let family = wait_for("their job's processes", || {
        let family = keeper::processes::descendants(keepers[1].pid).expect("descendants");
        (family.iter().filter(|process| process.name == "sleep").count() == 2).then_some(family)
    });
    keeper::processes::send_signal(&keepers[0], rustix::process::Signal::KILL);
    assert_eq!(ours.report(&order.run_id).outcome, Outcome::Lost);
    assert!(family.iter().all(|process| is_alive(process.pid)), "{family:?}");
    assert!(theirs.events(&order.run_id).len() == 1, "still running");
}

#[test]
fn a_keeper_that_dies_before_the_start_is_replaced_twice_and_then_the_run_fails() {
    for (doomed, outcome) in [(2, Outcome::Succeeded), (3, Outcome::Failed)] {
        let mut world = World::new();
        fs::write(world.path("doomed"), doomed.to_string()).expect("doomed");
        world.start();
        let order = world.order(counted_job(&world, "true"));
        let report = world.report(&order.run_id);
        assert_eq!(report.outcome, outcome, "{}", report.reason);
        assert_eq!(count_starts(&world), usize::from(outcome == Outcome::Succeeded));
        assert_eq!(fs::read_to_string(world.path("doomed")).expect("doomed"), "0");
        assert!(outcome == Outcome::Succeeded || report.reason.starts_with("3 keepers exited"), "{}", report.reason);
    }
}

#[test]
fn a_stop_from_the_ledger_reaches_the_job() {
    let mut world = World::new();
    world.start();
    let order = world.order(shell("sleep 1000"));
    wait_for("the job", || world.directory(&order).started().exists().then_some(()));
    fs::write(world.path("stops").join(order.run_id.as_str()), "").expect("stop");
    let report = world.report(&order.run_id);
    assert_eq!((report.ended, report.outcome, report.signal), (Ended::Stopped, Outcome::Stopped, Some(15)));
}

#[test]
fn serial_runs_one_at_a_time_in_order() {
    let mut world = World::new();
    let path = world.path("order");
    let job = |name: &str| shell(&format!("echo +{name} >> {0}; sleep 0.1; echo -{name} >> {0}", path.display()));
    let orders: Vec<_> = ["a", "b", "c"].iter().map(|name| world.order(job(name))).collect();
    world.start_as("serial", "leave", None);
    orders.iter().for_each(|order| drop(world.report(&order.run_id)));
    assert_eq!(fs::read_to_string(&path).expect("order"), "+a\n-a\n+b\n-b\n+c\n-c\n");
}

#[test]
fn a_redelivered_order_starts_nothing() {
    let mut world = World::new();
    world.start();
    let order = world.order(counted_job(&world, "true"));
    world.report(&order.run_id);
    world.send(&order);
    wait_for("the message's deletion", || {
        (fs::read_dir(world.path("orders")).expect("orders").count() == 0).then_some(())
    });
    world.kill();
    world.send(&order);
    world.start();
    wait_for("the message's deletion", || {
        (fs::read_dir(world.path("orders")).expect("orders").count() == 0).then_some(())
    });
    // Its sender may not know its end: the report is sent again.
    let ends = || world.events(&order.run_id).iter().filter(|event| matches!(event.body, Body::Finished(_))).count();
    wait_for("the reports", || (ends() >= 2).then_some(()));
    world.end();
    assert_eq!(count_starts(&world), 1);
}

#[test]
fn concurrent_copies_of_an_order_are_one_run() {
    let mut world = World::new();
    let order = crate::world::order(counted_job(&world, "true"));
    for copy in 1..=8 {
        world.send_copy(&order, copy);
    }
    world.start();
    world.report(&order.run_id);
    wait_for("all copies' deletion", || {
        (fs::read_dir(world.path("orders")).expect("orders").count() == 0).then_some(())
    });
    world.end();
    // A copy that arrives after the end makes the runner repeat its reports once.
    let events = world.events(&order.run_id);
    let ends = events.iter().filter(|event| matches!(event.body, Body::Finished(_))).count();
    assert!(matches!(ends, 1 | 2), "{events:?}");
    assert_eq!(count_starts(&world), 1);
    assert_eq!(world.shipped(&order.run_id).len(), 2);
}

#[test]
fn a_claim_whose_answer_was_lost_starts_its_run_though_another_runner_dropped_the_order() {
    let mut world = World::new();
    fs::write(world.path("unanswered"), "").expect("unanswered");
    let order = world.order(counted_job(&world, "true"));
    world.start();
    assert_eq!(world.report(&order.run_id).ended, Ended::Exited);
    assert_eq!(count_starts(&world), 1);
    assert!(!world.path("unanswered").exists(), "the answer was not lost");
    world.end();
}

#[test]
fn an_order_after_its_latest_start_time_is_missed() {
    let mut world = World::new();
    world.start();
    let mut order = crate::world::order(counted_job(&world, "true"));
    order.start_by = Some(order.issued_at - Duration::from_secs(1));
    world.send(&order);
    let report = world.report(&order.run_id);
    assert_eq!((report.ended, report.outcome), (Ended::NotStarted, Outcome::Missed));
    assert_eq!(count_starts(&world), 0);
    assert_eq!(world.shipped(&order.run_id).len(), 2);
}

#[test]
fn reports_wait_for_an_unreachable_collector() {
    let mut world = World::new();
    fs::write(world.path("deaf"), "").expect("deaf");
    world.start();
    let order = world.order(shell("echo hello"));
    world.shipped(&order.run_id);
    wait_for("the report in the outbox", || world.directory(&order).end_reported().exists().then_some(()));
    world.kill();
    fs::remove_file(world.path("deaf")).expect("hearing");
    world.start();
    assert_eq!(world.report(&order.run_id).outcome, Outcome::Succeeded);
}

#[test]
fn a_permanently_refused_report_blocks_no_other() {
    let mut world = World::new();
    fs::write(world.path("deaf"), "").expect("deaf");
    world.start();
    let orders = [world.order(shell("true")), world.order(shell("true")), world.order(shell("true"))];
    for order in &orders {
        let marker = world.directory(order).end_reported();
        wait_for("the report in the outbox", || marker.exists().then_some(()));
    }
    world.kill();
    // All waiting reports move into one file, as reports that are queued together.
    let outbox = world.path("state").join("outbox");
    let files: Vec<_> = fs::read_dir(&outbox).expect("outbox").map(|file| file.expect("file").path()).collect();
    let all: String = files.iter().map(|file| fs::read_to_string(file).expect("read")).collect();
    files.iter().for_each(|file| fs::remove_file(file).expect("removed"));
    fs::write(outbox.join(format!("{:020}.json", 1)), all).expect("written");
    fs::write(world.path("refused"), orders[1].run_id.as_str()).expect("refused");
    fs::remove_file(world.path("deaf")).expect("hearing");
    world.start();
    for order in [&orders[0], &orders[2]] {
        assert_eq!(world.report(&order.run_id).outcome, Outcome::Succeeded);
    }
    let aside = outbox.join(format!("{:020}.refused", 1));
    let kept = wait_for("the refused ones", || fs::read_to_string(&aside).ok());
    assert!(kept.lines().count() > 0 && kept.lines().all(|line| line.contains(orders[1].run_id.as_str())), "{kept}");
    wait_for("an empty outbox", || (!outbox.join(format!("{:020}.json", 1)).exists()).then_some(()));
}

#[test]
fn silence_is_reported_once() {
    let mut world = World::new();
    let go = world.path("go");
    world.start();
    let mut job = shell(&format!("echo a; while [ ! -e {} ]; do sleep 0.02; done", go.display()));
    job.quiet_limit = Some(Duration::from_millis(200));
    let order = world.order(job);
    let quiet =
        || world.events(&order.run_id).into_iter().filter(|event| matches!(event.body, Body::Quiet { .. })).count();
    wait_for("the quiet event", || (quiet() > 0).then_some(()));
    fs::write(&go, "").expect("go");
    world.report(&order.run_id);
    assert_eq!(quiet(), 1);
}

#[test]
fn leaving_is_quick_and_draining_waits() {
    let mut world = World::new();
    let go = world.path("go");
    let job = || shell(&format!("while [ ! -e {} ]; do sleep 0.02; done", go.display()));
    world.start();
    let left = world.order(job());
    let started = world.directory(&left).started();
    wait_for("the job", || started.exists().then_some(()));
    world.end();
    assert!(world.directory(&left).has_keeper().expect("lock"), "left to its keeper");
    world.start_as("free", "drain", None);
    world.ask_to_end();
    fs::write(&go, "").expect("go");
    world.end_of_runner();
    assert_eq!(world.report(&left.run_id).outcome, Outcome::Succeeded);
}

#[test]
fn one_state_directory_serves_one_runner() {
    let mut world = World::new();
    world.start();
    wait_for("the lock", || world.path("state").join("runs").exists().then_some(()));
    let second = world.command(&["run", "free", "leave"]).output().expect("second");
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another runner uses the state directory"));
}

#[test]
fn a_runner_whose_program_was_removed_still_starts_keepers() {
    let mut world = World::new();
    // As an upgrade removes it: the process continues, its file is deleted.
    let program = world.path("old-runner");
    std::fs::copy(crate::world::harness(), &program).expect("copied");
    world.start_program(&program);
    std::fs::remove_file(&program).expect("removed");
    let order = world.order(argv(&["true"]));
    assert_eq!(world.report(&order.run_id).outcome, Outcome::Succeeded);
}

#[test]
fn a_reported_run_without_its_stored_report_is_finished() {
    let check = |damage: &dyn Fn(&std::path::Path)| {
        let mut world = World::new();
        world.start();
        let order = world.order(shell("echo one"));
        world.report(&order.run_id);
        let run = world.directory(&order);
        wait_for("its mark", || run.end_reported().exists().then_some(()));
        world.kill();
        damage(&run.finished());
        world.start_as("free", "drain", None);
        world.end();
        world.shipped(&order.run_id);
        let reports = world.events(&order.run_id).into_iter().filter(|event| matches!(event.body, Body::Finished(_)));
        assert_eq!(reports.count(), 1);
    };
    check(&|report| fs::remove_file(report).expect("removed"));
    check(&|report| fs::write(report, "{").expect("damaged"));
}

#[test]
fn a_run_whose_directory_is_removed_is_lost_at_once_and_stops_no_sink() {
    let mut world = World::new();
    let go = world.path("go");
    world.start();
    let order =
        world.order(counted_job(&world, &format!("echo one; while [ ! -e {} ]; do sleep 0.02; done", go.display())));
    let directory = world.directory(&order);
    let started = wait_for("the job", || {
        keeper::directory::read_json::<keeper::records::Started>(&directory.started()).expect("started")
    });
    wait_for("the line", || world.events(&order.run_id).first().map(|_| ()));
    // Keeper and sink may create files there at the same time.
    wait_for("its removal", || fs::remove_dir_all(directory.path()).ok());
    let report = world.report(&order.run_id);
    assert_eq!((report.ended, report.outcome), (Ended::Lost, Outcome::Lost), "{report:?}");
    assert!(report.note.as_deref().is_some_and(|note| note.contains("directory was removed")), "{report:?}");
    assert!(!is_alive(started.pid));
    let next = world.order(shell("echo next"));
    assert_eq!(world.report(&next.run_id).outcome, Outcome::Succeeded);
    assert_eq!(world.shipped(&next.run_id).len(), 3);
    assert_eq!(count_starts(&world), 1);
}

#[test]
fn a_damaged_exit_record_makes_the_run_lost() {
    let mut world = World::new();
    fs::write(world.path("deaf"), "").expect("deaf");
    world.start();
    let order = world.order(counted_job(&world, "echo one"));
    let directory = world.directory(&order);
    wait_for("its end", || directory.end_reported().exists().then_some(()));
    world.kill();
    // As after a power cut: the report does not exist, and the record is empty.
    for file in fs::read_dir(world.path("state").join("outbox")).expect("outbox") {
        fs::remove_file(file.expect("file").path()).expect("removed");
    }
    fs::remove_file(directory.end_reported()).expect("removed");
    fs::remove_file(directory.finished()).expect("removed");
    fs::write(directory.exit(), "").expect("damaged");
    fs::remove_file(world.path("deaf")).expect("hearing");
    world.start();
    let report = world.report(&order.run_id);
    assert_eq!((report.ended, report.outcome, report.output.last_seq), (Ended::Lost, Outcome::Lost, 1));
    assert_eq!(count_starts(&world), 1);
}

#[test]
fn a_runner_whose_name_another_one_has_takes_no_orders_until_it_is_free() {
    let mut world = World::new();
    fs::write(world.path("rival"), "host-2").expect("written");
    world.start();
    let order = world.order(counted_job(&world, "echo one"));
    // After the second refusal, the runner had time to take the order.
    for _ in 0..2 {
        wait_for("a refusal", || fs::remove_file(world.path("rival-named")).ok());
    }
    assert_eq!(count_starts(&world), 0);
    fs::remove_file(world.path("rival")).expect("removed");
    assert_eq!(world.report(&order.run_id).outcome, Outcome::Succeeded);
    assert_eq!(count_starts(&world), 1);
}

#[test]
fn stopping_ends_running_jobs_and_leaves_waiting_ones_to_the_next_start() {
    let mut world = World::new();
    world.start_as("serial", "stop", None);
    let first = world.order(shell("trap 'echo cleaned; exit 0' TERM; echo ready; while :; do sleep 0.02; done"));
    let ready = || fs::metadata(world.directory(&first).spool().join(keeper::spool::segment_name(1))).is_ok();
    wait_for("the first job", || ready().then_some(()));
    let second = world.order(counted_job(&world, "true"));
    world.end();
    let report = world.report(&first.run_id);
    assert_eq!((report.ended, report.outcome), (Ended::Stopped, Outcome::Stopped), "{}", report.reason);
    assert!(report.reason.contains("stop requested by the shutdown of its runner"), "{}", report.reason);
    let log = world.shipped(&first.run_id);
    assert!(log.iter().any(|record| record["message"] == "cleaned"), "{log:?}");
    assert_eq!((world.events(&second.run_id).len(), count_starts(&world)), (0, 0));
    world.start();
    assert_eq!(world.report(&second.run_id).outcome, Outcome::Succeeded);
    assert_eq!(count_starts(&world), 1);
}
