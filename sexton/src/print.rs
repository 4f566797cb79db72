//! Prints on standard output: aligned tables, or one JSON object per line.
//!
//! Used by every subcommand. Never prints colours. A closed pipe is [`crate::failure::Failure::ReaderGone`].

use std::fmt::Write as _;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::time::Duration;

use domain::job::JobKey;
use domain::local_time;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::failure::Failure;

/// Text or JSON lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputFormat {
    Text,
    Json,
}

impl OutputFormat {
    pub(crate) fn new(json: bool) -> OutputFormat {
        if json { OutputFormat::Json } else { OutputFormat::Text }
    }
}

pub(crate) struct Printer(BufWriter<StdoutLock<'static>>);

impl Printer {
    pub(crate) fn new() -> Printer {
        Printer(BufWriter::new(io::stdout().lock()))
    }

    pub(crate) fn print_line(&mut self, line: &str) -> Result<(), Failure> {
        self.0.write_all(line.as_bytes())?;
        Ok(self.0.write_all(b"\n")?)
    }

    /// Prints one record as one line of JSON.
    pub(crate) fn print_json(&mut self, record: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.0, record).map_err(io::Error::from)?;
        Ok(self.0.write_all(b"\n")?)
    }

    pub(crate) fn print_bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.0.write_all(bytes)?)
    }

    pub(crate) fn print_table(&mut self, table: &Table) -> Result<(), Failure> {
        self.print_bytes(table.to_text().as_bytes())
    }

    /// Writes the rest of the buffer. Must be called last.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.flush()
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.0.flush()?)
    }
}

/// A table whose columns are padded to their widest cell, two spaces apart.
pub(crate) struct Table {
    head: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &'static [&'static str]) -> Table {
        Table { head, rows: Vec::new() }
    }

    pub(crate) fn add_row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.into_iter().map(replace_controls).collect());
    }

    pub(crate) fn to_text(&self) -> String {
        let mut widths: Vec<usize> = self.head.iter().map(|name| name.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        let head = self.head.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _infallible = write!(line, "{cell:<width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Formats one record, a name and a value per line.
pub(crate) fn format_pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in rows {
        let _infallible = writeln!(text, "{name:<width$}  {}", replace_controls(value.clone()));
    }
    text
}

/// Control characters, which names of jobs and lines of output may contain, would break the table or control the
/// terminal.
fn replace_controls(cell: String) -> String {
    if !cell.chars().any(char::is_control) {
        return cell;
    }
    cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// `2026-11-23T07:50:00Z`: to the second, in UTC.
pub(crate) fn format_utc(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Local time with its offset, to the second.
pub(crate) fn format_instant(at: Timestamp) -> String {
    local_time::format(at)
}

pub(crate) fn format_optional_instant(at: Option<Timestamp>) -> String {
    at.map_or_else(dash, format_instant)
}

/// `2026-11-23T08:50:00+01:00`: in the zone of a schedule.
pub(crate) fn format_local(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// At most two units: `850ms`, `12s`, `3m04s`, `2h10m`, `3d4h`.
pub(crate) fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..10 => format!("{:.1}s", (duration.as_secs_f64() * 10.0).floor() / 10.0),
        10..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// `512 B`, `1.5 MiB`
pub(crate) fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

pub(crate) fn dash() -> String {
    "-".to_owned()
}

/// Parses an instant: RFC 3339, a date (midnight in UTC), `now`, or a duration before `now`.
///
/// # Errors
/// Returns what to write.
pub(crate) fn parse_instant(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if text == "now" {
        return Ok(now);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    if let Ok(date) = text.parse::<jiff::civil::Date>()
        && text.len() == "2026-11-23".len()
        && let Ok(midnight) = date.to_zoned(TimeZone::UTC)
    {
        return Ok(midnight.timestamp());
    }
    if let Ok(ago) = domain::units::parse_duration(text) {
        return now
            .checked_sub(ago)
            .map_err(|_| format!("`{text}` ago is before the earliest date; write a shorter duration"));
    }
    Err(format!(
        "`{text}` is not an instant; write RFC 3339 with a zone like 2026-11-23T07:50:00Z, a date, now, or a \
         duration ago like 2h"
    ))
}

/// Parses an argument GROUP/NAME.
///
/// # Errors
/// Exit 2 for any other form.
pub(crate) fn parse_job_key(text: &str) -> Result<JobKey, Failure> {
    JobKey::parse(text).map_err(Failure::usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_readable_at_every_size() {
        for (ms, text) in [
            (0, "0ms"),
            (850, "850ms"),
            (1_250, "1.2s"),
            (9_990, "9.9s"),
            (12_000, "12s"),
            (184_000, "3m04s"),
            (7_800_000, "2h10m"),
            (273_600_000, "3d4h"),
        ] {
            assert_eq!(format_duration(Duration::from_millis(ms)), text, "{ms}");
        }
    }

    #[test]
    fn an_instant_is_parsed_in_all_its_forms() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().expect("instant");
        for (text, at) in [
            ("2026-11-23T07:50:00Z", "2026-11-23T07:50:00Z"),
            ("2026-11-23T08:50:00+01:00", "2026-11-23T07:50:00Z"),
            ("2026-11-23", "2026-11-23T00:00:00Z"),
            ("now", "2026-11-23T12:00:00Z"),
            ("2h", "2026-11-23T10:00:00Z"),
        ] {
            assert_eq!(parse_instant(text, now).map(format_instant), Ok(at.to_owned()), "{text}");
        }
        for text in ["", "yesterday", "2026-11-23T07:50:00", "2026-13-01", "99"] {
            assert!(parse_instant(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn a_table_is_aligned_and_contains_no_control_characters() {
        let mut table = Table::new(&["job", "outcome"]);
        table.add_row(vec!["db/dump".into(), "failed".into()]);
        table.add_row(vec!["db/\u{1b}[2Jx".into(), String::new()]);
        assert_eq!(table.to_text(), "job       outcome\ndb/dump   failed\ndb/\u{fffd}[2Jx\n");
    }
}
