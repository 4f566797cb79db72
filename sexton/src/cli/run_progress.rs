//! The progress of `run --wait`, on standard error: what the run waits for, then how long it runs. On a terminal, one
//! line that changes; elsewhere, one line per change.

use std::io::Write;
use std::time::Duration;

use domain::local_time::localize;
use domain::run::{Run, RunId, State};
use jiff::Timestamp;
use serde_json::Value;

use crate::cli::runs::{parse_run, state_name};
use crate::client::{ANSWER_TIMEOUT, ApiRequest, Client};
use crate::failure::{Failure, print_error_line};
use crate::print::format_elapsed;
use crate::terminal::Terminal;
use crate::text_table::{cut_text, replace_controls};

/// How long one request lets the server wait for the end of a run, while a terminal shows the time.
const TERMINAL_INTERVAL: Duration = Duration::from_secs(1);

/// As [`TERMINAL_INTERVAL`], where only changes are printed.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// As [`TERMINAL_INTERVAL`], where nothing is printed.
const SILENT_INTERVAL: Duration = Duration::from_secs(30);

/// Erases the line of the cursor, which stays at its start (ECMA-48, EL).
const ERASE_LINE: &str = "\r\u{1b}[2K";

/// Shows the state of a run until it ends.
pub(crate) struct RunProgress {
    medium: Medium,
    /// The latest line, so that only changes are printed.
    shown: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Medium {
    Terminal { width: usize },
    Plain,
    Silent,
}

impl RunProgress {
    /// Shows nothing with `json`.
    pub(crate) fn new(json: bool) -> RunProgress {
        let medium = match Terminal::of(&std::io::stderr()) {
            _ if json => Medium::Silent,
            // A terminal that knows no cursor shows lines.
            Terminal { width: Some(width), .. } if anstyle_query::term_supports_ansi_color() => {
                Medium::Terminal { width }
            }
            _ => Medium::Plain,
        };
        RunProgress { medium, shown: String::new() }
    }

    fn interval(&self) -> Duration {
        match self.medium {
            Medium::Terminal { .. } => TERMINAL_INTERVAL,
            Medium::Plain => PLAIN_INTERVAL,
            Medium::Silent => SILENT_INTERVAL,
        }
    }

    fn show(&mut self, run: &Run, now: Timestamp) {
        match self.medium {
            Medium::Terminal { width } => {
                let line = cut_text(&replace_controls(progress_line(run, Some(now))), width.saturating_sub(1));
                // A closed terminal ends nothing.
                let _ = write!(std::io::stderr(), "{ERASE_LINE}{line}");
                self.shown = line;
            }
            Medium::Plain => {
                let line = progress_line(run, None);
                if line != self.shown {
                    print_error_line(&line);
                    self.shown = line;
                }
            }
            Medium::Silent => {}
        }
    }

    fn finish(&mut self) {
        if matches!(self.medium, Medium::Terminal { .. }) && !self.shown.is_empty() {
            let _ = write!(std::io::stderr(), "{ERASE_LINE}");
        }
    }
}

/// `db/dump running for 12s`; without `now`, `db/dump running`.
fn progress_line(run: &Run, now: Option<Timestamp>) -> String {
    let reason = run.reason.as_deref().map_or_else(String::new, |reason| format!(": {}", localize(reason)));
    let since = if run.state == State::Running { run.started_at } else { None };
    let elapsed = since.zip(now).and_then(|(since, now)| Duration::try_from(now.duration_since(since)).ok());
    let elapsed = elapsed.map_or_else(String::new, |elapsed| format!(" for {}", format_elapsed(elapsed)));
    format!("{} {}{elapsed}{reason}", run.key(), state_name(run))
}

/// Waits until a run has ended; returns its record.
///
/// # Errors
/// Returns the failure of a request.
pub(crate) async fn wait_until_ended(
    client: &Client,
    run_id: &RunId,
    progress: &mut RunProgress,
) -> Result<Value, Failure> {
    let mut wait = Duration::ZERO;
    loop {
        let request = ApiRequest::get(&["runs", run_id.as_str()])
            .with("wait", Some(wait.as_secs()))
            .with_timeout(ANSWER_TIMEOUT + wait);
        let answer = client.send(request).await.inspect_err(|_| progress.finish())?;
        let run = parse_run(&answer)?;
        if !run.is_open() {
            progress.finish();
            return Ok(answer);
        }
        progress.show(&run, Timestamp::now());
        wait = progress.interval();
    }
}
