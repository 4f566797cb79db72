//! A connection that carries bytes in order: TCP, TLS over TCP, or a local stream socket. Used by syslog and GELF;
//! reads only to notice the end of the connection, and answers of a peer that speaks another protocol.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::AsyncWrite;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::address::{Address, Scheme};
use crate::confirmation::Confirmation;
use crate::error::{SinkError, SinkResult};
use crate::foreign_answer;
use crate::resolver::connect_tcp;
use crate::stream_socket::{CountedStream, PeerEnd, Socket, set_socket_options};
use crate::tls::TlsConfig;
use crate::tls_faults;

/// Limit for name resolution and connection together, and again for the TLS handshake. Chosen: well above the handshake
/// with a distant server.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without progress for this time the connection counts as dead; also set in the kernel as TCP_USER_TIMEOUT. Chosen: a
/// receiver restarts in less.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of one write. A larger one exceeds the processor's cache and was measured slower.
const WRITE_BYTES: usize = 64 * 1024;
/// Interval between checks of the clock and of the kernel's send queue during a drain. Chosen, not measured.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// A stream to one receiver. Syslog and GELF acknowledge no message, so a batch counts as confirmed when the peer's
/// kernel has acknowledged its last byte (bytes written less `SIOCOUTQ`), and
///
/// 1. the connection is still open [`HOLD`](crate::confirmation::HOLD) later. A receiver that is killed, and a proxy
///    that finds no server, end the connection in this time; its batches are then sent again. Or
/// 2. the receiver ended the connection in answer to the sink's own end, and the connection had stood for that time.
///    An end that comes first, or on a younger connection, confirms nothing.
///
/// An answer confirms nothing: that port speaks another protocol.
///
/// Not covered: a receiver that stalls for longer than that time and is then killed loses what its kernel had accepted.
pub(crate) struct StreamWire {
    address: Address,
    tls: TlsConfig,
    clock: fn() -> Instant,
    open: Option<Open>,
}

struct Open {
    socket: Socket,
    batches: Confirmation,
    /// The sink has ended its side.
    is_shut_down: bool,
    /// The connection has ended, or the peer has answered: no batch is confirmed any more.
    has_ended: bool,
}

/// What is known about the sent batches, where the receiver confirms none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// The kernel of the receiver's machine has every byte.
    Kernel,
    /// The receiver has read every byte: on a local socket there is no kernel between.
    Receiver,
    /// Not every byte was acknowledged.
    Unknown,
}

impl StreamWire {
    pub(crate) fn new(address: Address, tls: TlsConfig, clock: fn() -> Instant) -> StreamWire {
        StreamWire { address, tls, clock, open: None }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.open.is_some()
    }

    pub(crate) fn disconnect(&mut self) {
        self.open = None;
    }

    pub(crate) async fn connect(&mut self) -> SinkResult<()> {
        if self.open.is_none() {
            let socket = self.open_socket().await?;
            let batches = Confirmation::new((self.clock)());
            self.open = Some(Open { socket, batches, is_shut_down: false, has_ended: false });
        }
        Ok(())
    }

    async fn open_socket(&self) -> SinkResult<Socket> {
        let shown = self.address.to_string();
        let unreachable = |error: io::Error| SinkError::unreachable(&shown, &error);
        let too_long = |_| {
            let seconds = CONNECT_TIMEOUT.as_secs();
            let advice = "is that machine running, and does a firewall drop the packets?";
            SinkError::retry(format!("cannot reach {shown}: no connection within {seconds} s; {advice}"))
        };
        if self.address.scheme == Scheme::Unix {
            let stream = UnixStream::connect(self.address.socket_path());
            let stream = timeout(CONNECT_TIMEOUT, stream).await.map_err(too_long)?.map_err(unreachable)?;
            return Ok(Socket::Unix(CountedStream::new(stream)));
        }
        // Before connecting: a missing file is a configuration error also while the server is down.
        let tls = match self.address.scheme {
            Scheme::Tls => Some((self.tls.client()?, self.tls.server_name(&self.address.host)?)),
            _ => None,
        };
        let host_port = self.address.host_port();
        let stream = timeout(CONNECT_TIMEOUT, connect_tcp(&host_port));
        let stream = stream.await.map_err(too_long)?.map_err(unreachable)?;
        set_socket_options(&stream, WRITE_TIMEOUT).map_err(unreachable)?;
        let stream = CountedStream::new(stream);
        let Some((client, name)) = tls else { return Ok(Socket::Plain(stream)) };
        let stream = tls_faults::connect(client, name, stream, &shown, CONNECT_TIMEOUT).await?;
        Ok(Socket::Tls(Box::new(stream)))
    }

