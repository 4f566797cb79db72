//! UDP and local datagram sockets. Used by syslog and GELF.
//!
//! UDP is UDP: no receiver acknowledges a datagram. A batch counts as confirmed when the kernel has accepted it and the
//! network reports no failure for [`CONFIRM_DELAY`]: no program on that port, no machine with that address. A failure
//! sends every batch of that time again, to the next address of the name. A datagram lost on the network is lost
//! without a trace.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg, sockopt};
use tokio::io::Interest;
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::time::{Instant, sleep, timeout};

use crate::address::{Address, Scheme};
use crate::error::{SinkError, SinkResult, network_words};
use crate::frames::Frames;
use crate::resolver::Targets;
use crate::sink::Refused;
use crate::stream::WRITE_TIMEOUT;
use crate::udp_reports;

/// Time without a report of a failure after which a batch counts as confirmed. The kernel needs 3 s to find out that no
/// machine has an address (arp(7): 3 requests, 1 s apart), and reports that after 3.1 s as measured.
const CONFIRM_DELAY: Duration = Duration::from_secs(4);
/// The same for receivers on this machine. Chosen: the kernel refuses within the call.
const LOCAL_CONFIRM_DELAY: Duration = Duration::from_secs(1);
/// A drain waits for reports only [`PROBE_WAIT`] when a batch was confirmed within this time. Chosen: shorter than the
/// kernel's memory of a machine (arp(7): base_reachable_time, 30 s).
const PROVEN_TIME: Duration = Duration::from_secs(20);
/// Datagrams in one call of `sendmmsg(2)`. Chosen, not measured.
const CALL_DATAGRAMS_MAX: usize = 64;
/// Size of a burst over UDP, and the pause after it, in which the receiver can read. Linux's default receive buffer
/// (`net.core.rmem_default`, 212,992 bytes, each datagram counted with about 700 bytes more) holds four bursts, so a
/// receiver may stall for four pauses. Chosen: at most 32,000 datagrams or 32 MB a second.
const BURST_DATAGRAMS_MAX: usize = 32;
const BURST_BYTES_MAX: usize = 32 * 1024;
const BURST_PAUSE: Duration = Duration::from_millis(1);
/// After a failure, and to a name with several addresses, one datagram is sent first; a refusal of it is awaited for
/// this time. Chosen: far above the round
/// trip of a local network.
const PROBE_WAIT: Duration = Duration::from_millis(50);
/// Pause when the kernel has no buffer (`ENOBUFS`). Chosen, not measured.
const BUFFER_WAIT: Duration = Duration::from_millis(1);

