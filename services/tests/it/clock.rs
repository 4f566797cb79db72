//! The clock jumps forward, back, and over changes of local time; two schedulers; orders delivered twice. No nominal
//! time is started twice, and nothing waits for a time that a wrong clock showed.

use std::time::Duration;

use domain::job::CatchUp;
use domain::run::Outcome;
use services::{overdue, scheduler, sweep};

use crate::world::{World, job};

/// One minute of the loops of one process, with a runner that finishes each order at once.
async fn run_minute(world: &World) {
    world.run_duties().await;
    world.send_heartbeat("r1").await;
    world.run_all(0).await;
    while world.collect().await.received > 0 {}
}

#[tokio::test]
async fn a_clock_set_back_by_an_hour_fires_each_minute_once() {
    let world = World::new("2026-11-23T07:59:00Z");
    world.put(&job("dump", "* * * * *")).await;
    for _ in 0..90 {
        world.pass(60);
        run_minute(&world).await;
    }
    world.pass(-3600);
    for _ in 0..120 {
        world.pass(60);
        run_minute(&world).await;
    }
    let runs = world.runs("dump").await;
    assert_eq!(runs.len(), 150, "from 08:00 to 10:29");
    assert!(runs.iter().all(|run| run.outcome == Some(Outcome::Succeeded) && run.attempt == 1), "{runs:?}");
}

/// The history of a job that fires every ten minutes, after the clock jumps from 08:00 to 09:05.
async fn history_after_jump(catch_up: CatchUp) -> Vec<String> {
    let world = World::new("2026-11-23T07:59:00Z");
    let mut dump = job("dump", "*/10 * * * *");
    dump.catch_up = catch_up;
    world.put(&dump).await;
    for now in ["08:00", "09:05", "09:06", "09:10"] {
        world.set(&format!("2026-11-23T{now}:00Z"));
        run_minute(&world).await;
    }
    world.history("dump").await
}

#[tokio::test]
async fn a_clock_that_jumps_forward_follows_catch_up() {
    let wanted = |outcomes: [&str; 8]| -> Vec<String> {
        let minutes = ["08:00", "08:10", "08:20", "08:30", "08:40", "08:50", "09:00", "09:10"];
        minutes.iter().zip(outcomes).map(|(minute, outcome)| format!("{minute} {outcome}")).collect()
    };
    let (good, missed, skipped) = ("succeeded", "missed", "skipped");
    let skip = history_after_jump(CatchUp::Skip).await;
    assert_eq!(skip, wanted([good, missed, missed, missed, missed, missed, missed, good]));
    let once = history_after_jump(CatchUp::Once).await;
    assert_eq!(once, wanted([good, skipped, skipped, skipped, skipped, skipped, good, good]));
    assert_eq!(history_after_jump(CatchUp::All).await, wanted([good; 8]));
}

/// For ten minutes the clock is a year ahead: it had no battery, or a guest was resumed.
async fn world_a_year_ahead(catch_up: CatchUp) -> World {
    let world = World::new("2026-11-23T07:59:00Z");
    let mut dump = job("dump", "0 * * * *");
    dump.catch_up = catch_up;
    world.put(&dump).await;
    for now in ["2026-11-23T08:00", "2027-11-23T08:00", "2027-11-23T08:10", "2026-11-23T08:10"] {
        world.set(&format!("{now}:00Z"));
        run_minute(&world).await;
    }
    for minute in 1..=120 {
        world.set("2026-11-23T08:10:00Z");
        world.pass(minute * 60);
        run_minute(&world).await;
    }
    world
}

#[tokio::test]
async fn jobs_continue_after_a_clock_was_a_year_ahead() {
    for catch_up in [CatchUp::Skip, CatchUp::Once] {
        let world = world_a_year_ahead(catch_up).await;
        let history: Vec<(String, Option<Outcome>)> = world
            .runs("dump")
            .await
            .iter()
            .filter(|run| run.nominal < "2026-12-01T00:00:00Z".parse().unwrap())
            .map(|run| (run.nominal.strftime("%H:%M").to_string(), run.outcome))
            .collect();
        let good = |minute: &str| (minute.to_owned(), Some(Outcome::Succeeded));
        assert_eq!(history, [good("08:00"), good("09:00"), good("10:00")], "{catch_up:?}");
    }
}

