//! Reads the output of runs from the runner's directory: for the API, and for `sexton logs` without a server.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use console::{LogOutput, LogQuery, Logs};
use domain::run::{Run, RunId};
use keeper::directory::RunDirectory;
use keeper::output::{LineFormat, MissingLines, Output, Piece, missing_at_start};
use tokio::sync::mpsc;

use crate::cli::runs_on_disk::run_folders;

/// Chunks that wait for one slow reader.
const CHUNKS_MAX: usize = 4;

/// Poll interval of a followed spool. Chosen: shorter than a person notices.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// The run directories of this machine: those of the runner, and of `sexton exec`.
#[derive(Clone, Debug)]
pub(crate) struct RunOutput {
    folder: PathBuf,
}

impl RunOutput {
    /// `folder` is the runner's directory.
    pub(crate) fn new(folder: &Path) -> RunOutput {
        RunOutput { folder: folder.to_owned() }
    }

    /// Returns the directory of a run's latest attempt on this machine, if there is one.
    ///
    /// # Errors
    /// Fails if the directory of runs cannot be read.
    pub(crate) fn find(&self, run_id: &RunId) -> io::Result<Option<RunDirectory>> {
        // Twice: a sender of `exec` may move the run during the first pass to a folder that was already read.
        for folder in (0..2).flat_map(|_| run_folders(&self.folder)) {
            if let Some(found) = latest_attempt(&folder, run_id)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

fn latest_attempt(runs: &Path, run_id: &RunId) -> io::Result<Option<RunDirectory>> {
    let entries = match std::fs::read_dir(runs) {
        Ok(entries) => entries,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(why),
    };
    let mut latest: Option<u32> = None;
    for entry in entries {
        let name = entry?.file_name();
        let Some((found, attempt)) = name.to_str().and_then(RunDirectory::parse_name) else { continue };
        if found == *run_id {
            latest = latest.max(Some(attempt));
        }
    }
    Ok(latest.map(|attempt| RunDirectory::new(runs, run_id, attempt)))
}

#[async_trait]
impl Logs for RunOutput {
    async fn read(&self, run: &Run, query: LogQuery) -> Result<Option<LogOutput>, String> {
        let (output, run_id) = (self.clone(), run.run_id.clone());
        let found = tokio::task::spawn_blocking(move || output.find(&run_id)).await;
        let found = found.map_err(|error| format!("reading the output failed: {error}"))?;
        let read_error = |why| format!("cannot read the output of {}: {why}", run.run_id);
        let Some(directory) = found.map_err(read_error)? else { return Ok(None) };
        let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
        // With timestamps, a line of Sexton can be inserted. Without, the bytes are exactly the job's, so lines that
        // are missing at the beginning are counted in a header of the answer.
        let removed_lines = if query.timestamps { 0 } else { missing_at_start(&directory) };
        // A separate thread: a reader can take days and must not occupy a thread of the runtime.
        std::thread::Builder::new()
            .name("logs".to_owned())
            .spawn(move || {
                let send = |bytes: Vec<u8>| sender.blocking_send(Ok(bytes.into())).is_ok();
                let missing_text = |removed: MissingLines| match removed.last_seq <= removed_lines {
                    true => None,
                    false => Some(missing_lines_text(removed)),
                };
                if let Err(why) = copy_output(&directory, query, send, missing_text, || sender.is_closed()) {
                    tracing::warn!(%why, "cannot read the output of a run to its end");
                    // Fails only if the reader has disconnected.
                    let _disconnected = sender.blocking_send(Err(why));
                }
            })
            .map_err(|why| format!("no thread to read output: {why}"))?;
        Ok(Some(LogOutput { chunks, removed_lines }))
    }
}

/// Passes the output to `send`, chunk by chunk, until its end or until `send` returns false. While there is no new
/// output, `is_closed` ends the copy. `missing_text` returns what is sent in place of lines that retention deleted.
///
/// # Errors
/// Fails if the spool cannot be read.
pub(crate) fn copy_output(
    directory: &RunDirectory,
    query: LogQuery,
    mut send: impl FnMut(Vec<u8>) -> bool,
    mut missing_text: impl FnMut(MissingLines) -> Option<Vec<u8>>,
    is_closed: impl Fn() -> bool,
) -> io::Result<()> {
    let shown = if query.timestamps { LineFormat::Timestamped } else { LineFormat::Raw };
    let mut output = Output::open(directory.clone(), query.stream, shown);
    loop {
        // Checked before reading: the last output of a keeper that dies in between is then still read.
        let has_keeper = directory.has_keeper()?;
        match output.read()? {
            Piece::Bytes(bytes) => {
                if !send(bytes) {
                    return Ok(());
                }
            }
            Piece::Missing(removed) => {
                if missing_text(removed).is_some_and(|mark| !send(mark)) {
                    return Ok(());
                }
            }
            Piece::End => return Ok(()),
            Piece::Pending if !query.follow || is_closed() => return Ok(()),
            Piece::Pending if !has_keeper && directory.starting().exists() => return Ok(()),
            Piece::Pending => std::thread::sleep(FOLLOW_INTERVAL),
        }
    }
}

/// A line that marks missing lines as not part of the job's output.
pub(crate) fn missing_lines_text(removed: MissingLines) -> Vec<u8> {
    format!("[sexton: {removed}]\n").into_bytes()
}
