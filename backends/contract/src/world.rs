//! A whole installation over any backend: its services, a clock that only the test moves, and a runner made of a few
//! calls. Used by the scenarios, by the tests of `services`, and by those of `backends/aws`. The backend's own clocks
//! (leases, delays) run on, unless the backend was given [`World::clock`].

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use domain::alert::{Alert, AlertKind};
use domain::event::{Body, Ended, Event, Report};
use domain::job::{Command, Job, JobKey};
use domain::ledger::Ledger;
use domain::line::Stream;
use domain::order::Order;
use domain::ports::{Claim, Claimant, Delivery, Heartbeat, Notifier, PortError, PortResult, Ports, RunQuery};
use domain::run::{ExcerptLine, Outcome, OutputCounts, Run, RunId};
use jiff::{SignedDuration, Timestamp};
use rules::Packs;
use services::alert_batch::BatchLimits;
use services::collector::CollectorSummary;
use services::{Links, alerts, collector, commands, liveness, overdue, release, scheduler, sweep};

/// The group of all jobs.
pub const GROUP: &str = "db";

/// The runner of the tests that need no second one.
pub const RUNNER: &str = "r1";

const HOST: &str = "h1";

/// Lease of received orders: longer than every scenario.
const LEASE: Duration = Duration::from_secs(3600);

/// A clock that only a test moves.
pub type Clock = Arc<Mutex<Timestamp>>;

/// An installation.
pub struct World {
    /// The ports of the backend.
    pub ports: Ports,
    /// The rules that the collector judges by.
    pub packs: Packs,
    /// Where alerts are sent.
    pub channel: Channel,
    /// The names of the configured channels; all of them send to [`World::channel`].
    pub channels: Vec<String>,
    /// Limits of the messages of each channel.
    pub limits: BatchLimits,
    /// The time of the installation.
    pub clock: Clock,
    /// Attempts that each runner has: an order for one of them is a copy.
    taken: Mutex<BTreeSet<(String, RunId, u32)>>,
}

/// Records what it is sent.
#[derive(Default)]
pub struct Channel {
    /// Each alert with the name of its channel, until [`World::send_alerts`] takes them.
    pub sent: Mutex<Vec<(String, Alert)>>,
    /// This number of next calls fails.
    pub failures: Mutex<u32>,
}

#[async_trait]
impl Notifier for Channel {
    async fn notify(&self, channel: &str, alert: &Alert) -> PortResult<()> {
        let mut failures = self.failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return Err(PortError::Retry("the mail server is down".to_owned()));
        }
        self.sent.lock().unwrap().push((channel.to_owned(), alert.clone()));
        Ok(())
    }
}

/// The key of a job in [`GROUP`].
pub fn key(name: &str) -> JobKey {
    JobKey::new(GROUP, name)
}

/// A job in [`GROUP`].
pub fn job(name: &str, schedule: &str) -> Job {
    Job::new(key(name), schedule, Command::Argv(vec!["dump".to_owned()]))
}

impl World {
    /// Starts at 07:59 of the day before today. So the clock of no backend is behind, and a delayed message of the
    /// scenario can be received at once.
    pub fn new(ports: &Ports) -> World {
        let midnight = Timestamp::now().as_second().div_euclid(86_400) * 86_400 - 86_400;
        let now = Timestamp::from_second(midnight + 8 * 3600 - 60).unwrap();
        World::with_clock(ports, Arc::new(Mutex::new(now)))
    }

    /// Starts at the time of this clock, which the backend may use too.
    pub fn with_clock(ports: &Ports, clock: Clock) -> World {
        World {
            ports: ports.clone(),
            packs: Packs::builtin(),
            channel: Channel::default(),
            channels: vec!["oncall".to_owned()],
            limits: BatchLimits::default(),
            clock,
            taken: Mutex::default(),
        }
    }

    /// The time of the installation.
    pub fn now(&self) -> Timestamp {
        *self.clock.lock().unwrap()
    }

    /// Sets the clock: to an instant, or to a minute of the same day (`08:05`).
    pub fn set(&self, time: &str) {
        let mut now = self.clock.lock().unwrap();
        *now = match time.len() {
            5 => format!("{}T{time}:00Z", now.strftime("%Y-%m-%d")).parse().unwrap(),
            _ => time.parse().unwrap(),
        };
    }

    /// Moves the clock.
    pub fn pass(&self, seconds: i64) {
        *self.clock.lock().unwrap() += SignedDuration::from_secs(seconds);
    }

