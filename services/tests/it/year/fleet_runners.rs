//! Runners that usually work: they take orders, run them for a time, and report. At times they report late, twice, in
//! the wrong order or never, or they are away for hours, with or without losing their attempts.

use std::collections::HashSet;
use std::future::Future;
use std::time::Duration;

use domain::event::{Body, Ended, Event};
use domain::job::{Concurrency, JobKey};
use domain::order::Order;
use domain::ports::{Claim, Claimant, Heartbeat, RunQuery};
use domain::run::{Outcome, RunId};
use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinHandle;

use super::expected_runs::ExpectedRuns;
use super::seeded_random::SeededRandom;
use crate::world::World;

/// The groups of each runner; an empty list serves all.
const RUNNERS: [(&str, &[&str]); 3] = [("r1", &["db", "web"]), ("r2", &["mail", "batch"]), ("r3", &[])];

/// An attempt under way.
struct Attempt {
    runner: usize,
    order: Order,
    ends_at: Timestamp,
    ended: Ended,
    exit_code: i32,
    /// Its end is never reported.
    lost: bool,
}

struct PendingReport {
    at: Timestamp,
    event: Event,
}

pub(crate) struct FleetRunners {
    /// Failures become rarer with larger numbers; with 1 they are frequent.
    rarity: u64,
    /// The attempts that each runner has started, as on its disk.
    started: HashSet<(usize, RunId, u32)>,
    /// Until when each runner is away.
    away: [Timestamp; RUNNERS.len()],
    attempts: Vec<Attempt>,
    pending: Vec<PendingReport>,
}

impl FleetRunners {
    pub(crate) fn new(rarity: u64) -> FleetRunners {
        FleetRunners {
            rarity,
            started: HashSet::new(),
            away: [Timestamp::MIN; RUNNERS.len()],
            attempts: Vec::new(),
            pending: Vec::new(),
        }
    }

