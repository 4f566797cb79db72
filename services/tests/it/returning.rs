//! Jobs that their file loses and gets back: pause, alert state and due entry.

use std::time::Duration;

use domain::alert::{AlertKind, Status};
use domain::job::Job;
use services::commands::{self, ApplyOptions};
use services::pruner;

use crate::world::{World, job, key};

const FILE: &str = "/etc/sexton/crontab";

/// Makes the stored jobs equal to the file.
async fn apply(world: &World, jobs: &[Job]) {
    let how = ApplyOptions { prune: true, dry_run: false };
    commands::apply(&world.ports, FILE, jobs, how, world.now()).await.unwrap();
}

/// A job of every ten minutes ran at 08:00, and left its file at 08:05.
async fn removed_at_08_05(dump: &Job) -> World {
    let world = World::new("2026-11-23T07:59:00Z");
    apply(&world, std::slice::from_ref(dump)).await;
    world.set("2026-11-23T08:00:00Z");
    world.schedule().await;
    world.run_all(0).await;
    world.collect().await;
    world.set("2026-11-23T08:05:00Z");
    apply(&world, &[]).await;
    for minute in ["08:10", "08:20", "08:30"] {
        world.set(minute);
        assert_eq!(world.schedule().await.started, 0);
    }
    world
}

#[tokio::test]
async fn firings_of_a_job_that_was_away_for_less_than_an_hour_are_missed_and_not_lost() {
    let dump = job("dump", "*/10 * * * *");
    let world = removed_at_08_05(&dump).await;
    world.set("2026-11-23T08:35:00Z");
    apply(&world, std::slice::from_ref(&dump)).await;
    world.schedule().await;
    assert_eq!(world.history("dump").await, ["08:00 succeeded", "08:10 missed", "08:20 missed", "08:30 missed"]);
    let reason = world.runs("dump").await[1].reason.clone().unwrap();
    assert_eq!(reason, "the job was missing from its file from 2026-11-23T08:05:00Z to 2026-11-23T08:35:00Z");
    world.set("2026-11-23T08:40:00Z");
    assert_eq!(world.schedule().await.started, 1, "and the next firing is normal");
}

#[tokio::test]
async fn a_firing_of_the_last_minutes_is_still_started() {
    let dump = job("dump", "*/10 * * * *");
    let world = removed_at_08_05(&dump).await;
    world.set("2026-11-23T08:30:40Z");
    apply(&world, std::slice::from_ref(&dump)).await;
    world.schedule().await;
    assert_eq!(world.history("dump").await[1..], ["08:10 missed", "08:20 missed", "08:30 scheduled"]);
}

#[tokio::test]
async fn a_job_that_was_away_for_more_than_an_hour_or_got_another_schedule_starts_from_now() {
    let dump = job("dump", "*/10 * * * *");
    for (returns, returned) in [("09:06", dump.clone()), ("08:35", job("dump", "*/5 * * * *"))] {
        let world = removed_at_08_05(&dump).await;
        world.set(returns);
        apply(&world, &[returned]).await;
        world.schedule().await;
        assert_eq!(world.history("dump").await, ["08:00 succeeded"], "returned at {returns}");
        world.set("09:10");
        assert_eq!(world.schedule().await.started, 1);
    }
}

#[tokio::test]
async fn a_file_that_was_faulty_while_the_scheduler_was_down_loses_no_firing() {
    let dump = job("dump", "*/10 * * * *");
    let world = World::new("2026-11-23T07:59:00Z");
    apply(&world, std::slice::from_ref(&dump)).await;
    world.set("2026-11-23T08:00:00Z");
    world.schedule().await;
    world.run_all(0).await;
    world.collect().await;
    // The next start reads an empty file first.
    world.set("2026-11-23T08:25:00Z");
    apply(&world, &[]).await;
    world.schedule().await;
    apply(&world, std::slice::from_ref(&dump)).await;
    world.schedule().await;
    assert_eq!(world.history("dump").await, ["08:00 succeeded", "08:10 missed", "08:20 missed"]);
}

/// Fails at 08:00, is paused, and leaves its file at 08:10.
async fn failing_and_paused() -> World {
    let world = World::new("2026-11-23T07:59:00Z");
    apply(&world, &[job("dump", "@every 7m")]).await;
    let run = commands::run_now(&world.ports, &key("dump"), [1; 6], world.now()).await.unwrap();
    world.run_all(1).await;
    world.collect().await;
    assert!(world.run(&run.run_id).await.outcome.is_some());
    assert_eq!(world.send_alert_kinds().await, [AlertKind::Failed]);
    commands::pause(&world.ports, &key("dump"), domain::job::Pause::new(world.now(), None, "noise")).await.unwrap();
    world.set("2026-11-23T08:10:00Z");
    apply(&world, &[]).await;
    world
}

async fn status(world: &World) -> Status {
    world.ports.alerts.state(&key("dump")).await.unwrap().record.status
}

#[tokio::test]
async fn a_job_that_returns_keeps_pause_anchor_and_alert_state_as_long_as_its_runs() {
    let keep = pruner::RetentionPolicy { age_max: Duration::from_secs(3 * 86_400), ..Default::default() };
    for (returns, is_kept) in [("2026-11-25T08:10:00Z", true), ("2026-11-27T08:10:00Z", false)] {
        let world = failing_and_paused().await;
        world.set(returns);
        for _ in 0..100 {
            pruner::tick(&world.ports, &keep, world.now()).await.unwrap();
        }
        apply(&world, &[job("dump", "@every 7m")]).await;
        let dump = commands::get(&world.ports, &key("dump")).await.unwrap().job.unwrap();
        let anchor = if is_kept { "2026-11-23T07:59:00Z" } else { returns };
        assert_eq!(dump.paused.is_some_and(|pause| pause.why == "noise"), is_kept, "returned at {returns}");
        assert_eq!(dump.anchor, Some(anchor.parse().unwrap()), "returned at {returns}");
        assert_eq!(status(&world).await == Status::Bad, is_kept, "returned at {returns}");
    }
}

#[tokio::test]
async fn job_remove_forgets_pause_and_alert_state_at_once() {
    // Removed by its file before, or still stored.
    for is_in_file in [false, true] {
        let world = failing_and_paused().await;
        if is_in_file {
            apply(&world, &[job("dump", "@every 7m")]).await;
        }
        commands::remove(&world.ports, &key("dump"), world.now()).await.unwrap();
        assert!(commands::remove(&world.ports, &key("dump"), world.now()).await.is_err(), "nothing is left of it");
        apply(&world, &[job("dump", "@every 7m")]).await;
        let dump = commands::get(&world.ports, &key("dump")).await.unwrap().job.unwrap();
        assert_eq!((dump.paused, dump.anchor), (None, Some(world.now())));
        assert_eq!(status(&world).await, Status::Good);
    }
}
