//! A whole installation with a clock that only the test moves, and a runner made of three calls.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use domain::alert::{Alert, AlertKind};
use domain::event::{Body, Ended, Event, Report};
use domain::job::{Command, Job, JobKey};
use domain::ledger::Ledger;
use domain::line::Stream;
use domain::order::Order;
use domain::ports::{Claim, Heartbeat, Notifier, PortError, PortResult, Ports, RunQuery};
use domain::run::{ExcerptLine, Outcome, Run, RunId};
use embedded::Embedded;
use jiff::{SignedDuration, Timestamp};
use rules::Packs;
use services::{Links, alerts, collector, commands, liveness, overdue, release, scheduler, sweep};
use tempfile::TempDir;

pub struct World {
    pub ports: Ports,
    pub packs: Packs,
    pub channel: Channel,
    pub channels: Vec<String>,
    clock: Arc<Mutex<Timestamp>>,
    directory: TempDir,
}

/// Records what it is sent. The first `failures` calls fail.
#[derive(Default)]
pub struct Channel {
    pub sent: Mutex<Vec<(String, Alert)>>,
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

pub fn key(name: &str) -> JobKey {
    JobKey::new("db", name)
}

pub fn job(name: &str, schedule: &str) -> Job {
    Job::new(key(name), schedule, Command::Argv(vec!["dump".to_owned()]))
}

impl World {
    pub fn new(now: &str) -> World {
        World::in_directory(tempfile::tempdir().unwrap(), now)
    }

    pub fn in_directory(directory: TempDir, now: &str) -> World {
        let clock = Arc::new(Mutex::new(now.parse::<Timestamp>().unwrap()));
        let shown = clock.clone();
        let embedded =
            Embedded::open_at(&directory.path().join("sexton.db"), Arc::new(move || *shown.lock().unwrap())).unwrap();
        World {
            ports: embedded.ports(),
            packs: Packs::builtin(),
            channel: Channel::default(),
            channels: vec!["oncall".to_owned()],
            clock,
            directory,
        }
    }

    /// The same file opened a second time, as by another process: with its own writer and readers.
    pub fn open_second(&self) -> Ports {
        let shown = self.clock.clone();
        let file = self.directory.path().join("sexton.db");
        Embedded::open_at(&file, Arc::new(move || *shown.lock().unwrap())).unwrap().ports()
    }

    /// An operator edits the database with `sqlite3`.
    pub fn edit_with_sqlite(&self, statements: &str) {
        embedded::edit_by_hand(&self.directory.path().join("sexton.db"), statements).unwrap();
    }

    pub fn now(&self) -> Timestamp {
        *self.clock.lock().unwrap()
    }

    pub fn set(&self, now: &str) {
        *self.clock.lock().unwrap() = now.parse().unwrap();
    }

    pub fn pass(&self, seconds: i64) {
        let mut now = self.clock.lock().unwrap();
        *now += SignedDuration::from_secs(seconds);
    }

    pub async fn put(&self, job: &Job) {
        commands::put(&self.ports, job, self.now()).await.unwrap();
    }

    pub async fn schedule(&self) -> scheduler::SchedulerSummary {
        scheduler::tick(&self.ports, self.now()).await.unwrap()
    }

    pub async fn collect(&self) -> collector::CollectorSummary {
        let reports = collector::receive(&self.ports, Duration::ZERO).await.unwrap();
        let summary = collector::collect(&self.ports, &self.packs, reports, self.now()).await.unwrap();
        release::release_jobs(&self.ports, &summary.ended_jobs, self.now()).await.unwrap();
        summary
    }

    pub async fn release_held(&self) -> release::ReleaseSummary {
        let open = overdue::list_open_runs(&self.ports).await.unwrap();
        release::release_due(&self.ports, &open, self.now()).await.unwrap()
    }

    pub async fn check_overdue(&self) -> overdue::OverdueSummary {
        let open = overdue::list_open_runs(&self.ports).await.unwrap();
        overdue::tick(&self.ports, &open, self.now()).await.unwrap()
    }

