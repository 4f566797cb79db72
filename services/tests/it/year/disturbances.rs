//! Failures and commands of operators. The scheduler is down, dies halfway, ticks late, twice or ahead; the clock is
//! set back and forth. Jobs are edited, paused, removed and restored; groups are under maintenance; runs are stopped
//! and started.

use domain::job::{CatchUp, Job, JobKey};
use domain::ports::Ports;
use jiff::{SignedDuration, Timestamp};
use services::{commands, scheduler};

use super::expected_runs::ExpectedRuns;
use super::fleet_jobs::{self, GROUPS};
use super::fleet_runners::FleetRunners;
use super::seeded_random::SeededRandom;
use crate::faulty::{Faulty, Moment, Plan};
use crate::world::World;

/// Time around a moved clock or a downtime in which firings may be late. What came due during it may be up to three
/// hours old.
const AFTERMATH: SignedDuration = SignedDuration::from_mins(5);

pub(crate) struct Disturbances {
    /// The second scheduler: the same file through its own writer.
    other: Ports,
    down_until: Timestamp,
    /// Whether the last tick completed. Two in a row never fail.
    ticked: bool,
    /// By how many minutes the clock is wrong, and until when.
    wrong: Option<(i64, Timestamp)>,
    removed: Vec<Job>,
    /// Failures become rarer with larger numbers; with 1 they are frequent.
    rarity: u64,
}

impl Disturbances {
    pub(crate) fn new(world: &World, rarity: u64) -> Disturbances {
        Disturbances {
            other: world.open_second(),
            down_until: Timestamp::MIN,
            ticked: true,
            wrong: None,
            removed: Vec::new(),
            rarity,
        }
    }

    /// When the scheduler is up again: it then ticks every minute.
    pub(crate) fn next(&self, now: Timestamp) -> Option<Timestamp> {
        Some(self.down_until).filter(|until| *until > now)
    }

    /// Moves the clock at times. Returns whether it did.
    pub(crate) fn move_clock(&mut self, world: &World, expected: &mut ExpectedRuns, random: &mut SeededRandom) -> bool {
        let now = world.now();
        let minutes = match self.wrong {
            Some((minutes, until)) if until <= now => {
                self.wrong = None;
                -minutes
            }
            Some(_) => return false,
            None if random.one_in(300 * self.rarity) => -random.between(1, 180),
            None if random.one_in(300 * self.rarity) => random.between(1, 180),
            // For ten minutes the clock shows another hour.
            None if random.one_in(300 * self.rarity) => {
                let minutes = *random.one_of(&[-120, -60, 60, 120, 180]);
                self.wrong = Some((minutes, now + SignedDuration::from_mins(minutes + 10)));
                minutes
            }
            None => return false,
        };
        world.pass(minutes * 60);
        self.down_until = self.down_until.min(world.now() + SignedDuration::from_hours(8));
        expected.record_clock_change(world.now());
        let (from, to) = (now.min(world.now()), now.max(world.now()));
        expected.troubles.push((from - AFTERMATH, to + AFTERMATH));
        true
    }

    /// Ticks. Returns whether a tick at `now` completed.
    pub(crate) async fn tick(&mut self, world: &World, expected: &mut ExpectedRuns, random: &mut SeededRandom) -> bool {
        let now = world.now();
        if self.down_until > now {
            return false;
        }
        if random.one_in(250 * self.rarity) {
            self.down_until = now + SignedDuration::from_mins(random.between(2, 480));
            expected.troubles.push((now - AFTERMATH, self.down_until + AFTERMATH));
            return false;
        }
        match random.below(40) {
            // No tick; the one of the next minute serves both.
            0 if self.ticked => self.ticked = false,
            1 if self.ticked => {
                let moment = *random.one_of(&[Moment::Before, Moment::After]);
                let faulty = Faulty::ports(&world.ports, &Plan::new(random.below(14) as usize, moment));
                // The scheduler died; no other one ticks before the next minute.
                self.ticked = scheduler::tick(&faulty, now).await.is_ok();
            }
            2 | 3 => {
                self.ticked = true;
                world.schedule().await;
                world.schedule().await;
            }
            // Both at once, with clocks that differ.
            4..=9 => {
                self.ticked = true;
                let skewed = now + SignedDuration::from_secs(random.between(-30, 30));
                let (one, other) =
                    tokio::join!(scheduler::tick(&world.ports, now), scheduler::tick(&self.other, skewed));
                one.and(other).unwrap();
                expected.horizon = expected.horizon.max(skewed);
            }
            _ => {
                self.ticked = true;
                world.schedule().await;
            }
        }
        if self.ticked {
            expected.horizon = expected.horizon.max(now);
        }
        self.ticked
    }

