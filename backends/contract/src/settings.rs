//! Contract tests of settings and heartbeats.

use domain::ports::Ports;
use serde_json::json;

use crate::samples::{at, heartbeat};

pub async fn a_setting_changes_only_at_its_latest_version(ports: &Ports) {
    assert!(ports.settings.read("clock").await.unwrap().is_none());
    assert!(!ports.settings.write("clock", &json!(0), Some(1)).await.unwrap());
    assert!(ports.settings.write("clock", &json!({"ticked": 1}), None).await.unwrap());
    assert!(!ports.settings.write("clock", &json!(2), None).await.unwrap());
    let first = ports.settings.read("clock").await.unwrap().unwrap();
    assert_eq!(first.record, json!({"ticked": 1}));
    assert!(ports.settings.write("clock", &json!(3), Some(first.version)).await.unwrap());
    assert!(!ports.settings.write("clock", &json!(4), Some(first.version)).await.unwrap());
    assert_eq!(ports.settings.read("clock").await.unwrap().unwrap().record, json!(3));
    assert!(ports.settings.read("other").await.unwrap().is_none());
}

pub async fn a_runners_latest_heartbeat_is_kept_until_it_is_deleted(ports: &Ports) {
    for (runner, second) in [("r1", 0), ("r2", 5), ("r1", 10), ("r1", 3)] {
        ports.claims.heartbeat(&heartbeat(runner, second)).await.unwrap();
    }
    let mut beats = ports.settings.heartbeats().await.unwrap();
    beats.sort_by(|one, other| one.runner.cmp(&other.runner));
    assert_eq!(beats, [heartbeat("r1", 10), heartbeat("r2", 5)]);
    ports.settings.delete_heartbeats(at(10)).await.unwrap();
    assert_eq!(ports.settings.heartbeats().await.unwrap(), [heartbeat("r1", 10)]);
}

pub async fn a_heartbeat_of_a_clock_that_was_set_back_is_the_latest(ports: &Ports) {
    for second in [3600, 0, 60, 30] {
        ports.claims.heartbeat(&heartbeat("r1", second)).await.unwrap();
    }
    assert_eq!(ports.settings.heartbeats().await.unwrap(), [heartbeat("r1", 60)]);
}
