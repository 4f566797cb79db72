//! A process dies in any call of any port; the next calls of the duties complete its work.

use std::sync::Arc;
use std::time::Duration;

use domain::job::{CatchUp, Concurrency, Retries};
use domain::ports::Ports;
use domain::run::Outcome;
use jiff::Timestamp;
use services::commands::{self, ApplyOptions, BATCH_JOBS};
use services::{collector, overdue, release, scheduler};

use crate::faulty::{Faulty, Moment, Plan};
use crate::world::{World, job};

const JOBS: [&str; 5] = ["plain", "forbid", "queue", "retried", "asleep"];

async fn world_with_jobs() -> World {
    let world = World::new("2026-11-23T07:00:00Z");
    for name in JOBS {
        let schedule = match name {
            "asleep" => "30 7 * * *",
            // A lease delays at most two of its firings: three would be an alert.
            "queue" => "0-8/2 8 * * *",
            // The interval exceeds a lease, so that a run with redelivered reports does not overlap the next one.
            _ => "0-9/3 8 * * *",
        };
        let mut job = job(name, schedule);
        match name {
            "forbid" => job.concurrency = Concurrency::Forbid,
            "queue" => job.concurrency = Concurrency::Queue,
            "retried" => {
                let on = vec![Outcome::Failed];
                job.retries = Some(Retries { max: 1, delay: Duration::from_secs(30), backoff: 1.0, on });
            }
            "asleep" => job.catch_up = CatchUp::Skip,
            _ => {}
        }
        world.put(&job).await;
    }
    world.schedule().await;
    world
}

/// One minute of all duties over ports that may fail. The loop calls a failed duty again.
async fn run_minute(world: &World, ports: &Ports) {
    let now = world.now();
    while scheduler::tick(ports, now).await.is_err() {}
    while check_open_runs(ports, now).await.is_err() {}
    while collect_reports(world, ports).await.is_err() {}
}

async fn check_open_runs(ports: &Ports, now: Timestamp) -> services::Result<()> {
    let open = overdue::list_open_runs(ports).await?;
    release::release_due(ports, &open, now).await?;
    overdue::tick(ports, &open, now).await?;
    Ok(())
}

async fn collect_reports(world: &World, ports: &Ports) -> services::Result<collector::CollectorSummary> {
    let reports = collector::receive(ports, Duration::ZERO).await?;
    collector::collect(ports, &world.packs, reports, world.now()).await
}

/// A quarter of an hour in which runs start, wait for each other, fail, are retried and end. Every order is run in the
/// minute in which it arrives.
async fn run_story(world: &World, plan: &Arc<Plan>) -> (Vec<String>, Vec<String>) {
    let ports = Faulty::ports(&world.ports, plan);
    for second in (0..=840).step_by(60) {
        world.set("2026-11-23T08:00:00Z");
        world.pass(second);
        run_minute(world, &ports).await;
        world.send_heartbeat("r1").await;
        for order in world.take_orders("r1").await {
            world.report_started(&order).await;
            let fails = order.job.name == "retried" && order.attempt == 1;
            world.report_finished(&order, i32::from(fails)).await;
        }
        // Reports of a collector that died are redelivered after their lease.
        while collect_reports(world, &ports).await.is_err() {}
    }
    let mut histories = Vec::new();
    for name in JOBS {
        histories.extend(world.history(name).await.into_iter().map(|line| format!("{name} {line}")));
    }
    let alerts = world.ports.alerts.list(None, 100).await.unwrap().records;
    let mut alerts: Vec<String> = alerts.into_iter().map(|transition| transition.id).collect();
    alerts.sort();
    (histories, alerts)
}

#[tokio::test]
async fn death_in_any_call_leaves_the_same_runs_and_alerts() {
    let whole = Plan::new(usize::MAX, Moment::Before);
    let wanted = run_story(&world_with_jobs().await, &whole).await;
    assert_eq!(wanted.0.len(), 18, "{wanted:?}");
    assert!(wanted.0.iter().all(|line| line.ends_with("succeeded") || line == "asleep 07:30 missed"), "{wanted:?}");
    assert_eq!(wanted.1.len(), 1, "{wanted:?}");
    // Every call of the first minutes, in which each kind of call happens once; then a sample of the rest.
    let calls = (0..30).chain((30..whole.made()).step_by(23));
    for call in calls {
        for moment in [Moment::Before, Moment::After] {
            let plan = Plan::new(call, moment);
            let got = run_story(&world_with_jobs().await, &plan).await;
            assert_eq!(got, wanted, "after dying {moment:?} call {call}");
        }
    }
}

/// Each call is one transaction, and other writes wait for at most one.
#[tokio::test]
async fn an_apply_of_many_jobs_changes_few_in_one_call() {
    let file = |schedule: &str, from: usize| -> Vec<_> {
        (from..1700).map(|number| job(&format!("job-{number}"), schedule)).collect()
    };
    let (plan, world) = (Plan::new(usize::MAX, Moment::Before), World::new("2026-11-23T07:00:00Z"));
    let ports = Faulty::ports(&world.ports, &plan);
    let how = ApplyOptions { prune: true, dry_run: false };
    let apply = async |jobs: Vec<_>| {
        let done = commands::apply(&ports, "f", &jobs, how, world.now()).await.unwrap();
        let is_stored = world.ports.jobs.list(None, None, 2000).await.unwrap().records.len() == jobs.len();
        let entries =
            world.ports.due.list(0, world.now(), "2027-01-01T00:00:00Z".parse().unwrap(), 2000).await.unwrap();
        let counts = [done.added.len(), done.changed.len(), done.unchanged, done.removed.len()];
        (counts, is_stored && entries.len() == jobs.len())
    };
    assert_eq!(apply(file("0 9 * * *", 0)).await, ([1700, 0, 0, 0], true));
    assert_eq!(apply(file("0 8 * * *", 0)).await, ([0, 1700, 0, 0], true));
    assert_eq!(apply(file("0 8 * * *", 1690)).await, ([0, 0, 10, 1690], true));
    // They return in time for the firing at 08:00.
    world.set("08:10");
    let (counts, _) = apply(file("0 8 * * *", 0)).await;
    assert_eq!(counts, [1690, 0, 10, 0]);
    assert!(plan.largest() == BATCH_JOBS, "{} in one call", plan.largest());
}

/// A file of several batches; a call that stored nothing fails, or the answer of one that stored a batch is lost.
#[tokio::test]
async fn an_interrupted_apply_is_completed_by_the_next() {
    let jobs: Vec<_> = (0..1200).map(|number| job(&format!("job-{number}"), "0 9 * * *")).collect();
    let how = ApplyOptions::default();
    for moment in [Moment::Before, Moment::After] {
        let counting = Plan::new(usize::MAX, moment);
        let world = World::new("2026-11-23T07:00:00Z");
        commands::apply(&Faulty::ports(&world.ports, &counting), "f", &jobs, how, world.now()).await.unwrap();
        for call in 0..counting.made() {
            let world = World::new("2026-11-23T07:00:00Z");
            let faulty = Faulty::ports(&world.ports, &Plan::new(call, moment));
            commands::apply(&faulty, "f", &jobs, how, world.now()).await.unwrap_err();
            let again = commands::apply(&world.ports, "f", &jobs, how, world.now()).await.unwrap();
            assert_eq!(again.added.len() + again.unchanged, jobs.len(), "call {call}");
            let at = "2026-11-23T09:00:00Z".parse().unwrap();
            let entries = world.ports.due.list(0, at, at, 2000).await.unwrap();
            assert_eq!(entries.len(), jobs.len(), "every job has its due entry, call {call}");
        }
    }
}
