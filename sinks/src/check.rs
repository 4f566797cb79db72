//! Sends a marked test line to a sink, between the brackets of a separate run, and reports the result. Called by
//! `sexton check`; never retries, and stores nothing.

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use domain::line::{STAMP_BYTES, Stream};
use domain::run::{Outcome, RunId, Trigger};
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::address::{Address, Scheme};
use crate::cloudwatch_logs::{CloudwatchLogs, CloudwatchLogsConfig};
use crate::config::{SinkConfig, SinkKind};
use crate::engine::{Environment, gelf_sink, syslog_sink};
use crate::error::SinkResult;
use crate::feed::{FinishedRecord, RunHeader};
use crate::file::{self, FileConfig, FileSink};
use crate::record::{MAX_LINE_BYTES_MIN, Piece, Record};
use crate::sink::{Acknowledge, Format, Sink};
use crate::special_file::is_standard;
use crate::stamp;
use crate::stream::Reached;
use crate::wire::WireSink;

/// Group of the test run, unless the operator checks another group's permissions. Rules of receivers can match it.
pub const CHECK_GROUP: &str = "sexton";
/// Job of the test run.
const CHECK_JOB: &str = "check";
/// A receiver without an answer in this time fails the check. Chosen: longer than any connection timeout of a sink.
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes read from the end of a file to find the test line. Chosen: other writers may have appended after it.
const READ_BACK_BYTES: usize = 1 << 20;
/// How long a connection without acknowledgements is watched after the test line. Chosen: a port for another protocol
/// answers or closes at once, and HAProxy ends a connection without a server after 3 retries, one a second.
const WATCH_TIME: Duration = Duration::from_secs(4);

/// Sends a test line of a run in `group`. Returns one sentence: how far the line is known to have come. Sends nothing
/// to standard output, which belongs to the caller.
///
/// # Errors
/// One sentence: the sink is unreachable, or refuses the line.
pub async fn check(config: &SinkConfig, group: &str) -> Result<String, String> {
    let test = TestRun::new(group, Timestamp::now());
    match &config.kind {
        SinkKind::Stdout(_) => Ok("standard output".to_owned()),
        // As for the sink `stdout`.
        SinkKind::File(file) if is_standard(Path::new(file.path.text())) => Ok(file.path.text().to_owned()),
        SinkKind::File(file) => {
            file::check(file)?;
            test.send(&mut FileSink::new(file.clone(), MAX_LINE_BYTES_MIN)).await?;
            test.read_back(file)
        }
        SinkKind::Syslog(syslog) => {
            let address = &syslog.address;
            test.send_over_wire(&mut syslog_sink(syslog, config.max_line, Instant::now), address).await
        }
        SinkKind::Gelf(gelf) => {
            let mut sink = gelf_sink(gelf, config.max_line, &Environment::real(mpsc::channel(1).0));
            test.send_over_wire(&mut sink, &gelf.address).await
        }
        SinkKind::CloudwatchLogs(logs) => {
            // A check leaves no group behind that no job uses.
            let create_group = logs.create_group && group != CHECK_GROUP;
            let checked = CloudwatchLogsConfig { create_group, ..(**logs).clone() };
            let mut sink = CloudwatchLogs::new(&checked, config, Environment::real(mpsc::channel(1).0));
            let sent = test.send(&mut sink).await;
            sink.check_result(&test.header, sent, logs.create_group)
        }
    }
}

struct TestRun {
    header: RunHeader,
    text: String,
}

impl TestRun {
    fn new(group: &str, now: Timestamp) -> TestRun {
        let mut random = [0; 6];
        if getrandom::fill(&mut random).is_err() {
            // The instant in the run id still separates this check from others.
            random = [0xff; 6];
        }
        let run_id = RunId::unscheduled(now, random);
        let text = format!("test line of `sexton check`, run {run_id}; nothing is wrong");
        let header = RunHeader {
            run_id,
            group: group.to_owned(),
            job: CHECK_JOB.to_owned(),
            attempt: 1,
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            runner: "check".to_owned(),
            pid: Some(std::process::id()),
            nominal: now,
            trigger: Trigger::Manual,
            command: "sexton check".to_owned(),
            started_at: now,
        };
        TestRun { header, text }
    }

    /// Sends the run and waits until the receiver has it, as far as its protocol shows that.
    async fn send<S: Sink>(&self, sink: &mut S) -> Result<(), String> {
        self.within_timeout(async {
            let refused = self.send_records(sink).await?;
            sink.drain().await?;
            sink.sync().await?;
            Ok((refused.or_else(|| first_named(sink)), ()))
        })
        .await
    }

