//! Firing: late, doubled, missing ticks; two schedulers; ticks that die halfway; broken jobs; short intervals; boots.

use domain::alert::AlertKind;
use domain::ports::{RunQuery, RunWrite};
use domain::run::{Outcome, Run, RunId, Trigger};
use jiff::Timestamp;
use services::{boot, scheduler, sweep};

use crate::world::{World, job, key};

#[tokio::test]
async fn a_job_fires_at_its_minute_and_runs_to_its_outcome() {
    let world = World::new("2026-11-23T07:48:30Z");
    world.put(&job("dump", "50 7 * * *")).await;
    assert_eq!(world.schedule().await, scheduler::SchedulerSummary::default());
    world.set("2026-11-23T07:50:00Z");
    assert_eq!(world.schedule().await.started, 1);
    let orders = world.run_all(0).await;
    assert_eq!(orders.len(), 1);
    assert_eq!(orders[0].run_id, RunId::scheduled(&key("dump"), world.now()));
    let summary = world.collect().await;
    assert_eq!((summary.received, summary.updated, summary.ended), (2, 1, 1));
    let run = world.run(&orders[0].run_id).await;
    assert_eq!((run.outcome, run.trigger, run.nominal), (Some(Outcome::Succeeded), Trigger::Schedule, world.now()));
    assert_eq!(run.start_by, Some("2026-11-24T07:50:00Z".parse().unwrap()));
}

#[tokio::test]
async fn a_doubled_or_late_tick_changes_nothing() {
    let world = World::new("2026-11-23T07:49:00Z");
    world.put(&job("dump", "* * * * *")).await;
    for (now, started) in [("07:50:00", 1), ("07:50:00", 0), ("07:50:30", 0), ("07:51:40", 1), ("07:54:10", 1)] {
        world.set(&format!("2026-11-23T{now}Z"));
        if now == "07:54:10" {
            // The ticks of 07:52 and 07:53 did not happen; only one of their firings is late enough to be missed.
            let summary = world.schedule().await;
            assert_eq!((summary.started, summary.missed), (2, 1));
            continue;
        }
        assert_eq!(world.schedule().await.started, started, "{now}");
    }
    let wanted = ["07:50 scheduled", "07:51 scheduled", "07:52 missed", "07:53 scheduled", "07:54 scheduled"];
    assert_eq!(world.history("dump").await, wanted);
    assert_eq!(world.take_orders("r1").await.len(), 4);
}

#[tokio::test]
async fn the_next_tick_completes_one_that_died_after_creating_the_run() {
    let world = World::new("2026-11-23T07:49:00Z");
    let dump = job("dump", "* * * * *");
    world.put(&dump).await;
    world.set("2026-11-23T07:50:00Z");
    let mut run = Run::new(
        RunId::scheduled(&key("dump"), world.now()),
        &key("dump"),
        world.now(),
        Trigger::Schedule,
        world.now(),
    );
    run.start_by = Some("2026-11-23T08:50:00Z".parse().unwrap());
    world.ports.runs.write(&[RunWrite { run, expected: None, alert: None }]).await.unwrap();
    assert_eq!(world.schedule().await.resent, 1);
    assert_eq!(world.take_orders("r1").await.len(), 1);
    world.set("2026-11-23T07:51:00Z");
    assert_eq!(world.schedule().await.started, 1);
}

#[tokio::test]
async fn an_order_that_was_never_sent_is_resent() {
    let world = World::new("2026-11-23T07:50:00Z");
    world.put(&job("dump", "@manually")).await;
    let mut run =
        Run::new(RunId::unscheduled(world.now(), [1; 6]), &key("dump"), world.now(), Trigger::Manual, world.now());
    run.start_by = Some("2026-11-23T08:50:00Z".parse().unwrap());
    world.ports.runs.write(&[RunWrite { run, expected: None, alert: None }]).await.unwrap();
    let mut sent = Vec::new();
    for minute in 1..=9 {
        world.pass(60);
        if world.check_overdue().await.resent > 0 {
            sent.push(minute);
        }
    }
    assert_eq!(sent, [2, 4, 8]);
    assert_eq!(world.take_orders("r1").await.len(), 1);
}

#[tokio::test]
async fn an_invalid_job_raises_one_alert_a_day_and_stops_no_other() {
    let world = World::new("2026-11-23T07:49:00Z");
    for name in ["broken", "faulty", "good"] {
        world.put(&job(name, "* * * * *")).await;
    }
    world.edit_with_sqlite(
        "UPDATE jobs SET body = '{' WHERE name = 'broken';
             UPDATE jobs SET body = replace(body, '* * * * *', '99 * * * *') WHERE name = 'faulty';",
    );
    world.set("2026-11-23T07:50:00Z");
    let summary = world.schedule().await;
    assert_eq!((summary.started, summary.bad_jobs), (1, 2));
    assert_eq!(sweep::sweep(&world.ports, world.now()).await.unwrap().bad_jobs, 2);
    let alerts = world.send_alerts().await;
    let mut jobs: Vec<&str> = alerts.iter().map(|alert| alert.job.as_str()).collect();
    jobs.sort();
    assert_eq!(jobs, ["broken", "faulty"]);
    assert!(alerts.iter().all(|alert| alert.kind == AlertKind::BadJob && alert.reason.contains("cannot fire")));
    assert!(alerts.iter().all(|alert| alert.since == Some(world.now())), "{alerts:?}");
    world.set("2026-11-23T07:51:00Z");
    assert_eq!(world.schedule().await.started, 1);
    sweep::sweep(&world.ports, world.now()).await.unwrap();
    assert_eq!(world.send_alerts().await, []);
}

