//! The output of runs, read from the runner's directory: for the console, and for `sexton logs` where no server answers.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use console::{LogChunks, LogQuery, Logs};
use domain::line::{Block, Line, Position};
use domain::run::{Run, RunId};
use runner::directory::RunDirectory;
use runner::spool::SpoolReader;
use tokio::sync::mpsc;

/// Bytes read from the spool at a time.
const READ_BYTES: usize = 256 << 10;

/// Pieces on their way to one slow reader.
const PIECES_MAX: usize = 4;

/// How often a followed spool is looked at: faster than people notice.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// The runs directory of a runner.
#[derive(Clone, Debug)]
pub struct RunOutput {
    runs: PathBuf,
}

impl RunOutput {
    pub fn new(runs: PathBuf) -> RunOutput {
        RunOutput { runs }
    }

    /// The directory of a run's latest attempt here; `None`: there is none.
    ///
    /// # Errors
    /// When the runs directory cannot be read.
    pub fn find(&self, run_id: &RunId) -> io::Result<Option<RunDirectory>> {
        let entries = match std::fs::read_dir(&self.runs) {
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
        Ok(latest.map(|attempt| RunDirectory::of(&self.runs, run_id, attempt)))
    }
}

#[async_trait]
impl Logs for RunOutput {
    async fn read(&self, run: &Run, query: LogQuery) -> Result<Option<LogChunks>, String> {
        let (output, run_id) = (self.clone(), run.run_id.clone());
        let found = tokio::task::spawn_blocking(move || output.find(&run_id)).await;
        let found = found.map_err(|error| format!("reading the output failed: {error}"))?;
        let says = |why| format!("the output of {} cannot be read: {why}", run.run_id);
        let Some(directory) = found.map_err(says)? else { return Ok(None) };
        let (sender, chunks) = mpsc::channel(PIECES_MAX);
        std::thread::Builder::new()
            .name("logs".to_owned())
            .spawn(move || {
                let give = |bytes: Vec<u8>| sender.blocking_send(Ok(bytes.into())).is_ok();
                if let Err(why) = copy(&directory, query, give, || sender.is_closed()) {
                    tracing::warn!(%why, "the output of a run could not be read to its end");
                    // Whoever asked may be gone; then nobody is left to be told.
                    let _gone = sender.blocking_send(Err(why));
                }
            })
            .map_err(|why| format!("no thread to read output: {why}"))?;
        Ok(Some(chunks))
    }
}

/// Gives the output piece by piece to `give`, until its end or until `give` takes no more. `gone` is asked while there is
/// nothing to give.
///
/// # Errors
/// When the spool cannot be read, or records of it are missing.
pub fn copy(
    directory: &RunDirectory,
    query: LogQuery,
    mut give: impl FnMut(Vec<u8>) -> bool,
    gone: impl Fn() -> bool,
) -> io::Result<()> {
    let mut reader = SpoolReader::open(directory.spool(), Position::START);
    let mut next_seq = Position::START.seq;
    loop {
        // Asked before reading: what was written before the end is then read after it.
        let over = is_over(directory)?;
        while let Some(block) = reader.read(READ_BYTES)? {
            let mut piece = Vec::with_capacity(block.bytes.len());
            if block.first_seq > next_seq {
                let missing = block.first_seq - next_seq;
                piece.extend_from_slice(format!("[sexton: {missing} lines are kept no longer]\n").as_bytes());
            }
            next_seq = block.end.seq;
            show(&block, query, &mut piece);
            if !piece.is_empty() && !give(piece) {
                return Ok(());
            }
        }
        if over || !query.follow || gone() {
            return Ok(());
        }
        std::thread::sleep(FOLLOW_INTERVAL);
    }
}

/// Nothing will be written any more: the exit is recorded, or the keeper is gone.
fn is_over(directory: &RunDirectory) -> io::Result<bool> {
    let began = directory.starting().exists();
    Ok(directory.exit().exists() || (began && !directory.is_kept()?))
}

fn show(block: &Block, query: LogQuery, out: &mut Vec<u8>) {
    for line in block.lines() {
        if query.stream.is_none_or(|stream| stream == line.stream) {
            show_line(&line, query.timestamps, out);
        }
    }
}

/// As the job wrote it. What was dropped stands there as a line that says so.
fn show_line(line: &Line<'_>, timestamps: bool, out: &mut Vec<u8>) {
    if timestamps && line.tag.part <= 1 {
        out.extend_from_slice(line.stamp);
        out.push(b' ');
    }
    if line.tag.gap {
        out.extend_from_slice(b"[sexton: ");
        out.extend_from_slice(line.text);
        out.extend_from_slice(b"]\n");
        return;
    }
    out.extend_from_slice(line.text);
    if line.tag.last && line.tag.newline {
        out.push(b'\n');
    }
}

/// Where a state directory's runner keeps its runs.
pub fn runs_folder(runner_state: &Path) -> PathBuf {
    runner_state.join("runs")
}
