//! Reads the output of runs on AWS from CloudWatch Logs, where the runners' sink sent it. Without such a sink, or with
//! a format whose lines do not name their run, returns an error that names where the output is.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use console::{LogOutput, LogQuery, Logs};
use domain::ports::RunStore;
use domain::run::Run;
use jiff::Timestamp;
use sinks::cloudwatch_logs::read_back::{AttemptFilter, Event, Reader};
use sinks::cloudwatch_logs::{CloudwatchFormat, CloudwatchLogsConfig};
use sinks::feed::RunHeader;
use tokio::sync::mpsc;

/// Chunks that wait for one slow reader. Chosen, not measured.
const CHUNKS_MAX: usize = 4;

/// Poll interval with `follow`. FilterLogEvents allows 5 calls per second and account, shared with the AWS console.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(2);

/// Polls for the last lines after the run has ended in the ledger (10 s). Chosen, not measured.
const POLLS_AFTER_END: u32 = 5;

pub(crate) struct CloudwatchOutput {
    logs: Option<CloudwatchLogsConfig>,
    runs: Arc<dyn RunStore>,
}

impl CloudwatchOutput {
    pub(crate) fn new(logs: Option<CloudwatchLogsConfig>, runs: Arc<dyn RunStore>) -> CloudwatchOutput {
        CloudwatchOutput { logs, runs }
    }
}

#[async_trait]
impl Logs for CloudwatchOutput {
    async fn read(&self, run: &Run, query: LogQuery) -> Result<Option<LogOutput>, String> {
        let Some(header) = run_header(run) else { return Ok(None) };
        let host = &header.host;
        let Some(logs) = &self.logs else {
            return Err(format!(
                "no sinks file with a cloudwatch_logs sink is configured, so the log group of {host} is unknown; \
                 name one (sinks = \"FILE\", with --config), or run `sexton logs {}` on {host}",
                run.run_id
            ));
        };
        if logs.format == CloudwatchFormat::Text {
            let (group, stream) = sinks::cloudwatch_logs::read_back::log_stream_of(logs, &header);
            return Err(format!(
                "with format = \"text\" lines do not name their run; search log group {group}, stream \
                 {stream}, from {}",
                header.started_at
            ));
        }
        let reader = Reader::new(logs, AttemptFilter::new(logs, &header)).await?;
        let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
        let copy = OutputCopy { reader, query, run: run.clone(), runs: self.runs.clone(), sender };
        tokio::spawn(copy.copy_all());
        Ok(Some(LogOutput { chunks, removed_lines: 0 }))
    }
}

/// The header of the run's latest attempt; none before a runner has claimed it.
fn run_header(run: &Run) -> Option<RunHeader> {
    Some(RunHeader {
        run_id: run.run_id.clone(),
        group: run.group.clone(),
        job: run.job.clone(),
        attempt: run.attempt,
        host: run.host.clone()?,
        runner: run.runner.clone().unwrap_or_default(),
        pid: None,
        nominal: run.nominal,
        trigger: run.trigger,
        command: String::new(),
        started_at: run.started_at.or(run.claimed_at).unwrap_or(run.scheduled_at),
    })
}

struct OutputCopy {
    reader: Reader,
    query: LogQuery,
    run: Run,
    runs: Arc<dyn RunStore>,
    sender: mpsc::Sender<std::io::Result<axum::body::Bytes>>,
}

impl OutputCopy {
    /// Sends all stored lines. With `follow`, continues until the last bracket record arrives, at most
    /// [`POLLS_AFTER_END`] polls after the end of the run and of its output.
    async fn copy_all(mut self) {
        let mut polls_left = POLLS_AFTER_END;
        loop {
            match self.reader.next().await {
                Err(message) => {
                    // Fails only if the reader has disconnected.
                    let _disconnected = self.sender.send(Err(std::io::Error::other(message))).await;
                    return;
                }
                Ok(events) => {
                    let bytes = format_events(&events, self.query);
                    if !bytes.is_empty() && self.sender.send(Ok(bytes.into())).await.is_err() {
                        return;
                    }
                }
            }
            if self.reader.has_ended() {
                return;
            }
            if self.reader.has_more() {
                continue;
            }
            if !self.query.follow || polls_left == 0 || self.sender.is_closed() {
                return;
            }
            tokio::time::sleep(FOLLOW_INTERVAL).await;
            if !self.is_open().await {
                polls_left -= 1;
            }
        }
    }

    async fn is_open(&self) -> bool {
        let found = self.runs.get(&[self.run.run_key()]).await;
        // After an error, the next poll retries.
        let may_grow = |run: &Run| run.is_open() || run.output_open;
        found.map_or(true, |found| found.first().is_some_and(|stored| may_grow(&stored.record)))
    }
}

fn format_events(events: &[Event], query: LogQuery) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in events.iter().filter(|event| query.stream.is_none_or(|stream| stream == event.stream)) {
        if query.timestamps && event.begins_line {
            let at = Timestamp::from_millisecond(event.at_ms).unwrap_or_default();
            bytes.extend_from_slice(format!("{at:.3} {} ", event.stream.name()).as_bytes());
        }
        bytes.extend_from_slice(event.text.as_bytes());
        if event.ends_line {
            bytes.push(b'\n');
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use domain::line::Stream;

    use super::*;

    #[test]
    fn parts_are_joined_to_lines_and_a_stream_can_be_selected() {
        let event = |stream, begins_line, ends_line, text: &str| Event {
            at_ms: 1_795_420_200_123,
            stream,
            begins_line,
            ends_line,
            text: text.to_owned(),
        };
        let events = [
            event(Stream::Stdout, true, false, "long "),
            event(Stream::Stdout, false, true, "line"),
            event(Stream::Stderr, true, true, "oops"),
        ];
        let query = LogQuery::default();
        assert_eq!(format_events(&events, query), b"long line\noops\n");
        assert_eq!(format_events(&events, LogQuery { stream: Some(Stream::Stderr), ..query }), b"oops\n");
        let timed = String::from_utf8(format_events(&events, LogQuery { timestamps: true, ..query })).expect("text");
        assert_eq!(timed, "2026-11-23T07:50:00.123Z stdout long line\n2026-11-23T07:50:00.123Z stderr oops\n");
    }
}