    /// Stores a job.
    pub async fn put(&self, job: &Job) {
        commands::put(&self.ports, job, self.now()).await.unwrap();
    }

    /// One tick of the scheduler.
    pub async fn schedule(&self) -> scheduler::SchedulerSummary {
        scheduler::tick(&self.ports, self.now()).await.unwrap()
    }

    /// Collects all reports that can be received, and releases the runs that waited for an end.
    pub async fn collect(&self) -> CollectorSummary {
        let mut all = CollectorSummary::default();
        loop {
            let reports = collector::receive(&self.ports, Duration::ZERO).await.unwrap();
            if reports.is_empty() {
                return all;
            }
            let summary = collector::collect(&self.ports, &self.packs, reports, self.now()).await.unwrap();
            release::release_jobs(&self.ports, &summary.ended_jobs, self.now()).await.unwrap();
            all.received += summary.received;
            all.updated += summary.updated;
            all.ended += summary.ended;
            all.replaced += summary.replaced;
            all.retried += summary.retried;
            all.unknown += summary.unknown;
            all.newer += summary.newer;
            all.failed += summary.failed;
            all.ended_jobs.extend(summary.ended_jobs);
        }
    }

    /// Releases the held runs that may start.
    pub async fn release_held(&self) -> release::ReleaseSummary {
        let open = overdue::list_open_runs(&self.ports).await.unwrap();
        release::release_due(&self.ports, &open, self.now()).await.unwrap()
    }

    /// Ends the runs that are missed or lost, and resends orders.
    pub async fn check_overdue(&self) -> overdue::OverdueSummary {
        let open = overdue::list_open_runs(&self.ports).await.unwrap();
        overdue::tick(&self.ports, &open, self.now()).await.unwrap()
    }

    /// Alerts about a silent scheduler and about groups without a runner.
    pub async fn check_liveness(&self) -> liveness::LivenessSummary {
        let open = overdue::list_open_runs(&self.ports).await.unwrap();
        liveness::tick(&self.ports, &open, self.now()).await.unwrap()
    }

    /// All duties over open runs.
    pub async fn check_open_runs(&self) {
        let (open, now) = (overdue::list_open_runs(&self.ports).await.unwrap(), self.now());
        release::release_due(&self.ports, &open, now).await.unwrap();
        overdue::tick(&self.ports, &open, now).await.unwrap();
        liveness::tick(&self.ports, &open, now).await.unwrap();
    }

    /// All duties of a minute, in the order of the scheduler's Lambda.
    pub async fn run_duties(&self) {
        self.schedule().await;
        self.check_open_runs().await;
        sweep::tick(&self.ports, self.now()).await.unwrap();
    }

    /// Sends the alerts that are due and returns them.
    pub async fn send_alerts(&self) -> Vec<Alert> {
        self.tick_alerts().await;
        let sent = std::mem::take(&mut *self.channel.sent.lock().unwrap());
        let alerts: Vec<Alert> = sent.into_iter().map(|(_, alert)| alert).collect();
        for alert in &alerts {
            assert!(alert.since.is_some(), "every kind of alert has the instant since when: {alert:?}");
        }
        alerts
    }

    /// Sends the alerts that are due and returns their kinds.
    pub async fn send_alert_kinds(&self) -> Vec<AlertKind> {
        self.send_alerts().await.into_iter().map(|alert| alert.kind).collect()
    }

    /// Sends the alerts that are due.
    pub async fn tick_alerts(&self) -> alerts::AlertSummary {
        self.tick_alerts_over(&self.ports).await.unwrap()
    }

    /// Sends the alerts that are due, over ports that may fail.
    ///
    /// # Errors
    /// Returns the error of the service.
    pub async fn tick_alerts_over(&self, ports: &Ports) -> services::Result<alerts::AlertSummary> {
        let links = Links([("console".to_owned(), "http://console/runs/{run_id}".to_owned())].into());
        let worker = alerts::AlertWorker {
            notifier: &self.channel,
            channels: &self.channels,
            links: &links,
            name: "test",
            limits: self.limits,
        };
        alerts::tick(ports, &worker, self.now()).await
    }

    /// Sends a heartbeat of this runner. Returns its runs with a stop request.
    pub async fn send_heartbeat(&self, runner: &str) -> Vec<RunId> {
        let heartbeat = Heartbeat {
            runner: runner.to_owned(),
            host: HOST.to_owned(),
            groups: vec![GROUP.to_owned()],
            at: self.now(),
            id: None,
            running: 0,
            version: "0.1.0".to_owned(),
            held: None,
            order_keys: None,
        };
        self.ports.claims.heartbeat(&heartbeat).await.unwrap().stops()
    }

