//! A TCP proxy between a client under test and a real server, for outages. It refuses, hangs, cuts connections in the
//! middle of a record, slows down, or loses the server's answer. It also fails as load balancers do: it accepts and
//! drops bytes whose server is absent, and ends the connection later. It never changes a byte.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::listeners::free_port;
use crate::wait::{DEADLINE, wait_until};

/// Most bytes that are read and forwarded at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// How long a connection whose bytes are dropped stays open: like a load balancer that still tries to reach a server.
/// Chosen: long enough for several batches.
const DROPPED_TIME: Duration = Duration::from_millis(300);

/// What a TLS server answers to plain text, and to a client that it does not accept: the fatal alert
/// `unexpected_message` (RFC 8446, section 6).
const TLS_ALERT: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x0a];

/// Pause after each piece of a slowed connection.
const SLOW_PIECE: Duration = Duration::from_millis(10);

/// A proxy in front of one server; forwards everything at first.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    /// Both sides of each open connection, as handles to shut them down.
    connections: Vec<[TcpStream; 2]>,
    accepted: usize,
    forwarded_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    Refuse,
    Hang,
    CutAfter { left_bytes: u64 },
    SwitchAfter { left_bytes: u64 },
    HangAfter { left_bytes: u64 },
    NoServer,
    TlsPort,
    HalfClose,
    LoseAnswer,
    Slow { bytes_per_second: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

/// What a pump may do with a chunk.
#[derive(Debug, PartialEq, Eq)]
enum Permit {
    Forward(usize),
    ForwardSlowly(usize),
    ForwardThenCut(usize),
    /// Forward, then read and drop the rest, and end the connection after [`DROPPED_TIME`].
    ForwardThenDrop(usize),
    /// Answer with [`TLS_ALERT`] and end the connection.
    Alert,
    /// End the direction to the client, then read and drop everything until the client ends the connection.
    EndAnswers,
    Over,
}

impl Proxy {
    /// Starts to forward connections to `target`.
    pub fn start(target: SocketAddr) -> Proxy {
        let state = State { mode: Mode::Pass, connections: Vec::new(), accepted: 0, forwarded_bytes: 0 };
        let shared = Arc::new(Shared { target, state: Mutex::new(state), changed: Condvar::new() });
        let proxy = Proxy { address: free_port(), shared, acceptor: Mutex::new(None) };
        proxy.listen();
        proxy
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forwards everything in both directions. Hanging connections continue.
    pub fn pass(&self) {
        self.change(Mode::Pass);
    }

    /// Cuts every connection and refuses new ones (connection refused), like a server that is down.
    pub fn refuse(&self) {
        self.shared.lock().mode = Mode::Refuse;
        self.shared.changed.notify_all();
        let acceptor = lock(&self.acceptor).take();
        if let Some(acceptor) = acceptor {
            // Wakes the thread that waits for the next connection, so that it closes the listener.
            drop(TcpStream::connect(self.address));
            acceptor.join().ok();
            // A child that another thread starts holds a copy of the listener until its exec.
            wait_until(DEADLINE, || TcpStream::connect(self.address).is_err());
        }
        self.shared.lock().cut();
    }

    /// Accepts connections and keeps them open, but forwards nothing, like a server that hangs. At most one chunk of
    /// each direction is read; `pass` forwards it, and `refuse` drops it.
    pub fn hang(&self) {
        self.change(Mode::Hang);
    }

    /// Hangs after `bytes` more bytes to the server, like a server that freezes in mid-stream.
    pub fn hang_after(&self, bytes: u64) {
        self.change(Mode::HangAfter { left_bytes: bytes });
    }

    /// Whether it hangs.
    pub fn is_hanging(&self) -> bool {
        self.shared.lock().mode == Mode::Hang
    }

    /// Cuts every connection after `bytes` more bytes to the server, also in the middle of a record. Then forwards
    /// everything again.
    pub fn cut_after(&self, bytes: u64) {
        self.change(Mode::CutAfter { left_bytes: bytes });
    }

    /// Forwards `bytes` more bytes to the server. Then, on every open connection, accepts and drops what follows, and
    /// ends the connection without an error, like a load balancer whose server dies in mid-stream. Forwards new
    /// connections, as to the next server.
    pub fn switch_after(&self, bytes: u64) {
        self.change(Mode::SwitchAfter { left_bytes: bytes });
    }

    /// Accepts connections, drops what it reads, and ends each without an error a moment later, like a load balancer
    /// that finds no server.
    pub fn have_no_server(&self) {
        self.change(Mode::NoServer);
    }

    /// Answers the first bytes of each connection with a TLS alert and ends it, like a TLS port that gets plain text.
    pub fn speak_tls(&self) {
        self.change(Mode::TlsPort);
    }

    /// Ends its direction of each connection at the first bytes, and drops what it reads until the client ends the
    /// connection too.
    pub fn half_close(&self) {
        self.change(Mode::HalfClose);
    }

    /// Ends every connection with unread bytes by a reset, as the kernel does when a frozen server is killed, and
    /// accepts new ones.
    pub fn kill(&self) {
        self.refuse();
        self.pass();
    }

    /// Forwards everything to the server, but drops its next answer and cuts every connection, as when the network
    /// fails after the server has accepted. Then forwards everything again.
    pub fn lose_answer(&self) {
        self.change(Mode::LoseAnswer);
    }

    /// Whether the requested cut or lost answer has happened.
    pub fn is_passing(&self) -> bool {
        self.shared.lock().mode == Mode::Pass
    }

    /// Forwards to the server at about this rate per connection; answers are not slowed.
    pub fn slow(&self, bytes_per_second: u64) {
        self.change(Mode::Slow { bytes_per_second });
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.lock().accepted
    }

    /// Bytes forwarded to the server so far.
    pub fn forwarded_bytes(&self) -> u64 {
        self.shared.lock().forwarded_bytes
    }

    fn change(&self, mode: Mode) {
        self.shared.lock().mode = mode;
        self.shared.changed.notify_all();
        self.listen();
    }

    fn listen(&self) {
        let mut acceptor = lock(&self.acceptor);
        if acceptor.is_none() {
            let mut listener = None;
            wait_until(DEADLINE, || {
                listener = TcpListener::bind(self.address).ok();
                listener.is_some()
            });
            let listener = listener.expect("bound above");
            let shared = self.shared.clone();
            *acceptor = Some(thread::spawn(move || shared.accept(&listener)));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.refuse();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming().map_while(Result::ok) {
            if self.lock().mode == Mode::Refuse {
                return;
            }
            // When the server refuses, the client sees a connection that is closed at once.
            if let Ok(server) = TcpStream::connect(self.target) {
                self.connect(client, server).ok();
            }
        }
    }

    fn connect(self: &Arc<Self>, client: TcpStream, server: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let mut state = self.lock();
        state.accepted += 1;
        state.connections.push([client.try_clone()?, server.try_clone()?]);
        drop(state);
        for (from, to, direction) in
            [(client.try_clone()?, server.try_clone()?, Direction::ToServer), (server, client, Direction::ToClient)]
        {
            let shared = self.clone();
            thread::spawn(move || shared.pump(from, to, direction));
        }
        Ok(())
    }

    /// Forwards one direction until its end, then closes the other side.
    fn pump(&self, mut from: TcpStream, mut to: TcpStream, direction: Direction) {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            self.wait_while_hanging();
            let Ok(count @ 1..) = from.read(&mut buffer) else { break };
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                let permit = self.permit(rest.len(), direction);
                let size = match permit {
                    Permit::Forward(size)
                    | Permit::ForwardSlowly(size)
                    | Permit::ForwardThenCut(size)
                    | Permit::ForwardThenDrop(size) => size,
                    Permit::Alert => {
                        from.write_all(&TLS_ALERT).ok();
                        return end(&from, &to);
                    }
                    Permit::EndAnswers => {
                        from.shutdown(Shutdown::Write).ok();
                        io::copy(&mut from, &mut io::sink()).ok();
                        return end(&from, &to);
                    }
                    Permit::Over => return,
                };
                let (piece, after) = rest.split_at(size);
                if to.write_all(piece).is_err() {
                    from.shutdown(Shutdown::Both).ok();
                    return;
                }
                rest = after;
                match permit {
                    Permit::ForwardThenCut(_) => return self.lock().cut(),
                    Permit::ForwardThenDrop(_) => {
                        drop_for(&mut from, DROPPED_TIME);
                        self.end_switch();
                        return end(&from, &to);
                    }
                    Permit::ForwardSlowly(_) => thread::sleep(SLOW_PIECE),
                    _ => {}
                }
            }
        }
        // Fails when the other side has closed already.
        to.shutdown(Shutdown::Write).ok();
    }

    /// The first connection that has ended makes way for the next server.
    fn end_switch(&self) {
        let mut state = self.lock();
        if matches!(state.mode, Mode::SwitchAfter { .. }) {
            state.mode = Mode::Pass;
        }
    }

    fn wait_while_hanging(&self) {
        let state = self.lock();
        drop(self.changed.wait_while(state, |state| state.mode == Mode::Hang));
    }

    /// Waits while the proxy hangs, then returns how many of `count` bytes may be forwarded.
    fn permit(&self, count: usize, direction: Direction) -> Permit {
        let state = self.lock();
        let mut state =
            self.changed.wait_while(state, |state| state.mode == Mode::Hang).unwrap_or_else(PoisonError::into_inner);
        if direction == Direction::ToClient {
            return match state.mode {
                Mode::Refuse => Permit::Over,
                Mode::LoseAnswer => {
                    state.mode = Mode::Pass;
                    state.cut();
                    Permit::Over
                }
                _ => Permit::Forward(count),
            };
        }
        let permit = match state.mode {
            Mode::Refuse | Mode::Hang => return Permit::Over,
            Mode::Pass | Mode::LoseAnswer => Permit::Forward(count),
            Mode::Slow { bytes_per_second } => {
                let piece = u128::from(bytes_per_second) * SLOW_PIECE.as_millis() / 1000;
                Permit::ForwardSlowly(count.min(usize::try_from(piece).unwrap_or(count).max(1)))
            }
            Mode::NoServer => return Permit::ForwardThenDrop(0),
            Mode::TlsPort => return Permit::Alert,
            Mode::HalfClose => return Permit::EndAnswers,
            Mode::SwitchAfter { left_bytes } => {
                let size = left_bytes.min(count as u64);
                state.mode = Mode::SwitchAfter { left_bytes: left_bytes - size };
                match size == left_bytes {
                    true => Permit::ForwardThenDrop(size as usize),
                    false => Permit::Forward(size as usize),
                }
            }
            Mode::HangAfter { left_bytes } => {
                let size = left_bytes.min(count as u64);
                state.mode = match left_bytes - size {
                    0 => Mode::Hang,
                    left_bytes => Mode::HangAfter { left_bytes },
                };
                Permit::Forward(size as usize)
            }
            Mode::CutAfter { left_bytes } if left_bytes <= count as u64 => {
                state.mode = Mode::Pass;
                Permit::ForwardThenCut(left_bytes as usize)
            }
            Mode::CutAfter { left_bytes } => {
                state.mode = Mode::CutAfter { left_bytes: left_bytes - count as u64 };
                Permit::Forward(count)
            }
        };
        if let Permit::Forward(size)
        | Permit::ForwardSlowly(size)
        | Permit::ForwardThenCut(size)
        | Permit::ForwardThenDrop(size) = permit
        {
            state.forwarded_bytes += size as u64;
        }
        permit
    }
}

/// Reads and drops bytes for this time.
fn drop_for(from: &mut TcpStream, time: Duration) {
    let end = Instant::now() + time;
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // Fails for a time of zero: the time is over.
        if from.set_read_timeout(Some(left)).is_err() || !matches!(from.read(&mut buffer), Ok(1..)) {
            return;
        }
    }
}

/// Ends both sides of one connection.
fn end(client: &TcpStream, server: &TcpStream) {
    // Fails for a side that is closed already, which is fine.
    client.shutdown(Shutdown::Both).ok();
    server.shutdown(Shutdown::Both).ok();
}

impl State {
    fn cut(&mut self) {
        for side in self.connections.drain(..).flatten() {
            // Fails for a side that is closed already, which is fine.
            side.shutdown(Shutdown::Both).ok();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
