//! The sink `stdout`: standard output of this process, for containers and for watching.

use std::io::Write;

use domain::document::Section;

use crate::error::{SinkError, SinkResult};
use crate::feed::RunHeader;
use crate::lines::{LineFormat, LineRun};
use crate::record::Record;
use crate::sink::{Acknowledge, Connection, Encode, Refused};

#[derive(Clone, Debug, PartialEq)]
pub struct StdoutConfig {
    pub format: LineFormat,
}

/// Reads the options of `type = "stdout"`.
pub(crate) fn read(section: &mut Section) -> Option<StdoutConfig> {
    Some(StdoutConfig { format: LineFormat::read(section) })
}

pub(crate) struct StdoutSink {
    config: StdoutConfig,
    text_bytes_max: usize,
    filled: Vec<u8>,
    connected: bool,
}

impl StdoutSink {
    pub(crate) fn new(config: StdoutConfig, text_bytes_max: usize) -> StdoutSink {
        StdoutSink { config, text_bytes_max, filled: Vec::new(), connected: false }
    }
}

impl Encode for StdoutSink {
    type Run = LineRun;

    fn open(&self, header: &RunHeader) -> LineRun {
        LineRun::new(self.config.format, header)
    }

    fn text_bytes_max(&self, _: &LineRun) -> usize {
        self.text_bytes_max
    }

    fn encode(&mut self, run: &LineRun, record: &Record<'_>) {
        run.write(record, &mut self.filled);
    }

    fn filled_bytes(&self) -> usize {
        self.filled.len()
    }
}

impl Connection for StdoutSink {
    async fn connect(&mut self) -> SinkResult<()> {
        self.connected = true;
        Ok(())
    }

    fn is_connected(&self) -> bool {
        self.connected
    }

    fn disconnect(&mut self) {
        self.filled.clear();
        self.connected = false;
    }

    async fn send(&mut self) -> SinkResult<Vec<Refused>> {
        let mut filled = std::mem::take(&mut self.filled);
        let written = tokio::task::spawn_blocking(move || {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&filled).and_then(|()| stdout.flush())?;
            filled.clear();
            Ok::<_, std::io::Error>(filled)
        });
        let written = written.await.map_err(|error| SinkError::retry(format!("writing to stdout failed: {error}")))?;
        self.filled = written.map_err(|error| SinkError::retry(format!("cannot write to stdout: {error}")))?;
        Ok(Vec::new())
    }
}

impl Acknowledge for StdoutSink {}
