//! A file of the first release is migrated with its data.

use std::time::Duration;

use domain::alert::Status;
use domain::job::JobKey;
use domain::ports::{RunFilter, RunQuery};
use domain::run::Outcome;
use embedded::Embedded;
use jiff::Timestamp;
use rusqlite::Connection;

const VERSION_1: &str = include_str!("../version_1.sql");

#[tokio::test]
async fn a_database_of_version_1_is_migrated_with_its_data() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sexton.db");
    embedded::edit_by_hand(&file, VERSION_1).unwrap();
    // The second pass opens the migrated file.
    for time in 1..=2 {
        let ports = Embedded::open(&file).unwrap().ports();
        let jobs = ports.jobs.list(None, None, 10).await.unwrap().records;
        let names: Vec<&str> = jobs.iter().map(|stored| stored.job.as_ref().unwrap().name.as_str()).collect();
        assert_eq!(names, ["fails", "long", "nightly-dump"]);
        let ledger = ports.runs.count(&RunQuery::default()).await.unwrap();
        assert!(ledger.adds_up());
        assert_eq!((ledger.scheduled, ledger.open, ledger.count(Outcome::Succeeded)), (4, 1, 2));
        let failed = RunQuery { filter: RunFilter::Ended(Outcome::Failed), ..RunQuery::default() };
        let failed = ports.runs.list(&failed, None, 10).await.unwrap().records.remove(0).record;
        assert_eq!((failed.exit_code, failed.excerpt[0].text.as_str()), (Some(3), "no"));
        let due = ports.due.list(0, Timestamp::UNIX_EPOCH, Timestamp::MAX, 10).await.unwrap();
        assert_eq!(due.iter().map(|due| due.key.name.as_str()).collect::<Vec<_>>(), ["nightly-dump"]);
        assert_eq!(ports.alerts.state(&JobKey::new("db", "fails")).await.unwrap().record.status, Status::Bad);
        assert_eq!(ports.alerts.list(None, 10).await.unwrap().records.len(), 1);
        assert_eq!(ports.settings.heartbeats().await.unwrap().len(), 1);
        assert!(ports.settings.read("scheduler").await.unwrap().is_some());
        if time == 1 {
            let (lease, wait) = (Duration::from_secs(60), Duration::ZERO);
            let orders = ports.orders.receive(&[], 10, lease, wait).await.unwrap();
            assert_eq!(orders[0].message.job.name, "long");
            let reports = ports.reports.receive(10, lease, wait).await.unwrap();
            assert_eq!(reports[0].message.job, "nightly-dump");
        }
    }
    let version: i64 = Connection::open(&file).unwrap().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 2);
}