#[tokio::test]
async fn firings_that_a_wrong_clock_ended_as_missed_start_at_their_time() {
    let world = World::new("2026-11-23T07:59:00Z");
    world.put(&job("dump", "*/10 * * * *")).await;
    for now in ["08:00", "10:35", "08:01", "08:10", "08:20"] {
        world.set(&format!("2026-11-23T{now}:00Z"));
        run_minute(&world).await;
    }
    let history = world.history("dump").await;
    assert_eq!(history[..4], ["08:00 succeeded", "08:10 succeeded", "08:20 succeeded", "08:30 missed"]);
    for now in ["10:20", "10:30", "10:40"] {
        world.set(&format!("2026-11-23T{now}:00Z"));
        run_minute(&world).await;
    }
    let runs = world.runs("dump").await;
    let missed: Vec<&str> =
        runs.iter().filter(|run| run.outcome == Some(Outcome::Missed)).map(|run| run.job.as_str()).collect();
    assert_eq!((runs.len(), missed.len()), (17, 11), "the firings from 08:30 to 10:10 are really missed");
}

#[tokio::test]
async fn runs_started_by_a_wrong_clock_are_not_started_twice() {
    let world = World::new("2026-11-23T07:59:00Z");
    let mut dump = job("dump", "*/10 * * * *");
    dump.catch_up = CatchUp::All;
    world.put(&dump).await;
    let mut started = 0;
    for now in ["08:00", "09:00", "08:01", "08:10", "08:20", "08:30", "08:40", "08:50", "09:00", "09:10"] {
        world.set(&format!("2026-11-23T{now}:00Z"));
        world.run_duties().await;
        world.send_heartbeat("r1").await;
        started += world.run_all(0).await.len();
        while world.collect().await.received > 0 {}
    }
    assert_eq!((started, world.runs("dump").await.len()), (8, 8));
}

#[tokio::test]
async fn a_dead_runner_with_a_heartbeat_in_the_future_is_found() {
    let world = World::new("2027-11-23T08:00:00Z");
    world.put(&job("dump", "* * * * *")).await;
    world.check_overdue().await;
    world.send_heartbeat("r1").await;
    world.set("2026-11-23T08:00:00Z");
    world.send_heartbeat("r1").await;
    sweep::sweep(&world.ports, world.now()).await.unwrap();
    world.check_overdue().await;
    world.set("2026-11-23T08:01:00Z");
    world.schedule().await;
    world.send_heartbeat("r1").await;
    let order = world.take_orders("r1").await.remove(0);
    world.report_started(&order).await;
    world.collect().await;
    let mut lost = 0;
    for _ in 0..5 {
        world.pass(60);
        lost += world.check_overdue().await.lost;
    }
    assert_eq!(lost, 1, "the runner died; {:?}", world.history("dump").await);
}

#[tokio::test]
async fn a_clock_set_back_hides_no_report_and_no_order() {
    let world = World::new("2026-11-23T07:59:00Z");
    world.put(&job("dump", "* * * * *")).await;
    world.pass(60);
    world.schedule().await;
    // A runner receives the order and dies; then the clock is set back by an hour.
    let lease = Duration::from_secs(60);
    assert_eq!(world.ports.orders.receive(&[], 10, lease, Duration::ZERO).await.unwrap().len(), 1);
    world.pass(-3600);
    let orders = world.run_all(0).await;
    assert_eq!(orders.len(), 1);
    // A collector receives the reports and dies in the same way.
    assert_eq!(world.ports.reports.receive(10, lease, Duration::ZERO).await.unwrap().len(), 2);
    assert_eq!(world.collect().await.received, 0, "a lease holds");
    world.pass(-3600);
    assert_eq!(world.collect().await.ended, 1);
    assert_eq!(world.history("dump").await, ["08:00 succeeded"]);
}

