//! Overlapping runs of one job under every policy.

use std::time::Duration;

use domain::alert::AlertKind;
use domain::job::{CatchUp, Concurrency};
use domain::run::Outcome;
use services::commands;

use crate::world::{World, job, key};

/// The run of 08:00 still runs when those of 08:01 and 08:02 are due.
async fn overlapping(concurrency: Concurrency) -> (World, domain::order::Order) {
    let world = World::new("2026-11-23T07:59:00Z");
    let mut job = job("dump", "* * * * *");
    job.concurrency = concurrency;
    world.put(&job).await;
    world.set("2026-11-23T08:00:00Z");
    world.schedule().await;
    let first = world.take_orders("r1").await.remove(0);
    world.report_started(&first).await;
    world.collect().await;
    for minute in 1..3 {
        world.set(&format!("2026-11-23T08:0{minute}:00Z"));
        world.schedule().await;
        world.release_held().await;
    }
    (world, first)
}

#[tokio::test]
async fn allow_starts_both() {
    let (world, _) = overlapping(Concurrency::Allow).await;
    assert_eq!(world.take_orders("r1").await.len(), 2);
}

#[tokio::test]
async fn forbid_skips_the_new_one() {
    let (world, first) = overlapping(Concurrency::Forbid).await;
    assert_eq!(world.history("dump").await, ["08:00 running", "08:01 skipped", "08:02 skipped"]);
    let reason = world.runs("dump").await[1].reason.clone().unwrap();
    assert_eq!(reason, format!("run {} has not ended and `concurrency` is `forbid`", first.run_id));
    world.report_finished(&first, 0).await;
    world.collect().await;
    world.set("2026-11-23T08:03:00Z");
    assert_eq!(world.schedule().await.started, 1);
}

#[tokio::test]
async fn queue_runs_them_one_after_the_other() {
    let (world, first) = overlapping(Concurrency::Queue).await;
    assert_eq!(world.history("dump").await, ["08:00 running", "08:01 held", "08:02 held"]);
    assert!(world.take_orders("r1").await.is_empty());
    world.report_finished(&first, 0).await;
    world.collect().await;
    for minute in ["08:01", "08:02"] {
        let next = world.run_all(0).await;
        assert_eq!(next.iter().map(|order| order.nominal.strftime("%H:%M").to_string()).collect::<Vec<_>>(), [minute]);
        world.collect().await;
    }
    assert_eq!(world.ledger().await.count(Outcome::Succeeded), 3);
}

/// A job of every minute, whose run of 08:00 runs on.
async fn world_with_long_run(change: impl FnOnce(&mut domain::job::Job)) -> (World, domain::order::Order) {
    let world = World::new("2026-11-23T07:59:00Z");
    let mut job = job("dump", "* * * * *");
    job.concurrency = Concurrency::Queue;
    job.start_within = Some(Duration::from_secs(90));
    change(&mut job);
    world.put(&job).await;
    world.set("2026-11-23T08:00:00Z");
    world.schedule().await;
    let first = world.take_orders("r1").await.remove(0);
    world.report_started(&first).await;
    world.collect().await;
    (world, first)
}

#[tokio::test]
async fn start_within_counts_while_a_run_waits_for_an_earlier_one() {
    let (world, first) = world_with_long_run(|_| {}).await;
    for minute in ["08:01", "08:02"] {
        world.set(minute);
        world.schedule().await;
    }
    world.pass(30);
    assert_eq!(world.check_overdue().await.missed, 0, "at its latest start");
    world.pass(1);
    assert_eq!(world.check_overdue().await.missed, 1);
    let reason = "not started by 2026-11-23T08:02:30Z, its `start_within`: waits for run ";
    assert_eq!(world.runs("dump").await[1].reason, Some(format!("{reason}{}", first.run_id)));
    assert_eq!(world.send_alert_kinds().await, [AlertKind::Missed]);
    // The end of the earlier run, before the next check: a run that is too late is not started.
    world.set("2026-11-23T08:03:40Z");
    world.report_finished(&first, 0).await;
    world.collect().await;
    assert_eq!(world.history("dump").await, ["08:00 succeeded", "08:01 missed", "08:02 missed"]);
    assert!(world.take_orders("r1").await.is_empty());
}

#[tokio::test]
async fn start_within_counts_from_the_release_of_runs_that_maintenance_holds() {
    let (world, first) = world_with_long_run(|_| {}).await;
    world.set("08:01");
    world.schedule().await;
    // Maintenance during the wait.
    let begin = async |catch_up| {
        commands::begin_maintenance(&world.ports, None, None, "", "test", catch_up, world.now()).await.unwrap();
    };
    begin(CatchUp::All).await;
    for minute in ["08:02", "08:03", "08:04"] {
        world.set(minute);
        world.run_duties().await;
    }
    commands::end_maintenance(&world.ports, None, world.now()).await.unwrap();
    world.report_finished(&first, 0).await;
    world.collect().await;
    // Each takes longer than `start_within`, so the last one waits for minutes.
    for _ in 0..4 {
        let run = world.take_orders("r1").await;
        assert_eq!(run.len(), 1, "{:?}", world.history("dump").await);
        world.report_started(&run[0]).await;
        world.pass(300);
        world.check_overdue().await;
        world.report_finished(&run[0], 0).await;
        world.collect().await;
    }
    let wanted = ["08:00", "08:01", "08:02", "08:03", "08:04"].map(|minute| format!("{minute} succeeded"));
    assert_eq!(world.history("dump").await, wanted);
}

