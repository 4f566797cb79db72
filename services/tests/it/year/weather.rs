//! Failures and commands of operators. The scheduler is down, dies halfway, ticks late, twice or ahead; the clock is
//! set back and forth. Jobs are edited, paused, removed and restored; groups are under maintenance; runs are stopped
//! and started.

use domain::job::{CatchUp, Job, JobKey};
use domain::ports::Ports;
use jiff::{SignedDuration, Timestamp};
use services::{commands, scheduler};

use super::book::Book;
use super::crew::Crew;
use super::dice::Dice;
use super::fleet::{self, GROUPS};
use crate::faulty::{Faulty, Moment, Plan};
use crate::world::World;

/// Time around a moved clock or a downtime in which firings may be late. What came due during it may be up to three
/// hours old.
const AFTERMATH: SignedDuration = SignedDuration::from_mins(5);

pub struct Weather {
    /// The second scheduler: the same file through its own writer.
    other: Ports,
    down_until: Timestamp,
    /// Whether the last tick completed. Two in a row never fail.
    ticked: bool,
    /// By how many minutes the clock is wrong, and until when.
    wrong: Option<(i64, Timestamp)>,
    removed: Vec<Job>,
    /// Failures become rarer with larger numbers; with 1 they are frequent.
    luck: u64,
}

impl Weather {
    pub fn new(world: &World, luck: u64) -> Weather {
        Weather {
            other: world.open_second(),
            down_until: Timestamp::MIN,
            ticked: true,
            wrong: None,
            removed: Vec::new(),
            luck,
        }
    }

    /// When the scheduler is up again: it then ticks every minute.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        Some(self.down_until).filter(|until| *until > now)
    }

    /// Moves the clock at times. Returns whether it did.
    pub fn move_clock(&mut self, world: &World, book: &mut Book, dice: &mut Dice) -> bool {
        let now = world.now();
        let minutes = match self.wrong {
            Some((minutes, until)) if until <= now => {
                self.wrong = None;
                -minutes
            }
            Some(_) => return false,
            None if dice.one_in(300 * self.luck) => -dice.between(1, 180),
            None if dice.one_in(300 * self.luck) => dice.between(1, 180),
            // For ten minutes the clock shows another hour.
            None if dice.one_in(300 * self.luck) => {
                let minutes = *dice.one_of(&[-120, -60, 60, 120, 180]);
                self.wrong = Some((minutes, now + SignedDuration::from_mins(minutes + 10)));
                minutes
            }
            None => return false,
        };
        world.pass(minutes * 60);
        self.down_until = self.down_until.min(world.now() + SignedDuration::from_hours(8));
        book.record_clock_change(world.now());
        let (from, to) = (now.min(world.now()), now.max(world.now()));
        book.troubles.push((from - AFTERMATH, to + AFTERMATH));
        true
    }

    /// Ticks. Returns whether a tick at `now` completed.
    pub async fn tick(&mut self, world: &World, book: &mut Book, dice: &mut Dice) -> bool {
        let now = world.now();
        if self.down_until > now {
            return false;
        }
        if dice.one_in(250 * self.luck) {
            self.down_until = now + SignedDuration::from_mins(dice.between(2, 480));
            book.troubles.push((now - AFTERMATH, self.down_until + AFTERMATH));
            return false;
        }
        match dice.below(40) {
            // No tick; the one of the next minute serves both.
            0 if self.ticked => self.ticked = false,
            1 if self.ticked => {
                let moment = *dice.one_of(&[Moment::Before, Moment::After]);
                let faulty = Faulty::ports(&world.ports, &Plan::new(dice.below(14) as usize, moment));
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
                let skewed = now + SignedDuration::from_secs(dice.between(-30, 30));
                let (one, other) =
                    tokio::join!(scheduler::tick(&world.ports, now), scheduler::tick(&self.other, skewed));
                one.and(other).unwrap();
                book.horizon = book.horizon.max(skewed);
            }
            _ => {
                self.ticked = true;
                world.schedule().await;
            }
        }
        if self.ticked {
            book.horizon = book.horizon.max(now);
        }
        self.ticked
    }

    /// Commands of operators. Only right after a tick, so that the book knows what the scheduler had fired.
    pub async fn act_as_operator(
        &mut self,
        world: &World,
        book: &mut Book,
        crew: &Crew,
        jobs: &mut [Job],
        dice: &mut Dice,
    ) {
        let now = world.now();
        if dice.one_in(6 * self.luck) {
            let index = dice.below(jobs.len() as u64) as usize;
            self.edit(world, book, crew, &mut jobs[index], dice).await;
        }
        if dice.one_in(150 * self.luck) {
            let group = if dice.one_in(4) { None } else { Some(*dice.one_of(&GROUPS)) };
            let until = Some(now + SignedDuration::from_mins(dice.between(5, 240)));
            let catch_up = *dice.one_of(&[CatchUp::Skip, CatchUp::Once, CatchUp::All]);
            commands::begin_maintenance(&world.ports, group, until, "new disks", catch_up, now).await.unwrap();
        }
        if dice.one_in(20 * self.luck)
            && let Some(run_id) = crew.reporting_orders().next().map(|order| order.run_id.clone())
        {
            // The run may have ended.
            let _ = commands::stop(&world.ports, &run_id, now).await;
        }
    }

    async fn edit(&mut self, world: &World, book: &mut Book, crew: &Crew, job: &mut Job, dice: &mut Dice) {
        let (now, key) = (world.now(), job.key());
        if let Some(index) = self.removed.iter().position(|removed| removed.key() == key) {
            if dice.one_in(2) {
                let back = self.removed.swap_remove(index);
                store(world, book, job, back).await;
            }
            return;
        }
        match dice.below(6) {
            0 => {
                let until = dice.one_in(2).then(|| now + SignedDuration::from_hours(dice.between(1, 300)));
                *job = commands::pause(&world.ports, &key, until, "holidays", now).await.unwrap();
            }
            1 => *job = commands::resume(&world.ports, &key, now).await.unwrap(),
            2 => {
                let wanted = Job { schedule: fleet::edited(dice), anchor: None, ..job.clone() };
                store(world, book, job, wanted).await;
            }
            3 => {
                let wanted = Job { enabled: !job.enabled, ..job.clone() };
                store(world, book, job, wanted).await;
            }
            // A run without a report ends by its job's timeout, which a removed job does not have.
            4 if !crew.is_running(&key) => {
                commands::remove(&world.ports, &key, now).await.unwrap();
                book.record_removal(&key);
                self.removed.push(job.clone());
            }
            _ => self.start_manually(world, book, &key, dice).await,
        }
    }

    async fn start_manually(&self, world: &World, book: &mut Book, key: &JobKey, dice: &mut Dice) {
        let random = dice.next().to_be_bytes();
        let run = commands::run_now(&world.ports, key, random[..6].try_into().unwrap(), world.now()).await.unwrap();
        book.record_manual(&run);
    }
}

async fn store(world: &World, book: &mut Book, job: &mut Job, wanted: Job) {
    let now = world.now();
    *job = commands::put(&world.ports, &wanted, now).await.unwrap();
    book.record_job(job, now);
}
