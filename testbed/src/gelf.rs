//! Receivers of GELF: graygelf (UDP, chunks, gzip, zlib) and rsyslogd (TCP and TLS, NUL-framed). Called by the tests of
//! the GELF sink.
//!
//! graygelf compares only 6 of the 8 bytes of the id of a chunked message. It mixes two messages in flight whose ids
//! differ only in the last two bytes.

use std::path::Path;

use crate::installation::{Certificates, certificates, installed};
use crate::listeners::{Addresses, free_port};
use crate::log_server::LogServer;
use crate::process::{Process, Program};
use crate::syslog::{port, rsyslog_head, rsyslogd};

/// graygelf on a UDP port. Its records are the messages as sent.
pub struct Graygelf;

/// rsyslogd, which receives NUL-framed GELF on TCP and TLS. Its records are the messages as sent; a frame that is not
/// JSON becomes `{"bad": "the frame"}`.
pub struct RsyslogGelf;

impl Graygelf {
    /// Starts graygelf; `None` when it is not available here.
    #[track_caller]
    pub fn start() -> Option<LogServer> {
        let path = installed("graygelf", "bin/graygelf")?;
        let process = Process::start(|_| {
            let address = free_port();
            let addresses = Addresses { udp: Some(address), ..Addresses::default() };
            Program { path: path.clone(), arguments: vec![address.port().to_string()], addresses }
        });
        Some(LogServer { process, journal: "stdout" })
    }
}

impl RsyslogGelf {
    /// Starts rsyslogd; `None` when it is not available here.
    #[track_caller]
    pub fn start() -> Option<LogServer> {
        let path = installed("rsyslog", "bin/rsyslogd")?;
        let certificates = certificates()?;
        let process = Process::start(|folder| {
            let addresses = Addresses { tcp: Some(free_port()), tls: Some(free_port()), ..Addresses::default() };
            let configuration = configuration(folder, &addresses, &certificates);
            rsyslogd(&path, folder, addresses, &configuration)
        });
        Some(LogServer { process, journal: "gelf.jsonl" })
    }
}

fn configuration(folder: &Path, addresses: &Addresses, certificates: &Certificates) -> String {
    format!(
        r#"{head}
module(load="imptcp")
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="anon"
  addtlFrameDelimiter="0" supportOctetCountedFraming="off" maxFrameSize="200000")
module(load="mmjsonparse")
template(name="json" type="string" string="%$!all-json%\n")
ruleset(name="gelf" parser="rsyslog.rfc3164") {{
  action(type="mmjsonparse" cookie="" useRawMsg="on")
  if $parsesuccess != "OK" then {{ unset $!msg; set $!bad = $rawmsg; }}
  action(type="omfile" file="{folder}/gelf.jsonl" template="json" asyncWriting="off" flushOnTXEnd="on") }}
input(type="imptcp" address="127.0.0.1" port="{tcp}" ruleset="gelf" addtlFrameDelimiter="0"
  supportOctetCountedFraming="off" maxFrameSize="1000000")
input(type="imtcp" address="127.0.0.1" port="{tls}" ruleset="gelf")
"#,
        head = rsyslog_head(folder, certificates),
        folder = folder.display(),
        tcp = port(addresses.tcp),
        tls = port(addresses.tls),
    )
}
