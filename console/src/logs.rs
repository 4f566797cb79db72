//! `GET /api/runs/{id}/logs`: what a run printed, as it is read. Bounded memory: a slow reader slows the reading down.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use domain::line::Stream;
use futures_core::Stream as FuturesStream;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::Console;
use crate::fault::{ApiFault, ApiResult, Query};
use crate::runs::find_run;

/// Pieces of output on their way; a few at most. An error ends the answer without its proper end, so that whoever reads
/// it knows that it is not whole.
pub type LogChunks = mpsc::Receiver<io::Result<Bytes>>;

/// The answer's header that says how many lines at the beginning of the run's output are not kept any more, when there are
/// any. With `timestamps`, and for what is lost later, a line of its own stands in the output instead: `[sexton: ...]`.
pub const REMOVED_LINES: &str = "x-sexton-removed-lines";

/// The output of a run on its way out.
#[derive(Debug)]
pub struct LogOutput {
    pub chunks: LogChunks,
    /// Lines before the first chunk that are not kept any more and that no chunk tells of.
    pub removed_lines: u64,
}

/// How often it is looked whether a followed run has started.
const START_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Which part of a run's output, and how it is shown.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    /// Both when absent.
    pub stream: Option<Stream>,
    /// Before each line, when it was captured, and a space.
    #[serde(default)]
    pub timestamps: bool,
    /// Goes on until the run is over.
    #[serde(default)]
    pub follow: bool,
}

pub async fn read(
    State(console): State<Console>,
    Path(run_id): Path<String>,
    Query(query): Query<LogQuery>,
) -> ApiResult<Response> {
    match open(&console, &run_id, query).await? {
        Some(LogOutput { chunks, removed_lines }) => Ok((
            (removed_lines > 0).then_some([(REMOVED_LINES, removed_lines.to_string())]),
            [
                // Bytes of a job: never to be taken for a page.
                (CONTENT_TYPE, "text/plain; charset=utf-8"),
                (X_CONTENT_TYPE_OPTIONS, "nosniff"),
                (CACHE_CONTROL, "no-store"),
            ],
            Body::from_stream(Chunks(chunks)),
        )
            .into_response()),
        None => Err(ApiFault::not_found(format!("no output of {run_id} is kept here (any more, or yet)"))),
    }
}

/// Whoever follows a run that has not started waits for its beginning, or for an end without one.
async fn open(console: &Console, run_id: &str, query: LogQuery) -> ApiResult<Option<LogOutput>> {
    loop {
        let run = find_run(console, run_id).await?;
        let chunks = console.logs.read(&run, query).await.map_err(ApiFault::internal)?;
        if chunks.is_some() || !query.follow || !run.is_open() {
            return Ok(chunks);
        }
        tokio::time::sleep(START_POLL_INTERVAL).await;
    }
}

struct Chunks(LogChunks);

impl FuturesStream for Chunks {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}
