//! A change of the tzdata while jobs are stored: due entries are computed again, and no firing is lost or doubled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use domain::job::CatchUp;
use domain::run::Trigger;
use domain::zones::{ZoneDatabase, ZoneRelease, use_database};
use jiff::tz::{Offset, TimeZone};

use crate::world::{World, job};

/// A tzdata in which each test has a zone of its own, with this offset in hours. Other zones are the built-in ones.
struct TestZones;

static OFFSETS: Mutex<BTreeMap<&str, i8>> = Mutex::new(BTreeMap::new());

impl ZoneDatabase for TestZones {
    fn release(&self) -> ZoneRelease {
        let stamp = format!("{:?}", OFFSETS.lock().unwrap());
        ZoneRelease { version: Some("2999a".to_owned()), place: "test".to_owned(), stamp }
    }

    fn zone(&self, name: &str) -> Option<TimeZone> {
        OFFSETS.lock().unwrap().get(name).map(|hours| TimeZone::fixed(Offset::constant(*hours)))
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// From now on, the zone has this offset.
fn set_offset(zone: &'static str, hours: i8) {
    OFFSETS.lock().unwrap().insert(zone, hours);
    use_database(Arc::new(TestZones));
}

/// A job at 09:30 of its zone, whose first firing by this offset has been processed until `now`.
async fn with_job(zone: &'static str, hours: i8, catch_up: CatchUp, now: &str) -> World {
    set_offset(zone, hours);
    let world = World::new("2026-11-23T00:00:00Z");
    let mut job = job("report", "30 9 * * *");
    job.zone = zone.to_owned();
    job.catch_up = catch_up;
    world.put(&job).await;
    services::sweep::sweep(&world.ports, world.now()).await.unwrap();
    world.set(now);
    world.schedule().await;
    world
}

async fn tick_with(world: &World, zone: &'static str, hours: i8, now: &str) {
    set_offset(zone, hours);
    world.set(now);
    world.schedule().await;
}

#[tokio::test]
async fn a_firing_that_new_rules_move_ahead_starts_at_its_new_time() {
    let zone = "Test/Ahead";
    let world = with_job(zone, 0, CatchUp::Skip, "2026-11-23T07:00:00Z").await;
    tick_with(&world, zone, 2, "2026-11-23T07:10:00Z").await;
    assert!(world.history("report").await.is_empty());
    for now in ["2026-11-23T07:30:00Z", "2026-11-23T09:30:00Z", "2026-11-23T20:00:00Z"] {
        tick_with(&world, zone, 2, now).await;
        assert_eq!(world.history("report").await, ["07:30 scheduled"], "{now}");
    }
    tick_with(&world, zone, 2, "2026-11-24T07:30:00Z").await;
    assert_eq!(world.runs("report").await.len(), 2);
}

#[tokio::test]
async fn a_firing_that_new_rules_move_into_the_past_is_missed_as_while_down() {
    for (catch_up, outcome) in [(CatchUp::Skip, "07:30 missed"), (CatchUp::Once, "07:30 scheduled")] {
        let zone = "Test/Past";
        // The scheduler ticked at 08:00 by the old rules, and next at 08:10 by the new ones.
        let world = with_job(zone, 0, catch_up, "2026-11-23T08:00:00Z").await;
        for now in ["2026-11-23T08:10:00Z", "2026-11-23T08:11:00Z", "2026-11-23T09:30:00Z"] {
            tick_with(&world, zone, 2, now).await;
            assert_eq!(world.history("report").await, [outcome], "{now}");
        }
    }
}

#[tokio::test]
async fn a_firing_during_downtime_that_new_rules_move_ahead_is_missed() {
    let zone = "Test/Down";
    let world = with_job(zone, 0, CatchUp::Once, "2026-11-23T01:00:00Z").await;
    // Three days down: by the old rules 09:30 each day, by the new ones 07:30.
    tick_with(&world, zone, 2, "2026-11-25T08:00:00Z").await;
    let runs = world.runs("report").await;
    let nominal: Vec<String> = runs.iter().map(|run| run.nominal.to_string()).collect();
    assert_eq!(nominal, ["2026-11-23T07:30:00Z", "2026-11-24T07:30:00Z", "2026-11-25T07:30:00Z"]);
    assert_eq!(runs[2].trigger, Trigger::CatchUp);
}

#[tokio::test]
async fn a_firing_that_has_a_run_is_not_repeated_when_the_rules_change() {
    let zone = "Test/Done";
    let world = with_job(zone, 0, CatchUp::All, "2026-11-23T09:30:00Z").await;
    assert_eq!(world.history("report").await, ["09:30 scheduled"]);
    tick_with(&world, zone, 2, "2026-11-23T10:00:00Z").await;
    tick_with(&world, zone, 2, "2026-11-24T07:00:00Z").await;
    assert_eq!(world.history("report").await, ["09:30 scheduled"]);
    tick_with(&world, zone, 2, "2026-11-24T07:30:00Z").await;
    assert_eq!(world.history("report").await, ["09:30 scheduled", "07:30 scheduled"]);
}

#[tokio::test]
async fn a_job_that_did_not_exist_yet_missed_nothing() {
    let zone = "Test/Young";
    set_offset(zone, 0);
    let world = World::new("2026-11-23T08:00:00Z");
    world.schedule().await;
    let mut job = job("report", "30 9 * * *");
    job.zone = zone.to_owned();
    world.put(&job).await;
    // By the new rules it fires at 07:30. The sweep has not recorded its zone yet.
    tick_with(&world, zone, 2, "2026-11-23T08:10:00Z").await;
    tick_with(&world, zone, 2, "2026-11-23T09:30:00Z").await;
    assert!(world.history("report").await.is_empty());
}
