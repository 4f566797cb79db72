//! A log server whose received messages can be read back as JSON. Called by the tests of sinks. The programs are in
//! `syslog.rs` and `gelf.rs`.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::process::Process;
use crate::wait::holds_within;

/// How much of the received messages a failed wait prints.
const SHOWN_BYTES_MAX: usize = 4000;

/// A running log server. Its received messages survive `stop` and `restart`.
#[derive(Debug)]
pub struct LogServer {
    pub(crate) process: Process,
    /// The file below the temporary folder that gets one JSON object a line.
    pub(crate) journal: &'static str,
}

impl LogServer {
    /// Where it receives datagrams.
    #[track_caller]
    pub fn udp(&self) -> SocketAddr {
        self.process.addresses().udp.expect("this server offers UDP")
    }

    /// Where it accepts plain TCP connections.
    #[track_caller]
    pub fn tcp(&self) -> SocketAddr {
        self.process.addresses().tcp.expect("this server offers TCP")
    }

    /// Where it accepts TLS connections, with `certificates().server`; clients need no certificate.
    #[track_caller]
    pub fn tls(&self) -> SocketAddr {
        self.process.addresses().tls.expect("this server offers TLS")
    }

    /// The datagram socket in its folder, used like `/dev/log`.
    #[track_caller]
    pub fn unix(&self) -> &Path {
        self.process.addresses().unix.as_deref().expect("this server offers a unix socket")
    }

    /// Every message received so far, in order of arrival.
    #[track_caller]
    pub fn records(&self) -> Vec<Value> {
        let bytes = fs::read(self.process.folder().join(self.journal)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let complete = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let parse =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("not JSON ({error}): {line}"));
        complete.lines().map(parse).collect()
    }

    /// Waits until `condition` holds for the received messages, and returns them.
    ///
    /// # Panics
    /// After `deadline`, with the received messages.
    #[track_caller]
    pub fn wait_for(&self, condition: impl Fn(&[Value]) -> bool, deadline: Duration) -> Vec<Value> {
        let mut records = Vec::new();
        let found = holds_within(deadline, || {
            records = self.records();
            condition(&records)
        });
        let shown = || format!("{records:?}").chars().take(SHOWN_BYTES_MAX).collect::<String>();
        assert!(
            found,
            "not received within {deadline:?}; {} records: {}; the server's output: {}",
            records.len(),
            shown(),
            self.process.diagnostics()
        );
        records
    }

    /// Waits for at least `count` messages, and returns them; panics after [`crate::DEADLINE`].
    #[track_caller]
    pub fn wait_for_count(&self, count: usize) -> Vec<Value> {
        self.wait_for(|records| records.len() >= count, crate::DEADLINE)
    }

    /// Ends the server: it writes what it has received, and its ports refuse connections.
    pub fn stop(&self) {
        self.process.stop();
    }

    /// Ends the server with SIGKILL: messages that it has received but not written are lost, as in a crash.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Starts the server again on the same ports; earlier messages stay. A record that `kill` cut counts as not
    /// received and is removed.
    #[track_caller]
    pub fn restart(&self) {
        self.drop_torn_record();
        self.process.restart();
    }

    fn drop_torn_record(&self) {
        let path = self.process.folder().join(self.journal);
        let Ok(bytes) = fs::read(&path) else { return };
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if whole < bytes.len() {
            let file = fs::OpenOptions::new().write(true).open(&path).expect("the journal can be opened");
            file.set_len(whole as u64).expect("the journal can be cut");
        }
    }

    /// Freezes the server (SIGSTOP): connections stay open, nothing is read from now on.
    #[track_caller]
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets a frozen server continue.
    #[track_caller]
    pub fn thaw(&self) {
        self.process.signal("CONT");
    }
}
