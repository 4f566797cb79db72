//! Prints how many runs a second are created, claimed and finished. Checks only their number, because no test depends
//! on speed.

use std::time::Instant;

use contract::samples::{at, key, run};
use domain::ports::{Claim, Claimant, RunQuery, RunWrite, WriteResult};
use domain::run::Outcome;
use embedded::Embedded;
use tokio::task::JoinSet;

/// Concurrent callers, such as a scheduler, a collector and several runners.
const CALLERS: i64 = 16;
const RUNS_EACH: i64 = 250;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_callers_finish_all_their_runs() {
    let directory = tempfile::tempdir().unwrap();
    let ports = Embedded::open(&directory.path().join("sexton.db")).unwrap().ports();
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let ports = ports.clone();
        callers.spawn(async move {
            for number in 0..RUNS_EACH {
                let mut mine = run(&format!("job-{caller}"), number * 60);
                let create = RunWrite { run: mine.clone(), expected: None, alert: None };
                assert_eq!(ports.runs.write(&[create]).await.unwrap(), [WriteResult::Done]);
                let claim =
                    ports.claims.claim(&mine.run_key(), 1, Claimant::new("r1", "h1"), mine.nominal).await.unwrap();
                assert_eq!(claim, Claim::Granted);
                mine.claim(1, Claimant::new("r1", "h1"), mine.nominal);
                mine.finish(Outcome::Succeeded, "exit code 0", at(number * 60 + 1));
                let finish = RunWrite { run: mine, expected: Some(2), alert: None };
                assert_eq!(ports.runs.write(&[finish]).await.unwrap(), [WriteResult::Done]);
            }
        });
    }
    callers.join_all().await;
    let all = CALLERS * RUNS_EACH;
    println!("{:.0} runs a second, created, claimed and finished", all as f64 / started.elapsed().as_secs_f64());
    let ledger = ports.runs.count(&RunQuery::default()).await.unwrap();
    assert_eq!((ledger.scheduled, ledger.count(Outcome::Succeeded)), (all as u64, all as u64));
    assert!(ports.alerts.state(&key("job-0")).await.unwrap().version == 0);
}
