//! The output of the measured jobs: files of lines, and a slow sequence of lines with the time of writing.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Length of a line, with its newline.
pub(crate) const LINE_BYTES: usize = 100;

/// One line in this number contains the text of a failure.
const FAILURE_EVERY: u64 = 1000;

/// Precedes the time of writing in a line of row 8: nanoseconds since 1970.
pub(crate) const SENT: &[u8] = b"sent=";

/// Writes `lines` lines of [`LINE_BYTES`], the same in every run.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write_lines(path: &Path, lines: u64) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    for number in 0..lines {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let what = match (number % FAILURE_EVERY, random >> 61) {
            (0, _) => "ERROR: cannot connect to the database: connection refused",
            (_, 0) => "batch written, errors=0 failed=0, next one in",
            (_, 1) => "GET /api/v1/orders answered 200 in",
            _ => "copied rows from the table customers to the archive in",
        };
        let begin = format!("worker-{} {number:09} {what} {} ms ", random >> 60, (random >> 40) & 0xfff);
        writeln!(out, "{begin:.<width$}", width = LINE_BYTES - 1)?;
    }
    out.flush()
}

/// Prints `count` lines, one per interval, each with the time just before it is written.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn trickle(count: u64, interval: Duration) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for number in 0..count {
        let now = now_nanoseconds();
        out.write_all(format!("trickle {number:06} {}{now}\n", String::from_utf8_lossy(SENT)).as_bytes())?;
        out.flush()?;
        sleep(interval);
    }
    Ok(())
}

pub(crate) fn now_nanoseconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}