    /// Commands of operators. Only right after a tick, so that the book knows what the scheduler had fired.
    pub(crate) async fn act_as_operator(
        &mut self,
        world: &World,
        expected: &mut ExpectedRuns,
        runners: &FleetRunners,
        jobs: &mut [Job],
        random: &mut SeededRandom,
    ) {
        let now = world.now();
        if random.one_in(6 * self.rarity) {
            let index = random.below(jobs.len() as u64) as usize;
            self.edit(world, expected, runners, &mut jobs[index], random).await;
        }
        if random.one_in(150 * self.rarity) {
            let group = if random.one_in(4) { None } else { Some(*random.one_of(&GROUPS)) };
            let until = Some(now + SignedDuration::from_mins(random.between(5, 240)));
            let catch_up = *random.one_of(&[CatchUp::Skip, CatchUp::Once, CatchUp::All]);
            commands::begin_maintenance(&world.ports, group, until, "new disks", "test", catch_up, now).await.unwrap();
        }
        if random.one_in(20 * self.rarity)
            && let Some(run_id) = runners.reporting_orders().next().map(|order| order.run_id.clone())
        {
            // The run may have ended.
            let _ = commands::stop(&world.ports, &run_id, "owner", now).await;
        }
    }

    async fn edit(
        &mut self,
        world: &World,
        expected: &mut ExpectedRuns,
        runners: &FleetRunners,
        job: &mut Job,
        random: &mut SeededRandom,
    ) {
        let (now, key) = (world.now(), job.key());
        if let Some(index) = self.removed.iter().position(|removed| removed.key() == key) {
            if random.one_in(2) {
                let back = self.removed.swap_remove(index);
                store(world, expected, job, back).await;
            }
            return;
        }
        match random.below(6) {
            0 => {
                let until = random.one_in(2).then(|| now + SignedDuration::from_hours(random.between(1, 300)));
                *job =
                    commands::pause(&world.ports, &key, domain::job::Pause::new(now, until, "holidays")).await.unwrap();
            }
            1 => *job = commands::resume(&world.ports, &key, now).await.unwrap(),
            2 => {
                let wanted = Job { schedule: fleet_jobs::edited(random), anchor: None, ..job.clone() };
                store(world, expected, job, wanted).await;
            }
            3 => {
                let wanted = Job { enabled: !job.enabled, ..job.clone() };
                store(world, expected, job, wanted).await;
            }
            // A run without a report ends by its job's timeout, which a removed job does not have.
            4 if !runners.is_running(&key) => {
                commands::remove(&world.ports, &key, now).await.unwrap();
                expected.record_removal(&key);
                self.removed.push(job.clone());
            }
            _ => self.start_manually(world, expected, &key, random).await,
        }
    }

    async fn start_manually(
        &self,
        world: &World,
        expected: &mut ExpectedRuns,
        key: &JobKey,
        random: &mut SeededRandom,
    ) {
        let random = random.next().to_be_bytes();
        let run = commands::run_now(&world.ports, key, random[..6].try_into().unwrap(), world.now()).await.unwrap();
        expected.record_manual(&run);
    }
}

async fn store(world: &World, expected: &mut ExpectedRuns, job: &mut Job, wanted: Job) {
    let now = world.now();
    *job = commands::put(&world.ports, &wanted, now).await.unwrap();
    expected.record_job(job, now);
}
