//! Timeouts and stops: every process of the job ends, and the record lists them.

use std::time::Duration;

use domain::event::Ended;
use domain::line::Stream;

use testbed::wait_for;

use crate::attempt::{Attempt, is_alive, shell};

/// Every running process of the job, found by a variable in its environment.
fn running_processes(attempt: &Attempt) -> Vec<u32> {
    let name = attempt.run.path().file_name().expect("name").to_string_lossy().into_owned();
    let needle = format!("SEXTON_RUN_ID={}", name.split('.').next().expect("id"));
    let all = keeper::processes::list().expect("processes");
    let has = |pid: &u32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|entry| entry == needle.as_bytes())
    };
    all.into_iter().filter(|process| !process.is_zombie()).map(|process| process.pid).filter(has).collect()
}

#[test]
fn a_run_over_its_timeout_is_stopped() {
    let mut job = shell("echo started; sleep 1000");
    job.timeout = Some(Duration::from_millis(300));
    let mut attempt = Attempt::start(job);
    let exit = attempt.wait_for_end();
    assert_eq!((exit.ended, exit.signal), (Ended::TimedOut, Some(15)));
    assert!(exit.duration_ms >= 300);
    assert!(exit.note.is_some_and(|note| note.starts_with("timeout: TERM to") && note.ends_with("no process left")));
    assert_eq!(running_processes(&attempt), Vec::<u32>::new());
}

#[test]
fn a_job_that_ignores_term_is_killed_after_its_grace() {
    let mut job = shell("trap '' TERM; echo started; while :; do sleep 1000; done");
    job.kill_grace = Duration::from_millis(300);
    let mut attempt = Attempt::start(job);
    wait_for("the trap", || (!attempt.lines().is_empty()).then_some(()));
    attempt.request_stop();
    let exit = attempt.wait_for_end();
    assert_eq!((exit.ended, exit.signal), (Ended::Stopped, Some(9)));
    let note = exit.note.unwrap_or_default();
    assert!(note.starts_with("stop requested by a test: TERM to 2 processes, after 300ms KILL to "), "{note}");
    assert!(note.ends_with("; no process left"), "{note}");
    assert!(exit.leaked.iter().all(|leaked| leaked.killed) && !exit.leaked.is_empty());
    assert_eq!(running_processes(&attempt), Vec::<u32>::new());
}

#[test]
fn a_stop_reaches_daemons_that_left_the_session() {
    // Forks twice, each time into a new session, and ignores TERM there.
    let daemon =
        "setsid sh -c '(setsid sh -c \"trap : TERM; echo \\$\\$; while :; do sleep 1; done\" &) ' & wait; sleep 1000";
    let mut job = shell(daemon);
    job.kill_grace = Duration::from_millis(200);
    let mut attempt = Attempt::start(job);
    let deep: u32 = wait_for("the daemon", || attempt.texts(Stream::Stdout).first().and_then(|pid| pid.parse().ok()));
    attempt.request_stop();
    let exit = attempt.wait_for_end();
    assert!(!is_alive(deep), "{exit:?}");
    assert_eq!(running_processes(&attempt), Vec::<u32>::new());
    assert!(exit.note.is_some_and(|note| note.ends_with("; no process left")));
}

#[test]
fn a_job_may_clean_up_within_its_grace() {
    let mut job = shell("trap 'echo cleaned; exit 5' TERM; echo started; while :; do sleep 0.05; done");
    job.timeout = Some(Duration::from_millis(200));
    let mut attempt = Attempt::start(job);
    let exit = attempt.wait_for_end();
    assert_eq!((exit.ended, exit.exit_code, exit.signal), (Ended::TimedOut, Some(5), None));
    assert_eq!(attempt.texts(Stream::Stdout), ["started", "cleaned"]);
    assert!(exit.leaked.is_empty(), "{:?}", exit.leaked);
}

#[test]
fn a_stop_requested_before_the_start_takes_effect() {
    let folder = tempfile::tempdir().expect("folder");
    let mut attempt = Attempt::start_in(folder.path(), shell("sleep 1000"), Default::default());
    // The request may come before or after the start; the job ends in both cases.
    attempt.request_stop();
    assert_eq!(attempt.wait_for_end().ended, Ended::Stopped);
}
