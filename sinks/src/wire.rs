//! A [`Format`] on a wire is a [`Sink`](crate::sink::Sink). Syslog and GELF are built from it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::address::Scheme;
use crate::datagram::DatagramWire;
use crate::error::{SinkError, SinkResult};
use crate::feed::RunHeader;
use crate::frames::Frames;
use crate::http::HttpWire;
use crate::record::Record;
use crate::sink::{Acknowledge, Connection, Encode, Format, READ_BYTES_MAX, Refused};
use crate::stream::{Reached, StreamWire};
use crate::tls::TlsConfig;
use crate::unanswered::UnansweredCalls;

pub(crate) enum Wire {
    Stream(StreamWire),
    Datagram(DatagramWire),
    Http(HttpWire),
}

pub(crate) struct WireSink<F> {
    format: F,
    frames: Frames,
    /// Number of frames after each record: a long record over UDP has several.
    records: Vec<usize>,
    wire: Wire,
    address: crate::address::Address,
    clock: fn() -> Instant,
}

impl<F: Format> WireSink<F> {
    /// `clock` measures how long a connection has stood.
    pub(crate) fn new(format: F, wire: Wire, address: crate::address::Address, clock: fn() -> Instant) -> WireSink<F> {
        WireSink { format, frames: Frames::default(), records: Vec::new(), wire, address, clock }
    }

    /// After a send: how far its bytes are known to be. Watches a stream for `time`; `None` on other wires.
    ///
    /// # Errors
    /// The end of the connection, or an answer.
    pub(crate) async fn observe(&mut self, time: Duration) -> SinkResult<Option<Reached>> {
        match &mut self.wire {
            Wire::Stream(wire) => wire.observe(time).await.map(Some),
            Wire::Datagram(_) | Wire::Http(_) => Ok(None),
        }
    }

    /// The receiver's last answer, when its protocol has answers.
    pub(crate) fn answer(&self) -> Option<String> {
        match &self.wire {
            Wire::Http(wire) => wire.last_status().map(|status| status.to_string()),
            Wire::Stream(_) | Wire::Datagram(_) => None,
        }
    }

    /// A local socket is a datagram socket (Linux's `/dev/log`) or a stream; only connecting shows which.
    async fn connect_datagram(&mut self) -> SinkResult<()> {
        let Wire::Datagram(wire) = &mut self.wire else { return Ok(()) };
        let Err(error) = wire.connect().await else { return Ok(()) };
        let wrong_type = rustix::io::Errno::PROTOTYPE.raw_os_error();
        if self.address.scheme == Scheme::Unix && error.raw_os_error() == Some(wrong_type) {
            let mut stream = StreamWire::new(self.address.clone(), TlsConfig::default(), self.clock);
            stream.connect().await?;
            self.wire = Wire::Stream(stream);
            return Ok(());
        }
        match self.address.scheme {
            Scheme::Unix => Err(local_socket_error(&self.address, &error)),
            _ => Err(SinkError::unreachable(&self.address, &error)),
        }
    }
}

fn local_socket_error(address: &crate::address::Address, error: &std::io::Error) -> SinkError {
    let path = address.socket_path();
    match error.kind() {
        std::io::ErrorKind::NotFound => SinkError::misconfigured(format!(
            "{} does not exist; start the daemon that makes it (rsyslog, syslog-ng or systemd-journald), or correct the \
             address",
            path.display()
        )),
        std::io::ErrorKind::ConnectionRefused => SinkError::retry(format!(
            "no process receives at {}; start its daemon, or correct the address",
            path.display()
        )),
        _ => SinkError::from_path_error("open", &path, error),
    }
}

impl<F: Format> Encode for WireSink<F> {
    type Run = F::Run;

    fn open(&self, header: &RunHeader) -> F::Run {
        self.format.open(header)
    }

    fn text_bytes_max(&self, run: &F::Run) -> usize {
        self.format.text_bytes_max(run)
    }

