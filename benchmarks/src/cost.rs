//! `./bench cost`: the cost of a run on AWS. The services call ministack; `aws::Meter` counts requests, read units and
//! write units. `prices` has the prices, and the quantities that the emulator cannot show.
//!
//! Time is stepped by minutes. Every second minute is idle: its cost is subtracted from that of the minute before, and
//! is the cost of an idle installation. The runner is represented by its calls: receive, claim, delete, reports, and a
//! heartbeat.

mod prices;

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use async_trait::async_trait;
use aws::Aws;
use domain::alert::Alert;
use domain::event::{Body, Ended, Event, Report};
use domain::job::{Command, Job, JobKey};
use domain::order::Order;
use domain::ports::{Claim, Claimant, Heartbeat, Notifier, PortResult, Ports};
use domain::run::{Outcome, OutputCounts, RunKey};
use jiff::{SignedDuration, Timestamp};
use rules::Packs;
use services::{Links, alerts, collector, commands, liveness, overdue, release, scheduler, sweep};
use testbed::Ministack;

use prices::ASSUMED;

const GROUP: &str = "db";
const RUNNER_ID: &str = "0123456789abcdef0123456789abcdef";
const RUNNER: &str = "r1";
/// Lease of each received message. Chosen: no message is received twice during the benchmark.
const LEASE: Duration = Duration::from_secs(60);

/// The goals of docs/cost.md.
const DOLLARS_PER_MILLION_MAX: f64 = 6.0;
const WRITE_UNITS_PER_RUN_MAX: f64 = 6.0;
const IDLE_DOLLARS_MAX: f64 = 2.0;
const IDLE_GROUPS: usize = 5;
const IDLE_RUNNERS: f64 = 10.0;

/// Heartbeat interval of an idle runner on AWS (sexton/src/group_runner.rs), and length of a long poll (SQS,
/// WaitTimeSeconds).
const BEAT_SECONDS: f64 = 60.0;
const POLL_SECONDS: f64 = 20.0;
/// 730 hours, as AWS counts a month in its prices.
const MONTH_SECONDS: f64 = 730.0 * 3600.0;

/// Minutes in which the jobs are due. Chosen, not measured.
const BUSY_MINUTES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reports {
    /// Both reports of a run are collected together: a quick run.
    Together,
    /// The start is collected long before the end.
    Apart,
}

/// Measures with this number of jobs that are due at once, and prints the result; measures nothing without ministack.
///
/// # Errors
/// Returns the errors of the emulator and of the ports.
pub(crate) fn measure(jobs: usize) -> Result<()> {
    let Some(server) = Ministack::start() else {
        println!("left out: ministack is not installed");
        return Ok(());
    };
    let runtime = tokio::runtime::Runtime::new()?;
    println!("{jobs} jobs due at once, {BUSY_MINUTES} times; list prices of us-east-1, no free tier:");
    for price in prices::ALL {
        println!("  ${:<12} {} ({})", price.dollars, price.unit, price.source);
    }
    println!("\n| per run | goal | quick | long |\n|---|---|---|---|");
    let quick = runtime.block_on(run(&server, "100000000001", jobs, Reports::Together))?;
    let long = runtime.block_on(run(&server, "100000000002", jobs, Reports::Apart))?;
    let row = |name: &str, goal: &str, value: &dyn Fn(&Measured) -> f64, decimals: usize| {
        println!("| {name} | {goal} | {:.decimals$} | {:.decimals$} |", value(&quick), value(&long));
    };
    row("write units", "6", &|measured| measured.per_run.write_units, 2);
    row("read units", "", &|measured| measured.per_run.read_units, 2);
    row("SQS requests", "", &|measured| measured.per_run.sqs, 2);
    row("collector calls", "", &|measured| measured.per_run.collects, 2);
    row("dollars per million runs", "6", &|measured| measured.per_run.dollars() * 1e6, 2);
    let idle = idle(&long.idle_tick, &long.beat)?;
    println!("\n| idle month, {IDLE_GROUPS} groups, {IDLE_RUNNERS} runners | dollars |\n|---|---|");
    for (name, dollars) in &idle {
        println!("| {name} | {dollars:.2} |");
    }
    let all: f64 = idle.iter().map(|(_, dollars)| dollars).sum();
    println!(
        "| all | {all:.2} |\n\n| by kind of call, of {} long runs and their ticks | requests | write units | read units |",
        long.runs
    );
    println!("|---|---|---|---|");
    for (kind, spent) in &long.kinds {
        println!("| {kind} | {} | {} | {} |", spent.requests, spent.write_units, spent.read_units);
    }
    let dollars = long.per_run.dollars().max(quick.per_run.dollars()) * 1e6;
    for (what, is, most) in [
        ("write units per run", long.per_run.write_units, WRITE_UNITS_PER_RUN_MAX),
        ("dollars per million runs", dollars, DOLLARS_PER_MILLION_MAX),
        ("dollars for an idle month", all, IDLE_DOLLARS_MAX),
    ] {
        println!("{what}: {is:.2}, goal {most}: {}", if is <= most { "met" } else { "missed" });
    }
    Ok(())
}

