//! Each row runs once with a tiny input, so that the benchmark program keeps working. Times are not checked.

use std::path::{Path, PathBuf};
use std::process::Command;

/// `sexton` is a program of another crate; cargo puts it beside this one when it builds the workspace.
fn sexton() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_bench")).with_file_name("sexton");
    assert!(path.exists(), "{} does not exist; run cargo build -p sexton", path.display());
    path
}

/// Measures a row without peers, and checks that the table has this number of lines, each with a number.
#[track_caller]
fn check(row: &str, lines_wanted: usize) {
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args([row, "--alone", "--runs", "1", "--lines", "20000", "--trickle", "3", "--starts", "5", "--sexton"])
        .arg(sexton())
        .output()
        .expect("bench runs");
    let table = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let lines: Vec<&str> = table.lines().filter(|line| line.contains("| sexton |")).collect();
    assert_eq!(lines.len(), lines_wanted, "{table}\n{log}");
    for line in lines {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert!(cells[4].parse::<f64>().is_ok(), "not a number: {line}\n{log}");
        assert_eq!(cells[8], "", "unexpected note: {line}\n{log}");
    }
}

#[test]
fn row_1_measures_the_spool() {
    check("1", 1);
}

#[test]
fn row_2_measures_two_protocols_and_two_failing_second_sinks() {
    check("2", 4);
}

/// 20,000 lines are more than one batch; fullness is shown only then.
#[test]
fn row_5_measures_cpu_and_fullness_of_calls() {
    check("5", 2);
}

#[test]
fn row_8_measures_delays_also_with_failing_second_sinks() {
    check("8", 6);
}

#[test]
fn row_9_measures_memory_also_with_failing_second_sinks() {
    check("9", 6);
}

/// Waits for the next minute.
#[test]
fn row_10_measures_the_jobs_of_one_minute() {
    check("10", 2);
}

/// Units are counted, so they are the same on every machine.
#[test]
fn a_run_on_aws_takes_six_write_units_at_most() {
    let output = Command::new(env!("CARGO_BIN_EXE_bench")).args(["cost", "4"]).output().expect("bench runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    if text.contains("left out: ministack") {
        return;
    }
    let line = text.lines().find(|line| line.starts_with("| write units |")).unwrap_or_else(|| panic!("{text}"));
    let units: Vec<f64> = line.split('|').filter_map(|cell| cell.trim().parse().ok()).collect();
    let [goal, quick, long] = units[..] else { panic!("{line}") };
    assert!(quick < long && long <= goal, "{text}");
}
