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
use crate::folded_lines::join_fields;
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

    /// Prints fields that are separated by tabs, in several lines on a terminal that is narrower.
    pub(crate) fn print_fields(&mut self, fields: &[&str]) -> Result<(), Failure> {
        self.print_line(&join_fields(fields, self.terminal.width))
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
}
