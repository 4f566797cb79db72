//! The stored progress of an alert at its channels keeps its JSON.

use std::collections::BTreeMap;

use domain::alert::channel_progress::ChannelProgress;
use domain::alert::{AlertKind, Transition};
use domain::job::JobKey;
use jiff::Timestamp;

#[test]
fn progress_of_alerts_keeps_its_json() {
    let at = |text: &str| -> Timestamp { text.parse().expect("an instant") };
    let key = JobKey::new("db", "nightly-dump");
    let progress =
        |tries, retry_at, error: Option<&str>| ChannelProgress { tries, retry_at, error: error.map(str::to_owned) };
    testbed::golden(
        env!("CARGO_MANIFEST_DIR"),
        "transition_with_progress",
        &Transition {
            progress: BTreeMap::from([
                ("hook".to_owned(), progress(1, None, Some("404 Not Found"))),
                ("mail".to_owned(), progress(2, Some(at("2026-11-23T07:50:30Z")), Some("connection refused"))),
                ("slack".to_owned(), progress(1, None, None)),
            ]),
            ..Transition::new("t".to_owned(), AlertKind::Failed, &key, "exit code 1", at("2026-11-23T07:50:13Z"))
        },
    );
}