    /// Sends the alerts that are due and returns them.
    pub async fn send_alerts(&self) -> Vec<Alert> {
        self.tick_alerts().await;
        std::mem::take(&mut *self.channel.sent.lock().unwrap()).into_iter().map(|(_, alert)| alert).collect()
    }

    pub async fn send_alert_kinds(&self) -> Vec<AlertKind> {
        self.send_alerts().await.into_iter().map(|alert| alert.kind).collect()
    }

    pub async fn tick_alerts(&self) -> alerts::AlertSummary {
        self.tick_alerts_over(&self.ports).await.unwrap()
    }

    /// The alert duty over ports that may fail.
    pub async fn tick_alerts_over(&self, ports: &Ports) -> services::Result<alerts::AlertSummary> {
        let links = Links([("console".to_owned(), "http://console/runs/{run_id}".to_owned())].into());
        let worker =
            alerts::AlertWorker { notifier: &self.channel, channels: &self.channels, links: &links, name: "test" };
        alerts::tick(ports, &worker, self.now()).await
    }

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

    /// All duties once, in the order of the scheduler's Lambda.
    pub async fn run_duties(&self) {
        self.schedule().await;
        self.check_open_runs().await;
        sweep::tick(&self.ports, self.now()).await.unwrap();
    }

    pub async fn send_heartbeat(&self, runner: &str) -> Vec<RunId> {
        let beat = Heartbeat {
            runner: runner.to_owned(),
            host: "h1".to_owned(),
            groups: vec!["db".to_owned()],
            at: self.now(),
            running: 0,
            version: "0.1.0".to_owned(),
            held: None,
        };
        self.ports.claims.heartbeat(&beat).await.unwrap()
    }

    /// All orders that can be received now and that the runner could claim. Refused ones are dropped.
    pub async fn take_orders(&self, runner: &str) -> Vec<Order> {
        let mut taken = Vec::new();
        loop {
            let lease = Duration::from_secs(60);
            let deliveries = self.ports.orders.receive(&[], 100, lease, Duration::ZERO).await.unwrap();
            if deliveries.is_empty() {
                return taken;
            }
            for delivery in deliveries {
                let order = delivery.message;
                let claim =
                    self.ports.claims.claim(&order.run_key(), order.attempt, runner, "h1", self.now()).await.unwrap();
                self.ports.orders.delete(&delivery.receipt).await.unwrap();
                if claim == Claim::Granted {
                    taken.push(order);
                }
            }
        }
    }

    pub async fn report_started(&self, order: &Order) {
        let body = Body::Started { pid: Some(7), command: "dump".to_owned() };
        self.ports.reports.send(&[self.event(order, body)]).await.unwrap();
    }

    pub async fn report_finished(&self, order: &Order, exit_code: i32) {
        let report = self.report(exit_code);
        self.ports.reports.send(&[self.event(order, Body::Finished(Box::new(report)))]).await.unwrap();
    }

    /// Takes, starts and finishes every order.
    pub async fn run_all(&self, exit_code: i32) -> Vec<Order> {
        let orders = self.take_orders("r1").await;
        for order in &orders {
            self.report_started(order).await;
            self.report_finished(order, exit_code).await;
        }
        orders
    }

    pub fn event(&self, order: &Order, body: Body) -> Event {
        Event::new(order, "r1", "h1", self.now(), body)
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

    /// Each run of a job, oldest first: its nominal minute and its outcome, `held`, or its state.
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

    pub async fn run(&self, run_id: &RunId) -> Run {
        self.ports.runs.list(&RunQuery::by_id(run_id), None, 1).await.unwrap().records.remove(0).record
    }

    pub async fn ledger(&self) -> Ledger {
        let ledger = commands::ledger(&self.ports, None, None).await.unwrap();
        assert!(ledger.adds_up(), "{ledger:?}");
        ledger
    }
}
