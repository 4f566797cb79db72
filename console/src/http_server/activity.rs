//! What a connection does now, and the deadline that follows from it: a header has a short time, an idle connection a
//! long one, and an answer that is not complete has none.

use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::ServerLimits;

#[derive(Debug)]
enum Phase {
    /// Between two requests.
    Idle,
    /// A request's header is not complete.
    Header,
    /// From the end of a request's header to the end of its answer.
    Answering,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Start of the phase; of an idle connection the last byte sent.
    since: Instant,
    /// The client does not read, so a part of the answer waits here.
    is_write_blocked: bool,
}

/// What a connection does now.
#[derive(Debug)]
pub(super) struct Activity(Mutex<State>);

impl Activity {
    pub(super) fn new(now: Instant) -> Activity {
        Activity(Mutex::new(State { phase: Phase::Header, since: now, is_write_blocked: false }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer is in progress until the returned value is dropped.
    pub(super) fn start_answer(self: &Arc<Self>) -> Answering {
        self.state().phase = Phase::Answering;
        Answering(self.clone())
    }

    /// Since when the connection waits for a request.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        (matches!(state.phase, Phase::Idle) && !state.is_write_blocked).then_some(state.since)
    }

    fn deadline(&self, limits: ServerLimits) -> Option<Instant> {
        let state = self.state();
        match state.phase {
            _ if state.is_write_blocked => None,
            Phase::Answering => None,
            Phase::Header => Some(state.since + limits.header_time),
            Phase::Idle => Some(state.since + limits.idle_time),
        }
    }

    fn note_read(&self) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Idle) {
            (state.phase, state.since) = (Phase::Header, Instant::now());
        }
    }

    fn note_write<T>(&self, written: Poll<T>) -> Poll<T> {
        let mut state = self.state();
        state.is_write_blocked = written.is_pending();
        if matches!(state.phase, Phase::Idle) {
            state.since = Instant::now();
        }
        written
    }
}

/// An answer in progress.
pub(super) struct Answering(Arc<Activity>);

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.0.state();
        (state.phase, state.since) = (Phase::Idle, Instant::now());
    }
}

/// Polls a connection until it ends or its deadline has passed.
pub(super) async fn poll_in_time<T>(
    mut connection: Pin<&mut impl Future<Output = T>>,
    mut timer: Pin<&mut Sleep>,
    activity: &Activity,
    limits: ServerLimits,
) {
    std::future::poll_fn(|context| {
        if connection.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let Some(deadline) = activity.deadline(limits) else { return Poll::Pending };
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(context)
    })
    .await;
}

/// The connection's stream; reports each read and write.
pub(super) struct WatchedStream {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl WatchedStream {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>) -> WatchedStream {
        WatchedStream { stream, activity }
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = pin!(&mut self.stream).poll_read(context, into);
        if into.filled().len() > before {
            self.activity.note_read();
        }
        read
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = pin!(&mut self.stream).poll_write(context, bytes);
        self.activity.note_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = pin!(&mut self.stream).poll_write_vectored(context, bytes);
        self.activity.note_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_shutdown(context)
    }
}

/// The body of a request. Fails when no byte arrives for the idle time.
pub(super) struct RequestBody {
    body: Incoming,
    idle_time: Duration,
    timer: Pin<Box<Sleep>>,
}

impl RequestBody {
    pub(super) fn new(body: Incoming, idle_time: Duration) -> RequestBody {
        RequestBody { body, idle_time, timer: Box::pin(sleep(idle_time)) }
    }
}

impl hyper::body::Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(frame) = pin!(&mut self.body).poll_frame(context) {
            let next = Instant::now() + self.idle_time;
            self.timer.as_mut().reset(next);
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(self.timer.as_mut().poll(context));
        let message = format!("no byte of the body arrived for {} s", self.idle_time.as_secs());
        Poll::Ready(Some(Err(message.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer; the answer is complete when the server drops it.
pub(super) struct AnswerBody {
    body: Body,
    _answering: Answering,
}

impl AnswerBody {
    pub(super) fn new(body: Body, answering: Answering) -> AnswerBody {
        AnswerBody { body, _answering: answering }
    }
}

impl hyper::body::Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        pin!(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
