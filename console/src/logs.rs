//! `GET /api/runs/{id}/logs`: streams the output of a run. Memory is bounded: a slow client slows the reading down.

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

/// Chunks of output between reader and client. An error breaks the answer off without its final chunk, so the client
/// knows that it is incomplete.
pub type LogChunks = mpsc::Receiver<io::Result<Bytes>>;

/// Response header with the number of lines at the start of the output that retention deleted; absent when there are
/// none. With `timestamps`, and for lines dropped later, a line `[sexton: ...]` is in the output instead.
pub const REMOVED_LINES: &str = "x-sexton-removed-lines";

/// The output of a run, for one client.
#[derive(Debug)]
pub struct LogOutput {
    /// The bytes to send.
    pub chunks: LogChunks,
    /// Lines before the first chunk that retention deleted and that no chunk mentions.
    pub removed_lines: u64,
}

/// Poll interval while a followed run has not started. Chosen, not measured.
const START_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Selects a part of a run's output and its format.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    /// Only this stream; both when absent.
    pub stream: Option<Stream>,
    /// Prefix each line with its capture time and stream.
    #[serde(default)]
    pub timestamps: bool,
    /// Continue until the run ends.
    #[serde(default)]
    pub follow: bool,
}

pub(crate) async fn read(
    State(console): State<Console>,
    Path(run_id): Path<String>,
    Query(query): Query<LogQuery>,
) -> ApiResult<Response> {
    match open(&console, &run_id, query).await? {
        Some(LogOutput { chunks, removed_lines }) => Ok((
            (removed_lines > 0).then_some([(REMOVED_LINES, removed_lines.to_string())]),
            [
                // A browser must never interpret a job's output as a page.
                (CONTENT_TYPE, "text/plain; charset=utf-8"),
                (X_CONTENT_TYPE_OPTIONS, "nosniff"),
                (CACHE_CONTROL, "no-store"),
            ],
            Body::from_stream(Chunks(chunks)),
        )
            .into_response()),
        None => Err(ApiFault::not_found(format!(
            "no output of {run_id} is kept here: it has not started, or retention deleted it"
        ))),
    }
}

/// With `follow`, waits until the run starts, or ends without a start.
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

/// The body of an answer, as a stream.
pub(crate) struct Chunks(pub LogChunks);

impl FuturesStream for Chunks {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}