#[tokio::test]
async fn a_clock_set_back_hides_no_alert() {
    let world = World::new("2026-11-23T07:59:00Z");
    world.put(&job("dump", "0 8 * * *")).await;
    world.pass(60);
    world.schedule().await;
    world.run_all(1).await;
    world.collect().await;
    // A worker claims the alert and dies; then the clock is set back.
    let until = world.now() + jiff::SignedDuration::from_secs(300);
    assert_eq!(world.ports.alerts.claim("dead", world.now(), until, 10).await.unwrap().len(), 1);
    assert!(world.send_alerts().await.is_empty(), "a claim holds");
    world.pass(-3600);
    world.pass(60);
    assert_eq!(world.send_alerts().await.len(), 1);
}

/// Changes of local time as in cronie, in the job's own zone: one run each.
#[tokio::test]
async fn a_change_of_clocks_fires_daily_jobs_once_and_hourly_ones_each_hour() {
    // Paris: 2027-03-28 02:00 to 03:00, 2027-10-31 03:00 to 02:00.
    for (begin, daily_at, hourly) in
        [("2027-03-28T00:00:00Z", "2027-03-28T01:00:00Z", 4), ("2027-10-31T00:00:00Z", "2027-10-31T00:30:00Z", 4)]
    {
        let world = World::new(begin);
        for (name, schedule) in [("daily", "30 2 * * *"), ("hourly", "15 * * * *")] {
            let mut job = job(name, schedule);
            job.zone = "Europe/Paris".to_owned();
            world.put(&job).await;
        }
        for _ in 0..240 {
            world.pass(60);
            run_minute(&world).await;
        }
        let nominal: Vec<String> = world.runs("daily").await.iter().map(|run| run.nominal.to_string()).collect();
        assert_eq!(nominal, [daily_at]);
        assert_eq!(world.runs("hourly").await.len(), hourly, "{begin}");
        assert_eq!(world.ledger().await.count(Outcome::Succeeded), 1 + hourly as u64);
    }
}

/// The closest simulation of two machines: one file, two writers, each with its own threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_schedulers_over_one_file_with_clocks_that_differ_start_each_run_once() {
    const JOBS: usize = 40;
    let world = World::new("2026-11-23T07:49:00Z");
    for number in 0..JOBS {
        let mut job = job(&format!("job-{number:02}"), "* * * * *");
        job.catch_up = [CatchUp::Skip, CatchUp::Once, CatchUp::All][number % 3];
        world.put(&job).await;
    }
    let other = world.open_second();
    for minute in 0..10 {
        world.set("2026-11-23T07:50:00Z");
        world.pass(minute * 60);
        let now = world.now();
        let ahead = now + jiff::SignedDuration::from_secs([0, 20, -20][minute as usize % 3]);
        let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(2));
        let ticks = [(world.ports.clone(), now), (other.clone(), ahead)].map(|(ports, now)| {
            let barrier = barrier.clone();
            tokio::spawn(async move {
                barrier.wait().await;
                scheduler::tick(&ports, now).await.unwrap();
                let open = overdue::list_open_runs(&ports).await.unwrap();
                overdue::tick(&ports, &open, now).await.unwrap()
            })
        });
        for tick in ticks {
            tick.await.unwrap();
        }
        // Two runners at once, each over one connection. Both may receive the same order.
        let (one, two) = tokio::join!(claim_all(&world.ports, &world, "r1"), claim_all(&other, &world, "r2"));
        assert_eq!(one + two, JOBS, "in minute {minute}");
    }
    assert_eq!(world.ledger().await.scheduled, 10 * JOBS as u64);
}

/// Receives and claims without deleting, so that both runners receive every order.
async fn claim_all(ports: &domain::ports::Ports, world: &World, runner: &str) -> usize {
    let mut granted = 0;
    for order in ports.orders.receive(&[], 1000, Duration::ZERO, Duration::ZERO).await.unwrap() {
        let order = order.message;
        let claim = ports
            .claims
            .claim(&order.run_key(), order.attempt, domain::ports::Claimant::new(runner, "h1"), world.now())
            .await
            .unwrap();
        let run = world.run(&order.run_id).await;
        granted += usize::from(
            claim == domain::ports::Claim::Granted
                && run.claimed_at == Some(world.now())
                && run.runner.as_deref() == Some(runner),
        );
    }
    granted
}