    /// Receives all orders and claims them for this runner. Returns those that it may start: refused ones and copies
    /// are dropped.
    pub async fn take_orders(&self, runner: &str) -> Vec<Order> {
        let (groups, mut taken) = ([GROUP.to_owned()], Vec::new());
        loop {
            let deliveries = self.ports.orders.receive(&groups, 100, LEASE, Duration::ZERO).await.unwrap();
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

    /// Waits for one order, and leases it for this time.
    pub async fn receive(&self, lease: Duration) -> Delivery<Order> {
        let wait = Duration::from_secs(30);
        self.ports.orders.receive(&[GROUP.to_owned()], 1, lease, wait).await.unwrap().remove(0)
    }

    /// Claims the attempt of an order for this runner.
    pub async fn claim(&self, order: &Order, runner: &str) -> Claim {
        self.ports.claims.claim(&order.run_key(), order.attempt, Claimant::new(runner, HOST), self.now()).await.unwrap()
    }

    /// Reports that the attempt has started.
    pub async fn report_started(&self, order: &Order) {
        let body = Body::Started { pid: Some(7), command: "dump".to_owned() };
        self.ports.reports.send(&[self.event(order, body)]).await.unwrap();
    }

    /// Reports that the attempt has exited with this code.
    pub async fn report_finished(&self, order: &Order, exit_code: i32) {
        self.send_report(order, self.report(exit_code)).await;
    }

    /// Sends this report of the attempt's end.
    pub async fn send_report(&self, order: &Order, report: Report) {
        self.ports.reports.send(&[self.event(order, Body::Finished(Box::new(report)))]).await.unwrap();
    }

    /// Takes, starts and finishes every order as [`RUNNER`].
    pub async fn run_all(&self, exit_code: i32) -> Vec<Order> {
        let orders = self.take_orders(RUNNER).await;
        for order in &orders {
            self.report_started(order).await;
            self.report_finished(order, exit_code).await;
        }
        orders
    }

    /// An event of the attempt, from [`RUNNER`].
    pub fn event(&self, order: &Order, body: Body) -> Event {
        Event::new(order, RUNNER, HOST, self.now(), body)
    }

    /// The report of a command that ran for a second, printed two lines and exited.
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
            output: OutputCounts {
                stdout_lines: 2,
                stderr_lines: 0,
                stdout_bytes: 20,
                stderr_bytes: 0,
                last_seq: 2,
                dropped_lines: 0,
                dropped_bytes: 0,
            },
            cpu_ms: None,
            max_rss_bytes: None,
            guard: None,
            leaked: Vec::new(),
            rules: Vec::new(),
            rules_digest: String::new(),
            pack_digests: Default::default(),
            interpreters: Default::default(),
            excerpt: vec![line(1, "begins"), line(2, "ends")],
            outcome: if exit_code == 0 { Outcome::Succeeded } else { Outcome::Failed },
            reason: format!("exit code {exit_code}"),
            output_open: false,
        }
    }

    /// All runs of a job, oldest first.
    pub async fn runs(&self, name: &str) -> Vec<Run> {
        let (mut runs, mut after) = (Vec::new(), None);
        loop {
            let page = self.ports.runs.list(&RunQuery::of_job(&key(name)), after.as_ref(), 500).await.unwrap();
            runs.extend(page.records.into_iter().map(|stored| stored.record));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        runs.reverse();
        runs
    }

    /// Each run of a job, oldest first: the minute of its nominal time, and its outcome, `held`, or its state.
    pub async fn history(&self, name: &str) -> Vec<String> {
        let shown = |run: &Run| {
            let what = match (run.outcome, run.held) {
                (Some(outcome), _) => outcome.name().to_owned(),
                (None, true) => "held".to_owned(),
                (None, false) => format!("{:?}", run.state).to_lowercase(),
            };
            format!("{} {what}", run.nominal.strftime("%H:%M"))
        };
        self.runs(name).await.iter().map(shown).collect()
    }

    /// The run of this id.
    pub async fn run(&self, run_id: &RunId) -> Run {
        self.ports.runs.list(&RunQuery::by_id(run_id), None, 1).await.unwrap().records.remove(0).record
    }

    /// The counts of all runs. Fails when they do not add up.
    pub async fn ledger(&self) -> Ledger {
        let ledger = commands::ledger(&self.ports, None, None).await.unwrap();
        assert!(ledger.adds_up(), "{ledger:?}");
        ledger
    }
}
