//! rsyslogd and syslog-ng as receivers of syslog. Called by the tests of the syslog sink.
//!
//! They parse a message differently: rsyslog keeps the BOM in `msg`, microseconds in `ts`, and `-` for nil; syslog-ng
//! strips the BOM, leaves nil fields out, prints whole seconds, and replaces a nil host by the peer's address.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use crate::installation::{Certificates, certificates, installed};
use crate::listeners::{Addresses, free_port};
use crate::log_server::LogServer;
use crate::process::{Process, Program};

/// The file that both servers write, one JSON object a line.
const JOURNAL: &str = "out.jsonl";

/// The only format in which rsyslog parses messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SyslogFormat {
    /// Only RFC 5424.
    #[default]
    Rfc5424,
    /// Only RFC 3164, the BSD format.
    Rfc3164,
}

/// How rsyslog splits a TCP stream into messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Framing {
    /// RFC 6587 octet counting, and LF for a message that does not start with a digit.
    #[default]
    OctetCounting,
    /// LF only: an octet count becomes part of the message.
    Newline,
}

/// Options of rsyslog. The default is RFC 5424 with octet counting.
#[derive(Debug, Clone, Copy, Default)]
pub struct RsyslogOptions {
    pub format: SyslogFormat,
    pub framing: Framing,
}

/// rsyslogd with UDP, TCP, TLS and a unix datagram socket. Its records have `pri` (number), `facility`, `severity`,
/// `version`, `ts`, `host`, `app`, `procid`, `msgid`, `sd` (text as sent), `tag`, `msg` and `raw`.
pub struct Rsyslog;

/// syslog-ng with UDP, TCP and TLS for RFC 5424 with octet counting. Its records have `PRI`, `FACILITY`, `PRIORITY`,
/// `ISODATE`, `HOST`, `PROGRAM`, `PID`, `MSGID`, `SDATA` (text as sent), `_SDATA` (nested objects) and `MESSAGE`.
pub struct SyslogNg;

impl Rsyslog {
    /// Starts rsyslogd; `None` when it is not available here.
    #[track_caller]
    pub fn start(options: RsyslogOptions) -> Option<LogServer> {
        let path = installed("rsyslog", "bin/rsyslogd")?;
        let certificates = certificates()?;
        let process = Process::start(|folder| {
            let addresses = Addresses { unix: Some(folder.join("socket")), ..inet_addresses() };
            let configuration = rsyslog_configuration(folder, &addresses, &certificates, options);
            rsyslogd(&path, folder, addresses, &configuration)
        });
        Some(LogServer { process, journal: JOURNAL })
    }
}

impl SyslogNg {
    /// Starts syslog-ng; `None` when it is not available here.
    #[track_caller]
    pub fn start() -> Option<LogServer> {
        let path = installed("syslog-ng", "bin/syslog-ng")?;
        let certificates = certificates()?;
        let process = Process::start(|folder| {
            let addresses = inet_addresses();
            let configuration = syslog_ng_configuration(folder, &addresses, &certificates);
            let file = write_configuration(folder, &configuration);
            let arguments = ["-F", "--no-caps", "-f", &file, "-R", "persist", "-p", "pid", "-c", "control"];
            Program { path: path.clone(), arguments: arguments.map(str::to_owned).to_vec(), addresses }
        });
        Some(LogServer { process, journal: JOURNAL })
    }
}

/// Runs rsyslogd with a configuration in the foreground, without a file for its process id.
pub(crate) fn rsyslogd(path: &Path, folder: &Path, addresses: Addresses, configuration: &str) -> Program {
    let file = write_configuration(folder, configuration);
    Program {
        path: path.to_owned(),
        arguments: ["-n", "-i", "NONE", "-f", &file].map(str::to_owned).to_vec(),
        addresses,
    }
}

/// The head of an rsyslog configuration: no escapes, TLS 1.2 and later with the test certificates, and one worker. With
/// a second worker, which rsyslog starts when its queue grows, it would reorder messages.
pub(crate) fn rsyslog_head(folder: &Path, certificates: &Certificates) -> String {
    format!(
        r#"global(workDirectory="{folder}" maxMessageSize="256k" net.enableDNS="off"
  parser.escapeControlCharactersOnReceive="off" parser.escape8BitCharactersOnReceive="off"
  defaultNetstreamDriver="ossl" defaultNetstreamDriverCAFile="{ca}"
  defaultNetstreamDriverCertFile="{certificate}" defaultNetstreamDriverKeyFile="{key}")
main_queue(queue.workerThreads="1")
"#,
        folder = folder.display(),
        ca = certificates.ca.display(),
        certificate = certificates.server.display(),
        key = certificates.server_key.display(),
    )
}