    /// When a runner next acts without an order.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        let attempt = self
            .attempts
            .iter()
            .filter(|attempt| !attempt.lost)
            .map(|attempt| attempt.ends_at.max(self.away[attempt.runner]));
        attempt.chain(self.pending.iter().map(|report| report.at)).min()
    }

    /// The orders under way whose end will be reported.
    pub(crate) fn reporting_orders(&self) -> impl Iterator<Item = &Order> {
        self.attempts.iter().filter(|attempt| !attempt.lost).map(|attempt| &attempt.order)
    }

    pub(crate) fn is_running(&self, key: &JobKey) -> bool {
        self.attempts.iter().any(|attempt| attempt.order.key() == *key)
    }

    /// Forgets attempts that are too old for a second order.
    pub(crate) fn forget_before(&mut self, before: Timestamp) {
        let oldest = RunId::unscheduled(before, [0; 6]);
        self.started.retain(|(_, run_id, _)| *run_id >= oldest);
    }

    /// One minute of all runners.
    pub(crate) async fn run_minute(&mut self, world: &World, expected: &mut ExpectedRuns, random: &mut SeededRandom) {
        for runner in 0..RUNNERS.len() {
            self.change_presence(runner, world.now(), random);
            if self.away[runner] <= world.now() {
                let stops = self.send_heartbeat(runner, world).await;
                self.stop_attempts(&stops, world.now());
                self.take_orders(runner, world, expected, random).await;
            }
        }
        self.finish_attempts(world, random);
        self.send_due_reports(world, expected).await;
    }

    fn change_presence(&mut self, runner: usize, now: Timestamp, random: &mut SeededRandom) {
        // A clock that was set back must not prolong an absence.
        let longest = now + SignedDuration::from_hours(6);
        self.away[runner] = self.away[runner].min(longest);
        if self.away[runner] > now || !random.one_in(200 * self.rarity) {
            return;
        }
        self.away[runner] = now + SignedDuration::from_mins(random.between(1, 360));
        // Its keepers continue without it, unless the whole machine died.
        let machine_died = random.one_in(3) && self.away[runner] > now + SignedDuration::from_mins(10);
        for attempt in self.attempts.iter_mut().filter(|attempt| attempt.runner == runner) {
            attempt.lost |= machine_died;
        }
    }

    async fn send_heartbeat(&self, runner: usize, world: &World) -> Vec<RunId> {
        let (name, groups) = RUNNERS[runner];
        let beat = Heartbeat {
            runner: name.to_owned(),
            host: "h1".to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            at: world.now(),
            id: None,
            running: 0,
            version: "0.1.0".to_owned(),
            held: None,
            order_keys: None,
        };
        world.ports.claims.heartbeat(&beat).await.unwrap().stops()
    }

    fn stop_attempts(&mut self, stops: &[RunId], now: Timestamp) {
        for attempt in self.attempts.iter_mut().filter(|attempt| stops.contains(&attempt.order.run_id)) {
            attempt.ended = Ended::Stopped;
            attempt.ends_at = attempt.ends_at.min(now);
        }
    }

    async fn take_orders(
        &mut self,
        runner: usize,
        world: &World,
        expected: &mut ExpectedRuns,
        random: &mut SeededRandom,
    ) {
        let (name, groups) = RUNNERS[runner];
        let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        loop {
            let lease = Duration::from_secs(60);
            let orders = world.ports.orders.receive(&groups, 50, lease, Duration::ZERO).await.unwrap();
            if orders.is_empty() {
                return;
            }
            // The runner dies with some of the orders; their lease redelivers them.
            let held: Vec<_> = orders.into_iter().filter(|_| !random.one_in(50 * self.rarity)).collect();
            let claimed = call_all(held.iter().map(|delivery| claim(world, &delivery.message, name))).await;
            // The runner dies before it deletes the message; the started attempt is on its disk.
            let known: Vec<_> = held.iter().filter(|_| !random.one_in(50 * self.rarity)).collect();
            call_all(known.into_iter().map(|delivery| delete(world, &delivery.receipt))).await;
            for (order, claim) in held.into_iter().map(|delivery| delivery.message).zip(claimed) {
                if claim == Claim::Granted && self.started.insert((runner, order.run_id.clone(), order.attempt)) {
                    self.start_attempt(runner, order, world, expected, random).await;
                }
            }
        }
    }

    async fn start_attempt(
        &mut self,
        runner: usize,
        order: Order,
        world: &World,
        expected: &mut ExpectedRuns,
        random: &mut SeededRandom,
    ) {
        if order.job.concurrency != Concurrency::Allow {
            self.check_no_overlap(&order, world).await;
        }
        expected.record_start(&order.run_id, order.attempt);
        // Most jobs end within seconds, some run for an hour or more.
        let minutes = match random.below(16) {
            0..=9 => 0,
            10..=13 => random.between(1, 3),
            14 => 60,
            _ => 90,
        };
        let (ended, exit_code) = match random.below(40) {
            0 => (Ended::TimedOut, 0),
            1 | 2 => (Ended::Exited, 1),
            _ => (Ended::Exited, 0),
        };
        let lost = order.job.timeout.is_some() && random.one_in(30 * self.rarity);
        let started = Event::new(
            &order,
            RUNNERS[runner].0,
            "h1",
            world.now(),
            Body::Started { pid: Some(7), command: "dump".to_owned() },
        );
        // A lost attempt is only known by its start.
        let wait = if random.one_in(10) && !lost { 60 * random.between(0, 1) } else { 0 };
        self.queue_report(world.now(), wait, started, random);
        let ends_at = world.now() + SignedDuration::from_mins(minutes);
        self.attempts.push(Attempt { runner, order, ends_at, ended, exit_code, lost });
    }

    /// A job that forbids overlap has no other attempt under way, unless that one was ended without a report.
    async fn check_no_overlap(&self, order: &Order, world: &World) {
        for other in self.attempts.iter().filter(|attempt| attempt.order.key() == order.key()) {
            let query = RunQuery::by_id(&other.order.run_id);
            let stored = world.ports.runs.list(&query, None, 1).await.unwrap().records.remove(0).record;
            let over = !stored.is_open() || stored.attempt > other.order.attempt;
            assert!(over, "two runs at once: {order:?} and {stored:?}");
        }
    }

    fn finish_attempts(&mut self, world: &World, random: &mut SeededRandom) {
        let now = world.now();
        let (over, running) = std::mem::take(&mut self.attempts).into_iter().partition::<Vec<Attempt>, _>(|attempt| {
            attempt.ends_at <= now && (attempt.lost || self.away[attempt.runner] <= now)
        });
        self.attempts = running;
        for attempt in over.into_iter().filter(|attempt| !attempt.lost) {
            let mut report = world.report(attempt.exit_code);
            report.ended = attempt.ended;
            report.outcome = outcome_of(&attempt);
            let wait = if random.one_in(20 * self.rarity) { 60 * random.between(1, 30) } else { 0 };
            let finished =
                Event::new(&attempt.order, RUNNERS[attempt.runner].0, "h1", now, Body::Finished(Box::new(report)));
            self.queue_report(now, wait, finished, random);
        }
    }

    fn queue_report(&mut self, now: Timestamp, wait_minutes: i64, event: Event, random: &mut SeededRandom) {
        let at = now + SignedDuration::from_mins(wait_minutes);
        if random.one_in(20) {
            let again = at + SignedDuration::from_hours(random.between(0, 10));
            self.pending.push(PendingReport { at: again, event: event.clone() });
        }
        self.pending.push(PendingReport { at, event });
    }

    async fn send_due_reports(&mut self, world: &World, expected: &mut ExpectedRuns) {
        let now = world.now();
        let (due, waiting): (Vec<PendingReport>, Vec<PendingReport>) =
            std::mem::take(&mut self.pending).into_iter().partition(|report| report.at <= now);
        self.pending = waiting;
        let events: Vec<Event> = due.into_iter().map(|report| report.event).collect();
        if events.is_empty() {
            return;
        }
        for event in &events {
            if let Body::Finished(report) = &event.body {
                expected.record_report(&event.run_id, event.attempt, report.outcome);
            }
        }
        world.ports.reports.send(&events).await.unwrap();
    }
}

/// The results of many calls, in order. All run at once, as with many runners, so one commit serves them.
async fn call_all<T: Send + 'static>(calls: impl Iterator<Item = impl Future<Output = T> + Send + 'static>) -> Vec<T> {
    let calls: Vec<JoinHandle<T>> = calls.map(tokio::spawn).collect();
    let mut all = Vec::with_capacity(calls.len());
    for call in calls {
        all.push(call.await.unwrap());
    }
    all
}

fn claim(world: &World, order: &Order, runner: &'static str) -> impl Future<Output = Claim> + use<> {
    let (claims, run, attempt, now) = (world.ports.claims.clone(), order.run_key(), order.attempt, world.now());
    async move { claims.claim(&run, attempt, Claimant::new(runner, "h1"), now).await.unwrap() }
}

fn delete(world: &World, receipt: &str) -> impl Future<Output = ()> + use<> {
    let (orders, receipt) = (world.ports.orders.clone(), receipt.to_owned());
    async move { orders.delete(&receipt).await.unwrap() }
}

fn outcome_of(attempt: &Attempt) -> Outcome {
    match (attempt.ended, attempt.exit_code) {
        (Ended::TimedOut, _) => Outcome::TimedOut,
        (Ended::Stopped, _) => Outcome::Stopped,
        (_, 0) => Outcome::Succeeded,
        _ => Outcome::Failed,
    }
}