/// Billed units.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    write_units: f64,
    read_units: f64,
    sqs: f64,
    collects: f64,
}

impl Usage {
    fn of(aws: &Aws) -> Usage {
        let (dynamodb, sqs) = (aws.meter.total("dynamodb "), aws.meter.total("sqs "));
        // ministack returns no units for BatchGetItem: each item is one, because it is read consistently and has at
        // most 4 KiB.
        let batched = aws.meter.total("dynamodb BatchGetItem");
        let uncounted = if batched.read_units > 0.0 { 0.0 } else { batched.items_read as f64 };
        Usage {
            write_units: dynamodb.write_units,
            read_units: dynamodb.read_units + uncounted,
            sqs: sqs.billed_requests as f64,
            collects: 0.0,
        }
    }

    fn minus(self, other: Usage) -> Usage {
        Usage {
            write_units: self.write_units - other.write_units,
            read_units: self.read_units - other.read_units,
            sqs: self.sqs - other.sqs,
            collects: self.collects - other.collects,
        }
    }

    fn plus(self, other: Usage) -> Usage {
        self.minus(Usage::default().minus(other))
    }

    fn divided(self, by: f64) -> Usage {
        Usage {
            write_units: self.write_units / by,
            read_units: self.read_units / by,
            sqs: self.sqs / by,
            collects: self.collects / by,
        }
    }

    /// Includes the collector's time and a month of storage of the run's record. The scheduler's time is part of the
    /// idle installation.
    fn dollars(self) -> f64 {
        let collect =
            prices::LAMBDA_CALL.dollars + ASSUMED.collect_seconds * ASSUMED.lambda_gb * prices::LAMBDA_TIME.dollars;
        self.write_units * prices::WRITE_UNIT.dollars
            + self.read_units * prices::READ_UNIT.dollars
            + self.sqs * prices::SQS_REQUEST.dollars
            + self.collects * collect
            + ASSUMED.run_bytes / 1e9 * prices::STORED.dollars
    }
}

struct Measured {
    runs: usize,
    per_run: Usage,
    idle_tick: Usage,
    beat: Usage,
    kinds: Vec<(String, aws::Usage)>,
}

struct NoChannel;

#[async_trait]
impl Notifier for NoChannel {
    async fn notify(&self, _channel: &str, _alert: &Alert) -> PortResult<()> {
        Ok(())
    }
}

