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
