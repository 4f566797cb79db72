//! Serves a router over TCP, with limits for connections and their times, so that clients without a token can neither
//! exhaust the descriptors that jobs need nor keep the holder of the token out. Called by `up` and `runner`.
//!
//! HTTP/1.1 without TLS.

mod activity;
mod connections;

use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tower_service::Service;

use crate::caller::Peer;
use activity::{AnswerBody, RequestBody, WatchedStream, poll_in_time};
use connections::{Admission, Connections};

pub(crate) use connections::Connection;

/// Bytes of a request's header, and of each buffer of a connection. Chosen: far above any header of a client; 512
/// connections use at most 64 MiB.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// Delay after a failed accept: the process or the system has no descriptor left. Chosen, not measured.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(200);

/// At most one log line about failed accepts, and one about refused connections, in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Idle time after which the kernel probes a connection whose answer is not complete; a client that vanished is
/// noticed. Chosen, not measured.
const PROBE_IDLE: Duration = Duration::from_secs(60);

/// The fault for a client for which no connection is left.
const FULL: &str = "too many connections; try again later";

/// Limits of a server.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Open connections. A further one replaces the oldest without a valid token, else the one that is idle longest.
    pub connections: usize,
    /// Connections of one address that have not presented a valid token. A further one replaces the oldest of them,
    /// because clients of one machine or of one proxy share an address, the holder of the token included.
    pub connections_without_token: usize,
    /// Time from the first byte of a request (on a new connection: from its start) to the end of its header.
    pub header_time: Duration,
    /// Time without a request, and time without a byte of a request's body. An answer that is not complete is not idle.
    pub idle_time: Duration,
}

impl Default for ServerLimits {
    fn default() -> ServerLimits {
        ServerLimits {
            connections: 512,
            connections_without_token: 64,
            header_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(60),
        }
    }
}

impl ServerLimits {
    /// The default limits for a process with this many descriptors: connections get at most a quarter of them, jobs the
    /// rest.
    pub fn for_descriptors(descriptors: u64) -> ServerLimits {
        let limits = ServerLimits::default();
        let share = usize::try_from(descriptors / 4).unwrap_or(usize::MAX).max(1);
        ServerLimits {
            connections: limits.connections.min(share),
            connections_without_token: limits.connections_without_token.min(share.div_ceil(2)),
            ..limits
        }
    }
}

/// Serves until `stop`, then until the answers that are in progress are complete. Dropping the future ends all
/// connections.
pub async fn serve(listener: TcpListener, router: Router, limits: ServerLimits, stop: impl Future<Output = ()>) {
    let connections = Arc::new(Connections::new(limits));
    let (closing, _) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let mut log = RareLog::default();
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            Some(_) = tasks.join_next() => continue,
            accepted = accept(&listener, &connections) => accepted,
        };
        match accepted {
            Ok((stream, Some(connection))) => {
                tasks.spawn(serve_connection(stream, connection, router.clone(), limits, closing.subscribe()));
            }
            Ok((stream, None)) => {
                log.warn(format_args!("{} connections are open; further ones are refused", limits.connections));
                refuse(&stream);
            }
            Err(error) => {
                log.warn(format_args!("cannot accept a connection: {error}; retrying"));
                sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
    drop(listener);
    closing.send_replace(true);
    while tasks.join_next().await.is_some() {}
}

/// Sends the reason to a client that is not served. Best effort: the client may not read it.
fn refuse(stream: &TcpStream) {
    let body = serde_json::json!({ "error": FULL }).to_string();
    let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close";
    let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    if let Err(error) = stream.try_write(answer.as_bytes()) {
        tracing::debug!(%error, "cannot answer a refused connection");
    }
}

/// Accepts one connection. `None`: all others are in use.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Connections>,
) -> io::Result<(TcpStream, Option<ConnectionGuard>)> {
    let (stream, address) = listener.accept().await?;
    let address = address.ip().to_canonical();
    loop {
        match connections.admit(address, Instant::now()) {
            Admission::Admitted(connection) => {
                let guard = ConnectionGuard { connections: connections.clone(), connection };
                return Ok((stream, Some(guard)));
            }
            Admission::Wait(until) => sleep_until(until).await,
            Admission::Full => return Ok((stream, None)),
        }
    }
}

/// Removes the connection from the table when it ends.
struct ConnectionGuard {
    connections: Arc<Connections>,
    connection: Arc<Connection>,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.connections.remove(&self.connection);
    }
}

async fn serve_connection(
    stream: TcpStream,
    guard: ConnectionGuard,
    router: Router,
    limits: ServerLimits,
    mut closing: watch::Receiver<bool>,
) {
    let connection = &guard.connection;
    set_options(&stream, connection.address);
    let peer = Peer::connected(connection.clone());
    let service = service_fn(|request: Request<Incoming>| {
        let (mut router, peer, connection) = (router.clone(), peer.clone(), connection.clone());
        let answering = connection.activity.start_answer();
        async move {
            let mut request = request.map(|body| Body::new(RequestBody::new(body, limits.idle_time)));
            request.extensions_mut().insert(peer);
            let answer = router.call(request).await;
            answer.map(|answer| answer.map(|body| AnswerBody::new(body, answering)))
        }
    });
    let stream = TokioIo::new(WatchedStream::new(stream, connection.activity.clone()));
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).max_buf_size(HEADER_BYTES_MAX);
    let mut served = pin!(builder.serve_connection(stream, service));
    let mut timer = pin!(sleep(limits.header_time));
    let mut is_closing = false;
    loop {
        tokio::select! {
            biased;
            () = connection.evicted.notified() => return,
            () = poll_in_time(served.as_mut(), timer.as_mut(), &connection.activity, limits) => return,
            _ = closing.wait_for(|closing| *closing), if !is_closing => {
                is_closing = true;
                served.as_mut().graceful_shutdown();
            }
        }
    }
}

/// A connection works without these options, too.
fn set_options(stream: &TcpStream, address: IpAddr) {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle};
    let set = stream.set_nodelay(true).and_then(|()| {
        set_socket_keepalive(stream, true)?;
        set_tcp_keepidle(stream, PROBE_IDLE)?;
        Ok(())
    });
    if let Err(error) = set {
        tracing::debug!(%error, %address, "cannot set options of a connection");
    }
}

/// Logs a warning, unless it logged one within [`LOG_INTERVAL`].
#[derive(Default)]
struct RareLog {
    logged_at: Option<Instant>,
}

impl RareLog {
    fn warn(&mut self, message: std::fmt::Arguments<'_>) {
        if self.logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            self.logged_at = Some(Instant::now());
            tracing::warn!("{message}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_few_descriptors_keeps_most_of_them_for_jobs() {
        let limits = |descriptors| {
            let limits = ServerLimits::for_descriptors(descriptors);
            (limits.connections, limits.connections_without_token)
        };
        assert_eq!(limits(u64::MAX), (512, 64));
        assert_eq!(limits(1024), (256, 64));
        assert_eq!(limits(64), (16, 8));
        assert_eq!(limits(0), (1, 1));
    }
}
