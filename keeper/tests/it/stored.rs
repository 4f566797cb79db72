//! The files of a run directory keep their form: a newer build reads what an older one wrote, and an older one reads
//! what a newer one wrote.

use std::collections::BTreeMap;
use std::fmt::Debug;

use domain::event::{Ended, OutputEnd};
use domain::job::{Command, Job, JobKey};
use domain::order::{FORMAT_VERSION, Order};
use domain::run::{Leaked, OutputCounts, RunId, Trigger};
use jiff::Timestamp;
use keeper::records::{Accepted, Exit, Launch, Refusal, RefusalKind, Started, StopRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("instant")
}

#[track_caller]
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, golden: &str) {
    assert_eq!(serde_json::to_string(value).expect("json"), golden);
    assert_eq!(serde_json::from_str::<T>(golden).expect("golden"), *value);
}

#[test]
fn an_order_on_disk_keeps_its_form() {
    let order = Order {
        version: FORMAT_VERSION,
        run_id: RunId::unscheduled(at(0), [1; 6]),
        attempt: 2,
        nominal: at(0),
        trigger: Trigger::Retry,
        issued_at: at(1),
        not_before: None,
        start_by: Some(at(60)),
        job: Job::new(JobKey::new("db", "dump"), "@daily", Command::Argv(vec!["true".into()])),
    };
    let own = serde_json::to_string(&order).expect("json");
    let own = own.strip_suffix('}').expect("an object");
    let mut accepted = Accepted { order, accepted_at: at(2), boot_id: "b".into(), refused: None };
    check(&accepted, &format!(r#"{own},"accepted_at":"1970-01-01T00:00:02Z","boot_id":"b"}}"#));
    for (why, name) in [
        (RefusalKind::Policy, "policy"),
        (RefusalKind::TooLate, "too_late"),
        (RefusalKind::Stopped, "stopped"),
        (RefusalKind::Impossible, "impossible"),
    ] {
        accepted.refused = Some(Refusal { why, message: "no".into() });
        let refused = format!(r#"{{"why":"{name}","says":"no"}}"#);
        check(&accepted, &format!(r#"{own},"accepted_at":"1970-01-01T00:00:02Z","boot_id":"b","refused":{refused}}}"#));
    }
}

#[test]
fn the_records_of_start_stop_and_exit_keep_their_form() {
    let mut started = Started {
        pid: 7,
        start_ticks: 8,
        boot_id: "b".into(),
        started_at: at(0),
        monotonic_ms: None,
        cgroup: None,
        pipes: vec![9, 10],
        keeper: None,
    };
    check(&started, r#"{"pid":7,"start_ticks":8,"boot_id":"b","started_at":"1970-01-01T00:00:00Z","pipes":[9,10]}"#);
    (started.cgroup, started.keeper) = (Some("/sys/fs/cgroup/x".into()), Some(6));
    check(
        &started,
        r#"{"pid":7,"start_ticks":8,"boot_id":"b","started_at":"1970-01-01T00:00:00Z","cgroup":"/sys/fs/cgroup/x","pipes":[9,10],"keeper":6}"#,
    );
    let mut stop = StopRequest { at: at(0), by: "alice".into(), grace_max_ms: None };
    check(&stop, r#"{"at":"1970-01-01T00:00:00Z","by":"alice"}"#);
    stop.grace_max_ms = Some(9_000);
    check(&stop, r#"{"at":"1970-01-01T00:00:00Z","by":"alice","grace_max_ms":9000}"#);
    let output = OutputCounts {
        stdout_lines: 1,
        stderr_lines: 2,
        stdout_bytes: 3,
        stderr_bytes: 4,
        last_seq: 5,
        dropped_lines: 6,
        dropped_bytes: 7,
    };
    let mut exit = Exit {
        ended: Ended::TimedOut,
        note: Some("run limit".into()),
        exit_code: None,
        signal: Some(15),
        started_at: Some(at(0)),
        finished_at: at(1),
        duration_ms: 1_000,
        output,
        cpu_ms: Some(8),
        max_rss_bytes: None,
        guard: None,
        leaked: vec![Leaked { pid: 9, name: "sleep".into(), killed: true }],
        output_open: false,
    };
    check(
        &exit,
        r#"{"ended":"timed_out","note":"run limit","exit_code":null,"signal":15,"started_at":"1970-01-01T00:00:00Z","finished_at":"1970-01-01T00:00:01Z","duration_ms":1000,"output":{"stdout_lines":1,"stderr_lines":2,"stdout_bytes":3,"stderr_bytes":4,"last_seq":5,"dropped_lines":6,"dropped_bytes":7},"cpu_ms":8,"max_rss_bytes":null,"leaked":[{"pid":9,"name":"sleep","killed":true}]}"#,
    );
    exit = Exit { output_open: true, ..Exit::not_started("no", at(0)) };
    let text = serde_json::to_string(&exit).expect("json");
    assert!(text.ends_with(r#""leaked":[],"output_open":true}"#), "{text}");
    let end = OutputEnd { ended_at: at(2), output, late_lines: 1, note: None };
    check(
        &end,
        r#"{"ended_at":"1970-01-01T00:00:02Z","stdout_lines":1,"stderr_lines":2,"stdout_bytes":3,"stderr_bytes":4,"last_seq":5,"dropped_lines":6,"dropped_bytes":7,"late_lines":1}"#,
    );
    check(
        &Exit::not_started("no", at(0)),
        r#"{"ended":"not_started","note":"no","exit_code":null,"signal":null,"started_at":null,"finished_at":"1970-01-01T00:00:00Z","duration_ms":0,"output":{"stdout_lines":0,"stderr_lines":0,"stdout_bytes":0,"stderr_bytes":0,"last_seq":0,"dropped_lines":0,"dropped_bytes":0},"cpu_ms":null,"max_rss_bytes":null,"leaked":[]}"#,
    );
}

#[test]
fn the_launch_document_keeps_its_form() {
    let env = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
    let launch =
        Launch { env, secret_names: vec!["A".into()], passed: BTreeMap::new(), cgroup: true, ..Launch::default() };
    let golden = r#"{"env":{"A":"1"},"secret_names":["A"],"passed":{},"cgroup":true}"#;
    // Without `Debug`, so that no secret gets into a log.
    assert_eq!(serde_json::to_string(&launch).expect("json"), golden);
    assert!(serde_json::from_str::<Launch>(golden).is_ok_and(|read| read == launch));
}
