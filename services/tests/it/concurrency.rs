//! Overlapping runs of one job under every policy.

use domain::job::Concurrency;
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
