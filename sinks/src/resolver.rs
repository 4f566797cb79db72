//! Finds a receiver that has a name: all addresses of the name are tried, and a name is resolved again, because its
//! address may change while Sexton runs. Used by the wires and by `probe`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::stream::CONNECT_TIMEOUT;

/// A further address is tried when the one before has not answered for this time (RFC 8305, section 5: 250 ms).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// A name in use is resolved again after this time. Chosen: lines of half a minute are lost when an address changes
/// without an error; below it, each datagram would cost more than it carries.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);

/// Connects to the first address of `host:port` that accepts.
///
/// # Errors
/// That of the address, or of all addresses in one text.
pub(crate) async fn connect_tcp(host_port: &str) -> io::Result<TcpStream> {
    let mut targets = lookup_host(host_port).await?;
    let mut attempts: JoinSet<(SocketAddr, io::Result<TcpStream>)> = JoinSet::new();
    let mut failures = Vec::new();
    let mut next = targets.next();
    loop {
        let Some(target) = next.take().or_else(|| targets.next()) else {
            match attempts.join_next().await {
                Some(Ok((_, Ok(stream)))) => return Ok(stream),
                Some(Ok((failed, Err(error)))) => failures.push((failed, error)),
                Some(Err(_)) => {}
                None => return Err(joined(failures)),
            }
            continue;
        };
        attempts.spawn(async move { (target, TcpStream::connect(target).await) });
        next = targets.next();
        if next.is_none() {
            continue;
        }
        tokio::select! {
            () = sleep(ATTEMPT_DELAY) => {}
            Some(done) = attempts.join_next() => match done {
                Ok((_, Ok(stream))) => return Ok(stream),
                Ok((failed, Err(error))) => failures.push((failed, error)),
                Err(_) => {}
            },
        }
    }
}

fn joined(mut failures: Vec<(SocketAddr, io::Error)>) -> io::Error {
    if failures.len() == 1 {
        return failures.remove(0).1;
    }
    let Some((_, first)) = failures.first() else {
        return io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    };
    let kind = first.kind();
    let texts: Vec<String> = failures.iter().map(|(target, error)| format!("{target}: {error}")).collect();
    io::Error::new(kind, texts.join(", "))
}

/// The addresses of one `host:port`, and the one in use.
pub(crate) struct Targets {
    host_port: String,
    list: Vec<SocketAddr>,
    /// Index in `list`.
    current: usize,
    /// Addresses of the list that failed one after the other.
    failed: usize,
    interval: Duration,
    resolved_at: Instant,
    lookup: Option<oneshot::Receiver<Vec<SocketAddr>>>,
}

impl Targets {
    pub(crate) fn new(host_port: String) -> Targets {
        Targets {
            host_port,
            list: Vec::new(),
            current: 0,
            failed: 0,
            interval: RESOLVE_INTERVAL,
            resolved_at: Instant::now(),
            lookup: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// Resolves the name before a connection. Without an answer, the addresses from before are used.
    ///
    /// # Errors
    /// When the name was never resolved.
    pub(crate) async fn resolve(&mut self) -> io::Result<()> {
        self.lookup = None;
        self.failed = 0;
        match timeout(CONNECT_TIMEOUT, lookup_host(self.host_port.clone())).await {
            Ok(Ok(found)) => self.replace(found.collect()),
            _ if !self.list.is_empty() => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the name server did not answer")),
        }
        match self.list.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
            false => Ok(()),
        }
    }

    /// The address to use. Only after [`Targets::resolve`].
    pub(crate) fn current(&self) -> SocketAddr {
        self.list[self.current]
    }

    pub(crate) fn has_several(&self) -> bool {
        self.list.len() > 1
    }

    /// Chooses the next address after a failure of the one in use. Returns false when all have failed.
    pub(crate) fn advance(&mut self) -> bool {
        self.failed += 1;
        self.current = (self.current + 1) % self.list.len().max(1);
        self.failed < self.list.len()
    }

    /// Starts to resolve the name when that is due. Called when something is sent.
    pub(crate) fn refresh(&mut self) {
        if self.lookup.is_some() || self.resolved_at.elapsed() < self.interval {
            return;
        }
        let (answer, lookup) = oneshot::channel();
        self.lookup = Some(lookup);
        let host_port = self.host_port.clone();
        tokio::spawn(async move {
            if let Ok(Ok(found)) = timeout(CONNECT_TIMEOUT, lookup_host(host_port)).await {
                // Fails when the connection has ended.
                let _ = answer.send(found.collect());
            }
        });
    }

    /// Uses the answer of [`Targets::refresh`] if there is one. Returns true while the name is being resolved. A failed
    /// lookup keeps the addresses.
    pub(crate) fn is_resolving(&mut self) -> bool {
        let Some(lookup) = &mut self.lookup else { return false };
        match lookup.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => return true,
            Ok(found) if !found.is_empty() => self.replace(found),
            Ok(_) | Err(oneshot::error::TryRecvError::Closed) => self.resolved_at = Instant::now(),
        }
        self.lookup = None;
        false
    }

    /// The address in use stays in use if it is still one of the name.
    fn replace(&mut self, mut found: Vec<SocketAddr>) {
        found.dedup();
        let before = self.list.get(self.current).copied();
        self.current = found.iter().position(|target| Some(*target) == before).unwrap_or(0);
        self.list = found;
        self.resolved_at = Instant::now();
    }
}
