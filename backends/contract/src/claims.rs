//! Contract tests of claims: one run, one runner.

use domain::ports::{Claim, Ports, RunWrite, WriteResult};
use domain::run::{Outcome, Run, State};
use tokio::task::JoinSet;

use crate::samples::{at, create, heartbeat, run, write};

pub async fn one_of_many_runners_gets_the_run(ports: &Ports) {
    create(ports, &run("dump", 0)).await;
    let mut runners = JoinSet::new();
    for number in 0..16 {
        let claims = ports.claims.clone();
        runners.spawn(async move {
            let runner = format!("r{number}");
            let claim = claims.claim(&run("dump", 0).run_key(), 1, &runner, "h1", at(1)).await.unwrap();
            (claim == Claim::Granted).then_some(runner)
        });
    }
    let winners: Vec<String> = runners.join_all().await.into_iter().flatten().collect();
    assert_eq!(winners.len(), 1, "{winners:?}");
    let stored = ports.runs.get(&[run("dump", 0).run_key()]).await.unwrap().remove(0).record;
    assert_eq!(
        (stored.state, stored.runner.as_ref(), stored.claimed_at),
        (State::Claimed, Some(&winners[0]), Some(at(1)))
    );
}

pub async fn a_claim_repeated_by_the_same_runner_is_granted(ports: &Ports) {
    create(ports, &run("dump", 0)).await;
    for second in [1, 5] {
        let claim = ports.claims.claim(&run("dump", 0).run_key(), 1, "r1", "h1", at(second)).await.unwrap();
        assert_eq!(claim, Claim::Granted);
    }
}

pub async fn a_run_that_may_not_start_is_refused(ports: &Ports) {
    let mut over = run("over", 0);
    over.finish(Outcome::Missed, "too late", at(1));
    let held = Run { held: true, ..run("held", 0) };
    let late = Run { start_by: Some(at(5)), ..run("late", 0) };
    let retried = Run { attempt: 2, ..run("retried", 0) };
    for refused in [over, held, late, retried] {
        create(ports, &refused).await;
        let claim = ports.claims.claim(&refused.run_key(), 1, "r1", "h1", at(6)).await.unwrap();
        assert_eq!(claim, Claim::Refused, "{}", refused.job);
        assert_eq!(ports.runs.get(&[refused.run_key()]).await.unwrap()[0].record, refused);
    }
    assert_eq!(ports.claims.claim(&run("absent", 0).run_key(), 1, "r1", "h1", at(6)).await.unwrap(), Claim::Refused);
}

pub async fn a_claim_and_an_end_without_report_exclude_each_other(ports: &Ports) {
    for minute in 0..16 {
        let open = run("dump", minute * 60);
        create(ports, &open).await;
        let read = ports.runs.get(&[open.run_key()]).await.unwrap().remove(0);
        let claim = {
            let (claims, run_key) = (ports.claims.clone(), open.run_key());
            tokio::spawn(async move { claims.claim(&run_key, 1, "r1", "h1", at(1)).await.unwrap() })
        };
        let mut missed = read.record;
        missed.finish(Outcome::Missed, "too late", at(1));
        let declared = write(ports, RunWrite { run: missed, expected: Some(read.version), alert: None }).await;
        let granted = claim.await.unwrap() == Claim::Granted;
        assert_ne!(granted, declared == WriteResult::Done, "minute {minute}");
        let stored = ports.runs.get(&[open.run_key()]).await.unwrap().remove(0).record;
        assert_eq!(stored.is_open(), granted);
    }
}

pub async fn a_heartbeat_returns_the_stop_requests_of_its_own_runs_only(ports: &Ports) {
    for (minute, runner) in [(0, "r1"), (1, "r1"), (2, "r2")] {
        create(ports, &run("dump", minute * 60)).await;
        ports.claims.claim(&run("dump", minute * 60).run_key(), 1, runner, "h1", at(0)).await.unwrap();
    }
    assert!(ports.claims.heartbeat(&heartbeat("r1", 0)).await.unwrap().is_empty());
    for minute in [1, 2] {
        let mut stored = ports.runs.get(&[run("dump", minute * 60).run_key()]).await.unwrap().remove(0);
        stored.record.stop_requested_at = Some(at(300));
        write(ports, RunWrite { run: stored.record, expected: Some(stored.version), alert: None }).await;
    }
    assert_eq!(ports.claims.heartbeat(&heartbeat("r1", 10)).await.unwrap(), [run("dump", 60).run_id]);
    let mut stored = ports.runs.get(&[run("dump", 60).run_key()]).await.unwrap().remove(0);
    stored.record.finish(Outcome::Stopped, "stopped on request", at(301));
    stored.record.output_open = true;
    write(ports, RunWrite { run: stored.record, expected: Some(stored.version), alert: None }).await;
    assert_eq!(ports.claims.heartbeat(&heartbeat("r1", 15)).await.unwrap(), [run("dump", 60).run_id]);
    let mut stored = ports.runs.get(&[run("dump", 60).run_key()]).await.unwrap().remove(0);
    stored.record.output_open = false;
    write(ports, RunWrite { run: stored.record, expected: Some(stored.version), alert: None }).await;
    assert!(ports.claims.heartbeat(&heartbeat("r1", 20)).await.unwrap().is_empty());
}
