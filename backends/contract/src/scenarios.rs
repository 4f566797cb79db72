//! Scenarios of the services over a backend, the same for every backend. A backend's test calls
//! [`scenarios!`](crate::scenarios!) in one line, beside the suite of its ports.

use std::time::Duration;

use domain::alert::AlertKind;
use domain::event::{Body, Ended};
use domain::job::{Concurrency, Retries};
use domain::ports::{Claim, Ports};
use domain::run::{Outcome, Run, State};
use domain::schedule::{Context, Schedule};
use services::{commands, scheduler};

use crate::world::{RUNNER, World, job, key};

/// Makes one test of each scenario. `$make` is an `async fn() -> contract::Backend`, or one that returns an `Option`.
/// The backend has the group `db`.
#[macro_export]
macro_rules! scenarios {
    ($make:path) => {
        $crate::suite! { $make;
            scenarios::after_a_day_every_firing_has_exactly_one_outcome,
            scenarios::a_failed_run_is_retried_and_ends_once,
            scenarios::forbid_skips_an_overlapping_run,
            scenarios::a_report_sent_twice_counts_once,
            scenarios::an_order_sent_three_times_starts_once,
            scenarios::reports_out_of_order_give_the_same_result,
            scenarios::a_stop_reaches_the_runner_and_ends_the_run,
            scenarios::a_run_that_no_runner_took_is_missed,
            scenarios::a_run_of_a_dead_runner_is_lost_until_its_late_report,
            scenarios::a_runner_that_died_after_its_claim_gets_the_order_again,
            scenarios::a_runner_that_died_after_it_deleted_its_order_starts_it_once,
            scenarios::a_run_lost_before_its_start_is_restarted_once,
            scenarios::a_run_forgotten_by_its_live_runner_is_lost_once,
            scenarios::a_paused_job_is_skipped_with_its_reason,
            scenarios::two_ticks_at_once_make_one_run,
            scenarios::concurrent_starts_of_a_job_that_forbids_overlap_have_one_winner,
        }
    };
}

async fn at_eight(ports: &Ports, job: domain::job::Job) -> World {
    let world = World::new(ports);
    world.put(&job).await;
    world.check_overdue().await;
    world.set("08:00");
    world.schedule().await;
    world
}

/// Three jobs from 08:00 to 14:00; one of them fails at 10:00 and 11:00.
pub async fn after_a_day_every_firing_has_exactly_one_outcome(ports: &Ports) {
    let world = World::new(ports);
    let begin = world.now();
    let jobs = [("dump", "0 * * * *"), ("report", "30 */2 * * *"), ("rotate", "@every 90m")];
    for (name, schedule) in jobs {
        world.put(&job(name, schedule)).await;
    }
    let mut alerts = Vec::new();
    for half_hour in 0..12 {
        world.set(&format!("{:02}:{:02}", 8 + half_hour / 2, half_hour % 2 * 30));
        world.send_heartbeat(RUNNER).await;
        world.schedule().await;
        world.check_overdue().await;
        for order in world.take_orders(RUNNER).await {
            world.report_started(&order).await;
            let fails = order.job.name == "dump" && (4..7).contains(&half_hour);
            world.report_finished(&order, i32::from(fails)).await;
        }
        world.collect().await;
        alerts.extend(world.send_alert_kinds().await);
    }
    let dumps = ["08 succeeded", "09 succeeded", "10 failed", "11 failed", "12 succeeded", "13 succeeded"];
    assert_eq!(world.history("dump").await, dumps.map(|hour| hour.replacen(' ', ":00 ", 1)));
    assert_eq!(world.runs("report").await.len(), 3);
    assert_eq!(
        alerts,
        [AlertKind::Failed, AlertKind::Recovered],
        "one alert when the job went bad, one when it recovered"
    );
    for (name, schedule) in jobs {
        let context = Context { zone: "UTC", seed: &key(name).to_string(), anchor: begin };
        let schedule = Schedule::parse(schedule, &context).unwrap();
        let firings = schedule.firings(begin).map(|firing| firing.at);
        let wanted: Vec<_> = firings.take_while(|at| *at <= world.now()).collect();
        let runs = world.runs(name).await;
        assert_eq!(runs.iter().map(|run| run.nominal).collect::<Vec<_>>(), wanted, "{name}");
        assert!(runs.iter().all(|run| run.outcome.is_some() && run.reason.is_some()), "{runs:?}");
    }
    let ledger = world.ledger().await;
    assert_eq!((ledger.open, ledger.count(Outcome::Failed)), (0, 2));
    assert_eq!(ledger.scheduled, ledger.count(Outcome::Succeeded) + 2);
}

