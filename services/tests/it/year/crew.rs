//! Runners that are mostly well: they take orders, run them for a while, and report. At times they report late, twice,
//! in the wrong order or never; they go away for hours, with what they ran or without.

use std::collections::HashSet;
use std::future::Future;
use std::time::Duration;

use domain::event::{Body, Ended, Event};
use domain::job::{Concurrency, JobKey};
use domain::order::Order;
use domain::ports::{Claim, Heartbeat, RunQuery};
use domain::run::{Outcome, RunId};
use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinHandle;

use super::book::Book;
use super::dice::Dice;
use crate::world::World;

/// Which runner serves which groups; an empty list serves all.
const RUNNERS: [(&str, &[&str]); 3] = [("r1", &["db", "web"]), ("r2", &["mail", "batch"]), ("r3", &[])];

/// An attempt at work.
struct Work {
    runner: usize,
    order: Order,
    ends_at: Timestamp,
    ended: Ended,
    exit_code: i32,
    /// Nobody will ever hear of it again.
    forgotten: bool,
}

struct Letter {
    at: Timestamp,
    event: Event,
}

pub struct Crew {
    /// How seldom something goes wrong; 1 is often.
    luck: u64,
    /// What each runner has begun: it stands on its disk.
    begun: HashSet<(usize, RunId, u32)>,
    /// Until when each runner is away.
    away: [Timestamp; RUNNERS.len()],
    work: Vec<Work>,
    post: Vec<Letter>,
}

impl Crew {
    pub fn new(luck: u64) -> Crew {
        Crew { luck, begun: HashSet::new(), away: [Timestamp::MIN; RUNNERS.len()], work: Vec::new(), post: Vec::new() }
    }

    /// When it next has something to do by itself.
    pub fn next(&self) -> Option<Timestamp> {
        let work = self.work.iter().filter(|work| !work.forgotten).map(|work| work.ends_at.max(self.away[work.runner]));
        work.chain(self.post.iter().map(|letter| letter.at)).min()
    }

    /// Those at work of which somebody will hear.
    pub fn runs(&self) -> impl Iterator<Item = &Order> {
        self.work.iter().filter(|work| !work.forgotten).map(|work| &work.order)
    }

    pub fn works_for(&self, key: &JobKey) -> bool {
        self.work.iter().any(|work| work.order.key() == *key)
    }

    /// What was begun so long ago that no order comes again for it.
    pub fn forget(&mut self, before: Timestamp) {
        let oldest = RunId::unscheduled(before, [0; 6]);
        self.begun.retain(|(_, run_id, _)| *run_id >= oldest);
    }

    /// One minute of all runners.
    pub async fn minute(&mut self, world: &World, book: &mut Book, dice: &mut Dice) {
        for runner in 0..RUNNERS.len() {
            self.come_or_go(runner, world.now(), dice);
            if self.away[runner] <= world.now() {
                let stops = self.beat(runner, world).await;
                self.stop(&stops, world.now());
                self.take(runner, world, book, dice).await;
            }
        }
        self.finish(world, dice);
        self.deliver(world, book).await;
    }

    fn come_or_go(&mut self, runner: usize, now: Timestamp, dice: &mut Dice) {
        // A clock that was set back must not keep a runner away for longer than it meant to be.
        let longest = now + SignedDuration::from_hours(6);
        self.away[runner] = self.away[runner].min(longest);
        if self.away[runner] > now || !dice.one_in(200 * self.luck) {
            return;
        }
        self.away[runner] = now + SignedDuration::from_mins(dice.between(1, 360));
        // Its keepers work on without it, unless the whole machine is gone.
        let burnt = dice.one_in(3) && self.away[runner] > now + SignedDuration::from_mins(10);
        for work in self.work.iter_mut().filter(|work| work.runner == runner) {
            work.forgotten |= burnt;
        }
    }

    async fn beat(&self, runner: usize, world: &World) -> Vec<RunId> {
        let (name, groups) = RUNNERS[runner];
        let beat = Heartbeat {
            runner: name.to_owned(),
            host: "h1".to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            at: world.now(),
            running: 0,
            version: "0.1.0".to_owned(),
            held: None,
        };
        world.ports.claims.heartbeat(&beat).await.unwrap()
    }

    fn stop(&mut self, stops: &[RunId], now: Timestamp) {
        for work in self.work.iter_mut().filter(|work| stops.contains(&work.order.run_id)) {
            work.ended = Ended::Stopped;
            work.ends_at = work.ends_at.min(now);
        }
    }

    async fn take(&mut self, runner: usize, world: &World, book: &mut Book, dice: &mut Dice) {
        let (name, groups) = RUNNERS[runner];
        let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        loop {
            let lease = Duration::from_secs(60);
            let orders = world.ports.orders.receive(&groups, 50, lease, Duration::ZERO).await.unwrap();
            if orders.is_empty() {
                return;
            }
            // It dies with some of the orders in its hands; the lease brings them again.
            let held: Vec<_> = orders.into_iter().filter(|_| !dice.one_in(50 * self.luck)).collect();
            let claimed = together(held.iter().map(|delivery| claim(world, &delivery.message, name))).await;
            // Again: it dies before it deletes the message. What it began stands on its disk.
            let known: Vec<_> = held.iter().filter(|_| !dice.one_in(50 * self.luck)).collect();
            together(known.into_iter().map(|delivery| delete(world, &delivery.receipt))).await;
            for (order, claim) in held.into_iter().map(|delivery| delivery.message).zip(claimed) {
                if claim == Claim::Granted && self.begun.insert((runner, order.run_id.clone(), order.attempt)) {
                    self.begin(runner, order, world, book, dice).await;
                }
            }
        }
    }