async fn run(server: &Ministack, account: &str, jobs: usize, reports: Reports) -> Result<Measured> {
    let options = aws::Options {
        region: Some("us-east-1".to_owned()),
        endpoint: Some(server.endpoint()),
        access_key: Some(aws::AccessKey { id: account.to_owned(), secret: "secret".to_owned() }),
        ..aws::Options::default()
    };
    let aws = aws::connect(&options).await?;
    aws::install(&aws, &[GROUP]).await.map_err(|error| anyhow!("{error}"))?;
    // In the future, because entries of the due index contain the real time of writing. All within ten minutes, because
    // the item that is written once every ten minutes (backends/aws/src/buckets.rs) is not part of a run's cost.
    let begin = Timestamp::from_second((Timestamp::now().as_second().div_euclid(600) + 1) * 600)?;
    let mut pipeline = Pipeline { ports: aws.ports.clone(), packs: Packs::builtin(), now: begin };
    for number in 0..jobs {
        let job =
            Job::new(JobKey::new(GROUP, format!("job-{number}")), "*/2 * * * *", Command::Shell("true".to_owned()));
        commands::put(&pipeline.ports, &job, pipeline.now).await?;
    }
    // Costs that occur once: the first tick, the first heartbeat, the addresses of the queues.
    pipeline.minute(reports).await?;
    pipeline.minute(reports).await?;
    pipeline.minute(reports).await?;
    let before_all = aws.meter.usage();
    let (mut busy, mut idle, mut runs) = (Usage::default(), Usage::default(), 0);
    for _ in 0..BUSY_MINUTES {
        let before = Usage::of(&aws);
        let worked = pipeline.minute(reports).await?;
        busy = busy.plus(Usage::of(&aws).minus(before));
        busy.collects += worked.collects as f64;
        runs += worked.runs;
        let before = Usage::of(&aws);
        pipeline.minute(reports).await?;
        idle = idle.plus(Usage::of(&aws).minus(before));
    }
    anyhow::ensure!(runs == jobs * BUSY_MINUTES, "{runs} of {} runs took place", jobs * BUSY_MINUTES);
    let before = Usage::of(&aws);
    pipeline.beat().await?;
    let beat = Usage::of(&aws).minus(before);
    let kinds = aws.meter.usage().into_iter().filter_map(|(kind, spent)| {
        let before = before_all.get(&kind).copied().unwrap_or_default();
        let spent = aws::Usage {
            requests: spent.requests - before.requests,
            write_units: spent.write_units - before.write_units,
            read_units: spent.read_units - before.read_units,
            ..spent
        };
        (spent.requests > 0).then_some((kind, spent))
    });
    let idle_tick = idle.divided(BUSY_MINUTES as f64);
    Ok(Measured { runs, per_run: busy.minus(idle).divided(runs as f64), idle_tick, beat, kinds: kinds.collect() })
}

struct Pipeline {
    ports: Ports,
    packs: Packs,
    now: Timestamp,
}

#[derive(Default)]
struct Worked {
    runs: usize,
    collects: usize,
}

impl Pipeline {
    /// Runs one tick like the scheduler's Lambda, and the runs that it starts.
    async fn minute(&mut self, reports: Reports) -> Result<Worked> {
        self.now = self.now.checked_add(SignedDuration::from_mins(1))?;
        let (ports, now) = (&self.ports, self.now);
        scheduler::tick(ports, now).await?;
        let open = overdue::list_open_runs(ports).await?;
        release::release_due(ports, &open, now).await?;
        overdue::tick(ports, &open, now).await?;
        liveness::tick(ports, &open, now).await?;
        sweep::tick(ports, now).await?;
        self.alerts().await?;
        let mut worked = Worked::default();
        loop {
            let orders = self.take().await?;
            if orders.is_empty() {
                return Ok(worked);
            }
            worked.runs += orders.len();
            let started = |order| self.event(order, Body::Started { pid: Some(7), command: "true".to_owned() });
            let mut events: Vec<Event> = orders.iter().map(started).collect();
            if reports == Reports::Apart {
                self.ports.reports.send(&std::mem::take(&mut events)).await?;
                worked.collects += self.collect().await?;
            }
            let finished = |order| self.event(order, Body::Finished(Box::new(self.report())));
            let pairs: Vec<Event> = match events.is_empty() {
                true => orders.iter().map(finished).collect(),
                // As an outbox sends them: the end of a run follows its start.
                false => events.into_iter().zip(&orders).flat_map(|(start, order)| [start, finished(order)]).collect(),
            };
            self.ports.reports.send(&pairs).await?;
            worked.collects += self.collect().await?;
        }
    }

    async fn alerts(&self) -> Result<()> {
        let (links, channels) = (Links::default(), ["topic".to_owned()]);
        let worker = alerts::AlertWorker {
            notifier: &NoChannel,
            channels: &channels,
            links: &links,
            name: "bench",
            limits: Default::default(),
        };
        alerts::tick(&self.ports, &worker, self.now).await?;
        Ok(())
    }