pub async fn a_failed_run_is_retried_and_ends_once(ports: &Ports) {
    let mut dump = job("dump", "0 8 * * *");
    let delay = Duration::from_secs(60);
    dump.retries = Some(Retries { max: 1, delay, backoff: 1.0, on: vec![Outcome::Failed] });
    let world = at_eight(ports, dump).await;
    let first = world.run_all(1).await.remove(0);
    let summary = world.collect().await;
    assert_eq!((summary.ended, summary.retried), (0, 1));
    world.pass(60);
    let second = world.run_all(0).await.remove(0);
    assert_eq!((&second.run_id, second.attempt), (&first.run_id, 2));
    // The attempt number fences: a late report of the first attempt changes nothing.
    world.report_finished(&first, 1).await;
    world.collect().await;
    let run = world.runs("dump").await.remove(0);
    assert_eq!((run.outcome, run.attempt, run.earlier_attempts.len()), (Some(Outcome::Succeeded), 2, 1));
    assert_eq!((world.send_alert_kinds().await, world.ledger().await.scheduled), (Vec::new(), 1));
}

pub async fn forbid_skips_an_overlapping_run(ports: &Ports) {
    let mut dump = job("dump", "* * * * *");
    dump.concurrency = Concurrency::Forbid;
    let world = at_eight(ports, dump).await;
    let first = world.take_orders(RUNNER).await.remove(0);
    world.report_started(&first).await;
    world.collect().await;
    world.set("08:01");
    world.schedule().await;
    assert_eq!(world.history("dump").await, ["08:00 running", "08:01 skipped"]);
    world.report_finished(&first, 0).await;
    world.collect().await;
    world.set("08:02");
    assert_eq!(world.schedule().await.started, 1);
}

pub async fn a_report_sent_twice_counts_once(ports: &Ports) {
    let world = at_eight(ports, job("dump", "0 8 * * *")).await;
    let order = world.take_orders(RUNNER).await.remove(0);
    for _ in 0..2 {
        world.report_started(&order).await;
        world.report_finished(&order, 1).await;
        world.collect().await;
    }
    assert_eq!(world.history("dump").await, ["08:00 failed"]);
    assert_eq!(world.send_alert_kinds().await, [AlertKind::Failed]);
    assert_eq!((world.send_alert_kinds().await, world.ledger().await.scheduled), (Vec::new(), 1));
}

pub async fn an_order_sent_three_times_starts_once(ports: &Ports) {
    let world = at_eight(ports, job("dump", "0 8 * * *")).await;
    let order = world.take_orders(RUNNER).await.remove(0);
    world.ports.orders.send(&[order.clone(), order.clone()]).await.unwrap();
    assert!(world.take_orders("r2").await.is_empty(), "another runner has claimed it");
    world.report_finished(&order, 0).await;
    assert_eq!(world.claim(&order, RUNNER).await, Claim::Granted, "the same runner has claimed it");
    world.collect().await;
    world.ports.orders.send(&[order]).await.unwrap();
    assert!(world.take_orders(RUNNER).await.is_empty(), "the run has ended");
    assert_eq!(world.history("dump").await, ["08:00 succeeded"]);
}

pub async fn reports_out_of_order_give_the_same_result(ports: &Ports) {
    let world = at_eight(ports, job("dump", "0 8 * * *")).await;
    let order = world.take_orders(RUNNER).await.remove(0);
    world.report_finished(&order, 0).await;
    world.collect().await;
    let ended = world.runs("dump").await.remove(0);
    world.report_started(&order).await;
    world.ports.reports.send(&[world.event(&order, Body::Quiet { since: world.now() })]).await.unwrap();
    world.collect().await;
    let run = world.runs("dump").await.remove(0);
    assert_eq!((run.outcome, run.state), (Some(Outcome::Succeeded), State::Finished));
    assert_eq!((run.finished_at, run.exit_code), (ended.finished_at, Some(0)));
    assert!(world.send_alert_kinds().await.is_empty());
}

