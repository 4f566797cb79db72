//! Contract tests of the run store.

use domain::alert::{JobState, Status};
use domain::job::JobKey;
use domain::ports::{AlertStep, Ports, RunFilter, RunQuery, RunWrite, StateChange, WriteResult};
use domain::run::{Outcome, Run, RunId};
use tokio::task::JoinSet;

use crate::samples::{at, create, key, run, run_of, transition, write};

pub async fn concurrent_creates_of_a_run_have_one_winner_that_all_see(ports: &Ports) {
    let mut creators = JoinSet::new();
    for number in 0..16 {
        let ports = ports.clone();
        creators.spawn(async move {
            let mut mine = run("dump", 0);
            mine.reason = Some(format!("made by {number}"));
            (mine.clone(), create(&ports, &mine).await)
        });
    }
    let answers = creators.join_all().await;
    let winners: Vec<&Run> =
        answers.iter().filter(|(_, written)| *written == WriteResult::Done).map(|(run, _)| run).collect();
    assert_eq!(winners.len(), 1);
    for (_, written) in &answers {
        match written {
            WriteResult::Done => {}
            WriteResult::Conflict(Some(stored)) => assert_eq!(&stored.record, winners[0]),
            other => panic!("{other:?}"),
        }
    }
    let found = ports.runs.get(&[run("dump", 0).run_key(), run("absent", 0).run_key()]).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(&found[0].record, winners[0]);
}

pub async fn a_run_changes_only_at_its_latest_version(ports: &Ports) {
    create(ports, &run("dump", 0)).await;
    let first = ports.runs.get(&[run("dump", 0).run_key()]).await.unwrap().remove(0);
    let mut missed = first.record.clone();
    missed.finish(Outcome::Missed, "too late", at(9));
    let mut skipped = first.record.clone();
    skipped.finish(Outcome::Skipped, "paused", at(9));
    let expected = Some(first.version);
    assert_eq!(write(ports, RunWrite { run: missed.clone(), expected, alert: None }).await, WriteResult::Done);
    match write(ports, RunWrite { run: skipped, expected, alert: None }).await {
        WriteResult::Conflict(Some(stored)) => {
            assert_eq!(stored.record, missed);
            assert!(stored.version > first.version);
        }
        other => panic!("{other:?}"),
    }
    let absent = RunWrite { run: run("absent", 0), expected: Some(1), alert: None };
    assert_eq!(write(ports, absent).await, WriteResult::Conflict(None));
}

pub async fn writes_of_one_call_are_independent(ports: &Ports) {
    create(ports, &run("b", 0)).await;
    let writes = ["a", "b", "c"].map(|name| RunWrite { run: run(name, 0), expected: None, alert: None });
    let written = ports.runs.write(&writes).await.unwrap();
    assert_eq!((&written[0], &written[2]), (&WriteResult::Done, &WriteResult::Done));
    assert!(matches!(&written[1], WriteResult::Conflict(Some(stored)) if stored.record.job == "b"), "{:?}", written[1]);
    assert_eq!(ports.runs.list(&RunQuery::default(), None, 10).await.unwrap().records.len(), 3);
}

pub async fn a_run_and_its_alert_step_change_together_or_not_at_all(ports: &Ports) {
    let step = |expected, id: &str| {
        let state = JobState { status: Status::Bad, streak: 1, ..JobState::default() };
        let state = Some(StateChange { key: key("dump"), expected, state });
        Some(AlertStep { state, transitions: vec![transition(id, 0)] })
    };
    let both = RunWrite { run: run("dump", 0), expected: None, alert: step(0, "one") };
    assert_eq!(write(ports, both).await, WriteResult::Done);
    let stale_state = RunWrite { run: run("dump", 60), expected: None, alert: step(0, "two") };
    assert_eq!(write(ports, stale_state).await, WriteResult::AlertConflict);
    assert!(ports.runs.get(&[run("dump", 60).run_key()]).await.unwrap().is_empty());
    let version = ports.alerts.state(&key("dump")).await.unwrap().version;
    let stale_run = RunWrite { run: run("dump", 0), expected: None, alert: step(version, "three") };
    assert!(matches!(write(ports, stale_run).await, WriteResult::Conflict(Some(_))));
    assert_eq!(ports.alerts.state(&key("dump")).await.unwrap().version, version);
    let transitions: Vec<String> =
        ports.alerts.list(None, 10).await.unwrap().records.into_iter().map(|transition| transition.id).collect();
    assert_eq!(transitions, ["one"]);
}

