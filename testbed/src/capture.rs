//! Listeners that keep every byte, for tests that compare the bytes on the wire. They never answer and know no
//! protocol.

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::listeners::free_port;
use crate::wait::holds_within;

/// Larger than any datagram over IPv4, and enough for a unix datagram of the default socket buffer.
const DATAGRAM_BYTES_MAX: usize = 256 * 1024;

/// What a capture listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
    UnixStream,
    UnixDatagram,
}

/// A listener that records what it receives until it is dropped.
#[derive(Debug)]
pub struct Capture {
    transport: Transport,
    address: SocketAddr,
    path: PathBuf,
    shared: Arc<Shared>,
    _folder: TempDir,
}

#[derive(Debug, Default)]
struct Shared {
    closing: AtomicBool,
    received: Mutex<Vec<Vec<u8>>>,
    connections: Mutex<Vec<Arc<Connection>>>,
}

#[derive(Debug)]
enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Capture {
    /// Starts to listen on a free port of 127.0.0.1 or on a socket in a temporary folder.
    pub fn start(transport: Transport) -> Capture {
        Capture::start_at(transport, free_port())
    }

    /// The same, on this address for TCP and UDP.
    pub fn start_at(transport: Transport, address: SocketAddr) -> Capture {
        let folder = TempDir::with_prefix("testbed-").expect("a temporary folder can be made");
        let path = folder.path().join("socket");
        let shared = Arc::new(Shared::default());
        match transport {
            Transport::Tcp => shared.accept_tcp(TcpListener::bind(address).expect("the port is free")),
            Transport::UnixStream => shared.accept_unix(UnixListener::bind(&path).expect("the path is new")),
            Transport::Udp => {
                let socket = UdpSocket::bind(address).expect("the port is free");
                shared.receive_datagrams(move |buffer| socket.recv(buffer));
            }
            Transport::UnixDatagram => {
                let socket = UnixDatagram::bind(&path).expect("the path is new");
                shared.receive_datagrams(move |buffer| socket.recv(buffer));
            }
        }
        Capture { transport, address, path, shared, _folder: folder }
    }

    /// The address of a TCP or UDP transport.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The socket of a unix transport.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One entry for each connection (all bytes so far) or datagram, in order of arrival.
    pub fn received(&self) -> Vec<Vec<u8>> {
        lock(&self.shared.received).clone()
    }

    /// All bytes so far, connections and datagrams one after the other.
    pub fn bytes(&self) -> Vec<u8> {
        self.received().concat()
    }

    /// Waits until `condition` holds for the received bytes, and returns them.
    ///
    /// # Panics
    /// After `deadline`, with the received bytes.
    #[track_caller]
    pub fn wait_for(&self, condition: impl Fn(&[Vec<u8>]) -> bool, deadline: Duration) -> Vec<Vec<u8>> {
        let found = holds_within(deadline, || condition(&lock(&self.shared.received)));
        let received = self.received();
        let text: Vec<_> = received.iter().map(|bytes| String::from_utf8_lossy(bytes)).collect();
        assert!(found, "not received within {deadline:?}: {text:?}");
        received
    }

    /// Closes every open connection; later ones are accepted as before.
    pub fn disconnect(&self) {
        for connection in lock(&self.shared.connections).drain(..) {
            connection.shut_down();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for the next connection or datagram, so that it ends.
        match self.transport {
            Transport::Tcp => drop(TcpStream::connect(self.address)),
            Transport::Udp => drop(UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(&[], self.address))),
            Transport::UnixStream => drop(UnixStream::connect(&self.path)),
            Transport::UnixDatagram => drop(UnixDatagram::unbound().and_then(|socket| socket.send_to(&[], &self.path))),
        }
        self.disconnect();
    }
}

impl Shared {
    fn accept_tcp(self: &Arc<Self>, listener: TcpListener) {
        let shared = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if !shared.take(Connection::Tcp(stream)) {
                    break;
                }
            }
        });
    }

    fn accept_unix(self: &Arc<Self>, listener: UnixListener) {
        let shared = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if !shared.take(Connection::Unix(stream)) {
                    break;
                }
            }
        });
    }

    /// Reads a connection in a separate thread; false when the capture is being closed.
    fn take(self: &Arc<Self>, connection: Connection) -> bool {
        let connection = Arc::new(connection);
        lock(&self.connections).push(connection.clone());
        // After the push: `drop` either finds the connection in the list, or has set the flag before.
        if self.closing.load(Ordering::SeqCst) {
            connection.shut_down();
            return false;
        }
        let index = {
            let mut received = lock(&self.received);
            received.push(Vec::new());
            received.len() - 1
        };
        let shared = self.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
            while let Ok(count @ 1..) = connection.read(&mut buffer) {
                lock(&shared.received)[index].extend_from_slice(&buffer[..count]);
            }
            connection.shut_down();
        });
        true
    }

    fn receive_datagrams(self: &Arc<Self>, receive: impl Fn(&mut [u8]) -> io::Result<usize> + Send + 'static) {
        let shared = self.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
            while let Ok(count) = receive(&mut buffer) {
                if shared.closing.load(Ordering::SeqCst) {
                    break;
                }
                lock(&shared.received).push(buffer[..count].to_vec());
            }
        });
    }
}

impl Connection {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Connection::Tcp(stream) => (&mut &*stream).read(buffer),
            Connection::Unix(stream) => (&mut &*stream).read(buffer),
        }
    }

    fn shut_down(&self) {
        // Fails for a connection that the peer has closed, which is fine.
        match self {
            Connection::Tcp(stream) => stream.shutdown(Shutdown::Both).ok(),
            Connection::Unix(stream) => stream.shutdown(Shutdown::Both).ok(),
        };
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
