//! A full disk.

use domain::line::Stream;
use testbed::SmallDisk;

use crate::attempt::{Attempt, shell};

#[test]
fn a_full_disk_blocks_no_job_and_the_gap_is_counted() {
    let Some(disk) = SmallDisk::mount(4 << 20) else { return };
    let mut attempt = Attempt::start_in(disk.path(), shell("seq 1 300000; echo done >&2; exit 3"), Default::default());
    let exit = attempt.wait_for_end();
    assert_eq!(exit.exit_code, Some(3));
    assert_eq!((exit.output.stdout_lines, exit.output.stderr_lines), (300_000, 1));
    assert_eq!(exit.output.last_seq, 300_001);
    let lines = attempt.lines();
    let gaps: Vec<_> = lines.iter().filter(|line| line.tag.gap).collect();
    assert_eq!(gaps.len(), 1);
    let text = String::from_utf8_lossy(&gaps[0].text);
    let lost = exit.output.dropped_lines;
    let expected = format!(
        "{lost} lines, {} bytes dropped (seq {}-{}): less than 512KiB left on the disk",
        exit.output.dropped_bytes,
        gaps[0].seq,
        gaps[0].seq + lost - 1
    );
    assert_eq!(text, expected);
    assert_eq!(lines.len() as u64 - 1 + lost, 300_001);
    // Each line is at its number, on both sides of the gap.
    for line in lines.iter().filter(|line| !line.tag.gap && line.stream == Stream::Stdout) {
        let number: u64 = String::from_utf8_lossy(&line.text).parse().expect("number");
        assert!(number.abs_diff(line.seq) <= 1, "{number} at {}", line.seq);
    }
    assert_eq!(attempt.texts(Stream::Stdout).last().map(String::as_str), Some("300000"));
}

#[test]
fn a_disk_with_space_again_is_used_again() {
    let Some(disk) = SmallDisk::mount(4 << 20) else { return };
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; 3 << 20]).expect("ballast");
    let script = format!("seq 1 100000; rm {}; sleep 1.5; seq 100001 100010", ballast.display());
    let mut attempt = Attempt::start_in(disk.path(), shell(&script), Default::default());
    let exit = attempt.wait_for_end();
    assert_eq!((exit.exit_code, exit.output.stdout_lines), (Some(0), 100_010));
    assert!(exit.output.dropped_lines > 0);
    let numbers = attempt.texts(Stream::Stdout);
    assert_eq!(numbers.last().map(String::as_str), Some("100010"));
    assert_eq!(attempt.lines().last().map(|line| line.seq), Some(100_010));
}
