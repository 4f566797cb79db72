//! The delay of each run of a job, below its `random_delay`.

use std::time::Duration;

use domain::job::{Command, Job, JobKey};

fn dump() -> Job {
    Job::new(JobKey::new("db", "nightly-dump"), "0 2 * * *", Command::Shell("dump.sh".to_owned()))
}

#[test]
fn a_random_delay_is_stored_and_changes_no_timing_of_other_jobs() {
    let delayed = Job { random_delay: Some(Duration::from_secs(5 * 60)), ..dump() };
    let text = serde_json::to_string(&delayed).expect("JSON");
    assert!(text.contains("\"random_delay\":\"5m\""), "{text}");
    assert_eq!(serde_json::from_str::<Job>(&text).expect("a job"), delayed);
    assert_ne!(delayed.timing(), dump().timing());
    // The same on every machine and in every version: due entries and runs depend on it.
    assert_eq!(delayed.delay(), Duration::from_secs(204));
    assert_eq!(dump().delay(), Duration::ZERO);
}