async fn list_all(ports: &Ports, query: &RunQuery, page_max: usize) -> Vec<RunId> {
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = ports.runs.list(query, after.as_ref(), page_max).await.unwrap();
        assert!(page.records.len() <= page_max);
        seen.extend(page.records.into_iter().map(|stored| stored.record.run_id));
        after = page.next;
        if after.is_none() {
            return seen;
        }
    }
}

pub async fn listing_is_newest_first_and_complete_over_its_pages(ports: &Ports) {
    let mut wanted = Vec::new();
    for minute in 0..23 {
        create(ports, &run("dump", minute * 60)).await;
        wanted.insert(0, run("dump", minute * 60).run_id);
    }
    for page_max in [1, 5, 23, 100] {
        assert_eq!(list_all(ports, &RunQuery::default(), page_max).await, wanted, "pages of {page_max}");
    }
}

pub async fn listing_keeps_to_every_bound_of_the_query(ports: &Ports) {
    let other = JobKey::new("web", "dump");
    let mut failed = run("dump", 60);
    failed.finish(Outcome::Failed, "exit code 3", at(61));
    let mut good = run("dump", 120);
    good.finish(Outcome::Succeeded, "exit code 0", at(121));
    let open = run("dump", 180);
    let elsewhere = run_of(&other, 60);
    let same_group = run("vacuum", 60);
    for run in [&failed, &good, &open, &elsewhere, &same_group] {
        assert_eq!(create(ports, run).await, WriteResult::Done);
    }
    let of_dump = RunQuery::of_job(&key("dump"));
    let check = async |query: RunQuery, wanted: &[&Run]| {
        let mut seen = list_all(ports, &query, 2).await;
        let mut wanted: Vec<RunId> = wanted.iter().map(|run| run.run_id.clone()).collect();
        seen.sort();
        wanted.sort();
        assert_eq!(seen, wanted, "{query:?}");
    };
    check(of_dump.clone(), &[&failed, &good, &open]).await;
    check(RunQuery { job: None, ..of_dump.clone() }, &[&failed, &good, &open, &same_group]).await;
    check(RunQuery { filter: RunFilter::Open, ..of_dump.clone() }, &[&open]).await;
    check(RunQuery::open(), &[&open, &elsewhere, &same_group]).await;
    check(RunQuery { filter: RunFilter::Ended(Outcome::Failed), ..RunQuery::default() }, &[&failed]).await;
    check(RunQuery { filter: RunFilter::Ended(Outcome::Succeeded), ..RunQuery::default() }, &[&good]).await;
    check(RunQuery { filter: RunFilter::Ended(Outcome::Lost), ..RunQuery::default() }, &[]).await;
    check(RunQuery::by_id(&failed.run_id), &[&failed]).await;
    check(RunQuery::by_id(&run("absent", 60).run_id), &[]).await;
    check(RunQuery { since: Some(at(120)), ..RunQuery::default() }, &[&good, &open]).await;
    check(RunQuery { since: Some(at(60)), until: Some(at(120)), ..of_dump }, &[&failed]).await;
}

pub async fn counts_add_up(ports: &Ports) {
    for minute in 0..20 {
        let mut run = run("dump", minute * 60);
        match minute % 4 {
            0 => run.finish(Outcome::Succeeded, "exit code 0", at(minute * 60)),
            1 => run.finish(Outcome::Failed, "exit code 3", at(minute * 60)),
            2 => run.finish(Outcome::Skipped, "paused", at(minute * 60)),
            _ => {}
        }
        create(ports, &run).await;
    }
    let ledger = ports.runs.count(&RunQuery::default()).await.unwrap();
    assert!(ledger.adds_up(), "{ledger:?}");
    assert_eq!((ledger.scheduled, ledger.open, ledger.count(Outcome::Failed)), (20, 5, 5));
    let window = RunQuery { since: Some(at(0)), until: Some(at(4 * 60)), ..RunQuery::default() };
    let ledger = ports.runs.count(&window).await.unwrap();
    assert_eq!((ledger.scheduled, ledger.open, ledger.count(Outcome::Skipped)), (4, 1, 1));
}

pub async fn removing_runs_twice_is_harmless(ports: &Ports) {
    create(ports, &run("dump", 0)).await;
    create(ports, &run("dump", 60)).await;
    let removed = [run("dump", 0).run_key(), run("absent", 0).run_key()];
    ports.runs.remove(&removed).await.unwrap();
    ports.runs.remove(&removed).await.unwrap();
    assert_eq!(list_all(ports, &RunQuery::default(), 10).await, [run("dump", 60).run_id]);
}
