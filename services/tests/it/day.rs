//! A whole day of many jobs with failures of every kind; then the ledger must add up.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::job::{CatchUp, Concurrency, Retries};
use domain::run::{Outcome, Run};
use domain::schedule::{Context, Schedule};
use jiff::Timestamp;
use services::commands;

use crate::world::{World, job};

const JOBS: usize = 200;
const BEGIN: &str = "2026-11-23T00:00:00Z";
const END: &str = "2026-11-24T00:00:00Z";

fn jobs() -> Vec<domain::job::Job> {
    let policies = [Concurrency::Allow, Concurrency::Forbid, Concurrency::Queue, Concurrency::Replace];
    let worths = [CatchUp::Skip, CatchUp::Once, CatchUp::All];
    (0..JOBS)
        .map(|number| {
            let minute = number % 60;
            let schedule = match number % 4 {
                0 => format!("{minute} * * * *"),
                1 => format!("{minute} */6 * * *"),
                2 => format!("{minute} {} * * *", number % 24),
                _ => "@every 47m".to_owned(),
            };
            let mut job = job(&format!("job-{number:03}"), &schedule);
            job.concurrency = policies[number % 3];
            job.catch_up = worths[number % 3];
            job.start_within = Some(Duration::from_secs(1800));
            if number % 5 == 0 {
                job.concurrency = policies[3];
                let on = vec![Outcome::Failed, Outcome::Lost];
                job.retries = Some(Retries { max: 1, delay: Duration::from_secs(300), backoff: 1.0, on });
            }
            job
        })
        .collect()
}

/// One minute of the runner: it usually works; at times it is away, or its jobs fail.
async fn serve_minute(world: &World, minute: i64) {
    let away = (300..345).contains(&minute) || (900..1000).contains(&minute);
    if away {
        return;
    }
    world.send_heartbeat("r1").await;
    for (place, order) in world.take_orders("r1").await.into_iter().enumerate() {
        world.report_started(&order).await;
        match (minute + place as i64) % 23 {
            // Started and never reported, because the runner dies soon after.
            0 if (280..300).contains(&minute) || (880..900).contains(&minute) => {}
            1..=3 => world.report_finished(&order, 1).await,
            _ => world.report_finished(&order, 0).await,
        }
    }
}

#[tokio::test]
async fn after_a_day_of_200_jobs_every_firing_has_exactly_one_outcome() {
    let world = World::new(BEGIN);
    for job in jobs() {
        world.put(&job).await;
    }
    world.schedule().await;
    for minute in 1..1440 {
        world.pass(60);
        if minute == 600 {
            let (group, until) = (Some("db"), Some(world.now() + jiff::SignedDuration::from_mins(30)));
            commands::begin_maintenance(&world.ports, group, until, "", CatchUp::Once, world.now()).await.unwrap();
        }
        let scheduler_down = (400..470).contains(&minute);
        if !scheduler_down {
            world.schedule().await;
        }
        if minute % 7 == 0 && !scheduler_down {
            world.schedule().await;
        }
        world.check_overdue().await;
        world.release_held().await;
        serve_minute(&world, minute).await;
        world.collect().await;
        world.tick_alerts().await;
    }
    // Runs that are open at midnight end within the hour.
    for minute in 1440..1500 {
        world.pass(60);
        world.check_overdue().await;
        world.release_held().await;
        serve_minute(&world, minute).await;
        world.collect().await;
    }
    let ledger = world.ledger().await;
    println!("{ledger:?}");
    assert_eq!(ledger.open, 0);
    for outcome in [Outcome::Succeeded, Outcome::Failed, Outcome::Skipped, Outcome::Missed] {
        assert!(ledger.count(outcome) > 0, "no run of the day was {}", outcome.name());
    }
    assert_eq!(ledger.scheduled, expected_firings(), "one run for each firing of the day, and no other");
    check_one_run_per_firing(&world).await;
}

/// Counted from the schedules only.
fn expected_firings() -> u64 {
    let (begin, end): (Timestamp, Timestamp) = (BEGIN.parse().unwrap(), END.parse().unwrap());
    let firings = |job: domain::job::Job| {
        let context = Context { zone: "UTC", seed: &job.key().to_string(), anchor: begin };
        let schedule = Schedule::parse(&job.schedule, &context).unwrap();
        schedule.firings(begin).take_while(|firing| firing.at < end).count() as u64
    };
    jobs().into_iter().map(firings).sum()
}

async fn check_one_run_per_firing(world: &World) {
    let mut seen: BTreeMap<(String, Timestamp), Run> = BTreeMap::new();
    for job in jobs() {
        for run in world.runs(&job.name).await {
            assert!(run.outcome.is_some() && run.reason.is_some(), "{run:?}");
            assert_eq!(seen.insert((run.job.clone(), run.nominal), run), None);
        }
    }
}
