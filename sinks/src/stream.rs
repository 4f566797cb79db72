//! A connection that carries bytes in order: TCP, TLS over TCP, or a local stream socket. Used by syslog and GELF;
//! reads only to notice the end of the connection.

#![expect(unsafe_code, reason = "the kernel counts unacknowledged bytes behind an ioctl")]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use crate::address::{Address, Scheme};
use crate::error::{SinkError, SinkResult};
use crate::resolver::connect_tcp;
use crate::tls::TlsConfig;
use crate::tls_faults;

/// Limit for name resolution and connection together, and again for the TLS handshake. Chosen: well above the handshake
/// with a distant server.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without progress for this time the connection counts as dead; also set in the kernel as TCP_USER_TIMEOUT. Chosen: a
/// receiver restarts in less.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// See [`StreamWire`], condition 2. Chosen: a busy receiver reads its kernel's buffer in this time, and a crash of the
/// runner sends at most 3 s of lines twice.
const CONFIRM_DELAY: Duration = Duration::from_secs(3);
/// How long a drain waits for the receiver to close its side of the connection. Chosen, not measured.
const CLOSE_WAIT: Duration = Duration::from_secs(10);
/// Bytes of one write. A larger one exceeds the processor's cache and was measured slower.
const WRITE_BYTES: usize = 64 * 1024;
/// After this time without traffic the kernel sends keepalive probes, and then one per interval. Chosen: a dead peer is
/// noticed in about two minutes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Interval between checks of the kernel's send queue during a drain. Chosen, not measured.
const DRAIN_POLL: Duration = Duration::from_millis(5);

/// A stream to one receiver. Syslog and GELF acknowledge no message, so a batch counts as confirmed when
///
/// 1. the peer's kernel has acknowledged its last byte (bytes written less `SIOCOUTQ`), and
/// 2. the connection has stayed open for [`CONFIRM_DELAY`] since then, or the receiver has closed its side after the
///    sink closed its own. A receiver that is killed loses what it had not read; its kernel then ends the connection,
///    and the sink notices that within this time.
///
/// Not covered: a receiver that stalls for longer than [`CONFIRM_DELAY`] and is then killed loses what its kernel had
/// accepted.
pub(crate) struct StreamWire {
    address: Address,
    tls: TlsConfig,
    connection: Option<Socket>,
    /// Batches sent since the connection was opened.
    sent: u64,
    confirmed: u64,
    unconfirmed: VecDeque<SentBatch>,
    /// Number of batches at the front of `unconfirmed` that the peer's kernel has acknowledged.
    acknowledged_batches: usize,
}

struct SentBatch {
    /// Bytes written to the socket up to the end of the batch.
    end: u64,
    acknowledged_at: Option<Instant>,
}