    async fn begin(&mut self, runner: usize, order: Order, world: &World, book: &mut Book, dice: &mut Dice) {
        if order.job.concurrency != Concurrency::Allow {
            self.is_alone(&order, world).await;
        }
        book.started(&order.run_id, order.attempt);
        // Most jobs are over in seconds, some run for an hour or more.
        let minutes = match dice.below(16) {
            0..=9 => 0,
            10..=13 => dice.between(1, 3),
            14 => 60,
            _ => 90,
        };
        let (ended, exit_code) = match dice.below(40) {
            0 => (Ended::TimedOut, 0),
            1 | 2 => (Ended::Exited, 1),
            _ => (Ended::Exited, 0),
        };
        let forgotten = order.job.timeout.is_some() && dice.one_in(30 * self.luck);
        let started = Event::new(
            &order,
            RUNNERS[runner].0,
            "h1",
            world.now(),
            Body::Started { pid: Some(7), command: "dump".to_owned() },
        );
        // Without it nobody would know that a forgotten run ever began.
        let wait = if dice.one_in(10) && !forgotten { 60 * dice.between(0, 1) } else { 0 };
        self.post(world.now(), wait, started, dice);
        let ends_at = world.now() + SignedDuration::from_mins(minutes);
        self.work.push(Work { runner, order, ends_at, ended, exit_code, forgotten });
    }

    /// A job that wants no two runs at once has no other one at work, unless that was declared over.
    async fn is_alone(&self, order: &Order, world: &World) {
        for other in self.work.iter().filter(|work| work.order.key() == order.key()) {
            let query = RunQuery::by_id(&other.order.run_id);
            let stored = world.ports.runs.list(&query, None, 1).await.unwrap().records.remove(0).record;
            let over = !stored.is_open() || stored.attempt > other.order.attempt;
            assert!(over, "two runs at once: {order:?} and {stored:?}");
        }
    }

    fn finish(&mut self, world: &World, dice: &mut Dice) {
        let now = world.now();
        let (over, at_work) = std::mem::take(&mut self.work)
            .into_iter()
            .partition::<Vec<Work>, _>(|work| work.ends_at <= now && (work.forgotten || self.away[work.runner] <= now));
        self.work = at_work;
        for work in over.into_iter().filter(|work| !work.forgotten) {
            let mut report = world.report(work.exit_code);
            report.ended = work.ended;
            report.outcome = outcome(&work);
            let wait = if dice.one_in(20 * self.luck) { 60 * dice.between(1, 30) } else { 0 };
            let finished = Event::new(&work.order, RUNNERS[work.runner].0, "h1", now, Body::Finished(Box::new(report)));
            self.post(now, wait, finished, dice);
        }
    }

    fn post(&mut self, now: Timestamp, wait_minutes: i64, event: Event, dice: &mut Dice) {
        let at = now + SignedDuration::from_mins(wait_minutes);
        if dice.one_in(20) {
            let again = at + SignedDuration::from_hours(dice.between(0, 10));
            self.post.push(Letter { at: again, event: event.clone() });
        }
        self.post.push(Letter { at, event });
    }

    async fn deliver(&mut self, world: &World, book: &mut Book) {
        let now = world.now();
        let (due, waiting): (Vec<Letter>, Vec<Letter>) =
            std::mem::take(&mut self.post).into_iter().partition(|letter| letter.at <= now);
        self.post = waiting;
        let events: Vec<Event> = due.into_iter().map(|letter| letter.event).collect();
        if events.is_empty() {
            return;
        }
        for event in &events {
            if let Body::Finished(report) = &event.body {
                book.told(&event.run_id, event.attempt, report.outcome);
            }
        }
        world.ports.reports.send(&events).await.unwrap();
    }
}

/// What many calls come to, in order. All are made at once, as by many runners; so one commit does for them.
async fn together<T: Send + 'static>(calls: impl Iterator<Item = impl Future<Output = T> + Send + 'static>) -> Vec<T> {
    let begun: Vec<JoinHandle<T>> = calls.map(tokio::spawn).collect();
    let mut all = Vec::with_capacity(begun.len());
    for call in begun {
        all.push(call.await.unwrap());
    }
    all
}

fn claim(world: &World, order: &Order, runner: &'static str) -> impl Future<Output = Claim> + use<> {
    let (claims, run, attempt, now) = (world.ports.claims.clone(), order.run_key(), order.attempt, world.now());
    async move { claims.claim(&run, attempt, runner, "h1", now).await.unwrap() }
}

fn delete(world: &World, receipt: &str) -> impl Future<Output = ()> + use<> {
    let (orders, receipt) = (world.ports.orders.clone(), receipt.to_owned());
    async move { orders.delete(&receipt).await.unwrap() }
}

fn outcome(work: &Work) -> Outcome {
    match (work.ended, work.exit_code) {
        (Ended::TimedOut, _) => Outcome::TimedOut,
        (Ended::Stopped, _) => Outcome::Stopped,
        (_, 0) => Outcome::Succeeded,
        _ => Outcome::Failed,
    }
}
