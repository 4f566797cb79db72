//! Prints on standard output: aligned tables, or one JSON object per line.
//!
//! Used by every subcommand. Prints colours only on a terminal. A closed pipe is
//! [`crate::failure::Failure::ReaderGone`].

use std::fmt::Write as _;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::time::Duration;

use domain::job::JobKey;
use domain::local_time;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::failure::Failure;
use crate::terminal::{Terminal, Tone};
use crate::text_table::{Table, replace_controls};

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

pub(crate) struct Printer {
    out: BufWriter<StdoutLock<'static>>,
    terminal: Terminal,
}

impl Printer {
    pub(crate) fn new() -> Printer {
        Printer { out: BufWriter::new(io::stdout().lock()), terminal: Terminal::of_stdout() }
    }

    pub(crate) fn print_line(&mut self, line: &str) -> Result<(), Failure> {
        self.out.write_all(line.as_bytes())?;
        Ok(self.out.write_all(b"\n")?)
    }

    /// Prints one record as one line of JSON.
    pub(crate) fn print_json(&mut self, record: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.out, record).map_err(io::Error::from)?;
        Ok(self.out.write_all(b"\n")?)
    }

    pub(crate) fn print_bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.out.write_all(bytes)?)
    }

    pub(crate) fn print_table(&mut self, table: &Table) -> Result<(), Failure> {
        self.print_bytes(table.to_text(self.terminal).as_bytes())
    }

    /// Returns the text in the colour of its tone, where standard output shows colours.
    pub(crate) fn paint(&self, text: &str, tone: Tone) -> String {
        self.terminal.paint(text, tone)
    }

    /// Columns of the terminal; none without one.
    pub(crate) fn width(&self) -> Option<usize> {
        self.terminal.width
    }

    /// Writes the rest of the buffer. Must be called last.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.flush()
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
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

/// As [`format_duration`], in whole seconds: `3s`, `3m04s`.
pub(crate) fn format_elapsed(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds => format_duration(Duration::from_secs(seconds)),
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
            let whole = format_elapsed(Duration::from_millis(ms));
            assert!(!whole.contains('.') && !whole.contains("ms"), "{whole}");
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
}
