//! Jobs with a `random_delay`: the nominal time stays, and everything else counts from the delayed instant.

use std::time::Duration;

use domain::job::{Concurrency, Job};
use domain::run::{Outcome, Trigger};
use jiff::{SignedDuration, Timestamp};
use services::{boot, commands, scheduler};

use crate::world::{World, job, key};

/// A job whose delay is more than a minute.
fn delayed_job(schedule: &str) -> (Job, SignedDuration) {
    let mut job = job("dump", schedule);
    job.random_delay = Some(Duration::from_secs(600));
    let delay = SignedDuration::try_from(job.delay()).unwrap();
    assert!(delay > SignedDuration::from_secs(60) && delay < SignedDuration::from_secs(600), "{delay}");
    (job, delay)
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_run_starts_after_its_delay_and_keeps_its_nominal_time() {
    let world = World::new("2026-11-23T07:00:30Z");
    let (mut dump, delay) = delayed_job("50 7 * * *");
    dump.start_within = Some(Duration::from_secs(30));
    world.put(&dump).await;
    let nominal = at("2026-11-23T07:50:00Z");
    for early in [nominal, nominal + delay - SignedDuration::from_secs(1)] {
        world.set(&early.to_string());
        assert_eq!(world.schedule().await, scheduler::SchedulerSummary::default(), "{early}");
    }
    assert_eq!(scheduler::next_wake(&world.ports, world.now()).await.unwrap(), nominal + delay);
    world.set(&(nominal + delay).to_string());
    assert_eq!(world.schedule().await.started, 1);
    let orders = world.run_all(0).await;
    assert_eq!((orders.len(), orders[0].nominal, orders[0].trigger), (1, nominal, Trigger::Schedule));
    assert_eq!(orders[0].start_by, Some(nominal + delay + SignedDuration::from_secs(30)));
    world.collect().await;
    assert_eq!(world.history("dump").await, ["07:50 succeeded"]);
}

#[tokio::test]
async fn overlap_and_pauses_are_decided_at_the_delayed_instant() {
    let world = World::new("2026-11-23T07:00:30Z");
    let (mut dump, delay) = delayed_job("*/10 * * * *");
    dump.concurrency = Concurrency::Forbid;
    world.put(&dump).await;
    world.set(&(at("2026-11-23T07:10:00Z") + delay).to_string());
    // The firing of 07:00 came before the job was stored.
    assert_eq!(world.schedule().await.started, 1);
    let first = world.take_orders("r1").await.remove(0);
    world.report_started(&first).await;
    world.collect().await;
    // The run still runs at the nominal time of the next one, and has ended when that is due.
    world.set("2026-11-23T07:20:00Z");
    world.schedule().await;
    world.report_finished(&first, 0).await;
    world.collect().await;
    world.set(&(at("2026-11-23T07:20:00Z") + delay).to_string());
    assert_eq!(world.schedule().await.started, 1);
    // A pause that ends between the nominal time and the delayed instant skips nothing.
    let until = Some(at("2026-11-23T07:30:30Z"));
    commands::pause(&world.ports, &key("dump"), domain::job::Pause::new(world.now(), until, "")).await.unwrap();
    world.run_all(0).await;
    world.collect().await;
    world.set(&(at("2026-11-23T07:30:00Z") + delay).to_string());
    assert_eq!(world.schedule().await.started, 1);
    assert_eq!(world.history("dump").await, ["07:10 succeeded", "07:20 succeeded", "07:30 scheduled"]);
}

#[tokio::test]
async fn a_tick_is_late_only_when_the_delayed_instant_has_passed() {
    let world = World::new("2026-11-23T07:00:30Z");
    let (dump, delay) = delayed_job("50 7 * * *");
    world.put(&dump).await;
    world.schedule().await;
    // Down from before the nominal time until just after the delayed instant.
    world.set(&(at("2026-11-23T07:50:30Z") + delay).to_string());
    assert_eq!(world.schedule().await.started, 1);
    world.run_all(0).await;
    world.collect().await;
    let next = at("2026-11-24T07:50:00Z") + delay + SignedDuration::from_secs(600);
    world.set(&next.to_string());
    assert_eq!(world.schedule().await.missed, 1);
    assert_eq!(world.ledger().await.count(Outcome::Missed), 1);
}

#[tokio::test]
async fn a_changed_delay_moves_the_next_firing_and_repeats_none() {
    let world = World::new("2026-11-23T07:00:30Z");
    let plain = job("dump", "*/10 * * * *");
    world.put(&plain).await;
    world.set("2026-11-23T07:10:00Z");
    assert_eq!(world.schedule().await.started, 1);
    world.run_all(0).await;
    world.collect().await;
    let (dump, delay) = delayed_job("*/10 * * * *");
    world.put(&Job { anchor: Some(at("2026-11-23T07:00:30Z")), ..dump }).await;
    for nominal in ["2026-11-23T07:10:00Z", "2026-11-23T07:20:00Z"] {
        world.set(nominal);
        world.schedule().await;
        world.set(&(at(nominal) + delay).to_string());
        world.schedule().await;
    }
    assert_eq!(world.history("dump").await, ["07:10 succeeded", "07:20 scheduled"]);
}

#[tokio::test]
async fn a_reboot_job_waits_for_its_delay() {
    let world = World::new("2026-11-23T07:49:00Z");
    let (agent, delay) = delayed_job("@reboot");
    world.put(&agent).await;
    assert_eq!(boot::start_reboot_jobs(&world.ports, "boot-1", world.now(), world.now()).await.unwrap(), 1);
    let started_at = world.now() + delay;
    assert_eq!(world.runs("dump").await[0].not_before, Some(started_at));
    assert!(world.take_orders("r1").await.is_empty());
    world.set(&started_at.to_string());
    assert_eq!(world.take_orders("r1").await.len(), 1);
}
