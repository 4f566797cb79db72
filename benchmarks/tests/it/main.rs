//! Each row runs once on a tiny input, so that the program of the measurements cannot rot. No time is judged.

use std::path::{Path, PathBuf};
use std::process::Command;

/// `sexton` is a program of another crate: cargo puts it beside this one when it builds the workspace.
fn sexton() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_bench")).with_file_name("sexton");
    assert!(path.exists(), "{} is not there; run cargo build -p sexton first", path.display());
    path
}

/// Measures a row alone and gives the table's lines: one for each (work, metric).
#[track_caller]
fn check(row: &str, lines_wanted: usize) {
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args([row, "--alone", "--runs", "1", "--lines", "20000", "--trickle", "3", "--sexton"])
        .arg(sexton())
        .output()
        .expect("bench runs");
    let table = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let lines: Vec<&str> = table.lines().filter(|line| line.contains("| sexton |")).collect();
    assert_eq!(lines.len(), lines_wanted, "{table}\n{said}");
    for line in lines {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert!(cells[4].parse::<f64>().is_ok(), "no number: {line}\n{said}");
        assert_eq!(cells[8], "", "something is wrong: {line}\n{said}");
    }
}

#[test]
fn row_1_measures_the_spool() {
    check("1", 1);
}

#[test]
fn row_2_measures_two_protocols_and_two_bad_second_sinks() {
    check("2", 4);
}

/// So many lines are more than one batch, or there would be no fullness to tell.
#[test]
fn row_5_measures_the_calls_and_how_full_they_are() {
    check("5", 2);
}

#[test]
fn row_8_measures_delays_also_beside_bad_sinks() {
    check("8", 6);
}

#[test]
fn row_9_measures_memory_also_beside_bad_sinks() {
    check("9", 6);
}

/// Units are counted, not timed: the same on every machine.
#[test]
fn a_run_on_aws_takes_six_write_units_at_most() {
    let output = Command::new(env!("CARGO_BIN_EXE_bench")).args(["cost", "4"]).output().expect("bench runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    if said.contains("left out: ministack") {
        return;
    }
    let line = said.lines().find(|line| line.starts_with("| write units |")).unwrap_or_else(|| panic!("{said}"));
    let units: Vec<f64> = line.split('|').filter_map(|cell| cell.trim().parse().ok()).collect();
    let [goal, quick, long] = units[..] else { panic!("{line}") };
    assert!(quick < long && long <= goal, "{said}");
}
