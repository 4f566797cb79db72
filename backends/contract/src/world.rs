//! A whole installation over any backend: its services, a clock that stands still until a scenario moves it, and a runner made
//! of three calls. The backend's own clocks (leases, delays) run on.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use domain::alert::{Alert, AlertKind};
use domain::event::{Body, Ended, Event, Report};
use domain::job::{Command, Job, JobKey};
use domain::ledger::Ledger;
use domain::line::Stream;
use domain::order::Order;
use domain::ports::{Claim, Delivery, Heartbeat, Notifier, PortResult, Ports, RunQuery};
use domain::run::{ExcerptLine, Outcome, Run, RunId};
use jiff::{SignedDuration, Timestamp};
use rules::Packs;
use services::{Links, alerts, collector, commands, overdue, release, scheduler};

/// The group of all jobs.
pub const GROUP: &str = "db";
pub const RUNNER: &str = "r1";
const HOST: &str = "h1";

/// Leases of the world outlast every scenario.
const LEASE: Duration = Duration::from_secs(3600);

pub struct World {
    pub ports: Ports,
    pub packs: Packs,
    channel: Channel,
    now: Mutex<Timestamp>,
    /// Attempts that each runner has: an order for one of them is a copy.
    taken: Mutex<BTreeSet<(String, RunId, u32)>>,
}

/// Remembers what it is sent.
#[derive(Default)]
struct Channel(Mutex<Vec<Alert>>);

#[async_trait]
impl Notifier for Channel {
    async fn notify(&self, _channel: &str, alert: &Alert) -> PortResult<()> {
        self.0.lock().unwrap().push(alert.clone());
        Ok(())
    }
}

pub fn key(name: &str) -> JobKey {
    JobKey::new(GROUP, name)
}

pub fn job(name: &str, schedule: &str) -> Job {
    Job::new(key(name), schedule, Command::Argv(vec!["dump".to_owned()]))
}

impl World {
    /// At 07:59 of the day before this one, so that no backend's own clock is behind: what waits for an instant of the
    /// scenario has come.
    pub fn new(ports: &Ports) -> World {
        let midnight = Timestamp::now().as_second().div_euclid(86_400) * 86_400 - 86_400;
        let now = Timestamp::from_second(midnight + 8 * 3600 - 60).unwrap();
        World {
            ports: ports.clone(),
            packs: Packs::builtin(),
            channel: Channel::default(),
            now: Mutex::new(now),
            taken: Mutex::default(),
        }
    }

    pub fn now(&self) -> Timestamp {
        *self.now.lock().unwrap()
    }

    /// `08:05` of the same day.
    pub fn set(&self, time: &str) {
        let mut now = self.now.lock().unwrap();
        *now = format!("{}T{time}:00Z", now.strftime("%Y-%m-%d")).parse().unwrap();
    }

    pub fn pass(&self, seconds: i64) {
        *self.now.lock().unwrap() += SignedDuration::from_secs(seconds);
    }

    pub async fn put(&self, job: &Job) {
        commands::put(&self.ports, job, self.now()).await.unwrap();
    }

    pub async fn schedule(&self) -> scheduler::SchedulerSummary {
        scheduler::tick(&self.ports, self.now()).await.unwrap()
    }

    /// Collects whatever was reported.
    pub async fn collect(&self) -> collector::CollectorSummary {
        let mut all = collector::CollectorSummary::default();
        loop {
            let reports = collector::receive(&self.ports, Duration::ZERO).await.unwrap();
            if reports.is_empty() {
                return all;
            }
            let summary = collector::collect(&self.ports, &self.packs, reports, self.now()).await.unwrap();
            release::release_jobs(&self.ports, &summary.ended_jobs, self.now()).await.unwrap();
            all.received += summary.received;
            all.ended += summary.ended;
            all.retried += summary.retried;
            all.replaced += summary.replaced;
        }
    }

    pub async fn check_overdue(&self) -> overdue::OverdueSummary {
        let open = overdue::list_open_runs(&self.ports).await.unwrap();
        overdue::tick(&self.ports, &open, self.now()).await.unwrap()
    }

    /// Sends what is to be told, and says of what kind it was.
    pub async fn send_alert_kinds(&self) -> Vec<AlertKind> {
        let (links, channels) = (Links([].into()), ["oncall".to_owned()]);
        let worker =
            alerts::AlertWorker { notifier: &self.channel, channels: &channels, links: &links, name: "scenario" };
        alerts::tick(&self.ports, &worker, self.now()).await.unwrap();
        std::mem::take(&mut *self.channel.0.lock().unwrap()).into_iter().map(|alert| alert.kind).collect()
    }

