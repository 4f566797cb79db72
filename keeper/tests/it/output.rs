//! Every byte that a job prints is in its spool.

use domain::line::{LINE_BYTES_MAX, Stream};

use testbed::wait_for;

use crate::attempt::{Attempt, argv, shell};

/// The limit of a keeper is 8 MiB; a debug build and the system's own pages are allowed on top.
const KEEPER_BYTES_MAX: u64 = 16 << 20;

/// The bytes that the job printed to `stream`, joined from the records.
fn printed(attempt: &Attempt, stream: Stream) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in attempt.lines().into_iter().filter(|line| line.stream == stream) {
        bytes.extend_from_slice(&line.text);
        if line.tag.last && line.tag.newline {
            bytes.push(b'\n');
        }
    }
    bytes
}

fn peak_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[test]
fn any_bytes_come_back_as_they_were_printed() {
    let check = |command: &str, expected: &[u8], lines: u64| {
        let mut attempt = Attempt::start(shell(command));
        let exit = attempt.wait_for_end();
        assert_eq!(printed(&attempt, Stream::Stdout), expected, "{command}");
        assert_eq!((exit.output.stdout_lines, exit.output.stdout_bytes), (lines, expected.len() as u64), "{command}");
        assert_eq!(exit.output.last_seq, attempt.lines().len() as u64, "{command}");
    };
    check("true", b"", 0);
    check("printf 'a\\n\\nb\\n'", b"a\n\nb\n", 3);
    check("printf 'no newline'", b"no newline", 1);
    check("printf '\\377\\376\\n\\0nul\\0\\n'", b"\xff\xfe\n\0nul\0\n", 2);
    check("printf 'a\\rb\\r\\n'", b"a\rb\r\n", 1);
    check("printf '\\n\\n\\n'", b"\n\n\n", 3);
}

#[test]
fn both_streams_are_kept_apart_and_numbered_together() {
    let mut attempt = Attempt::start(shell("for i in 1 2 3; do echo out $i; echo err $i >&2; done"));
    let exit = attempt.wait_for_end();
    assert_eq!(attempt.texts(Stream::Stdout), ["out 1", "out 2", "out 3"]);
    assert_eq!(attempt.texts(Stream::Stderr), ["err 1", "err 2", "err 3"]);
    assert_eq!(attempt.lines().iter().map(|line| line.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert_eq!((exit.output.stdout_lines, exit.output.stderr_lines, exit.output.last_seq), (3, 3, 6));
}

#[test]
fn a_gigabyte_in_one_line_is_complete_and_needs_little_memory() {
    const BYTES: u64 = 1 << 30;
    let mut attempt = Attempt::start(argv(&["head", "-c", &BYTES.to_string(), "/dev/zero"]));
    let keeper = attempt.keeper.id();
    let mut peak = 0;
    wait_for("the end", || {
        peak = peak_bytes(keeper).unwrap_or(peak);
        attempt.keeper.try_wait().expect("wait")
    });
    let exit = attempt.wait_for_end();
    assert_eq!((exit.output.stdout_lines, exit.output.stdout_bytes), (1, BYTES));
    let mut reader = keeper::spool::SpoolReader::open(attempt.run.spool(), domain::line::Position::START);
    let (mut bytes, mut parts, mut last) = (0, 0, None);
    while let Some(block) = reader.read(65_536).expect("read") {
        for line in block.lines() {
            parts += 1;
            assert!(line.text.len() <= LINE_BYTES_MAX && line.tag.part == parts);
            bytes += line.text.len() as u64;
            last = Some(line.tag);
        }
    }
    assert_eq!(bytes, BYTES);
    assert!(last.is_some_and(|tag| tag.last && !tag.newline));
    assert_eq!(u64::from(parts), exit.output.last_seq);
    assert!(peak > 0 && peak <= KEEPER_BYTES_MAX, "peak of {peak} bytes");
}

#[test]
fn ten_million_short_lines_are_complete_and_numbered_without_a_gap() {
    const LINES: u64 = 10_000_000;
    let mut attempt = Attempt::start(argv(&["seq", "1", &LINES.to_string()]));
    let keeper = attempt.keeper.id();
    let mut peak = 0;
    wait_for("the end", || {
        peak = peak_bytes(keeper).unwrap_or(peak);
        attempt.keeper.try_wait().expect("wait")
    });
    let exit = attempt.wait_for_end();
    assert_eq!((exit.output.stdout_lines, exit.output.last_seq), (LINES, LINES));
    assert!(keeper::spool::segments(&attempt.run.spool()).expect("segments").len() > 1);
    let mut reader = keeper::spool::SpoolReader::open(attempt.run.spool(), domain::line::Position::START);
    let mut next = 1;
    while let Some(block) = reader.read(1 << 20).expect("read") {
        assert_eq!(block.first_seq, next);
        let last = block.lines().last().expect("a line");
        assert_eq!(last.text, last.seq.to_string().as_bytes());
        next = last.seq + 1;
    }
    assert_eq!(next, LINES + 1);
    assert!(peak > 0 && peak <= KEEPER_BYTES_MAX, "peak of {peak} bytes");
}