impl StreamWire {
    pub(crate) fn new(address: Address, tls: TlsConfig) -> StreamWire {
        StreamWire {
            address,
            tls,
            connection: None,
            sent: 0,
            confirmed: 0,
            unconfirmed: VecDeque::new(),
            acknowledged_batches: 0,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    pub(crate) fn disconnect(&mut self) {
        self.connection = None;
        self.unconfirmed.clear();
        (self.sent, self.confirmed, self.acknowledged_batches) = (0, 0, 0);
    }

    pub(crate) async fn connect(&mut self) -> SinkResult<()> {
        if self.connection.is_none() {
            self.disconnect();
            self.connection = Some(self.open().await?);
        }
        Ok(())
    }

    async fn open(&self) -> SinkResult<Socket> {
        let shown = self.address.to_string();
        let unreachable = |error: io::Error| SinkError::unreachable(&shown, &error);
        let too_long = |_| SinkError::timed_out("connecting to", &shown, CONNECT_TIMEOUT);
        if self.address.scheme == Scheme::Unix {
            let stream = UnixStream::connect(self.address.socket_path());
            let stream = timeout(CONNECT_TIMEOUT, stream).await.map_err(too_long)?.map_err(unreachable)?;
            return Ok(Socket::Unix(CountedStream { inner: stream, written: 0 }));
        }
        // Before connecting: a missing file is a configuration error also while the server is down.
        let tls = match self.address.scheme {
            Scheme::Tls => Some((self.tls.client()?, self.tls.server_name(&self.address.host)?)),
            _ => None,
        };
        let host_port = self.address.host_port();
        let stream = timeout(CONNECT_TIMEOUT, connect_tcp(&host_port));
        let stream = stream.await.map_err(too_long)?.map_err(unreachable)?;
        set_socket_options(&stream).map_err(unreachable)?;
        let stream = CountedStream { inner: stream, written: 0 };
        let Some((client, name)) = tls else { return Ok(Socket::Plain(stream)) };
        let stream = tls_faults::connect(client, name, stream, &shown, CONNECT_TIMEOUT).await?;
        Ok(Socket::Tls(Box::new(stream)))
    }

    /// Writes the batch. First checks whether the peer has ended or reset the connection.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> SinkResult<()> {
        let shown = &self.address;
        let Some(socket) = &mut self.connection else {
            return Err(SinkError::retry(format!("not connected to {shown}")));
        };
        tokio::select! {
            biased;
            error = read_until_closed(socket) => return Err(connection_error(shown, &error)),
            () = std::future::ready(()) => {}
        }
        for chunk in bytes.chunks(WRITE_BYTES) {
            let written = timeout(WRITE_TIMEOUT, socket.write_all(chunk)).await;
            written
                .map_err(|_| SinkError::timed_out("writing to", &shown.to_string(), WRITE_TIMEOUT))?
                .map_err(|error| connection_error(shown, &error))?;
        }
        timeout(WRITE_TIMEOUT, socket.flush())
            .await
            .map_err(|_| SinkError::timed_out("writing to", &shown.to_string(), WRITE_TIMEOUT))?
            .map_err(|error| connection_error(shown, &error))?;
        self.sent += 1;
        self.unconfirmed.push_back(SentBatch { end: socket.written(), acknowledged_at: None });
        Ok(())
    }

    pub(crate) fn confirmed_batches(&mut self) -> SinkResult<u64> {
        let now = Instant::now();
        if let Some(socket) = &self.connection
            && !self.unconfirmed.is_empty()
        {
            let acknowledged = socket.acknowledged().map_err(|error| connection_error(&self.address, &error))?;
            while let Some(batch) = self.unconfirmed.get_mut(self.acknowledged_batches)
                && batch.end <= acknowledged
            {
                batch.acknowledged_at = Some(now);
                self.acknowledged_batches += 1;
            }
        }
        while let Some(SentBatch { acknowledged_at: Some(at), .. }) = self.unconfirmed.front()
            && now.duration_since(*at) >= CONFIRM_DELAY
        {
            self.unconfirmed.pop_front();
            self.acknowledged_batches -= 1;
            self.confirmed += 1;
        }
        Ok(self.confirmed)
    }

    /// Batches that the peer's kernel has acknowledged.
    pub(crate) fn accepted_batches(&self) -> u64 {
        self.confirmed + self.acknowledged_batches as u64
    }

    /// Closes the sending side. A receiver that then closes its side has read everything. If it does not within
    /// [`CLOSE_WAIT`], the acknowledgement of its kernel counts.
    pub(crate) async fn drain(&mut self) -> SinkResult<()> {
        let Some(mut socket) = self.connection.take() else { return Ok(()) };
        if !self.unconfirmed.is_empty() {
            let end = async {
                socket.shutdown().await?;
                Err::<(), io::Error>(read_until_closed(&mut socket).await)
            };
            match timeout(CLOSE_WAIT, end).await {
                Ok(Err(error)) if error.kind() != io::ErrorKind::UnexpectedEof => {
                    return Err(connection_error(&self.address, &error));
                }
                Ok(_) => {}
                Err(_) => self.wait_for_kernel(&socket).await?,
            }
        }
        self.unconfirmed.clear();
        self.acknowledged_batches = 0;
        self.confirmed = self.sent;
        Ok(())
    }

    async fn wait_for_kernel(&self, socket: &Socket) -> SinkResult<()> {
        let deadline = Instant::now() + WRITE_TIMEOUT;
        let end = self.unconfirmed.back().map_or(0, |batch| batch.end);
        while socket.acknowledged().map_err(|error| connection_error(&self.address, &error))? < end {
            if Instant::now() >= deadline {
                return Err(SinkError::timed_out("the acknowledgement of", &self.address.to_string(), WRITE_TIMEOUT));
            }
            tokio::time::sleep(DRAIN_POLL).await;
        }
        Ok(())
    }

    pub(crate) async fn wait_closed(&mut self) -> SinkError {
        match &mut self.connection {
            Some(socket) => connection_error(&self.address, &read_until_closed(socket).await),
            None => std::future::pending().await,
        }
    }
}

fn connection_error(address: &Address, error: &io::Error) -> SinkError {
    if let Some(fault) = tls_faults::tls_fault(address, error) {
        return fault;
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => SinkError::retry(format!("{address} ended the connection")),
        _ => SinkError::retry(format!("lost the connection to {address}: {error}")),
    }
}

fn set_socket_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_user_timeout(stream, WRITE_TIMEOUT.as_millis() as u32)?;
    Ok(())
}

