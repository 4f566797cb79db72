//! Receives log messages over TCP and counts them by their framing: an octet count, a newline or NUL, chosen by the
//! first byte of a message. Keeps no message, so that its own cost is small beside the sender's.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::workload::{SENT, now_nanoseconds};

const READ_BYTES: usize = 256 << 10;

/// A slow receiver reads this much, then pauses: about 1 MB per second, a fiftieth of the output of one fast job.
const SLOW_READ_BYTES: usize = 16 << 10;
const SLOW_REST: Duration = Duration::from_millis(16);

/// Interval in which a connection checks whether it must end. Chosen, not measured.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// After this time without a new message, no more are expected. Chosen: senders retry within seconds.
const IDLE_MAX: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    Full,
    Slow,
}

#[derive(Default)]
struct Received {
    messages: AtomicU64,
    /// Bytes outside any message.
    faults: AtomicU64,
    is_over: AtomicBool,
    /// Nanoseconds from writing to arrival, of lines that contain the time of writing.
    delays: Mutex<Vec<u64>>,
}

pub(crate) struct Receiver {
    address: SocketAddr,
    received: Arc<Received>,
}

impl Receiver {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port is available.
    pub(crate) fn start(pace: Pace) -> std::io::Result<Receiver> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let received = Arc::new(Received::default());
        let shared = Arc::clone(&received);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if shared.is_over.load(Ordering::Relaxed) {
                    break;
                }
                let shared = Arc::clone(&shared);
                thread::spawn(move || receive(stream, pace, &shared));
            }
        });
        Ok(Receiver { address, received })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn messages(&self) -> u64 {
        self.received.messages.load(Ordering::Relaxed)
    }

    pub(crate) fn faults(&self) -> u64 {
        self.received.faults.load(Ordering::Relaxed)
    }

    /// Milliseconds from writing to arrival, sorted.
    pub(crate) fn delays_ms(&self) -> Vec<f64> {
        let delays = self.received.delays.lock().unwrap_or_else(PoisonError::into_inner);
        let mut delays: Vec<f64> = delays.iter().map(|nanoseconds| *nanoseconds as f64 / 1e6).collect();
        delays.sort_by(f64::total_cmp);
        delays
    }

    /// Waits as [`wait_for_count`] does, and returns the number of messages.
    pub(crate) fn wait_for(&self, messages: u64) -> u64 {
        wait_for_count(messages, || self.messages())
    }
}

/// Waits until `count` reaches `wanted`, or does not change for [`IDLE_MAX`].
pub(crate) fn wait_for_count(wanted: u64, count: impl Fn() -> u64) -> u64 {
    let (mut last, mut progress) = (count(), Instant::now());
    while last < wanted && progress.elapsed() < IDLE_MAX {
        sleep(Duration::from_millis(5));
        let now = count();
        if now != last {
            (last, progress) = (now, Instant::now());
        }
    }
    last
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.received.is_over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts, so that it ends.
        let _ended = TcpStream::connect(self.address);
    }
}

fn receive(mut stream: TcpStream, pace: Pace, received: &Received) {
    let mut buffer = vec![0; if pace == Pace::Slow { SLOW_READ_BYTES } else { READ_BYTES }];
    let mut framer = Framer::default();
    // Without the timeout the thread ends with the connection, which is enough.
    let _ = stream.set_read_timeout(Some(STOP_CHECK_INTERVAL));
    while !received.is_over.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => {
                note_delays(&buffer[..bytes], received);
                framer.take(&buffer[..bytes]);
                received.messages.fetch_add(std::mem::take(&mut framer.messages), Ordering::Relaxed);
                received.faults.fetch_add(std::mem::take(&mut framer.faults), Ordering::Relaxed);
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
        if pace == Pace::Slow {
            sleep(SLOW_REST);
        }
    }
}

/// Row 8 writes one line at a time, each shorter than a TCP segment, so a line arrives in one piece.
fn note_delays(bytes: &[u8], received: &Received) {
    const TRICKLE_BYTES_MAX: usize = 4096;
    if bytes.len() > TRICKLE_BYTES_MAX {
        return;
    }
    let now = now_nanoseconds();
    for at in memchr::memmem::find_iter(bytes, SENT) {
        let digits = bytes[at + SENT.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        let sent = digits.fold(0_u64, |sum, digit| sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')));
        // The bracket records of a run contain its command, without a time.
        if sent > 0 {
            received.delays.lock().unwrap_or_else(PoisonError::into_inner).push(now.saturating_sub(sent));
        }
    }
}

#[derive(Default)]
struct Framer {
    place: Place,
    messages: u64,
    faults: u64,
}

#[derive(Clone, Copy, Default)]
enum Place {
    #[default]
    Begin,
    /// Within the digits of an octet count.
    Count(u64),
    /// Within a counted message, with this number of bytes left.
    Counted(u64),
    /// Within a message that ends with this byte.
    Until(u8),
}

impl Framer {
    fn take(&mut self, mut bytes: &[u8]) {
        while let Some(&first) = bytes.first() {
            let used = match self.place {
                Place::Begin => self.begin(first),
                Place::Count(count) => {
                    self.place = match first {
                        b'0'..=b'9' => Place::Count(count.saturating_mul(10).saturating_add(u64::from(first - b'0'))),
                        b' ' if count > 0 => Place::Counted(count),
                        _ => {
                            self.faults += 1;
                            Place::Begin
                        }
                    };
                    1
                }
                Place::Counted(left) => {
                    let used = left.min(bytes.len() as u64);
                    self.place = Place::Counted(left - used);
                    if used == left {
                        self.end();
                    }
                    used as usize
                }
                Place::Until(end) => match memchr::memchr(end, bytes) {
                    Some(at) => {
                        self.end();
                        at + 1
                    }
                    None => bytes.len(),
                },
            };
            bytes = &bytes[used..];
        }
    }

    fn begin(&mut self, first: u8) -> usize {
        self.place = match first {
            b'1'..=b'9' => Place::Count(0),
            b'<' => Place::Until(b'\n'),
            b'{' => Place::Until(0),
            _ => {
                self.faults += 1;
                return 1;
            }
        };
        usize::from(!first.is_ascii_digit())
    }

    fn end(&mut self) {
        self.messages += 1;
        self.place = Place::Begin;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_in_any_framing_and_any_pieces() {
        for (text, messages, faults) in [
            (&b"5 <1>ab12 <14>1 - - a\n"[..], 2, 0),
            (b"<1>a\n<2>b\n", 2, 0),
            (b"{\"a\":\"1 <\"}\0{}\0", 2, 0),
            (b"3 <1>x3 <2>", 2, 1),
            (b"9 short", 0, 0),
        ] {
            for step in 1..=text.len() {
                let mut framer = Framer::default();
                text.chunks(step).for_each(|piece| framer.take(piece));
                let shown = String::from_utf8_lossy(text);
                assert_eq!((framer.messages, framer.faults), (messages, faults), "{shown} by {step}");
            }
        }
    }
}
