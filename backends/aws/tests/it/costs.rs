//! Read and write units of a tick and of a run, as DynamoDB counts them.

use aws::Aws;
use contract::samples::{at, job, key, run};
use domain::job::{Job, JobKey};
use domain::ports::{Claimant, Due, RunWrite};
use domain::run::{Outcome, RunKey};
use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinSet;

use crate::emulator::Installation;

/// Stores jobs that fire in a week, with their due entries, in the fastest way.
async fn store(aws: &Aws, numbers: std::ops::Range<usize>, now: Timestamp) {
    let mut writers = JoinSet::new();
    let numbers: Vec<usize> = numbers.collect();
    for numbers in numbers.chunks(numbers.len().div_ceil(4)) {
        let (aws, numbers) = (aws.clone(), numbers.to_vec());
        writers.spawn(async move {
            for numbers in numbers.chunks(500) {
                let jobs: Vec<Job> =
                    numbers.iter().map(|number| job(&JobKey::new("db", format!("idle-{number}")))).collect();
                let at = now + SignedDuration::from_hours(7 * 24);
                let entry = |job: &Job| Due { at, key: job.key(), timing: job.timing() };
                aws.ports.due.put(&jobs.iter().map(entry).collect::<Vec<_>>()).await.unwrap();
                aws.put_jobs(&jobs).await.unwrap();
            }
        });
    }
    writers.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tick_reads_does_not_depend_on_the_number_of_stored_jobs() {
    let Some(installation) = Installation::start(&["db"]).await else { return };
    let aws = &installation.aws;
    // Ahead of this machine's clock, which stamps entries: so all entries are older than the first tick.
    let tomorrow = (Timestamp::now().as_second() / 86_400 + 1) * 86_400;
    let mut now = Timestamp::from_second(tomorrow).unwrap();
    for number in 0..50 {
        let due = Job { schedule: "* * * * *".to_owned(), ..job(&key(&format!("due-{number:02}"))) };
        services::commands::put(&aws.ports, &due, now - SignedDuration::from_secs(30)).await.unwrap();
    }
    let tick = async |now| {
        let before = aws.meter.total("dynamodb ");
        assert_eq!(services::scheduler::tick(&aws.ports, now).await.unwrap().started, 50);
        let after = aws.meter.total("dynamodb ");
        (after.read_units - before.read_units, after.items_read - before.items_read)
    };
    // Until every minute that a tick reads has fifty entries.
    for _ in 0..12 {
        tick(now).await;
        now += SignedDuration::from_secs(60);
    }
    let (mut stored, mut read) = (0, Vec::new());
    for wanted in [100, 10_000, 100_000] {
        store(aws, stored..wanted, now).await;
        stored = wanted;
        read.push(tick(now).await);
        now += SignedDuration::from_secs(60);
    }
    println!("read units and items of a tick with 100, 10,000 and 100,000 jobs: {read:?}");
    assert!(read[0].0 > 0.0, "the emulator reports no capacity");
    // One item is read again after seconds, however many jobs there are: the choice about unsigned orders.
    let differs = |units: &&(f64, u64)| (units.0 - read[0].0).abs() > 1.0 || units.1.abs_diff(read[0].1) > 1;
    assert_eq!(read.iter().find(differs), None, "{read:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_usual_run_costs_at_most_six_write_units() {
    let Some(installation) = Installation::start(&["db"]).await else { return };
    let aws = &installation.aws;
    // The first run of a bucket pays for opening it.
    contract::samples::create(&aws.ports, &run("first", 0)).await;
    let before = aws.meter.total("dynamodb ").write_units;
    contract::samples::create(&aws.ports, &run("dump", 0)).await;
    let entry = Due { at: at(60), key: key("dump"), timing: "t".to_owned() };
    aws.ports.due.put(std::slice::from_ref(&entry)).await.unwrap();
    aws.ports.due.remove(&[entry]).await.unwrap();
    let name = RunKey::new("db", run("dump", 0).run_id);
    aws.ports.claims.claim(&name, 1, Claimant::new("r1", "h1"), at(1)).await.unwrap();
    for ended in [false, true] {
        let mut stored = aws.ports.runs.get(std::slice::from_ref(&name)).await.unwrap().remove(0);
        if ended {
            stored.record.finish(Outcome::Succeeded, "it ended with exit code 0", at(9));
        }
        let write = RunWrite { run: stored.record, expected: Some(stored.version), alert: None };
        contract::samples::write(&aws.ports, write).await;
    }
    let units = aws.meter.total("dynamodb ").write_units - before;
    println!("write units of a run: {units}; {:#?}", aws.meter.usage());
    assert!(units <= 6.0, "{units}");
}
