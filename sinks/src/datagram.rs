//! UDP and local datagram sockets. Used by syslog and GELF.
//!
//! UDP is UDP: no receiver acknowledges a datagram. A batch counts as confirmed when the kernel has accepted it and no
//! ICMP refusal (port unreachable) arrives for [`CONFIRM_DELAY`]. A refusal sends every batch of that time again. A
//! datagram lost on the network is lost without a trace.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg, sockopt};
use tokio::io::Interest;
use tokio::net::{UdpSocket, UnixDatagram, lookup_host};
use tokio::time::{Instant, sleep, timeout};

use crate::address::{Address, Scheme};
use crate::error::{SinkError, SinkResult};
use crate::frames::Frames;
use crate::sink::Refused;
use crate::stream::{CONNECT_TIMEOUT, WRITE_TIMEOUT};

/// Time without a refusal after which a batch counts as confirmed. Chosen: an ICMP refusal takes one round trip.
const CONFIRM_DELAY: Duration = Duration::from_secs(1);
/// Datagrams in one call of `sendmmsg(2)`. Chosen, not measured.
const CALL_DATAGRAMS_MAX: usize = 64;
/// Size of a burst over UDP, and the pause after it, in which the receiver can read. Linux's default receive buffer
/// (`net.core.rmem_default`, 212,992 bytes, each datagram counted with about 700 bytes more) holds four bursts, so a
/// receiver may stall for four pauses. Chosen: at most 32,000 datagrams or 32 MB a second.
const BURST_DATAGRAMS_MAX: usize = 32;
const BURST_BYTES_MAX: usize = 32 * 1024;
const BURST_PAUSE: Duration = Duration::from_millis(1);
/// After a failure one datagram is sent first; a refusal of it is awaited for this time. Chosen: far above the round
/// trip of a local network.
const PROBE_WAIT: Duration = Duration::from_millis(50);
/// Pause when the kernel has no buffer (`ENOBUFS`). Chosen, not measured.
const BUFFER_WAIT: Duration = Duration::from_millis(1);

pub(crate) struct DatagramWire {
    address: Address,
    socket: Option<Socket>,
    /// The last connection failed: wait for a refusal of the first datagram before sending the rest.
    probe_first: bool,
    sent: u64,
    confirmed: u64,
    sent_at: VecDeque<Instant>,
    /// Datagrams and bytes since the last pause.
    burst_datagrams: usize,
    burst_bytes: usize,
}

enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

/// The result of a call: the number of datagrams that the kernel accepted, or that the first one is too long.
enum SendResult {
    Datagrams(usize),
    TooLong,
}

impl DatagramWire {
    pub(crate) fn new(address: Address) -> DatagramWire {
        DatagramWire {
            address,
            socket: None,
            probe_first: false,
            sent: 0,
            confirmed: 0,
            sent_at: VecDeque::new(),
            burst_datagrams: 0,
            burst_bytes: 0,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.socket.is_some()
    }

    pub(crate) fn disconnect(&mut self) {
        self.probe_first |= self.socket.take().is_some();
        self.sent_at.clear();
        (self.sent, self.confirmed) = (0, 0);
    }

    pub(crate) async fn connect(&mut self) -> io::Result<()> {
        if self.socket.is_some() {
            return Ok(());
        }
        self.socket = Some(match self.address.scheme {
            Scheme::Unix => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(self.address.socket_path())?;
                Socket::Unix(socket)
            }
            _ => Socket::Udp(connect_udp(&self.address).await?),
        });
        Ok(())
    }

    /// Sends each frame as one datagram, without the last `trailer` bytes of the frame.
    pub(crate) async fn send(&mut self, frames: &Frames, trailer: usize) -> SinkResult<Vec<Refused>> {
        let Some(socket) = &self.socket else {
            return Err(SinkError::retry(format!("not connected to {}", self.address)));
        };
        let datagrams: Vec<&[u8]> = frames.iter().map(|frame| &frame[..frame.len() - trailer]).collect();
        let mut refused = Vec::new();
        // A local socket blocks the sender when it is full.
        let paced = self.address.scheme != Scheme::Unix;
        let mut at = 0;
        while at < datagrams.len() {
            if paced && (self.burst_datagrams >= BURST_DATAGRAMS_MAX || self.burst_bytes >= BURST_BYTES_MAX) {
                sleep(BURST_PAUSE).await;
                (self.burst_datagrams, self.burst_bytes) = (0, 0);
            }
            let most = match (self.probe_first, paced) {
                (true, _) => 1,
                (false, true) => burst_len(&datagrams[at..], self.burst_datagrams, self.burst_bytes),
                (false, false) => CALL_DATAGRAMS_MAX,
            };
            let end = datagrams.len().min(at + most);
            let taken = timeout(WRITE_TIMEOUT, send_some(socket, &datagrams[at..end]))
                .await
                .map_err(|_| SinkError::timed_out("sending to", &self.address.to_string(), WRITE_TIMEOUT))?
                .map_err(|error| send_error(&self.address, &error))?;
            match taken {
                SendResult::Datagrams(count) => {
                    self.burst_datagrams += count;
                    self.burst_bytes += datagrams[at..at + count].iter().map(|datagram| datagram.len()).sum::<usize>();
                    at += count;
                }
                SendResult::TooLong => {
                    let bytes = datagrams[at].len();
                    let message = format!("a datagram of {bytes} bytes is too long for {}; set max_line", self.address);
                    refused.push(Refused { frame: at, message });
                    at += 1;
                }
            }
            if self.probe_first {
                sleep(PROBE_WAIT).await;
                pending_error(socket).map_err(|error| send_error(&self.address, &error))?;
                self.probe_first = false;
            }
        }
        self.sent += 1;
        self.sent_at.push_back(Instant::now());
        Ok(refused)
    }