#[tokio::test]
async fn replace_stops_the_earlier_run_and_starts_the_newest() {
    let (world, first) = overlapping(Concurrency::Replace).await;
    assert_eq!(world.history("dump").await, ["08:00 running", "08:01 skipped", "08:02 held"]);
    assert_eq!(world.send_heartbeat("r1").await, std::slice::from_ref(&first.run_id));
    let mut report = world.report(0);
    report.ended = domain::event::Ended::Stopped;
    let body = domain::event::Body::Finished(Box::new(report));
    world.ports.reports.send(&[world.event(&first, body)]).await.unwrap();
    world.collect().await;
    assert_eq!(world.history("dump").await, ["08:00 stopped", "08:01 skipped", "08:02 scheduled"]);
    assert!(world.send_heartbeat("r1").await.is_empty());
    assert_eq!(world.take_orders("r1").await.len(), 1);
}

#[tokio::test]
async fn a_held_run_of_a_removed_job_is_skipped() {
    let (world, _) = overlapping(Concurrency::Queue).await;
    commands::remove(&world.ports, &key("dump"), world.now()).await.unwrap();
    world.release_held().await;
    assert_eq!(world.history("dump").await, ["08:00 running", "08:01 skipped", "08:02 skipped"]);
}

/// The next firing, a minute after the last one.
async fn fire_next(world: &World) {
    world.pass(60);
    world.schedule().await;
    world.release_held().await;
}

#[tokio::test]
async fn three_firings_that_cannot_start_raise_one_alert_and_the_next_start_ends_it() {
    for (concurrency, verb) in [(Concurrency::Forbid, "skipped"), (Concurrency::Queue, "wait")] {
        let (world, first) = overlapping(concurrency).await;
        assert_eq!(world.send_alert_kinds().await, [], "two firings are not enough");
        for _ in 0..3 {
            fire_next(&world).await;
        }
        let alerts = world.send_alerts().await;
        assert_eq!(alerts.iter().map(|alert| alert.kind).collect::<Vec<_>>(), [AlertKind::Stuck]);
        let stop = format!("to end it: sexton stop {}", first.run_id);
        let reason = format!("3 firings {verb}, run {} since 2026-11-23T08:00:00Z; {stop}", first.run_id);
        assert_eq!(alerts[0].reason, reason);
        world.report_finished(&first, 0).await;
        world.collect().await;
        // The queue holds five runs: the recovery is due when none waits any longer.
        while !world.run_all(0).await.is_empty() {
            world.collect().await;
        }
        fire_next(&world).await;
        let alerts = world.send_alerts().await;
        assert_eq!(
            alerts.iter().map(|alert| alert.kind).collect::<Vec<_>>(),
            [AlertKind::Recovered],
            "{concurrency:?}"
        );
        assert!(
            alerts[0]
                .reason
                .ends_with("starts, after 5 firings in a row since 2026-11-23T08:01:00Z that could not start")
        );
    }
}

#[tokio::test]
async fn on_one_machine_max_open_limits_the_open_runs_of_a_job_that_may_overlap() {
    let world = World::new("2026-11-23T07:59:00Z");
    let mut job = job("dump", "* * * * *");
    job.max_open = Some(2);
    world.put(&job).await;
    let mut orders = Vec::new();
    for _ in 0..5 {
        fire_next(&world).await;
        for order in world.take_orders("r1").await {
            world.report_started(&order).await;
            world.collect().await;
            orders.push(order);
        }
    }
    let history = ["08:00 running", "08:01 running", "08:02 skipped", "08:03 skipped", "08:04 skipped"];
    assert_eq!(world.history("dump").await, history);
    let reason = world.runs("dump").await[2].reason.clone().unwrap();
    let oldest = &orders[0].run_id;
    assert_eq!(reason, format!("2 runs have not ended, as many as `max_open` allows; the oldest is {oldest}"));
    let alerts = world.send_alerts().await;
    assert_eq!(alerts[0].kind, AlertKind::Stuck);
    assert!(alerts[0].reason.starts_with(&format!("3 firings skipped, 2 runs open, the oldest {oldest} since")));
    world.report_finished(&orders[0], 0).await;
    world.collect().await;
    fire_next(&world).await;
    assert_eq!(world.send_alert_kinds().await, [AlertKind::Recovered]);
    assert_eq!(world.take_orders("r1").await.len(), 1);
}

#[tokio::test]
async fn missed_firings_of_a_job_that_may_overlap_start_as_max_open_allows() {
    let world = World::new("2026-11-23T07:59:00Z");
    let mut job = job("dump", "* * * * *");
    (job.max_open, job.catch_up) = (Some(2), domain::job::CatchUp::All);
    world.put(&job).await;
    world.schedule().await;
    world.set("2026-11-23T08:09:00Z");
    world.schedule().await;
    let mut started = 0;
    loop {
        world.release_held().await;
        let orders = world.run_all(0).await;
        if orders.is_empty() {
            break;
        }
        assert!(orders.len() <= 2, "{} runs at once", orders.len());
        started += orders.len();
        world.collect().await;
    }
    assert_eq!(started, 7, "all but the three that were not late: they found too many open runs");
    assert_eq!(world.ledger().await.count(Outcome::Missed), 0);
}
