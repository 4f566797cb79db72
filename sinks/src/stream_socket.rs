//! The socket of a stream: TCP, TLS over TCP, or a local stream socket. Counts what its peer's kernel has, and watches
//! for the end of the connection and for answers. Called by `stream`.

#![expect(unsafe_code, reason = "the kernel counts unacknowledged bytes behind an ioctl")]

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// After this time without traffic the kernel sends keepalive probes, and then one per interval. Chosen: a dead peer is
/// noticed in about two minutes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read. Chosen: enough to recognise the protocol.
const ANSWER_BYTES_MAX: usize = 512;

/// How a peer ended the connection, or broke the protocol. Syslog and GELF receivers send nothing.
#[derive(Debug)]
pub(crate) enum PeerEnd {
    /// End of file: the peer sends nothing more.
    Closed,
    Failed(io::Error),
    Answered(Vec<u8>),
}

/// Counts the bytes that reach the kernel: TLS changes their number.
pub(crate) struct CountedStream<S> {
    inner: S,
    written: u64,
}

impl<S> CountedStream<S> {
    pub(crate) fn new(inner: S) -> CountedStream<S> {
        CountedStream { inner, written: 0 }
    }
}

pub(crate) enum Socket {
    Plain(CountedStream<TcpStream>),
    Tls(Box<TlsStream<CountedStream<TcpStream>>>),
    Unix(CountedStream<UnixStream>),
}

pub(crate) fn set_socket_options(stream: &TcpStream, user_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_user_timeout(stream, user_timeout.as_millis() as u32)?;
    Ok(())
}

impl Socket {
    pub(crate) fn written(&self) -> u64 {
        match self {
            Socket::Plain(stream) => stream.written,
            Socket::Tls(stream) => stream.get_ref().0.written,
            Socket::Unix(stream) => stream.written,
        }
    }

    /// Writes all bytes. Ends early when the peer ends the connection or answers.
    pub(crate) async fn write_watched(&mut self, mut bytes: &[u8]) -> Result<(), PeerEnd> {
        poll_fn(|cx| {
            if let Poll::Ready(end) = self.poll_peer(cx) {
                return Poll::Ready(Err(end));
            }
            while !bytes.is_empty() {
                match ready!(Pin::new(&mut *self).poll_write(cx, bytes)) {
                    Ok(0) => return Poll::Ready(Err(PeerEnd::Failed(io::ErrorKind::WriteZero.into()))),
                    Ok(count) => bytes = &bytes[count..],
                    Err(error) => return Poll::Ready(Err(PeerEnd::Failed(error))),
                }
            }
            Pin::new(&mut *self).poll_flush(cx).map_err(PeerEnd::Failed)
        })
        .await
    }

    /// Ready when the peer has ended the connection or answered.
    pub(crate) fn poll_peer(&mut self, cx: &mut Context<'_>) -> Poll<PeerEnd> {
        let mut bytes = [0; ANSWER_BYTES_MAX];
        let mut buffer = ReadBuf::new(&mut bytes);
        Poll::Ready(match ready!(Pin::new(self).poll_read(cx, &mut buffer)) {
            Ok(()) if buffer.filled().is_empty() => PeerEnd::Closed,
            Ok(()) => PeerEnd::Answered(buffer.filled().to_vec()),
            // TLS without its own end of the data.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => PeerEnd::Closed,
            Err(error) => PeerEnd::Failed(error),
        })
    }

    /// Whether the connection is certainly open: the kernel has neither an end nor unread bytes of the peer. Asks the
    /// kernel, because the runtime may not have noticed an end yet.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut byte = [0; 1];
        recv(self.descriptor(), &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT).err() == Some(Errno::AGAIN)
    }

    /// Number of written bytes that the peer's kernel has; on a local socket, the peer itself.
    ///
    /// # Errors
    /// The error with which the connection ended.
    pub(crate) fn acknowledged(&self) -> io::Result<u64> {
        let descriptor = self.descriptor();
        sockopt::socket_error(descriptor)??;
        let queued = queued_bytes(descriptor)?;
        Ok(match self {
            // For local sockets the kernel counts memory, not bytes: only zero is meaningful.
            Socket::Unix(_) if queued > 0 => 0,
            _ => self.written().saturating_sub(queued),
        })
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Plain(stream) => stream.inner.as_fd(),
            Socket::Tls(stream) => stream.get_ref().0.inner.as_fd(),
            Socket::Unix(stream) => stream.inner.as_fd(),
        }
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
