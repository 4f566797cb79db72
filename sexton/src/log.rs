//! Sexton's own log, on standard error. Job output never passes through it.

use std::io::{self, Write};

use domain::system_error::without_numbers;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::repeated::RepeatedErrors;
use crate::terminal::Terminal;

/// Default filter of `up` and `runner`: `info` of Sexton's crates, `warn` of all others.
pub(crate) const SERVER_FILTER: &str =
    "warn,sexton=info,runner=info,sinks=info,services=info,embedded=info,console=info";

/// Default filter of other commands, whose result is on standard output. `console=off`: errors of an API in the same
/// process are printed as the command's failure. So are those of the AWS SDK, whose warnings are not for operators.
pub(crate) const COMMAND_FILTER: &str = "warn,console=off,aws_config=off,aws_runtime=off,aws_smithy_runtime=off";

/// Starts logging with `--log`, else `RUST_LOG`, else `default`.
///
/// # Errors
/// Returns one message if the filter is invalid.
pub(crate) fn start_logging(filter: Option<&str>, default: &str) -> Result<(), String> {
    let requested =
        filter.map(str::to_owned).or_else(|| std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty()));
    let filter = match &requested {
        Some(text) => EnvFilter::try_new(text).map_err(|error| {
            format!("`{text}` is not a log filter ({error}); write a level like info, or sinks=debug,info")
        })?,
        None => EnvFilter::new(default),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| StandardError)
        .with_ansi(Terminal::of(&std::io::stderr()).colours)
        .with_target(false)
        .with_timer(UtcTime)
        .compact()
        .finish()
        .with(RepeatedErrors::default())
        .try_init()
        .map_err(|error| format!("cannot start logging: {error}"))
}

/// Standard error that may be closed: an error would make the subscriber print it there, which ends the task.
struct StandardError;

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The subscriber writes a whole event at once; errors in its fields have numbers.
        let _closed = match std::str::from_utf8(bytes) {
            Ok(event) => io::stderr().lock().write_all(without_numbers(event).as_bytes()),
            Err(_) => io::stderr().lock().write_all(bytes),
        };
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct UtcTime;

impl FormatTime for UtcTime {
    fn format_time(&self, writer: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        write!(writer, "{}", jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ"))
    }
}