    /// Sends the run to a receiver of syslog or GELF. Returns what is known about it afterwards.
    async fn send_over_wire<F: Format>(&self, sink: &mut WireSink<F>, address: &Address) -> Result<String, String> {
        let reached = self.within_timeout(async {
            let refused = self.send_records(sink).await?;
            let reached = sink.observe(WATCH_TIME).await?;
            if reached.is_none() {
                sink.drain().await?;
            }
            Ok((refused.or_else(|| first_named(sink)), reached))
        });
        let (reached, run_id) = (reached.await?, &self.header.run_id);
        let sent = format!("{address}: connected, sent the test line of run {run_id}");
        match (reached, sink.answer()) {
            (Some(Reached::Kernel), _) => Ok(format!(
                "{sent}, accepted by the receiver's kernel, application unknown: this protocol has no acknowledgement"
            )),
            (Some(Reached::Receiver), _) => Ok(format!("{sent}, read by the receiver")),
            (Some(Reached::Unknown), _) => {
                let seconds = WATCH_TIME.as_secs();
                Err(format!("{sent}, not accepted by the receiver's kernel within {seconds} s"))
            }
            (None, Some(answer)) => Ok(format!("{address} answered {answer} to the test line of run {run_id}")),
            (None, None) if address.scheme == Scheme::Udp => {
                Ok(format!("the test line of run {run_id} was sent to {address}; udp does not confirm its arrival"))
            }
            (None, None) => Ok(format!("{sent}, accepted by the kernel, application unknown")),
        }
    }

    /// Runs a check that returns a refused record's reason beside its result.
    async fn within_timeout<T>(
        &self,
        check: impl Future<Output = SinkResult<(Option<String>, T)>>,
    ) -> Result<T, String> {
        match tokio::time::timeout(CHECK_TIMEOUT, check).await {
            Ok(Ok((None, found))) => Ok(found),
            Ok(Ok((Some(refused), _))) => {
                Err(format!("the test line of run {} was refused: {refused}", self.header.run_id))
            }
            Ok(Err(error)) => Err(error.message),
            Err(_) => Err(format!("no answer within {} s", CHECK_TIMEOUT.as_secs())),
        }
    }

    /// Returns the receiver's reason when it refused a record.
    async fn send_records<S: Sink>(&self, sink: &mut S) -> SinkResult<Option<String>> {
        let stamp: [u8; STAMP_BYTES] = stamp::format(self.header.started_at);
        let line = Piece {
            seq: 1,
            stamp: &stamp,
            stream: Stream::Stdout,
            text: self.text.as_bytes(),
            part: 0,
            part_last: true,
            gap: false,
        };
        let finished = FinishedRecord {
            outcome: Outcome::Succeeded,
            reason: String::new(),
            exit_code: Some(0),
            signal: None,
            duration_ms: 0,
            stdout_lines: 1,
            stderr_lines: 0,
            stdout_bytes: self.text.len() as u64,
            stderr_bytes: 0,
            last_seq: 1,
            dropped_lines: 0,
            finished_at: self.header.started_at,
            output_open: false,
        };
        sink.connect().await?;
        let run = sink.open(&self.header);
        for record in [Record::Started, Record::Line(line), Record::Finished(&finished)] {
            sink.encode(&run, &record);
        }
        let refused = sink.send().await?;
        Ok(refused.into_iter().next().map(|refused| refused.message))
    }

    fn read_back(&self, config: &FileConfig) -> Result<String, String> {
        let path = config.path.fill(&self.header);
        match file_contains(Path::new(&path), self.text.as_bytes()) {
            Ok(true) => Ok(format!("{path} contains the test line of run {}", self.header.run_id)),
            Ok(false) => Err(format!("{path} does not contain the test line that was written to it")),
            // A FIFO or a device accepts writes and cannot be read back.
            Err(error) => Ok(format!("the test line was written to {path}, which cannot be read back: {error}")),
        }
    }
}

/// The reason of a refusal that the sink names after the answer.
fn first_named<S: Sink>(sink: &mut S) -> Option<String> {
    sink.named_refusals().into_iter().next().map(|refused| refused.message)
}

fn file_contains(path: &Path, text: &[u8]) -> std::io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let metadata = std::fs::symlink_metadata(path)?;
    if !metadata.is_file() {
        // Opening a FIFO waits for a writer.
        return Err(std::io::Error::other("not a regular file"));
    }
    let file = std::fs::File::open(path)?;
    let bytes = metadata.len();
    let mut tail = vec![0; READ_BACK_BYTES.min(bytes as usize)];
    let begin = bytes - tail.len() as u64;
    file.read_exact_at(&mut tail, begin)?;
    Ok(memchr::memmem::find(&tail, text).is_some())
}