#[tokio::test]
async fn an_unreadable_report_raises_an_alert() {
    let world = World::new("2026-11-23T07:49:00Z");
    world.put(&job("dump", "* * * * *")).await;
    world.set("2026-11-23T07:50:00Z");
    world.schedule().await;
    world.run_all(0).await;
    world.edit_with_sqlite("UPDATE reports SET body = '{' WHERE key LIKE '%finished'");
    assert_eq!(world.collect().await.received, 1);
    sweep::sweep(&world.ports, world.now()).await.unwrap();
    let alerts = world.send_alerts().await;
    assert_eq!(alerts.iter().map(|alert| alert.kind).collect::<Vec<_>>(), [AlertKind::BadJob]);
    assert!(alerts[0].reason.starts_with("an unreadable record (reports 20261123T075000Z-"), "{}", alerts[0].reason);
}

#[tokio::test]
async fn the_sweep_finds_a_job_fixed_by_hand() {
    let world = World::new("2026-11-23T07:49:00Z");
    world.put(&job("dump", "@manually")).await;
    world.edit_with_sqlite("UPDATE jobs SET body = replace(body, '@manually', '* * * * *')");
    world.set("2026-11-23T07:50:00Z");
    assert_eq!(world.schedule().await.started, 0);
    assert!(sweep::tick(&world.ports, world.now()).await.unwrap().is_some());
    assert!(sweep::tick(&world.ports, world.now()).await.unwrap().is_none());
    world.set("2026-11-23T07:51:00Z");
    assert_eq!(world.schedule().await.started, 1);
}

#[tokio::test]
async fn an_edited_job_fires_by_its_new_schedule_only() {
    let world = World::new("2026-11-23T07:49:00Z");
    world.put(&job("dump", "50 * * * *")).await;
    world.put(&job("dump", "52 * * * *")).await;
    for minute in 50..60 {
        world.set(&format!("2026-11-23T07:{minute}:00Z"));
        world.schedule().await;
    }
    assert_eq!(world.history("dump").await, ["07:52 scheduled"]);
}

#[tokio::test]
async fn a_schedule_of_seconds_wakes_the_loop_in_time() {
    let world = World::new("2026-11-23T07:49:57Z");
    world.put(&job("probe", "@every 10s")).await;
    let mut fired: Vec<Timestamp> = Vec::new();
    while fired.len() < 7 {
        let wake = scheduler::next_wake(&world.ports, world.now()).await.unwrap();
        assert!(wake > world.now() && wake <= world.now() + jiff::SignedDuration::from_secs(60));
        world.set(&wake.to_string());
        if world.schedule().await.started > 0 {
            fired.push(wake);
        }
    }
    let wanted: Vec<Timestamp> = (1..=7)
        .map(|step| "2026-11-23T07:49:57Z".parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_secs(step * 10))
        .collect();
    assert_eq!(fired, wanted);
}

#[tokio::test]
async fn firings_that_come_due_during_a_tick_start() {
    let world = World::new("2026-11-23T07:49:57Z");
    world.put(&job("probe", "@every 10s")).await;
    world.schedule().await;
    let due: Timestamp = "2026-11-23T07:50:07Z".parse().unwrap();
    let after_it = "2026-11-23T07:50:08Z".parse().unwrap();
    assert_eq!(scheduler::next_wake(&world.ports, after_it).await.unwrap(), due);
}

#[tokio::test]
async fn reboot_jobs_start_once_a_boot() {
    let world = World::new("2026-11-23T07:49:00Z");
    world.put(&job("agent", "@reboot")).await;
    world.put(&job("dump", "0 3 * * *")).await;
    let booted = world.now();
    assert_eq!(boot::start_reboot_jobs(&world.ports, "boot-1", booted, world.now()).await.unwrap(), 1);
    world.pass(30);
    world.put(&job("late", "@reboot")).await;
    assert_eq!(boot::start_reboot_jobs(&world.ports, "boot-1", world.now(), world.now()).await.unwrap(), 0);
    assert_eq!(boot::start_reboot_jobs(&world.ports, "boot-2", world.now(), world.now()).await.unwrap(), 2);
    assert_eq!(world.runs("agent").await.len(), 2);
    assert_eq!(world.take_orders("r1").await.len(), 3);
    assert!(world.ports.runs.list(&RunQuery::open(), None, 10).await.unwrap().records.len() == 3);
}

#[tokio::test]
async fn a_thousand_jobs_of_one_minute_are_fired_in_one_tick() {
    let world = World::new("2026-11-23T07:49:00Z");
    for number in 0..1000 {
        world.put(&job(&format!("job-{number}"), "50 7 * * *")).await;
    }
    world.set("2026-11-23T07:50:00Z");
    let started_at = std::time::Instant::now();
    let summary = world.schedule().await;
    println!("1000 runs created and ordered in {:?}", started_at.elapsed());
    assert_eq!((summary.started, summary.more), (1000, false));
    assert_eq!(world.take_orders("r1").await.len(), 1000);
}