    fn encode(&mut self, run: &F::Run, record: &Record<'_>) {
        self.format.write(run, record, &mut self.frames);
        self.records.push(self.frames.count());
    }

    fn filled_bytes(&self) -> usize {
        self.frames.bytes.len()
    }

    fn read_bytes_max(&self) -> usize {
        match &self.wire {
            Wire::Http(wire) => wire.read_bytes_max(),
            Wire::Stream(_) | Wire::Datagram(_) => READ_BYTES_MAX,
        }
    }
}

impl<F: Format> Connection for WireSink<F> {
    async fn connect(&mut self) -> SinkResult<()> {
        match &mut self.wire {
            Wire::Stream(wire) => {
                let connected = wire.connect().await;
                if connected.is_err() && self.address.scheme == Scheme::Unix {
                    // The daemon may have restarted with the other type of socket.
                    self.wire = Wire::Datagram(DatagramWire::new(self.address.clone()));
                }
                connected
            }
            Wire::Datagram(_) => self.connect_datagram().await,
            Wire::Http(wire) => wire.connect(),
        }
    }

    fn is_connected(&self) -> bool {
        match &self.wire {
            Wire::Stream(wire) => wire.is_connected(),
            Wire::Datagram(wire) => wire.is_connected(),
            Wire::Http(wire) => wire.is_connected(),
        }
    }

    fn disconnect(&mut self) {
        self.frames.clear();
        self.records.clear();
        match &mut self.wire {
            Wire::Stream(wire) => wire.disconnect(),
            Wire::Datagram(wire) => wire.disconnect(),
            Wire::Http(wire) => wire.disconnect(),
        }
    }

    async fn send(&mut self) -> SinkResult<Vec<Refused>> {
        let mut refused = match &mut self.wire {
            Wire::Stream(wire) => {
                wire.send(&self.frames.bytes).await?;
                Vec::new()
            }
            Wire::Datagram(wire) => {
                // On a local socket every frame ends with a newline, which only a stream needs.
                let trailer = usize::from(self.address.scheme == Scheme::Unix);
                wire.send(&self.frames, trailer).await?
            }
            Wire::Http(wire) => wire.send(&self.frames).await?,
        };
        for refused in &mut refused {
            refused.frame = self.records.partition_point(|frames| *frames <= refused.frame);
        }
        // A record whose datagrams are refused more than once is one record.
        refused.dedup_by_key(|refused| refused.frame);
        self.frames.clear();
        self.records.clear();
        Ok(refused)
    }

    async fn wait_closed(&mut self) -> SinkError {
        match &mut self.wire {
            Wire::Stream(wire) => wire.wait_closed().await,
            Wire::Datagram(wire) => wire.wait_closed().await,
            Wire::Http(_) => std::future::pending().await,
        }
    }

    fn unanswered(&self) -> Option<Arc<UnansweredCalls>> {
        match &self.wire {
            Wire::Http(wire) => Some(wire.unanswered.clone()),
            Wire::Stream(_) | Wire::Datagram(_) => None,
        }
    }
}

impl<F: Format> Acknowledge for WireSink<F> {
    fn confirmed_batches(&mut self, sent: u64) -> SinkResult<u64> {
        match &mut self.wire {
            Wire::Stream(wire) => wire.confirmed_batches(),
            Wire::Datagram(wire) => wire.confirmed_batches(),
            Wire::Http(_) => Ok(sent),
        }
    }

    fn accepted_batches(&self) -> u64 {
        match &self.wire {
            Wire::Stream(wire) => wire.accepted_batches(),
            // A datagram's arrival is unknown until it is confirmed; HTTP confirms what it accepts.
            Wire::Datagram(_) | Wire::Http(_) => 0,
        }
    }

    async fn drain(&mut self) -> SinkResult<()> {
        match &mut self.wire {
            Wire::Stream(wire) => wire.drain().await,
            Wire::Datagram(wire) => wire.drain().await,
            Wire::Http(_) => Ok(()),
        }
    }
}
