//! Output of processes that outlive the job's own process: the outcome does not wait for it, and nothing is killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::event::{Ended, OutputEnd};
use domain::line::Stream;
use keeper::directory::read_json;
use keeper::output::{LineFormat, Output, Piece};
use keeper::records::Exit;
use testbed::wait_for;

use crate::attempt::{Attempt, is_alive, shell};

/// A command whose child in the background prints after `go` exists, and then creates `done`.
fn background(folder: &Path, print: &str, then: &str) -> String {
    let folder = folder.display();
    format!("(until test -e {folder}/go; do sleep 0.02; done; {print}; touch {folder}/done) & {then}")
}

fn wait_for_exit(attempt: &Attempt) -> Exit {
    wait_for("exit.json", || read_json::<Exit>(&attempt.run.exit()).expect("exit.json"))
}

fn wait_for_output_end(attempt: &mut Attempt) -> OutputEnd {
    wait_for("the keeper's end", || attempt.keeper.try_wait().expect("wait"));
    read_json(&attempt.run.output_end()).expect("output.json").expect("output.json is missing")
}

fn touch(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, "").expect(name);
    path
}

#[test]
fn the_end_is_recorded_at_the_exit_and_late_lines_are_counted() {
    let folder = tempfile::tempdir().expect("folder");
    let command = background(folder.path(), "echo late; echo later >&2", "echo first; exit 3");
    let mut attempt = Attempt::start(shell(&command));
    let exit = wait_for_exit(&attempt);
    assert_eq!((exit.ended, exit.exit_code, exit.output_open), (Ended::Exited, Some(3), true));
    assert_eq!((exit.output.last_seq, exit.output.stdout_lines), (1, 1));
    assert!(!exit.leaked.is_empty() && exit.leaked.iter().all(|leaked| !leaked.killed), "{exit:?}");
    assert!(attempt.run.has_keeper().expect("lock"));
    assert_eq!(Output::open(attempt.run.clone(), None, LineFormat::Raw).read().expect("read"), piece("first\n"));
    touch(folder.path(), "go");
    let end = wait_for_output_end(&mut attempt);
    assert!(folder.path().join("done").exists(), "the child ran to its end");
    assert_eq!((end.late_lines, end.output.last_seq, end.note), (2, 3, None));
    assert_eq!((end.output.stdout_lines, end.output.stderr_lines), (2, 1));
    assert_eq!(attempt.texts(Stream::Stdout), ["first", "late"]);
    assert_eq!(attempt.lines().iter().map(|line| line.seq).collect::<Vec<_>>(), [1, 2, 3]);
    let names: Vec<bool> = [1, 2].map(|seq| attempt.run.spool().join(keeper::spool::segment_name(seq)).exists()).into();
    assert_eq!(names, [true, true], "late lines begin a segment");
    // The record of the exit does not change.
    assert_eq!(wait_for_exit(&attempt), exit);
}

fn piece(text: &str) -> Piece {
    Piece::Bytes(text.as_bytes().to_vec())
}

#[test]
fn the_duration_is_that_of_the_process() {
    let folder = tempfile::tempdir().expect("folder");
    let mut attempt = Attempt::start(shell(&background(folder.path(), "echo late", "true")));
    let exit = wait_for_exit(&attempt);
    let started = attempt.started().started_at;
    let ran = exit.finished_at.duration_since(started).as_millis() as u64;
    assert!(exit.duration_ms + 100 <= ran, "{} ms, and its end was recorded after {ran} ms", exit.duration_ms);
    touch(folder.path(), "go");
    wait_for_output_end(&mut attempt);
}

#[test]
fn a_line_without_its_end_at_the_exit_is_complete_for_readers() {
    let folder = tempfile::tempdir().expect("folder");
    let mut attempt = Attempt::start(shell(&background(folder.path(), "echo late", "printf first")));
    let exit = wait_for_exit(&attempt);
    assert_eq!((exit.output.last_seq, exit.output.stdout_lines, exit.output.stdout_bytes), (1, 1, 5));
    touch(folder.path(), "go");
    wait_for_output_end(&mut attempt);
    let mut output = Output::open(attempt.run.clone(), None, LineFormat::Raw);
    let mut bytes = Vec::new();
    while let Piece::Bytes(more) = output.read().expect("read") {
        bytes.extend(more);
    }
    assert_eq!(String::from_utf8_lossy(&bytes), "firstlate\n", "the bytes are the job's own");
    assert_eq!(output.read().expect("read"), Piece::End);
}

