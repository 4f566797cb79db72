//! Contract tests of claims: one run, one runner.

use domain::ports::{Claim, Claimant, Heartbeat, HeartbeatAnswer, NameInUse, Ports, RunWrite, WriteResult};
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
            let claim = claims.claim(&run("dump", 0).run_key(), 1, Claimant::new(&runner, "h1"), at(1)).await.unwrap();
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
        let claim =
            ports.claims.claim(&run("dump", 0).run_key(), 1, Claimant::new("r1", "h1"), at(second)).await.unwrap();
        assert_eq!(claim, Claim::Granted);
    }
}

pub async fn a_claim_of_another_runner_with_the_same_name_is_refused(ports: &Ports) {
    let claim = async |second: i64, id: Option<&str>| {
        let by = Claimant { id, ..Claimant::new("r1", "h1") };
        ports.claims.claim(&run("dump", second).run_key(), 1, by, at(second)).await.unwrap()
    };
    create(ports, &run("dump", 0)).await;
    let claims = [Some("a"), Some("b"), Some("a"), None];
    let mut answers = Vec::new();
    for id in claims {
        answers.push(claim(0, id).await);
    }
    // The last one is of an older build.
    assert_eq!(answers, [Claim::Granted, Claim::Refused, Claim::Granted, Claim::Granted]);
    assert_eq!(ports.runs.get(&[run("dump", 0).run_key()]).await.unwrap()[0].record.runner_id.as_deref(), Some("a"));
    // A run that an older build has claimed, before its runner was upgraded.
    create(ports, &run("dump", 60)).await;
    assert_eq!([claim(60, None).await, claim(60, Some("a")).await], [Claim::Granted, Claim::Granted]);
}

pub async fn a_second_runner_of_a_name_is_refused_until_the_first_is_silent_for_90_s(ports: &Ports) {
    let beat = async |id: &str, host: &str, second: i64| {
        let beat = Heartbeat { id: Some(id.to_owned()), host: host.to_owned(), ..heartbeat("r1", second) };
        ports.claims.heartbeat(&beat).await.unwrap()
    };
    let accepted = HeartbeatAnswer::Stops(Vec::new());
    let refused = |host: &str, second: i64| {
        HeartbeatAnswer::NameInUse(NameInUse { host: host.to_owned(), last_heartbeat: at(second) })
    };
    assert_eq!(beat("a", "h1", 0).await, accepted);
    assert_eq!(beat("b", "h2", 10).await, refused("h1", 0));
    assert_eq!(beat("a", "h1", 20).await, accepted);
    assert_eq!(beat("b", "h2", 109).await, refused("h1", 20));
    assert_eq!(ports.settings.heartbeats().await.unwrap()[0].host, "h1");
    assert_eq!(beat("b", "h2", 110).await, accepted);
    assert_eq!(beat("a", "h1", 120).await, refused("h2", 110));
    assert_eq!(ports.settings.heartbeats().await.unwrap()[0].host, "h2");
    // A heartbeat of the refused runner that was delayed does not pass either; other names are not affected.
    assert_eq!(beat("a", "h1", 30).await, refused("h2", 110));
    assert_eq!(ports.claims.heartbeat(&heartbeat("r2", 120)).await.unwrap(), accepted);
}

pub async fn a_heartbeat_of_an_older_build_is_accepted_by_its_name(ports: &Ports) {
    let accepted = HeartbeatAnswer::Stops(Vec::new());
    let with_id = |id: &str, second| Heartbeat { id: Some(id.to_owned()), ..heartbeat("r1", second) };
    for beat in [heartbeat("r1", 0), with_id("a", 10), heartbeat("r1", 20), with_id("b", 30)] {
        assert_eq!(ports.claims.heartbeat(&beat).await.unwrap(), accepted);
    }
    assert_eq!(ports.settings.heartbeats().await.unwrap(), [with_id("b", 30)]);
}

pub async fn a_run_that_may_not_start_is_refused(ports: &Ports) {
    let mut over = run("over", 0);
    over.finish(Outcome::Missed, "too late", at(1));
    let held = Run { held: true, ..run("held", 0) };
    let late = Run { start_by: Some(at(5)), ..run("late", 0) };
    let retried = Run { attempt: 2, ..run("retried", 0) };
    for refused in [over, held, late, retried] {
        create(ports, &refused).await;
        let claim = ports.claims.claim(&refused.run_key(), 1, Claimant::new("r1", "h1"), at(6)).await.unwrap();
        assert_eq!(claim, Claim::Refused, "{}", refused.job);
        assert_eq!(ports.runs.get(&[refused.run_key()]).await.unwrap()[0].record, refused);
    }
    assert_eq!(
        ports.claims.claim(&run("absent", 0).run_key(), 1, Claimant::new("r1", "h1"), at(6)).await.unwrap(),
        Claim::Refused
    );
}

pub async fn a_claim_and_an_end_without_report_exclude_each_other(ports: &Ports) {
    for minute in 0..16 {
        let open = run("dump", minute * 60);
        create(ports, &open).await;
        let read = ports.runs.get(&[open.run_key()]).await.unwrap().remove(0);
        let claim = {
            let (claims, run_key) = (ports.claims.clone(), open.run_key());
            tokio::spawn(async move { claims.claim(&run_key, 1, Claimant::new("r1", "h1"), at(1)).await.unwrap() })
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
        ports.claims.claim(&run("dump", minute * 60).run_key(), 1, Claimant::new(runner, "h1"), at(0)).await.unwrap();
    }
    assert!(ports.claims.heartbeat(&heartbeat("r1", 0)).await.unwrap().stops().is_empty());
    for minute in [1, 2] {
        let mut stored = ports.runs.get(&[run("dump", minute * 60).run_key()]).await.unwrap().remove(0);
        stored.record.stop_requested_at = Some(at(300));
        write(ports, RunWrite { run: stored.record, expected: Some(stored.version), alert: None }).await;
    }
    assert_eq!(ports.claims.heartbeat(&heartbeat("r1", 10)).await.unwrap().stops(), [run("dump", 60).run_id]);
    let mut stored = ports.runs.get(&[run("dump", 60).run_key()]).await.unwrap().remove(0);
    stored.record.finish(Outcome::Stopped, "stopped on request", at(301));
    stored.record.output_open = true;
    write(ports, RunWrite { run: stored.record, expected: Some(stored.version), alert: None }).await;
    assert_eq!(ports.claims.heartbeat(&heartbeat("r1", 15)).await.unwrap().stops(), [run("dump", 60).run_id]);
    let mut stored = ports.runs.get(&[run("dump", 60).run_key()]).await.unwrap().remove(0);
    stored.record.output_open = false;
    write(ports, RunWrite { run: stored.record, expected: Some(stored.version), alert: None }).await;
    assert!(ports.claims.heartbeat(&heartbeat("r1", 20)).await.unwrap().stops().is_empty());
}
