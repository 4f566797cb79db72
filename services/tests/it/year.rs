//! A simulated year: jobs with all kinds of schedules, two schedulers, runners, operators, and failures of every kind.
//! The ledger must add up at every midnight. A few days later, each day's runs must be exactly the firings of its
//! schedules, each ended once and as its runner reported.
//!
//! `cargo test --release -p services --test it -- --ignored a_year --nocapture` runs the whole year. `SEXTON_SEED`
//! chooses another year, `SEXTON_DAYS` a shorter one (at least eight). On 2026-11-26, on 2 virtual cores with tests
//! beside it, the year took 2087 s; alone, 30 days take 121 to 126 s, on little more than one core.

mod disturbances;
mod expected_runs;
mod fleet_jobs;
mod fleet_runners;
mod seeded_random;

use std::time::{Duration, Instant};

use domain::job::Job;
use domain::run::Outcome;
use jiff::{SignedDuration, Timestamp};
use services::pruner;

use crate::world::World;
use disturbances::Disturbances;
use expected_runs::ExpectedRuns;
use fleet_runners::FleetRunners;
use seeded_random::SeededRandom;

struct Scale {
    begin: &'static str,
    days: i64,
    jobs: usize,
    /// Failures become rarer with larger numbers; with 1 they are frequent.
    rarity: u64,
    seed: u64,
}

/// Days after which all runs of a day have ended: one for its start, one and a half for its report, the rest as
/// reserve.
const SETTLED_DAYS: i64 = 5;

/// Days for which runs are kept.
const KEPT_DAYS: i64 = 12;

/// Progress is printed after this number of days.
const REPORT_DAYS: i64 = 30;

/// Without due entries, runs and reports under way, only every thirtieth minute is simulated.
const IDLE_STEP_MINUTES: i64 = 30;

/// Minutes simulated after the last event: enough for the heartbeat timeout of a dead runner.
const BUSY_MINUTES: i64 = 3;

/// Ten days with the end of summer time in Europe.
#[tokio::test]
async fn ten_days_of_500_jobs_add_up_at_every_midnight() {
    let scale = Scale { begin: "2027-10-25T00:00:00Z", days: 10, jobs: 500, rarity: 1, seed: seed() };
    live_through(&scale).await;
}

/// With the 29th of February 2028 and every change of clocks.
#[tokio::test]
#[ignore = "half an hour, even in release mode"]
async fn a_year_of_10_000_jobs_adds_up_at_every_midnight() {
    let days = number("SEXTON_DAYS").unwrap_or(366) as i64;
    let scale = Scale { begin: "2027-07-01T00:00:00Z", days, jobs: 10_000, rarity: 10, seed: seed() };
    live_through(&scale).await;
}