pub async fn a_stop_reaches_the_runner_and_ends_the_run(ports: &Ports) {
    let world = at_eight(ports, job("dump", "0 8 * * *")).await;
    let order = world.take_orders(RUNNER).await.remove(0);
    world.report_started(&order).await;
    world.collect().await;
    assert!(world.send_heartbeat(RUNNER).await.is_empty());
    commands::stop(&world.ports, &order.run_id, "owner", world.now()).await.unwrap();
    assert_eq!(world.send_heartbeat(RUNNER).await, std::slice::from_ref(&order.run_id));
    let report = domain::event::Report { ended: Ended::Stopped, ..world.report(143) };
    world.send_report(&order, report).await;
    world.collect().await;
    assert_eq!(world.history("dump").await, ["08:00 stopped"]);
    assert!(world.send_heartbeat(RUNNER).await.is_empty(), "no run is left to stop");
    assert!(world.send_alert_kinds().await.is_empty(), "stopped on request");
}

pub async fn a_run_that_no_runner_took_is_missed(ports: &Ports) {
    let mut dump = job("dump", "0 8 * * *");
    dump.start_within = Some(Duration::from_secs(300));
    let world = at_eight(ports, dump).await;
    world.set("08:05");
    assert_eq!(world.check_overdue().await.missed, 0);
    let start_by = world.now();
    world.pass(1);
    assert_eq!(world.check_overdue().await.missed, 1);
    let alerts = world.send_alerts().await;
    let reason = "no heartbeat from any runner of this group";
    assert_eq!((alerts.len(), alerts[0].kind), (1, AlertKind::Missed));
    assert_eq!(alerts[0].reason, format!("no runner of group db took it by {start_by}; {reason}"));
    assert!(world.take_orders(RUNNER).await.is_empty(), "the claim is refused");
    assert_eq!(world.history("dump").await, ["08:00 missed"]);
}

pub async fn a_run_of_a_dead_runner_is_lost_until_its_late_report(ports: &Ports) {
    let world = at_eight(ports, job("dump", "0 8 * * *")).await;
    let order = world.take_orders(RUNNER).await.remove(0);
    world.report_started(&order).await;
    world.collect().await;
    let (mut last_heartbeat, mut lost_at) = (None, None);
    for minute in 0..20 {
        world.set(&format!("08:{minute:02}"));
        if minute < 5 {
            world.send_heartbeat(RUNNER).await;
            last_heartbeat = Some(world.now());
        }
        if world.check_overdue().await.lost > 0 {
            lost_at = Some(world.now());
        }
    }
    let run = world.run(&order.run_id).await;
    let reason = format!("no heartbeat from runner r1 on h1 since {}", last_heartbeat.unwrap());
    assert_eq!((run.state, run.reason, run.finished_at), (State::Finished, Some(reason), lost_at));
    assert_eq!(run.nominal.duration_since(lost_at.unwrap()).as_mins(), -6, "after the heartbeat timeout");
    assert_eq!(
        (world.history("dump").await, world.send_alert_kinds().await),
        (vec!["08:00 lost".to_owned()], vec![AlertKind::Lost])
    );
    world.report_finished(&order, 0).await;
    assert_eq!(world.collect().await.replaced, 1);
    let run = world.run(&order.run_id).await;
    assert_eq!((run.outcome, run.exit_code), (Some(Outcome::Succeeded), Some(0)));
    assert_eq!((world.send_alert_kinds().await, world.ledger().await.scheduled), (vec![AlertKind::Recovered], 1));
    world.check_overdue().await;
    world.report_finished(&order, 1).await;
    world.collect().await;
    assert_eq!(world.history("dump").await, ["08:00 succeeded"], "the first report wins");
    assert_eq!(world.ledger().await.scheduled, 1);
}