/// The port as a configuration file needs it; 0 for no address.
pub(crate) fn port(address: Option<SocketAddr>) -> u16 {
    address.map_or(0, |address| address.port())
}

fn inet_addresses() -> Addresses {
    Addresses { udp: Some(free_port()), tcp: Some(free_port()), tls: Some(free_port()), unix: None }
}

fn write_configuration(folder: &Path, configuration: &str) -> String {
    let file = folder.join("configuration");
    fs::write(&file, configuration).expect("the temporary folder is writable");
    file.display().to_string()
}

fn rsyslog_configuration(
    folder: &Path,
    addresses: &Addresses,
    certificates: &Certificates,
    options: RsyslogOptions,
) -> String {
    let parser = match options.format {
        SyslogFormat::Rfc5424 => "rsyslog.rfc5424",
        SyslogFormat::Rfc3164 => "rsyslog.rfc3164",
    };
    let octets = match options.framing {
        Framing::OctetCounting => "on",
        Framing::Newline => "off",
    };
    format!(
        r#"{head}
module(load="imudp")
module(load="imptcp")
module(load="imuxsock" sysSock.use="off")
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="anon")
template(name="json" type="list" option.jsonf="on") {{
  property(outname="pri" name="pri" format="jsonf" datatype="number")
  property(outname="facility" name="syslogfacility-text" format="jsonf")
  property(outname="severity" name="syslogseverity-text" format="jsonf")
  property(outname="version" name="protocol-version" format="jsonf")
  property(outname="ts" name="timereported" dateFormat="rfc3339" format="jsonf")
  property(outname="host" name="hostname" format="jsonf")
  property(outname="app" name="app-name" format="jsonf")
  property(outname="procid" name="procid" format="jsonf")
  property(outname="msgid" name="msgid" format="jsonf")
  property(outname="sd" name="structured-data" format="jsonf")
  property(outname="tag" name="syslogtag" format="jsonf")
  property(outname="msg" name="msg" format="jsonf")
  property(outname="raw" name="rawmsg" format="jsonf") }}
ruleset(name="out" parser="{parser}") {{
  action(type="omfile" file="{folder}/{JOURNAL}" template="json" asyncWriting="off" ioBufferSize="64k" flushOnTXEnd="on") }}
input(type="imudp" address="127.0.0.1" port="{udp}" ruleset="out")
input(type="imptcp" address="127.0.0.1" port="{tcp}" ruleset="out" supportOctetCountedFraming="{octets}"
  maxFrameSize="200000")
input(type="imtcp" address="127.0.0.1" port="{tls}" ruleset="out" supportOctetCountedFraming="{octets}"
  maxFrameSize="200000")
input(type="imuxsock" socket="{unix}" ruleset="out" useSpecialParser="off" parseHostname="on"
  rateLimit.interval="0")
"#,
        head = rsyslog_head(folder, certificates),
        folder = folder.display(),
        udp = port(addresses.udp),
        tcp = port(addresses.tcp),
        tls = port(addresses.tls),
        unix = addresses.unix.as_deref().unwrap_or(folder).display(),
    )
}

fn syslog_ng_configuration(folder: &Path, addresses: &Addresses, certificates: &Certificates) -> String {
    format!(
        r#"@version: 3.38
options {{ use-dns(no); dns-cache(no); keep-hostname(yes); chain-hostnames(no); stats-freq(0); log-msg-size(262144); }};
source s_udp {{ syslog(ip("127.0.0.1") port({udp}) transport("udp")); }};
source s_tcp {{ syslog(ip("127.0.0.1") port({tcp}) transport("tcp")); }};
source s_tls {{ syslog(ip("127.0.0.1") port({tls}) transport("tls")
  tls(key-file("{key}") cert-file("{certificate}") ca-file("{ca}") peer-verify(optional-untrusted))); }};
destination d {{ file("{folder}/{JOURNAL}"
  template("$(format-json --scope rfc5424 --pair SDATA=\"$SDATA\" --pair ISODATE=\"$ISODATE\" --pair PRI=\"$PRI\")\n")
  flush-lines(1)); }};
log {{ source(s_udp); source(s_tcp); source(s_tls); destination(d); }};
"#,
        udp = port(addresses.udp),
        tcp = port(addresses.tcp),
        tls = port(addresses.tls),
        key = certificates.server_key.display(),
        certificate = certificates.server.display(),
        ca = certificates.ca.display(),
        folder = folder.display(),
    )
}
