//! Firings of many jobs in one window.

use domain::crontab::{Format, parse};
use domain::job::Job;
use domain::plan::plan;
use jiff::Timestamp;

fn instant(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn jobs(text: &str) -> Vec<Job> {
    parse("crontab", text, Format::User).0
}

fn planned(jobs: &[Job], from: &str, to: &str) -> Vec<String> {
    let plan = plan(jobs, instant(from), instant(to)).expect("good jobs");
    plan.map(|(job, firing)| format!("{} {}", firing.at, job.command)).collect()
}

#[test]
fn firings_come_in_order_of_time_and_then_of_the_file() {
    let jobs = jobs("*/20 * * * * b\n0 * * * * a\n@reboot c\n@manually d\n# sexton: enabled=false\n* * * * * e\n");
    assert_eq!(
        planned(&jobs, "2026-01-01T00:00:00Z", "2026-01-01T01:00:01Z"),
        [
            "2026-01-01T00:00:00Z b",
            "2026-01-01T00:00:00Z a",
            "2026-01-01T00:20:00Z b",
            "2026-01-01T00:40:00Z b",
            "2026-01-01T01:00:00Z b",
            "2026-01-01T01:00:00Z a",
        ]
    );
}

#[test]
fn adjacent_windows_neither_overlap_nor_leave_a_gap() {
    let jobs = jobs("CRON_TZ=America/New_York\n30 2 * * * a\n*/7 1-3 * * * b\n");
    let (from, between, to) = ("2026-03-07T00:00:00Z", "2026-03-08T07:00:00Z", "2026-03-12T00:00:00Z");
    let halves = [planned(&jobs, from, between), planned(&jobs, between, to)].concat();
    assert_eq!(halves, planned(&jobs, from, to));
    assert!(halves.contains(&"2026-03-08T07:00:00Z a".to_owned()));
}

#[test]
fn an_interval_of_a_new_job_counts_from_the_beginning_of_the_window() {
    let jobs = jobs("@every 90s a\n");
    assert_eq!(
        planned(&jobs, "2026-01-01T00:00:10Z", "2026-01-01T00:03:10Z"),
        ["2026-01-01T00:00:10Z a", "2026-01-01T00:01:40Z a"]
    );
}

#[test]
fn an_endless_window_is_computed_lazily() {
    let jobs = jobs(&"* * * * * a\n".repeat(100));
    let plan = plan(&jobs, instant("2026-01-01T00:00:00Z"), Timestamp::MAX).expect("good jobs");
    assert_eq!(plan.take(1000).count(), 1000);
}

#[test]
fn a_job_that_cannot_be_planned_is_named() {
    let mut jobs = jobs("0 1 * * * a\n");
    jobs[0].schedule = "60 * * * *".to_owned();
    jobs[0].name = "broken".to_owned();
    let faults = plan(&jobs, Timestamp::UNIX_EPOCH, Timestamp::MAX).err().expect("refused");
    assert_eq!(faults.to_string(), "crontab: `default/broken`: minute 60 is out of range; write 0 to 59");
}

#[test]
fn a_delayed_job_starts_after_its_nominal_time_and_not_for_one_before_it_was_stored() {
    let mut job = jobs("RANDOM_DELAY=10\n0 * * * * a\n").remove(0);
    let delay = job.delay();
    assert_eq!(job.random_delay, Some(std::time::Duration::from_secs(600)));
    assert!(delay.as_secs() > 60 && delay.as_secs() < 600, "{delay:?}");
    let schedule = domain::jobs_file::fields::schedule(&job, Timestamp::UNIX_EPOCH).expect("good");
    let shortly_before = |at: &str| instant(at) + delay - std::time::Duration::from_secs(1);
    let next = |job: &Job, after| {
        let (firing, start) = domain::plan::next_start(job, &schedule, after).expect("endless");
        assert_eq!(start, firing.at + delay);
        firing.at
    };
    assert_eq!(next(&job, shortly_before("2026-01-01T03:00:00Z")), instant("2026-01-01T03:00:00Z"));
    assert_eq!(next(&job, instant("2026-01-01T03:00:00Z") + delay), instant("2026-01-01T04:00:00Z"));
    job.anchor = Some(instant("2026-01-01T03:00:30Z"));
    assert_eq!(next(&job, shortly_before("2026-01-01T03:00:00Z")), instant("2026-01-01T04:00:00Z"));
    // Jobs with another name have another delay, and the delay is less than the limit for every name.
    let named: std::collections::BTreeSet<u64> =
        (0..100).map(|number| Job { name: format!("job-{number}"), ..job.clone() }.delay().as_secs()).collect();
    assert!(named.len() > 80 && named.iter().all(|seconds| *seconds < 600), "{named:?}");
}

#[test]
fn random_delay_holds_for_later_entries_until_it_is_set_again() {
    let text = "0 1 * * * a\nRANDOM_DELAY=5\n0 2 * * * b\n# sexton: random_delay=1h\n0 3 * * * c\nRANDOM_DELAY=0\n0 4 * * * d\n\
                RANDOM_DELAY=2000\n0 5 * * * e\n";
    let minutes: Vec<Option<u64>> =
        jobs(text).iter().map(|job| job.random_delay.map(|limit| limit.as_secs() / 60)).collect();
    assert_eq!(minutes, [None, Some(5), Some(60), None, None]);
}