pub async fn a_runner_that_died_after_its_claim_gets_the_order_again(ports: &Ports) {
    let world = at_eight(ports, job("dump", "0 8 * * *")).await;
    let first = world.receive(Duration::from_millis(100)).await;
    assert_eq!(world.claim(&first.message, RUNNER).await, Claim::Granted);
    let again = world.receive(Duration::from_secs(3600)).await;
    assert_eq!(again.message, first.message);
    assert_eq!(world.claim(&again.message, "r2").await, Claim::Refused, "another runner has claimed it");
    assert_eq!(world.claim(&again.message, RUNNER).await, Claim::Granted, "the same runner has claimed it");
    world.ports.orders.delete(&again.receipt).await.unwrap();
    world.report_started(&again.message).await;
    world.report_finished(&again.message, 0).await;
    world.collect().await;
    assert_eq!(world.history("dump").await, ["08:00 succeeded"]);
    assert!(world.take_orders(RUNNER).await.is_empty());
    assert_eq!((world.send_alert_kinds().await, world.ledger().await.scheduled), (Vec::new(), 1));
}

/// The runner has the order on its disk and starts it when it is back. Copies of it are refused or ignored.
pub async fn a_runner_that_died_after_it_deleted_its_order_starts_it_once(ports: &Ports) {
    let world = at_eight(ports, job("dump", "0 8 * * *")).await;
    let order = world.take_orders(RUNNER).await.remove(0);
    world.ports.orders.send(std::slice::from_ref(&order)).await.unwrap();
    assert!(world.take_orders("r2").await.is_empty(), "another runner has claimed it");
    world.set("08:01");
    assert_eq!(world.schedule().await.resent, 0, "a claimed run needs no order");
    assert_eq!(world.check_overdue().await.lost, 0);
    world.ports.orders.send(std::slice::from_ref(&order)).await.unwrap();
    assert!(world.take_orders(RUNNER).await.is_empty(), "the runner has it already");
    world.report_started(&order).await;
    world.report_finished(&order, 0).await;
    world.collect().await;
    assert_eq!(world.history("dump").await, ["08:00 succeeded"]);
    assert_eq!((world.send_alert_kinds().await, world.ledger().await.scheduled), (Vec::new(), 1));
}

/// Its runner died with the order. Reports of the old attempt change nothing.
pub async fn a_run_lost_before_its_start_is_restarted_once(ports: &Ports) {
    let mut dump = job("dump", "0 8 * * *");
    dump.retries = Some(Retries { max: 1, delay: Duration::ZERO, backoff: 1.0, on: vec![Outcome::Lost] });
    let world = at_eight(ports, dump).await;
    world.send_heartbeat(RUNNER).await;
    let first = world.take_orders(RUNNER).await.remove(0);
    for minute in 1..5 {
        world.set(&format!("08:{minute:02}"));
        world.check_overdue().await;
    }
    let second = world.take_orders("r2").await.remove(0);
    assert_eq!((&second.run_id, second.attempt), (&first.run_id, 2));
    assert!(world.take_orders("r3").await.is_empty(), "one order was sent");
    for order in [&first, &second] {
        world.report_started(order).await;
    }
    world.report_finished(&first, 1).await;
    world.report_finished(&second, 0).await;
    world.collect().await;
    let run = world.runs("dump").await.remove(0);
    assert_eq!((run.outcome, run.attempt, run.earlier_attempts.len()), (Some(Outcome::Succeeded), 2, 1));
    assert_eq!((world.send_alert_kinds().await, world.ledger().await.scheduled), (Vec::new(), 1));
}

/// The runner claimed the run, lost its disk, and still sends heartbeats.
pub async fn a_run_forgotten_by_its_live_runner_is_lost_once(ports: &Ports) {
    let mut dump = job("dump", "0 8 * * *");
    dump.start_within = Some(Duration::from_secs(300));
    let world = at_eight(ports, dump).await;
    let order = world.take_orders(RUNNER).await.remove(0);
    for (time, lost) in [("08:01", 0), ("08:06", 0), ("09:05", 0), ("09:06", 1), ("09:07", 0)] {
        world.set(time);
        world.send_heartbeat(RUNNER).await;
        assert_eq!(world.check_overdue().await.lost, lost, "{time}");
    }
    assert_eq!(world.history("dump").await, ["08:00 lost"]);
    assert_eq!(world.send_alert_kinds().await, [AlertKind::Lost]);
    world.report_finished(&order, 0).await;
    assert_eq!(world.collect().await.replaced, 1, "the report was only late");
    assert_eq!((world.send_alert_kinds().await, world.ledger().await.scheduled), (vec![AlertKind::Recovered], 1));
}