    pub(crate) fn confirmed_batches(&mut self) -> SinkResult<u64> {
        if let Some(socket) = &self.socket {
            pending_error(socket).map_err(|error| send_error(&self.address, &error))?;
        }
        while self.sent_at.front().is_some_and(|at| at.elapsed() >= CONFIRM_DELAY) {
            self.sent_at.pop_front();
            self.confirmed += 1;
        }
        Ok(self.confirmed)
    }

    /// Waits [`PROBE_WAIT`] for a refusal; then every batch counts as confirmed.
    pub(crate) async fn drain(&mut self) -> SinkResult<()> {
        if let Some(socket) = &self.socket
            && !self.sent_at.is_empty()
        {
            sleep(PROBE_WAIT).await;
            pending_error(socket).map_err(|error| send_error(&self.address, &error))?;
        }
        self.sent_at.clear();
        self.confirmed = self.sent;
        Ok(())
    }

    pub(crate) async fn wait_closed(&mut self) -> SinkError {
        let mut buffer = [0; 512];
        loop {
            let buffer = match &self.socket {
                Some(Socket::Udp(socket)) => socket.recv(&mut buffer).await,
                Some(Socket::Unix(socket)) => socket.recv(&mut buffer).await,
                None => std::future::pending().await,
            };
            if let Err(error) = buffer {
                return send_error(&self.address, &error);
            }
        }
    }
}

async fn connect_udp(address: &Address) -> io::Result<UdpSocket> {
    let resolved = timeout(CONNECT_TIMEOUT, lookup_host(address.host_port()));
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name does not resolve to an address");
    for target in resolved.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
        let local = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(local).await?;
        match socket.connect(target).await {
            Ok(()) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn send_error(address: &Address, error: &io::Error) -> SinkError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => SinkError::retry(format!("connection refused by {address}")),
        _ => SinkError::from_network_error(format!("cannot send to {address}: {error}"), error),
    }
}

/// How many of these datagrams fit into the burst; at least one.
fn burst_len(datagrams: &[&[u8]], sent: usize, sent_bytes: usize) -> usize {
    let mut bytes = sent_bytes;
    let room = datagrams.iter().take(BURST_DATAGRAMS_MAX.saturating_sub(sent)).take_while(|datagram| {
        bytes += datagram.len();
        bytes <= BURST_BYTES_MAX
    });
    room.count().max(1)
}

/// The error that the network has reported since the last call.
fn pending_error(socket: &Socket) -> io::Result<()> {
    match socket {
        Socket::Udp(socket) => sockopt::socket_error(socket)??,
        Socket::Unix(socket) => sockopt::socket_error(socket)??,
    }
    Ok(())
}

async fn send_some(socket: &Socket, datagrams: &[&[u8]]) -> io::Result<SendResult> {
    loop {
        let result = match socket {
            Socket::Udp(socket) => {
                socket.async_io(Interest::WRITABLE, || send_datagrams(socket.as_fd(), datagrams)).await
            }
            Socket::Unix(socket) => {
                socket.async_io(Interest::WRITABLE, || send_datagrams(socket.as_fd(), datagrams)).await
            }
        };
        match result {
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => sleep(BUFFER_WAIT).await,
            Err(error) if error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error()) => {
                return Ok(SendResult::TooLong);
            }
            other => return other.map(SendResult::Datagrams),
        }
    }
}

/// One `sendmmsg(2)`; returns the number of accepted datagrams, at least one.
fn send_datagrams(descriptor: BorrowedFd<'_>, datagrams: &[&[u8]]) -> io::Result<usize> {
    let slices: Vec<[IoSlice<'_>; 1]> = datagrams.iter().map(|datagram| [IoSlice::new(datagram)]).collect();
    let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> = Vec::with_capacity(datagrams.len());
    controls.resize_with(datagrams.len(), SendAncillaryBuffer::default);
    let mut messages: Vec<MMsgHdr<'_>> =
        slices.iter().zip(&mut controls).map(|(slice, control)| MMsgHdr::new(slice, control)).collect();
    Ok(sendmmsg(descriptor, &mut messages, SendFlags::DONTWAIT)?)
}