/// Reads and drops bytes until the peer ends the connection. Syslog and GELF receivers send none.
async fn read_until_closed(socket: &mut Socket) -> io::Error {
    let mut buffer = [0; 512];
    loop {
        match socket.read(&mut buffer).await {
            Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => {}
            Err(error) => return error,
        }
    }
}

/// Counts the bytes that reach the kernel: TLS changes their number.
struct CountedStream<S> {
    inner: S,
    written: u64,
}

enum Socket {
    Plain(CountedStream<TcpStream>),
    Tls(Box<TlsStream<CountedStream<TcpStream>>>),
    Unix(CountedStream<UnixStream>),
}

impl Socket {
    fn written(&self) -> u64 {
        match self {
            Socket::Plain(stream) => stream.written,
            Socket::Tls(stream) => stream.get_ref().0.written,
            Socket::Unix(stream) => stream.written,
        }
    }

    /// Number of written bytes that the peer's kernel has; on a local socket, the peer itself.
    fn acknowledged(&self) -> io::Result<u64> {
        let descriptor = match self {
            Socket::Plain(stream) => stream.inner.as_fd(),
            Socket::Tls(stream) => stream.get_ref().0.inner.as_fd(),
            Socket::Unix(stream) => stream.inner.as_fd(),
        };
        sockopt::socket_error(descriptor)??;
        let queued = queued_bytes(descriptor)?;
        Ok(match self {
            // For local sockets the kernel counts memory, not bytes: only zero is meaningful.
            Socket::Unix(_) if queued > 0 => 0,
            _ => self.written().saturating_sub(queued),
        })
    }
}

/// Bytes in the socket's send queue: not yet sent, or not yet acknowledged (`SIOCOUTQ`, tcp(7)).
fn queued_bytes(descriptor: BorrowedFd<'_>) -> io::Result<u64> {
    const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;
    // SAFETY: SIOCOUTQ writes one int, for every kind of socket used here (tcp(7), unix(7)).
    let queued = unsafe {
        let ask = rustix::ioctl::Getter::<SIOCOUTQ, std::ffi::c_int>::new();
        rustix::ioctl::ioctl(descriptor, ask)?
    };
    Ok(u64::try_from(queued).unwrap_or(0))
}

impl<S: AsyncRead + Unpin> AsyncRead for CountedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CountedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(bytes)) = &written {
            self.written += *bytes as u64;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Socket::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