    /// Writes the batch. Ends early when the peer ends the connection or answers.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> SinkResult<()> {
        let shown = &self.address;
        let Some(open) = &mut self.open else {
            return Err(SinkError::retry(format!("not connected to {shown}")));
        };
        for chunk in bytes.chunks(WRITE_BYTES) {
            match timeout(WRITE_TIMEOUT, open.socket.write_watched(chunk)).await {
                Ok(Ok(())) => {}
                Ok(Err(end)) => return Err(self.end(&end)),
                Err(_) => return Err(SinkError::timed_out("writing to", &shown.to_string(), WRITE_TIMEOUT)),
            }
        }
        open.batches.note_sent(open.socket.written());
        Ok(())
    }

    pub(crate) fn confirmed_batches(&mut self) -> SinkResult<u64> {
        let Some(open) = &mut self.open else { return Ok(0) };
        if !open.has_ended && !open.batches.is_complete() {
            // Before the socket is asked, so that the connection was open at this instant.
            let now = (self.clock)();
            match open.socket.acknowledged() {
                Ok(bytes) => open.batches.note_acknowledged(bytes, now),
                Err(error) => return Err(self.end(&PeerEnd::Failed(error))),
            }
            if open.batches.has_due(now) && open.socket.is_quiet() {
                open.batches.confirm_due(now);
            }
        }
        Ok(open.batches.confirmed_batches())
    }

    /// Batches that the peer's kernel has acknowledged.
    pub(crate) fn accepted_batches(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.batches.accepted_batches())
    }

    /// Waits until every batch is confirmed. As soon as the connection has stood long enough, ends the sending side:
    /// the receiver's end in answer confirms everything at once.
    pub(crate) async fn drain(&mut self) -> SinkResult<()> {
        let clock = self.clock;
        loop {
            self.confirmed_batches()?;
            let Some(open) = &mut self.open else { return Ok(()) };
            if open.batches.is_complete() {
                return Ok(());
            }
            let ends = open.batches.has_stood(clock()) && open.socket.is_quiet();
            match timeout(DRAIN_POLL, open.wait_end(ends)).await {
                Err(_) => {}
                Ok(PeerEnd::Closed) if open.is_shut_down && open.has_acknowledged_all(clock()) => {
                    open.batches.confirm_all();
                    return Ok(());
                }
                Ok(end) => return Err(self.end(&end)),
            }
        }
    }

    /// Watches the connection for `time` after a send. Confirms nothing.
    ///
    /// # Errors
    /// The end of the connection, or an answer.
    pub(crate) async fn observe(&mut self, time: Duration) -> SinkResult<Reached> {
        match timeout(time, self.wait_closed()).await {
            Ok(error) => return Err(error),
            Err(_) => self.confirmed_batches()?,
        };
        Ok(match &self.open {
            Some(open) if open.batches.is_acknowledged() => match open.socket {
                Socket::Unix(_) => Reached::Receiver,
                _ => Reached::Kernel,
            },
            _ => Reached::Unknown,
        })
    }

    pub(crate) async fn wait_closed(&mut self) -> SinkError {
        let Some(open) = &mut self.open else { return std::future::pending().await };
        let end = open.wait_end(false).await;
        self.end(&end)
    }

    /// Notes the end of the connection and describes it.
    fn end(&mut self, end: &PeerEnd) -> SinkError {
        let Some(open) = &mut self.open else { return SinkError::retry(format!("not connected to {}", self.address)) };
        open.has_ended = true;
        let now = (self.clock)();
        // How long a young connection stood is what distinguishes a proxy without a server.
        let young = (!open.batches.has_stood(now)).then(|| open.batches.age(now));
        end_error(&self.address, end, young)
    }
}

impl Open {
    /// Returns when the peer has ended the connection or answered. With `shut_down` it ends the sink's side first.
    async fn wait_end(&mut self, shut_down: bool) -> PeerEnd {
        poll_fn(|cx| {
            if shut_down && !self.is_shut_down {
                match std::pin::Pin::new(&mut self.socket).poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => self.is_shut_down = true,
                    Poll::Ready(Err(error)) => return Poll::Ready(PeerEnd::Failed(error)),
                    Poll::Pending => {}
                }
            }
            self.socket.poll_peer(cx)
        })
        .await
    }

    fn has_acknowledged_all(&mut self, now: Instant) -> bool {
        let Ok(bytes) = self.socket.acknowledged() else { return false };
        self.batches.note_acknowledged(bytes, now);
        self.batches.is_acknowledged()
    }
}

/// `young`: the age of a connection that has not stood long enough to prove that a receiver is behind it.
fn end_error(address: &Address, end: &PeerEnd, young: Option<Duration>) -> SinkError {
    let after = match young {
        Some(age) if age < Duration::from_secs(1) => " at once".to_owned(),
        Some(age) => format!(" after {} s", age.as_secs()),
        None => String::new(),
    };
    let advice = match (young, address.scheme) {
        (None, _) => "",
        (_, Scheme::Tcp) => "; is a log server behind that address, and does its port expect TCP without TLS?",
        _ => "; is a log server behind that address?",
    };
    match end {
        PeerEnd::Answered(answer) => {
            SinkError::misconfigured(format!("{address}: {}", foreign_answer::describe(answer)))
        }
        PeerEnd::Closed => SinkError::retry(format!("{address} ended the connection{after}{advice}")),
        PeerEnd::Failed(error) => tls_faults::tls_fault(address, error).unwrap_or_else(|| {
            let error = domain::system_error::plain_text(error);
            SinkError::retry(format!("lost the connection to {address}{after}: {error}{advice}"))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorClass;

    #[test]
    fn a_refused_client_certificate_is_misconfigured_also_when_the_alert_comes_late() {
        let address = Address::parse("tcp+tls://logs", &[Scheme::Tls], |_| 6514).expect("an address");
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired);
        let end = PeerEnd::Failed(std::io::Error::new(std::io::ErrorKind::InvalidData, alert));
        for young in [None, Some(Duration::ZERO)] {
            let error = end_error(&address, &end, young);
            let wanted = "tcp+tls://logs:6514: it requires a client certificate; set tls.crt_file and tls.key_file";
            assert_eq!((error.class, error.message.as_str()), (ErrorClass::Misconfigured, wanted));
        }
    }
}