#[test]
fn everything_printed_before_the_exit_is_read_before_the_end_is_recorded() {
    let folder = tempfile::tempdir().expect("folder");
    // A full pipe on each stream at the moment of the exit, beside a child that floods.
    let flood = "head -c 60000 /dev/zero | tr '\\0' x; head -c 60000 /dev/zero | tr '\\0' y >&2; echo; echo last";
    let mut attempt = Attempt::start(shell(&background(folder.path(), "yes | head -100000", flood)));
    let exit = wait_for_exit(&attempt);
    assert_eq!((exit.output.stdout_bytes, exit.output.stderr_bytes), (60_006, 60_000));
    touch(folder.path(), "go");
    let end = wait_for_output_end(&mut attempt);
    assert_eq!((end.late_lines, end.output.stdout_lines), (100_000, 100_002));
}

#[test]
fn a_run_without_a_line_before_its_exit_has_only_late_lines() {
    let folder = tempfile::tempdir().expect("folder");
    let mut attempt = Attempt::start(shell(&background(folder.path(), "echo late", "true")));
    assert_eq!(wait_for_exit(&attempt).output.last_seq, 0);
    touch(folder.path(), "go");
    let end = wait_for_output_end(&mut attempt);
    assert_eq!((end.late_lines, end.output.last_seq), (1, 1));
}

#[test]
fn after_the_late_output_limit_nothing_is_killed_and_nothing_kept() {
    let folder = tempfile::tempdir().expect("folder");
    let mut job = shell(&background(folder.path(), "yes | head -100000", "echo first"));
    job.late_output_limit = Some(Duration::from_millis(50));
    let mut attempt = Attempt::start(job);
    let end = wait_for("output.json", || read_json::<OutputEnd>(&attempt.run.output_end()).expect("output.json"));
    assert_eq!((end.late_lines, end.output.last_seq), (0, 1));
    assert_eq!(end.note.as_deref(), Some("its late_output_limit of 50ms passed; later output is not kept"));
    touch(folder.path(), "go");
    wait_for("the child's end", || folder.path().join("done").exists().then_some(()));
    wait_for_output_end(&mut attempt);
    assert_eq!(attempt.texts(Stream::Stdout), ["first"]);
}

#[test]
fn a_stop_ends_what_is_left_and_the_outcome_stays() {
    let mut attempt = Attempt::start(shell("trap '' TERM; sleep 1000 & echo $!"));
    let exit = wait_for_exit(&attempt);
    assert_eq!((exit.ended, exit.exit_code), (Ended::Exited, Some(0)));
    let pid: u32 = attempt.texts(Stream::Stdout)[0].parse().expect("pid");
    assert!(is_alive(pid));
    attempt.request_stop_within(Some(100));
    let end = wait_for_output_end(&mut attempt);
    assert!(!is_alive(pid));
    let note = end.note.unwrap_or_default();
    assert!(note.starts_with("stop requested by a test: TERM to 1 process, after 100ms KILL to 1 process"), "{note}");
    assert_eq!(wait_for_exit(&attempt), exit);
}

#[test]
fn a_daemon_that_closed_its_output_is_listed_and_not_waited_for() {
    let mut attempt = Attempt::start(shell("sleep 1000 >/dev/null 2>&1 & echo $!"));
    let exit = attempt.wait_for_end();
    let pid: u32 = attempt.texts(Stream::Stdout)[0].parse().expect("pid");
    assert_eq!((exit.ended, exit.exit_code, exit.output_open), (Ended::Exited, Some(0), false));
    let leaked: Vec<_> = exit.leaked.iter().map(|leaked| (leaked.pid, leaked.name.as_str(), leaked.killed)).collect();
    assert_eq!(leaked, [(pid, "sleep", false)]);
    assert!(is_alive(pid), "a run that ended by itself leaves its daemons alone, as cron does");
    assert!(!attempt.run.output_end().exists());
    let process = keeper::processes::find(pid).expect("process");
    keeper::processes::send_signal(&process, rustix::process::Signal::KILL);
}

#[test]
fn a_later_request_shortens_the_grace_of_a_stop_in_progress() {
    let mut job = shell("trap '' TERM; echo started; while :; do sleep 1000; done");
    job.kill_grace = Duration::from_secs(3_000);
    let mut attempt = Attempt::start(job);
    wait_for("the trap", || (!attempt.lines().is_empty()).then_some(()));
    attempt.request_stop();
    wait_for("the stop sequence", || attempt.run.stopping().exists().then_some(()));
    attempt.request_stop_within(Some(50));
    let exit = attempt.wait_for_end();
    assert_eq!((exit.ended, exit.signal), (Ended::Stopped, Some(9)));
}
