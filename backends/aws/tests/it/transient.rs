//! Failing, throttled and repeated calls within one tick: the first tick orders every run, once.

use std::collections::BTreeMap;
use std::time::Duration;

use aws::{Aws, Options, tables};
use domain::job::{Command, Job, JobKey};
use domain::ports::RunQuery;
use domain::run::{Run, State};
use jiff::{SignedDuration, Timestamp};
use services::{scheduler, sweep};
use testbed::{AwsFault, AwsFaults};

use crate::emulator::Installation;

/// An installation whose scheduler uses a proxy, with a number of jobs of one group that are due at once.
struct Peak {
    installation: Installation,
    proxy: AwsFaults,
    scheduler: Aws,
    now: Timestamp,
}

impl Peak {
    async fn start(jobs: usize) -> Option<Peak> {
        Peak::start_with(jobs, None).await
    }

    async fn start_with(jobs: usize, shards: Option<u32>) -> Option<Peak> {
        let installation = Installation::start(&["db"]).await?;
        let proxy = AwsFaults::start(installation.address()).await;
        let options = Options { endpoint: Some(proxy.endpoint()), shards, ..installation.options.clone() };
        let scheduler = aws::connect(&options).await.unwrap();
        // Ahead of this machine's clock, which stamps entries.
        let now = Timestamp::from_second((Timestamp::now().as_second() / 86_400 + 1) * 86_400).unwrap();
        let jobs: Vec<Job> = (0..jobs)
            .map(|number| {
                let key = JobKey::new("db", format!("job-{number}"));
                Job::new(key, "0 0 * * *", Command::Shell("true".to_owned()))
            })
            .collect();
        installation.aws.put_jobs(&jobs).await.unwrap();
        let before = now - SignedDuration::from_secs(30);
        sweep::sweep(&scheduler.ports, before).await.unwrap();
        scheduler::tick(&scheduler.ports, before).await.unwrap();
        Some(Peak { installation, proxy, scheduler, now })
    }

    /// Calls of the scheduler that write a run.
    fn writes_of_runs(&self) -> usize {
        let is_write = |call: &testbed::AwsCall| call.action == "PutItem" && call.table() == Some("sexton-runs");
        self.proxy.calls().iter().filter(|call| is_write(call)).count()
    }

    /// The runs, and the number of orders of each that can be received.
    async fn runs(&self) -> (Vec<Run>, BTreeMap<String, usize>) {
        let aws = &self.installation.aws;
        let runs = aws.ports.runs.list(&RunQuery::default(), None, 10_000).await.unwrap().records;
        let runs: Vec<Run> = runs.into_iter().map(|stored| stored.record).collect();
        let mut orders: BTreeMap<String, usize> = BTreeMap::new();
        let (groups, lease) = (["db".to_owned()], Duration::from_secs(600));
        while orders.len() < runs.len() {
            let received = aws.ports.orders.receive(&groups, 10, lease, Duration::ZERO).await.unwrap();
            if received.is_empty() {
                break;
            }
            for delivery in received {
                *orders.entry(delivery.message.run_id.as_str().to_owned()).or_default() += 1;
            }
        }
        (runs, orders)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_calls_end_no_tick_and_miss_no_run() {
    let Some(peak) = Peak::start(60).await else { return };
    // The servers close the connections that were idle since the last tick; later, one call in nine fails.
    peak.proxy.strike(peak.proxy.calls().len(), 2, AwsFault::Cut);
    peak.proxy.strike_each(9, &[AwsFault::Refused, AwsFault::AnswerLost, AwsFault::Throttled, AwsFault::Cut]);
    let ticked = scheduler::tick(&peak.scheduler.ports, peak.now).await.unwrap();
    assert_eq!((ticked.started, ticked.resent, ticked.missed, ticked.failed), (60, 0, 0, 0), "{ticked:?}");
    let (runs, orders) = peak.runs().await;
    assert_eq!((runs.len(), orders.len()), (60, 60));
    assert!(runs.iter().all(|run| run.state == State::Scheduled));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_partition_is_written_at_its_own_pace_and_no_run_is_missed() {
    let Some(peak) = Peak::start(60).await else { return };
    let keys = tables(&peak.scheduler.names).into_iter().map(|table| (table.name, table.partition.to_owned()));
    peak.proxy.limit_writes(keys.collect(), 40);
    let ticked = scheduler::tick(&peak.scheduler.ports, peak.now).await.unwrap();
    assert_eq!((ticked.started, ticked.missed, ticked.failed), (60, 0, 0), "{ticked:?}");
    assert_eq!(peak.runs().await.1.len(), 60);
    // Writes wait for their turn instead of failing again and again.
    let (throttled, calls) = (peak.proxy.throttled(), peak.proxy.calls().len());
    assert!(throttled < calls / 2, "{throttled} of {calls} calls were throttled");
}

/// A shard with more entries at one instant than a chunk has.
#[tokio::test(flavor = "multi_thread")]
async fn a_tick_that_is_ended_within_an_instant_continues_there() {
    let Some(peak) = Peak::start_with(540, Some(1)).await else { return };
    let ports = &peak.scheduler.ports;
    let ticked = scheduler::tick_while(ports, peak.now, &|| false).await.unwrap();
    assert_eq!((ticked.started, ticked.more), (500, true));
    let before = peak.writes_of_runs();
    assert_eq!(before, 500);
    let next = peak.now + SignedDuration::from_secs(60);
    let ticked = scheduler::tick(ports, next).await.unwrap();
    assert_eq!((ticked.started, ticked.resent), (40, 0), "{ticked:?}");
    assert_eq!(peak.writes_of_runs() - before, 40, "what the first tick completed costs nothing");
    let ticked = scheduler::tick(ports, next + SignedDuration::from_secs(60)).await.unwrap();
    assert_eq!(ticked, scheduler::SchedulerSummary::default());
}