pub async fn a_paused_job_is_skipped_with_its_reason(ports: &Ports) {
    let world = World::new(ports);
    world.put(&job("dump", "* * * * *")).await;
    let paused_at = world.now();
    commands::pause(&world.ports, &key("dump"), domain::job::Pause::new(paused_at, None, "the disk is full"))
        .await
        .unwrap();
    for minute in ["08:00", "08:01", "08:02", "08:03", "08:04"] {
        world.set(minute);
        world.schedule().await;
        match minute {
            "08:01" => drop(commands::resume(&world.ports, &key("dump"), world.now()).await.unwrap()),
            "08:02" => {
                let until = Some(world.now() + Duration::from_secs(120));
                commands::pause(&world.ports, &key("dump"), domain::job::Pause::new(world.now(), until, ""))
                    .await
                    .unwrap();
            }
            _ => {}
        }
    }
    let wanted = ["08:00 skipped", "08:01 skipped", "08:02 scheduled", "08:03 skipped", "08:04 scheduled"];
    assert_eq!(world.history("dump").await, wanted);
    let reason = world.runs("dump").await.remove(0).reason;
    assert_eq!(reason, Some(format!("paused since {paused_at}: the disk is full")));
    assert!(world.send_alerts().await.is_empty());
}

pub async fn two_ticks_at_once_make_one_run(ports: &Ports) {
    let world = World::new(ports);
    for number in 0..20 {
        world.put(&job(&format!("job-{number}"), "* * * * *")).await;
    }
    for minute in ["08:00", "08:01"] {
        world.set(minute);
        let now = world.now();
        let [one, other] = [ports.clone(), ports.clone()]
            .map(|ports| tokio::spawn(async move { scheduler::tick(&ports, now).await.unwrap() }));
        assert_eq!(one.await.unwrap().started + other.await.unwrap().started, 20, "{minute}");
        world.schedule().await;
    }
    let orders = world.run_all(0).await;
    assert_eq!(orders.len(), 40, "each run is claimed once, also when it was ordered twice");
    world.collect().await;
    let ledger = world.ledger().await;
    assert_eq!((ledger.scheduled, ledger.count(Outcome::Succeeded)), (40, 40));
    assert_eq!(world.schedule().await.started, 0);
}

pub async fn concurrent_starts_of_a_job_that_forbids_overlap_have_one_winner(ports: &Ports) {
    let world = World::new(ports);
    for (name, concurrency) in [("alone", Concurrency::Forbid), ("in-turn", Concurrency::Queue)] {
        let mut job = job(name, "0 8 * * *");
        job.concurrency = concurrency;
        world.put(&job).await;
    }
    world.set("08:00");
    let now = world.now();
    let start_manually =
        async |name: &str, caller: u8| commands::run_now(ports, &key(name), [caller; 6], now).await.expect("a run");
    tokio::join!(
        world.schedule(),
        start_manually("alone", 1),
        start_manually("alone", 2),
        start_manually("in-turn", 3),
        start_manually("in-turn", 4),
    );
    for (name, waiting) in [("alone", 0), ("in-turn", 2)] {
        let (open, over): (Vec<_>, Vec<_>) = world.runs(name).await.into_iter().partition(Run::is_open);
        let started = open.iter().filter(|run| !run.held).count();
        assert_eq!((started, open.len() - started, over.len()), (1, waiting, 2 - waiting), "{open:#?} {over:#?}");
    }
    let mut in_turn = 0;
    loop {
        let orders = world.run_all(0).await;
        in_turn += orders.iter().filter(|order| order.job.name == "in-turn").count();
        if orders.is_empty() {
            break;
        }
        world.collect().await;
    }
    assert_eq!(in_turn, 3, "in turn");
}