pub(crate) struct DatagramWire {
    address: Address,
    targets: Targets,
    socket: Option<Socket>,
    /// The address in use failed; the next connection uses the next one.
    target_failed: bool,
    /// When a batch to the address in use was confirmed last.
    proven_at: Option<Instant>,
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
            targets: Targets::new(address.host_port()),
            address,
            socket: None,
            target_failed: false,
            proven_at: None,
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
        self.proven_at = None;
        self.sent_at.clear();
        (self.sent, self.confirmed) = (0, 0);
    }

    pub(crate) async fn connect(&mut self) -> io::Result<()> {
        if self.socket.is_some() {
            return Ok(());
        }
        if self.address.scheme == Scheme::Unix {
            let socket = UnixDatagram::unbound()?;
            socket.connect(self.address.socket_path())?;
            self.socket = Some(Socket::Unix(socket));
            return Ok(());
        }
        self.targets.resolve().await?;
        if std::mem::take(&mut self.target_failed) {
            self.targets.advance();
        }
        self.open_udp().await
    }

    /// Opens a socket to the current address, or to the next one that this machine has a route to.
    async fn open_udp(&mut self) -> io::Result<()> {
        loop {
            match connect_udp(self.targets.current()).await {
                Ok(socket) => {
                    self.probe_first |= self.targets.has_several();
                    self.proven_at = None;
                    self.socket = Some(Socket::Udp(socket));
                    return Ok(());
                }
                Err(_) if self.targets.advance() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends each frame as one datagram, without the last `trailer` bytes of the frame.
    pub(crate) async fn send(&mut self, frames: &Frames, trailer: usize) -> SinkResult<Vec<Refused>> {
        let datagrams: Vec<&[u8]> = frames.iter().map(|frame| &frame[..frame.len() - trailer]).collect();
        if self.address.scheme != Scheme::Unix {
            self.targets.refresh();
            self.targets.is_resolving();
            if self.has_old_address() {
                if !self.sent_at.is_empty() {
                    return Err(self.address_changed());
                }
                self.open_udp().await.map_err(|error| self.send_error(&error))?;
            }
        }
        loop {
            match self.send_datagrams(&datagrams).await {
                Ok(refused) => {
                    self.sent += 1;
                    self.sent_at.push_back(Instant::now());
                    return Ok(refused);
                }
                // The first datagrams to this address, so no earlier batch is lost.
                Err(_) if self.sent == 0 && self.next_address() => {
                    self.open_udp().await.map_err(|error| self.send_error(&error))?;
                }
                Err(error) => return Err(self.note_failure(&error)),
            }
        }
    }

    fn next_address(&mut self) -> bool {
        self.address.scheme != Scheme::Unix && self.targets.advance()
    }

    async fn send_datagrams(&mut self, datagrams: &[&[u8]]) -> io::Result<Vec<Refused>> {
        let Some(socket) = &self.socket else { return Err(io::ErrorKind::NotConnected.into()) };
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
            let sending = timeout(WRITE_TIMEOUT, send_some(socket, &datagrams[at..end])).await;
            match sending.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
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
                pending_error(socket)?;
                self.probe_first = false;
            }
        }
        Ok(refused)
    }

    pub(crate) fn confirmed_batches(&mut self) -> SinkResult<u64> {
        if let Some(socket) = &self.socket {
            pending_error(socket).map_err(|error| self.note_failure(&error))?;
        }
        if self.targets.is_resolving() {
            // The address may be an old one.
            return Ok(self.confirmed);
        }
        if self.has_old_address() && !self.sent_at.is_empty() {
            return Err(self.address_changed());
        }
        let delay = if self.is_local() { LOCAL_CONFIRM_DELAY } else { CONFIRM_DELAY };
        while self.sent_at.front().is_some_and(|at| at.elapsed() >= delay) {
            self.sent_at.pop_front();
            self.confirmed += 1;
            self.proven_at = Some(Instant::now());
        }
        Ok(self.confirmed)
    }

    /// Waits for reports of failures; then every batch counts as confirmed.
    pub(crate) async fn drain(&mut self) -> SinkResult<()> {
        let is_proven = self.is_local() || self.proven_at.is_some_and(|at| at.elapsed() < PROVEN_TIME);
        let wait = if is_proven { PROBE_WAIT } else { CONFIRM_DELAY };
        while let Some(socket) = &self.socket
            && let Some(at) = self.sent_at.back().copied()
        {
            pending_error(socket).map_err(|error| self.note_failure(&error))?;
            let is_resolving = self.targets.is_resolving() && at.elapsed() < CONFIRM_DELAY;
            if self.has_old_address() {
                return Err(self.address_changed());
            }
            if at.elapsed() >= wait && !is_resolving {
                break;
            }
            sleep(PROBE_WAIT).await;
        }
        self.sent_at.clear();
        self.confirmed = self.sent;
        Ok(())
    }

    pub(crate) async fn wait_closed(&mut self) -> SinkError {
        let mut buffer = [0; 512];
        loop {
            let received = match &self.socket {
                Some(Socket::Udp(socket)) => socket.recv(&mut buffer).await,
                Some(Socket::Unix(socket)) => socket.recv(&mut buffer).await,
                None => std::future::pending().await,
            };
            if let Err(error) = received {
                return self.note_failure(&error);
            }
        }
    }

    /// Whether the receiver is on this machine.
    fn is_local(&self) -> bool {
        match &self.socket {
            Some(Socket::Udp(socket)) => match (socket.local_addr(), socket.peer_addr()) {
                (Ok(local), Ok(peer)) => peer.ip().is_loopback() || local.ip() == peer.ip(),
                _ => false,
            },
            Some(Socket::Unix(_)) => true,
            None => false,
        }
    }

    /// Whether the name now has other addresses than the one in use.
    fn has_old_address(&self) -> bool {
        match &self.socket {
            Some(Socket::Udp(socket)) => socket.peer_addr().is_ok_and(|peer| {
                let current = self.targets.current();
                (peer.ip(), peer.port()) != (current.ip(), current.port())
            }),
            Some(Socket::Unix(_)) | None => false,
        }
    }

    fn address_changed(&self) -> SinkError {
        let target = self.targets.current().ip();
        SinkError::retry(format!("{} has the new address {target}; sending the latest lines again", self.address))
    }

    /// The error of lines that were sent; the next connection uses the next address.
    fn note_failure(&mut self, error: &io::Error) -> SinkError {
        self.target_failed = true;
        self.send_error(error)
    }

    fn send_error(&self, error: &io::Error) -> SinkError {
        let shown = &self.address;
        let by = match &self.socket {
            Some(Socket::Udp(socket)) => socket.peer_addr().map_or_else(|_| String::new(), |peer| format!(" ({peer})")),
            _ => String::new(),
        };
        match error.kind() {
            io::ErrorKind::ConnectionRefused => SinkError::retry(format!(
                "no program receives at {shown}{by}; start the receiver, or correct the address"
            )),
            io::ErrorKind::TimedOut => SinkError::timed_out("sending to", &shown.to_string(), WRITE_TIMEOUT),
            _ => SinkError::from_network_error(format!("cannot send to {shown}{by}: {}", network_words(error)), error),
        }
    }
}

async fn connect_udp(target: SocketAddr) -> io::Result<UdpSocket> {
    let local = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local).await?;
    udp_reports::enable(socket.as_fd(), target.is_ipv4())?;
    socket.connect(target).await?;
    Ok(socket)
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

/// The failure that the network has reported since the last call. The queue is read too: a call of sendmmsg(2) that
/// sends some of its datagrams takes the error of the socket with it.
fn pending_error(socket: &Socket) -> io::Result<()> {
    match socket {
        Socket::Udp(socket) => {
            sockopt::socket_error(socket)??;
            udp_reports::take(socket.as_fd()).map_or(Ok(()), Err)
        }
        Socket::Unix(socket) => Ok(sockopt::socket_error(socket)??),
    }
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

#[cfg(test)]
#[path = "datagram_tests.rs"]
mod tests;