    /// Receives orders once, claims and deletes them.
    async fn take(&self) -> Result<Vec<Order>> {
        let received = self.ports.orders.receive(&[GROUP.to_owned()], 10, LEASE, Duration::ZERO).await?;
        let mut orders = Vec::with_capacity(received.len());
        for delivery in received {
            let order = delivery.message;
            let run = RunKey::new(GROUP, order.run_id.clone());
            let by = Claimant { runner: RUNNER, host: "h1", id: Some(RUNNER_ID) };
            let claim = self.ports.claims.claim(&run, order.attempt, by, self.now).await?;
            self.ports.orders.delete(&delivery.receipt).await?;
            anyhow::ensure!(claim == Claim::Granted, "an order could not be claimed");
            orders.push(order);
        }
        Ok(orders)
    }

    /// Collects all reports, as the collector's Lambda does with each batch. Returns the number of batches.
    async fn collect(&self) -> Result<usize> {
        let mut batches = 0;
        loop {
            let reports =
                self.ports.reports.receive(ASSUMED.reports_per_collect as usize, LEASE, Duration::ZERO).await?;
            if reports.is_empty() {
                return Ok(batches);
            }
            batches += 1;
            let summary = collector::collect(&self.ports, &self.packs, reports, self.now).await?;
            if summary.ended > 0 {
                release::release_jobs(&self.ports, &summary.ended_jobs, self.now).await?;
                self.alerts().await?;
            }
        }
    }

    async fn beat(&self) -> Result<()> {
        let beat = Heartbeat {
            runner: RUNNER.to_owned(),
            host: "h1".to_owned(),
            groups: vec![GROUP.to_owned()],
            at: self.now,
            id: Some(RUNNER_ID.to_owned()),
            running: 0,
            version: "0.1.0".to_owned(),
            held: None,
            order_keys: None,
        };
        self.ports.claims.heartbeat(&beat).await?;
        Ok(())
    }

    fn event(&self, order: &Order, body: Body) -> Event {
        Event::new(order, RUNNER, "h1", self.now, body)
    }

    /// The report of a run that succeeded and printed a few lines.
    fn report(&self) -> Report {
        Report {
            ended: Ended::Exited,
            note: None,
            exit_code: Some(0),
            signal: None,
            started_at: Some(self.now),
            finished_at: self.now,
            duration_ms: 1_000,
            output: OutputCounts {
                stdout_lines: 20,
                stderr_lines: 0,
                stdout_bytes: 2_000,
                stderr_bytes: 0,
                last_seq: 20,
                dropped_lines: 0,
                dropped_bytes: 0,
            },
            cpu_ms: Some(500),
            max_rss_bytes: Some(8 << 20),
            guard: None,
            leaked: Vec::new(),
            rules: Vec::new(),
            rules_digest: String::new(),
            pack_digests: Default::default(),
            interpreters: Default::default(),
            excerpt: Vec::new(),
            outcome: Outcome::Succeeded,
            reason: "exit code 0".to_owned(),
            output_open: false,
        }
    }
}

/// The cost of a month of an installation without runs, by kind.
fn idle(tick: &Usage, beat: &Usage) -> Result<Vec<(&'static str, f64)>> {
    let template = testbed::repository().join("lambdas/template.yaml");
    let template = std::fs::read_to_string(&template).with_context(|| format!("cannot read {}", template.display()))?;
    let alarms = template.matches("Type: AWS::CloudWatch::Alarm").count() as f64;
    let table =
        |usage: &Usage| usage.write_units * prices::WRITE_UNIT.dollars + usage.read_units * prices::READ_UNIT.dollars;
    let calls = ASSUMED.ticks_per_month + ASSUMED.prunes_per_month;
    let lambda = prices::LAMBDA_CALL.dollars + ASSUMED.tick_seconds * ASSUMED.lambda_gb * prices::LAMBDA_TIME.dollars;
    let receives = MONTH_SECONDS / 60.0 * ASSUMED.idle_receives_per_minute;
    Ok(vec![
        ("runners poll for orders", IDLE_RUNNERS * MONTH_SECONDS / POLL_SECONDS * prices::SQS_REQUEST.dollars),
        ("heartbeats of runners", IDLE_RUNNERS * MONTH_SECONDS / BEAT_SECONDS * table(beat)),
        ("ticks: tables", ASSUMED.ticks_per_month * table(tick)),
        ("ticks: EventBridge Scheduler and Lambda", calls * (prices::SCHEDULER_CALL.dollars + lambda)),
        ("the collector's event source polls for reports", receives * prices::SQS_REQUEST.dollars),
        ("alarms", alarms * prices::ALARM.dollars),
    ])
}
