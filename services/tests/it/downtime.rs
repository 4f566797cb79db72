//! Firings missed by a scheduler that was down, or blocked by a pause or maintenance: every `catch_up`.

use domain::job::{CatchUp, Concurrency};
use domain::run::{Outcome, Trigger};
use services::commands;

use crate::world::{World, job};

/// A job of every ten minutes. The scheduler ticks at 08:00, and next at 08:55.
async fn after_downtime(catch_up: CatchUp) -> World {
    let world = World::new("2026-11-23T07:59:00Z");
    let mut job = job("dump", "*/10 * * * *");
    job.catch_up = catch_up;
    world.put(&job).await;
    world.set("2026-11-23T08:00:00Z");
    world.schedule().await;
    world.run_all(0).await;
    world.collect().await;
    world.set("2026-11-23T08:55:00Z");
    world.schedule().await;
    world
}

#[tokio::test]
async fn skip_records_firings_during_downtime_as_missed() {
    let world = after_downtime(CatchUp::Skip).await;
    let wanted = ["08:00 succeeded", "08:10 missed", "08:20 missed", "08:30 missed", "08:40 missed", "08:50 missed"];
    assert_eq!(world.history("dump").await, wanted);
    let reason = world.runs("dump").await[1].reason.clone().unwrap();
    assert_eq!(reason, "the scheduler was down from 2026-11-23T08:00:00Z to 2026-11-23T08:55:00Z");
    assert_eq!(world.send_alerts().await.len(), 1, "one job went bad once");
    world.set("2026-11-23T09:00:00Z");
    assert_eq!(world.schedule().await.started, 1);
}

#[tokio::test]
async fn once_runs_the_newest_and_names_it_in_the_others() {
    let world = after_downtime(CatchUp::Once).await;
    let wanted =
        ["08:00 succeeded", "08:10 skipped", "08:20 skipped", "08:30 skipped", "08:40 skipped", "08:50 scheduled"];
    assert_eq!(world.history("dump").await, wanted);
    let runs = world.runs("dump").await;
    assert!(runs[1].reason.as_ref().unwrap().starts_with("caught up by the run of 2026-11-23T08:50:00Z"));
    assert_eq!(runs[5].trigger, Trigger::CatchUp);
    assert!(world.send_alerts().await.is_empty());
}

#[tokio::test]
async fn all_runs_every_missed_firing() {
    let world = after_downtime(CatchUp::All).await;
    assert_eq!(world.run_all(0).await.len(), 5);
    world.collect().await;
    assert_eq!(world.ledger().await.count(Outcome::Succeeded), 6);
}

#[tokio::test]
async fn all_runs_in_turn_when_overlap_is_forbidden() {
    let world = World::new("2026-11-23T07:59:00Z");
    let mut job = job("dump", "*/10 * * * *");
    job.catch_up = CatchUp::All;
    job.concurrency = Concurrency::Forbid;
    world.put(&job).await;
    world.set("2026-11-23T08:55:00Z");
    world.schedule().await;
    for round in 0..6 {
        assert_eq!(world.run_all(0).await.len(), 1, "round {round}");
        world.collect().await;
    }
    assert_eq!(world.ledger().await.count(Outcome::Succeeded), 6);
}

#[tokio::test]
async fn all_runs_only_the_newest_with_replace() {
    let world = World::new("2026-11-23T07:59:00Z");
    let mut job = job("dump", "*/10 * * * *");
    job.catch_up = CatchUp::All;
    job.concurrency = Concurrency::Replace;
    world.put(&job).await;
    world.set("2026-11-23T08:25:00Z");
    // The second tick finds the runs of the first.
    for _ in 0..2 {
        world.schedule().await;
        assert_eq!(world.history("dump").await, ["08:00 skipped", "08:10 skipped", "08:20 scheduled"]);
    }
    assert_eq!(world.run_all(0).await.len(), 1);
}