    pub async fn send_heartbeat(&self) -> Vec<RunId> {
        let beat = Heartbeat {
            runner: RUNNER.to_owned(),
            host: HOST.to_owned(),
            groups: vec![GROUP.to_owned()],
            at: self.now(),
            running: 0,
            version: "0.1.0".to_owned(),
            held: None,
        };
        self.ports.claims.heartbeat(&beat).await.unwrap()
    }

    /// All orders that can be received now, claimed by the runner; refused ones are dropped.
    pub async fn take_orders(&self) -> Vec<Order> {
        self.take_orders_as(RUNNER).await
    }

    pub async fn take_orders_as(&self, runner: &str) -> Vec<Order> {
        let (groups, mut taken) = ([GROUP.to_owned()], Vec::new());
        loop {
            let deliveries = self.ports.orders.receive(&groups, 10, LEASE, Duration::ZERO).await.unwrap();
            if deliveries.is_empty() {
                return taken;
            }
            for delivery in deliveries {
                let order = delivery.message;
                let claim = self.claim(&order, runner).await;
                self.ports.orders.delete(&delivery.receipt).await.unwrap();
                let attempt = (runner.to_owned(), order.run_id.clone(), order.attempt);
                if claim == Claim::Granted && self.taken.lock().unwrap().insert(attempt) {
                    taken.push(order);
                }
            }
        }
    }

    /// One order, when it comes, leased for so long.
    pub async fn receive(&self, lease: Duration) -> Delivery<Order> {
        let wait = Duration::from_secs(30);
        self.ports.orders.receive(&[GROUP.to_owned()], 1, lease, wait).await.unwrap().remove(0)
    }

    pub async fn claim(&self, order: &Order, runner: &str) -> Claim {
        self.ports.claims.claim(&order.run_key(), order.attempt, runner, HOST, self.now()).await.unwrap()
    }

    pub async fn report_started(&self, order: &Order) {
        let body = Body::Started { pid: Some(7), command: "dump".to_owned() };
        self.ports.reports.send(&[self.event(order, body)]).await.unwrap();
    }

    pub async fn report_finished(&self, order: &Order, exit_code: i32) {
        self.send_report(order, self.report(exit_code)).await;
    }

    pub async fn send_report(&self, order: &Order, report: Report) {
        self.ports.reports.send(&[self.event(order, Body::Finished(Box::new(report)))]).await.unwrap();
    }

    /// Takes, starts and finishes everything that is ordered.
    pub async fn run_all(&self, exit_code: i32) -> Vec<Order> {
        let orders = self.take_orders().await;
        for order in &orders {
            self.report_started(order).await;
            self.report_finished(order, exit_code).await;
        }
        orders
    }

    pub fn event(&self, order: &Order, body: Body) -> Event {
        Event::new(order, RUNNER, HOST, self.now(), body)
    }

    pub fn report(&self, exit_code: i32) -> Report {
        let line = |seq, text: &str| ExcerptLine { seq, stream: Stream::Stdout, text: text.to_owned() };
        Report {
            ended: Ended::Exited,
            note: None,
            exit_code: Some(exit_code),
            signal: None,
            started_at: Some(self.now()),
            finished_at: self.now(),
            duration_ms: 1_000,
            stdout_lines: 2,
            stderr_lines: 0,
            stdout_bytes: 20,
            stderr_bytes: 0,
            last_seq: 2,
            dropped_lines: 0,
            dropped_bytes: 0,
            cpu_ms: None,
            max_rss_bytes: None,
            leaked: Vec::new(),
            rules: Vec::new(),
            rules_digest: String::new(),
            excerpt: vec![line(1, "begins"), line(2, "ends")],
            outcome: if exit_code == 0 { Outcome::Succeeded } else { Outcome::Failed },
            reason: format!("exit code {exit_code}"),
        }
    }

    /// All runs of a job, oldest first.
    pub async fn runs(&self, name: &str) -> Vec<Run> {
        let page = self.ports.runs.list(&RunQuery::of_job(&key(name)), None, 500).await.unwrap();
        let mut runs: Vec<Run> = page.records.into_iter().map(|stored| stored.record).collect();
        runs.reverse();
        runs
    }

    /// Each run of a job, oldest first: its nominal minute and its outcome, or its state.
    pub async fn history(&self, name: &str) -> Vec<String> {
        let shown = |run: &Run| {
            let state = format!("{:?}", run.state).to_lowercase();
            let what = run.outcome.map_or(state, |outcome| outcome.name().to_owned());
            format!("{} {what}", run.nominal.strftime("%H:%M"))
        };
        self.runs(name).await.iter().map(shown).collect()
    }

    pub async fn ledger(&self) -> Ledger {
        let ledger = commands::ledger(&self.ports, None, None).await.unwrap();
        assert!(ledger.adds_up(), "{ledger:?}");
        ledger
    }
}