fn seed() -> u64 {
    number("SEXTON_SEED").unwrap_or(20_271_025)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

async fn live_through(scale: &Scale) {
    println!("SEXTON_SEED={}", scale.seed);
    let started_at = Instant::now();
    let mut year = Year::new(scale).await;
    let end = year.begin + SignedDuration::from_hours(24 * scale.days);
    while year.midnight < end {
        year.minute().await;
        year.step().await;
        while year.world.now() >= year.midnight {
            year.midnight().await;
            if (year.midnight.duration_since(year.begin).as_hours() / 24) % REPORT_DAYS == 0 {
                year.report(started_at);
            }
        }
    }
    year.report(started_at);
    let expected = &year.expected;
    assert!(expected.total.adds_up());
    for outcome in Outcome::ALL.into_iter().filter(|outcome| *outcome != Outcome::FalseSuccess) {
        assert!(expected.total.count(outcome) > 0, "no run of all was {}", outcome.name());
    }
    assert!(expected.total.count(Outcome::Succeeded) > expected.total.scheduled / 2, "{:?}", expected.total);
}

struct Year {
    world: World,
    random: SeededRandom,
    jobs: Vec<Job>,
    runners: FleetRunners,
    disturbances: Disturbances,
    expected: ExpectedRuns,
    begin: Timestamp,
    /// The next midnight.
    midnight: Timestamp,
    last_event: Timestamp,
    ticks: u64,
    alerts: usize,
}

impl Year {
    fn report(&self, started_at: Instant) {
        println!(
            "{}: {} ticks, {} attempts, {} alerts in {:?}: {:?}",
            self.world.now(),
            self.ticks,
            self.expected.attempts_started,
            self.alerts,
            started_at.elapsed(),
            self.expected.total
        );
    }

    async fn new(scale: &Scale) -> Year {
        let world = World::in_directory(memory(), scale.begin);
        let begin = world.now();
        let mut random = SeededRandom::new(scale.seed);
        let mut expected = ExpectedRuns::new(begin);
        let mut jobs = Vec::with_capacity(scale.jobs);
        world.schedule().await;
        for number in 0..scale.jobs {
            let job = fleet_jobs::job(number, begin, scale.days, &mut random);
            let stored = services::commands::put(&world.ports, &job, begin).await.unwrap();
            expected.record_job(&stored, begin);
            jobs.push(stored);
        }
        let (disturbances, midnight) =
            (Disturbances::new(&world, scale.rarity), begin + SignedDuration::from_hours(24));
        let (runners, last_event) = (FleetRunners::new(scale.rarity), begin);
        Year { world, random, jobs, runners, disturbances, expected, begin, midnight, last_event, ticks: 0, alerts: 0 }
    }

    /// Simulates one minute.
    async fn minute(&mut self) {
        let Year { world, random, jobs, runners, disturbances, expected, .. } = self;
        self.ticks += 1;
        let moved = disturbances.move_clock(world, expected, random);
        if disturbances.tick(world, expected, random).await {
            disturbances.act_as_operator(world, expected, runners, jobs, random).await;
        }
        if !random.one_in(50) {
            world.check_open_runs().await;
        }
        // The sweep checks every job and finds nothing, except after a clock was set back. Then it would run within a
        // quarter of an hour; here it runs at once.
        if moved || random.one_in(400) {
            services::sweep::sweep(&world.ports, world.now()).await.unwrap();
        }
        runners.run_minute(world, expected, random).await;
        if !random.one_in(50) {
            while world.collect().await.received > 0 {}
        }
        if self.ticks.is_multiple_of(5) {
            self.alerts += world.send_alerts().await.len();
        }
    }

    /// Advances to the next minute in which anything may happen.
    async fn step(&mut self) {
        let now = self.world.now();
        let minute = Timestamp::from_second(now.as_second().div_euclid(60) * 60).unwrap();
        let minutes_on = |minutes| minute + SignedDuration::from_mins(minutes);
        let after = now + SignedDuration::from_nanos(1);
        let due = self.world.ports.due.list(0, after, minutes_on(IDLE_STEP_MINUTES), 1).await.unwrap();
        let event = due.first().map(|entry| entry.at).into_iter().chain(self.runners.next());
        let event = event.chain(self.disturbances.next(now)).min();
        let busy = self.last_event + SignedDuration::from_mins(BUSY_MINUTES) > now;
        let next = match event {
            _ if busy => minutes_on(1),
            Some(at) => Timestamp::from_second((at.as_second() + 59).div_euclid(60) * 60).unwrap(),
            None => minutes_on(IDLE_STEP_MINUTES),
        };
        let next = next.clamp(minutes_on(1), minutes_on(IDLE_STEP_MINUTES));
        self.last_event = if event.is_some_and(|at| at <= next) { next } else { self.last_event.min(next) };
        self.world.set(&next.to_string());
    }

    async fn midnight(&mut self) {
        self.world.ledger().await;
        let now = self.midnight;
        self.midnight = now + SignedDuration::from_hours(24);
        let settled = now - SignedDuration::from_hours(24 * (SETTLED_DAYS + 1));
        if settled >= self.begin {
            self.expected.check_day(&self.world.ports, settled).await;
            self.expected.forget_troubles(settled);
        }
        let age_max = Duration::from_secs(KEPT_DAYS as u64 * 86_400);
        let keep = pruner::RetentionPolicy { age_max, ..pruner::RetentionPolicy::default() };
        while pruner::tick(&self.world.ports, &keep, self.world.now()).await.unwrap().more {}
        self.runners.forget_before(now - SignedDuration::from_hours(24 * KEPT_DAYS));
    }
}

/// In memory where possible: a year of disk syncs would take too long.
fn memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
