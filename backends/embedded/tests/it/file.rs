//! Tests of the file: reopened, of another version, of another program, edited by hand.

use std::time::Duration;

use contract::samples::{at, create, due, event, job, key, order, run};
use domain::ports::RunQuery;
use embedded::{Embedded, OpenError};
use rusqlite::Connection;
use tempfile::TempDir;

fn database_file() -> (TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sexton.db");
    (directory, file)
}

#[tokio::test]
async fn a_reopened_file_still_has_all_records() {
    let (_directory, file) = database_file();
    {
        let ports = Embedded::open(&file).unwrap().ports();
        assert!(ports.jobs.put(&job(&key("dump")), None).await.unwrap());
        create(&ports, &run("dump", 0)).await;
        ports.due.put(&[due("dump", 60)]).await.unwrap();
        ports.orders.send(&[order("db", 0)]).await.unwrap();
        ports.reports.send(&[event(0)]).await.unwrap();
    }
    let ports = Embedded::open(&file).unwrap().ports();
    assert_eq!(ports.jobs.get(&[key("dump")]).await.unwrap()[0].job, Ok(job(&key("dump"))));
    assert_eq!(ports.runs.list(&RunQuery::open(), None, 10).await.unwrap().records[0].record, run("dump", 0));
    assert_eq!(ports.due.list(0, at(0), at(60), 10).await.unwrap(), [due("dump", 60)]);
    let lease = Duration::from_secs(60);
    assert_eq!(ports.orders.receive(&[], 10, lease, Duration::ZERO).await.unwrap().len(), 1);
    assert_eq!(ports.reports.receive(10, lease, Duration::ZERO).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_removed_due_entry_is_no_longer_listed() {
    let (_directory, file) = database_file();
    let ports = Embedded::open(&file).unwrap().ports();
    ports.due.put(&[due("a", 0), due("b", 0)]).await.unwrap();
    ports.due.remove(&[due("a", 0)]).await.unwrap();
    assert_eq!(ports.due.list(0, at(0), at(0), 10).await.unwrap(), [due("b", 0)]);
}

#[test]
fn a_file_of_a_newer_build_is_refused_and_left_unchanged() {
    let (_directory, file) = database_file();
    drop(Embedded::open(&file).unwrap());
    Connection::open(&file).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    let error = Embedded::open(&file).err().expect("a newer file is refused");
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("use a newer build"), "{error}");
    let version: i64 = Connection::open(&file).unwrap().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 99);
}

#[test]
fn a_file_of_another_program_is_refused() {
    let (_directory, file) = database_file();
    Connection::open(&file).unwrap().execute_batch("CREATE TABLE cats (name TEXT)").unwrap();
    assert!(matches!(Embedded::open(&file), Err(OpenError::Foreign { .. })));
    std::fs::write(&file, "a text of more than a hundred bytes ".repeat(10)).unwrap();
    assert!(matches!(Embedded::open(&file), Err(OpenError::Foreign { .. })));
    let missing = file.join("no/such/directory");
    assert!(matches!(Embedded::open(&missing), Err(OpenError::Create { .. })));
}

#[tokio::test]
async fn unreadable_records_are_quarantined_and_block_no_others() {
    let (_directory, file) = database_file();
    let ports = Embedded::open(&file).unwrap().ports();
    for name in ["good", "broken", "renamed", "blob"] {
        assert!(ports.jobs.put(&job(&key(name)), None).await.unwrap());
        create(&ports, &run(name, 0)).await;
    }
    ports.reports.send(&[event(0), event(60)]).await.unwrap();
    ports.orders.send(&[order("db", 0), order("db", 60)]).await.unwrap();
    Connection::open(&file)
        .unwrap()
        .execute_batch(
            "UPDATE jobs SET body = '{\"group\":\"db\",' WHERE name = 'broken';
             UPDATE jobs SET body = replace(body, '\"renamed\"', '\"other\"') WHERE name = 'renamed';
             UPDATE jobs SET body = x'ff00' WHERE name = 'blob';
             UPDATE runs SET body = 'nothing' WHERE job = 'broken';
             UPDATE reports SET body = '[]' WHERE id = 1;
             UPDATE orders SET body = '{}' WHERE id = 1;",
        )
        .unwrap();
    let jobs = ports.jobs.list(None, None, 10).await.unwrap().records;
    let readable: Vec<&str> = jobs.iter().filter(|job| job.job.is_ok()).map(|job| job.key.name.as_str()).collect();
    assert_eq!((jobs.len(), readable), (4, vec!["good"]));
    assert_eq!(ports.runs.list(&RunQuery::open(), None, 10).await.unwrap().records.len(), 3);
    assert!(ports.runs.count(&RunQuery::default()).await.unwrap().adds_up());
    let lease = Duration::from_secs(60);
    let reports = ports.reports.receive(10, lease, Duration::ZERO).await.unwrap();
    assert_eq!(reports.iter().map(|report| report.message.id()).collect::<Vec<_>>(), [event(60).id()]);
    let orders = ports.orders.receive(&[], 10, lease, Duration::ZERO).await.unwrap();
    assert_eq!(orders.iter().map(|delivery| delivery.message.clone()).collect::<Vec<_>>(), [order("db", 60)]);
    let mut kinds: Vec<String> =
        ports.settings.quarantined().await.unwrap().into_iter().map(|aside| aside.kind).collect();
    kinds.sort();
    assert_eq!(kinds, ["orders", "reports", "run"]);
}

#[tokio::test]
async fn claims_of_an_exited_worker_pass_at_once_to_the_next_of_its_name() {
    let (_directory, file) = database_file();
    let transition = contract::samples::transition("one", 0);
    let claim = async |ports: &domain::ports::Ports, worker: &str| {
        ports.alerts.claim(worker, at(60), at(360), 10).await.unwrap().len()
    };
    {
        let ports = Embedded::open(&file).unwrap().ports();
        let step = domain::ports::AlertStep { state: None, transitions: vec![transition] };
        assert!(ports.alerts.raise(&step).await.unwrap());
        assert_eq!(claim(&ports, "up").await, 1);
        assert_eq!(claim(&ports, "up").await, 0, "its claim is still valid");
    }
    let ports = Embedded::open(&file).unwrap().ports();
    assert_eq!(claim(&ports, "another").await, 0);
    let ports = Embedded::open(&file).unwrap().ports();
    assert_eq!(claim(&ports, "up").await, 1);
    assert_eq!(claim(&ports, "up").await, 0);
}