#[tokio::test]
async fn a_long_downtime_makes_a_bounded_number_of_records() {
    let world = World::new("2026-11-23T00:00:00Z");
    world.put(&job("probe", "* * * * *")).await;
    world.schedule().await;
    world.set("2026-11-26T00:00:30Z");
    world.schedule().await;
    let runs = world.runs("probe").await;
    assert_eq!(runs.len(), services::firing_plan::CATCH_UP_RECORDS_MAX);
    assert_eq!(runs[0].outcome, Some(Outcome::Missed));
    let reason = runs[0].reason.as_ref().unwrap();
    let older = 3 * 24 * 60 - services::firing_plan::CATCH_UP_RECORDS_MAX;
    assert!(reason.ends_with(&format!("also covers {older} earlier firings")), "{reason}");
    assert_eq!(world.take_orders("r1").await.len(), 2, "the firings of the last two minutes start normally");
}

#[tokio::test]
async fn a_year_of_seconds_is_counted_up_to_a_limit() {
    let world = World::new("2026-01-01T00:00:00Z");
    world.put(&job("probe", "@every 1s")).await;
    world.schedule().await;
    world.set("2027-01-01T00:00:00Z");
    world.schedule().await;
    let runs = world.runs("probe").await;
    assert_eq!(runs.len(), services::firing_plan::CATCH_UP_RECORDS_MAX);
    assert_eq!(runs.last().unwrap().nominal, world.now());
    assert!(runs[0].reason.as_ref().unwrap().contains("more than 100000 earlier firings"), "{:?}", runs[0].reason);
}

#[tokio::test]
async fn a_disabled_job_has_no_firings() {
    let world = World::new("2026-11-23T07:59:30Z");
    let mut old = job("old", "* * * * *");
    for (minute, enabled) in [(0, true), (1, false), (2, false), (3, true)] {
        old.enabled = enabled;
        world.put(&old).await;
        world.set(&format!("2026-11-23T08:0{minute}:00Z"));
        world.schedule().await;
        world.set(&format!("2026-11-23T08:0{minute}:30Z"));
    }
    assert_eq!(world.history("old").await, ["08:00 scheduled", "08:03 scheduled"]);
}

/// Maintenance of `db` from 08:00:30 to 08:03:30, with a job of every minute.
async fn after_maintenance(catch_up: CatchUp) -> World {
    let world = World::new("2026-11-23T07:59:00Z");
    world.put(&job("dump", "* * * * *")).await;
    world.put(&domain::job::Job { group: "web".to_owned(), ..job("elsewhere", "0 0 1 1 *") }).await;
    world.set("2026-11-23T08:00:00Z");
    world.schedule().await;
    world.set("2026-11-23T08:00:30Z");
    commands::begin_maintenance(&world.ports, Some("db"), None, "new disks", "test", catch_up, world.now())
        .await
        .unwrap();
    for minute in 1..4 {
        world.set(&format!("2026-11-23T08:0{minute}:00Z"));
        world.run_duties().await;
    }
    assert_eq!(world.run_all(0).await.len(), 1, "only the run from before the window starts");
    world.set("2026-11-23T08:03:30Z");
    assert_eq!(commands::maintenance_windows(&world.ports, world.now()).await.unwrap().len(), 1);
    assert_eq!(commands::end_maintenance(&world.ports, Some("db"), world.now()).await.unwrap(), 1);
    assert_eq!(commands::end_maintenance(&world.ports, Some("db"), world.now()).await.unwrap(), 0);
    world.release_held().await;
    world.set("2026-11-23T08:04:00Z");
    world.schedule().await;
    world.run_all(0).await;
    world.collect().await;
    world
}

#[tokio::test]
async fn maintenance_skips_with_its_reason() {
    let world = after_maintenance(CatchUp::Skip).await;
    let wanted = ["08:00 succeeded", "08:01 skipped", "08:02 skipped", "08:03 skipped", "08:04 succeeded"];
    assert_eq!(world.history("dump").await, wanted);
    let reason = world.runs("dump").await[1].reason.clone().unwrap();
    assert_eq!(reason, "maintenance since 2026-11-23T08:00:30Z: new disks");
}

#[tokio::test]
async fn maintenance_with_once_runs_the_newest_firing() {
    let world = after_maintenance(CatchUp::Once).await;
    let wanted = ["08:00 succeeded", "08:01 skipped", "08:02 skipped", "08:03 succeeded", "08:04 succeeded"];
    assert_eq!(world.history("dump").await, wanted);
}

#[tokio::test]
async fn maintenance_with_all_runs_every_firing() {
    let world = after_maintenance(CatchUp::All).await;
    assert_eq!(world.ledger().await.count(Outcome::Succeeded), 5);
}
