//! The targets of the conformance suite: a sink's configuration, how its transport fails and recovers, and how the
//! arrived records are read back.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;
use testbed::{
    AwsServer, Framing, Graygelf, LogServer, Ministack, Proxy, Rsyslog, RsyslogGelf, RsyslogOptions, SyslogNg,
    certificates,
};

use crate::cloudwatch;
use crate::http;
use crate::memory::{Run, step};
use crate::strict_logs::{Plan, StrictLogs};

/// Bytes after which a connection is cut: inside a record of the first run, after the start of its first batch.
const CUT_AFTER_BYTES: u64 = 54_321;
/// How long a receiver is frozen before it is killed.
const FROZEN_TIME: Duration = Duration::from_secs(5);
/// Slow enough that batches wait for the wire, and over within two seconds.
const SLOW_BYTES_PER_SECOND: u64 = 400_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// No server listens; for a file, its directory cannot be created.
    Down,
    /// Every byte is accepted and none is passed on, until the fault ends.
    Hang,
    /// The connection ends inside a record.
    Cut,
    Slow,
    /// A load balancer without a server: accepts and drops every byte, and ends the connection without an error.
    NoServer,
    /// A load balancer whose server dies inside a record; the next connection gets another server.
    Switch,
    /// A port that speaks TLS, to a sink that does not, or a server that accepts no handshake.
    TlsPort,
    /// The receiver ends its direction and reads on, without keeping anything.
    HalfClose,
    /// The receiver accepts bytes, reads none for some seconds, and is killed.
    FrozenThenKilled,
    /// The server accepted the request, and its answer is lost.
    AnswerLost,
}

/// In the order of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    Started,
    Line { seq: u64 },
    Finished,
}

/// A record as the server received it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub what: What,
    pub text: String,
    pub at: Timestamp,
}

type Switch = Box<dyn Fn(Fault) + Send + Sync>;
type Reading = Box<dyn Fn(&Run) -> Vec<Seen> + Send + Sync>;

pub(crate) struct Target {
    pub name: &'static str,
    /// The section of the sinks file, without `retry`.
    pub sink: String,
    pub faults: &'static [Fault],
    /// Lines per run and fault.
    pub lines: u64,
    /// Whether a sink that is down is noticed before any read.
    pub connects: bool,
    /// Precision of the time that the server keeps.
    pub precision: Duration,
    pub begin: Switch,
    pub end: Switch,
    /// The server's records of the run, in order of arrival.
    pub seen: Reading,
}

/// Enough for several batches.
const LINES: u64 = 400;
/// Two runs of these fit into a receive buffer of the default size; UDP loses the rest.
const DATAGRAM_LINES: u64 = 75;
const MICROSECONDS: Duration = Duration::from_micros(2);
const OF_A_STREAM: &[Fault] = &[
    Fault::None,
    Fault::Down,
    Fault::Hang,
    Fault::Cut,
    Fault::Slow,
    Fault::NoServer,
    Fault::Switch,
    Fault::TlsPort,
    Fault::HalfClose,
    Fault::FrozenThenKilled,
];
/// Without `Slow`: many small requests would take too long.
const OF_REQUESTS: &[Fault] = &[
    Fault::None,
    Fault::Down,
    Fault::Hang,
    Fault::Cut,
    Fault::NoServer,
    Fault::Switch,
    Fault::TlsPort,
    Fault::HalfClose,
    Fault::FrozenThenKilled,
    Fault::AnswerLost,
];
const OF_FULL_REQUESTS: &[Fault] = &[
    Fault::None,
    Fault::Down,
    Fault::Hang,
    Fault::Cut,
    Fault::Slow,
    Fault::NoServer,
    Fault::Switch,
    Fault::TlsPort,
    Fault::HalfClose,
    Fault::FrozenThenKilled,
    Fault::AnswerLost,
];
const OF_DATAGRAMS: &[Fault] = &[Fault::None, Fault::Down];

pub(crate) fn rsyslog(framing: Framing, scheme: &str, options: &str) -> Option<Target> {
    let server = Rsyslog::start(RsyslogOptions { framing, ..RsyslogOptions::default() })?;
    log_server("rsyslog", server, "syslog", scheme, options, from_rsyslog)
}

pub(crate) fn syslog_ng() -> Option<Target> {
    let target =
        log_server("syslog-ng", SyslogNg::start()?, "syslog", "tcp", "framing = \"octet_counting\"\n", from_syslog_ng)?;
    // Its ISODATE has whole seconds.
    Some(Target { precision: Duration::from_secs(1), ..target })
}

pub(crate) fn rsyslog_gelf(scheme: &str) -> Option<Target> {
    log_server("rsyslog", RsyslogGelf::start()?, "gelf", scheme, "", from_gelf)
}

pub(crate) fn graygelf() -> Option<Target> {
    log_server("graygelf", Graygelf::start()?, "gelf", "udp", "", from_gelf)
}

pub(crate) async fn gelf_http(options: &str) -> Option<Target> {
    let (address, received) = http::serve(|_, _| 202).await;
    let proxy = Proxy::start(address);
    let sink = format!("type = \"gelf\"\naddress = \"http://{}/gelf\"\n{options}", proxy.address());
    let seen = move |run: &Run| of_run(&received.accepted(), run, from_gelf);
    // HTTP connects only when there is a message to post.
    Some(Target { faults: OF_REQUESTS, connects: false, ..by_proxy("an HTTP listener", sink, proxy, seen) })
}

pub(crate) fn cloudwatch_logs() -> Option<Target> {
    let server = Ministack::start()?;
    let proxy = Proxy::start(server.address());
    Some(log_streams("ministack", proxy, move |run| of_stream(&server, run)))
}

/// The endpoint that enforces every limit. Unlike the service it returns events in order of arrival, which shows what
/// was sent first.
pub(crate) async fn strict_logs() -> Option<Target> {
    let logs = StrictLogs::start(|_, _, _| Plan::Serve).await;
    let proxy = Proxy::start(logs.address);
    Some(log_streams("the strict endpoint", proxy, move |run| {
        assert_eq!(logs.state().violations, Vec::<String>::new());
        let events = logs.events(cloudwatch::GROUP, &run.header.job);
        events.iter().map(|event| from_log_record(event.timestamp, &event.object())).collect()
    }))
}

pub(crate) fn file(format: &'static str) -> Option<Target> {
    let folder = TempDir::with_prefix("sinks-").expect("a temporary folder");
    let directory = folder.path().join("logs");
    let path = directory.display();
    let sink = format!("type = \"file\"\nformat = \"{format}\"\npath = \"{path}/{{run_id}}.log\"\n");
    let (broken, repaired) = (directory.clone(), directory.clone());
    Some(Target {
        name: "file",
        sink: format!("[sink.a]\n{sink}"),
        faults: &[Fault::None, Fault::Down],
        lines: LINES,
        connects: false,
        precision: Duration::from_nanos(0),
        begin: Box::new(move |fault| {
            if fault == Fault::Down {
                std::fs::remove_dir_all(&broken).ok();
                std::fs::write(&broken, "not a directory").expect("written");
            }
        }),
        end: Box::new(move |fault| {
            if fault == Fault::Down {
                std::fs::remove_file(&repaired).expect("removed");
            }
        }),
        seen: Box::new(move |run| {
            let _kept = &folder;
            of_file(&directory.join(format!("{}.log", run.header.run_id)), format)
        }),
    })
}

/// A server that writes its records to a file: with a proxy before it, but for datagrams.
fn log_server(
    name: &'static str,
    server: LogServer,
    kind: &str,
    scheme: &str,
    options: &str,
    read: fn(&Value, &str) -> Option<Seen>,
) -> Option<Target> {
    let server = Arc::new(server);
    let reading = server.clone();
    let seen = move |run: &Run| of_run(&reading.records(), run, read);
    let sink = |address: SocketAddr, options: &str| {
        format!("type = \"{kind}\"\naddress = \"{scheme}://{address}\"\n{options}")
    };
    if scheme == "udp" {
        return Some(by_server(name, sink(server.udp(), options), server, seen));
    }
    let (port, tls) = match scheme {
        "tcp+tls" => {
            let ca = certificates()?.ca;
            (server.tls(), format!("tls = {{ ca_file = \"{}\", server_name = \"localhost\" }}\n", ca.display()))
        }
        _ => (server.tcp(), String::new()),
    };
    let proxy = Proxy::start(port);
    Some(by_proxy(name, sink(proxy.address(), &format!("{options}{tls}")), proxy, seen))
}

fn log_streams(name: &'static str, proxy: Proxy, seen: impl Fn(&Run) -> Vec<Seen> + Send + Sync + 'static) -> Target {
    let target = by_proxy(name, cloudwatch::options(proxy.address()), proxy, seen);
    Target { faults: OF_FULL_REQUESTS, connects: false, precision: Duration::from_millis(1), ..target }
}

fn by_proxy(
    name: &'static str,
    sink: String,
    proxy: Proxy,
    seen: impl Fn(&Run) -> Vec<Seen> + Send + Sync + 'static,
) -> Target {
    let proxy = Arc::new(proxy);
    let repairing = proxy.clone();
    let before = Arc::new(AtomicUsize::new(0));
    let ended = before.clone();
    Target {
        name,
        sink: format!("[sink.a]\n{sink}"),
        faults: OF_A_STREAM,
        lines: LINES,
        connects: true,
        precision: MICROSECONDS,
        begin: Box::new(move |fault| match fault {
            Fault::None => proxy.pass(),
            Fault::Down => proxy.refuse(),
            Fault::Hang => proxy.hang(),
            Fault::FrozenThenKilled => proxy.hang_after(CUT_AFTER_BYTES),
            Fault::Cut => {
                before.store(proxy.connections(), SeqCst);
                proxy.cut_after(CUT_AFTER_BYTES);
            }
            Fault::Switch => {
                before.store(proxy.connections(), SeqCst);
                proxy.switch_after(CUT_AFTER_BYTES);
            }
            Fault::NoServer => proxy.have_no_server(),
            Fault::TlsPort => proxy.speak_tls(),
            Fault::HalfClose => proxy.half_close(),
            Fault::Slow => proxy.slow(SLOW_BYTES_PER_SECOND),
            Fault::AnswerLost => proxy.lose_answer(),
        }),
        end: Box::new(move |fault| match fault {
            // These end without us, and must have happened and been noticed.
            Fault::Cut | Fault::Switch => {
                testbed::wait_until(testbed::DEADLINE, || repairing.connections() >= ended.load(SeqCst) + 2)
            }
            Fault::FrozenThenKilled => {
                testbed::wait_until(testbed::DEADLINE, || repairing.is_hanging());
                step(FROZEN_TIME);
                repairing.kill();
            }
            Fault::AnswerLost => testbed::wait_until(testbed::DEADLINE, || repairing.is_passing()),
            _ => repairing.pass(),
        }),
        seen: Box::new(seen),
    }
}

fn by_server(
    name: &'static str,
    sink: String,
    server: Arc<LogServer>,
    seen: impl Fn(&Run) -> Vec<Seen> + Send + Sync + 'static,
) -> Target {
    let repairing = server.clone();
    Target {
        name,
        sink: format!("[sink.a]\n{sink}"),
        faults: OF_DATAGRAMS,
        lines: DATAGRAM_LINES,
        connects: false,
        precision: MICROSECONDS,
        begin: Box::new(move |fault| {
            if fault == Fault::Down {
                server.stop();
            }
        }),
        end: Box::new(move |fault| {
            if fault == Fault::Down {
                repairing.restart();
            }
        }),
        seen: Box::new(seen),
    }
}

fn of_run(records: &[Value], run: &Run, read: fn(&Value, &str) -> Option<Seen>) -> Vec<Seen> {
    records.iter().filter_map(|record| read(record, run.header.run_id.as_str())).collect()
}

fn what(event: &str, seq: Option<u64>) -> What {
    match (event, seq) {
        ("run.started", _) => What::Started,
        ("run.finished", _) => What::Finished,
        (_, Some(seq)) => What::Line { seq },
        (event, None) => panic!("neither a line nor a known event: {event}"),
    }
}

fn from_rsyslog(record: &Value, run_id: &str) -> Option<Seen> {
    let sd = record["sd"].as_str().filter(|sd| sd.contains(run_id))?;
    let seq = sd.split(" seq=\"").nth(1).and_then(|rest| rest.split('"').next()).and_then(|seq| seq.parse().ok());
    Some(Seen {
        what: what(record["msgid"].as_str()?, seq),
        text: record["msg"].as_str()?.to_owned(),
        at: record["ts"].as_str()?.parse().expect("an instant"),
    })
}

fn from_syslog_ng(record: &Value, run_id: &str) -> Option<Seen> {
    let sd = &record["_SDATA"]["run@32473"];
    sd["id"].as_str().filter(|id| *id == run_id)?;
    Some(Seen {
        what: what(record["MSGID"].as_str()?, sd["seq"].as_str().and_then(|seq| seq.parse().ok())),
        text: record["MESSAGE"].as_str()?.to_owned(),
        at: record["ISODATE"].as_str()?.parse().expect("an instant"),
    })
}

fn from_gelf(record: &Value, run_id: &str) -> Option<Seen> {
    record["_run_id"].as_str().filter(|id| *id == run_id)?;
    // graygelf and rsyslog keep the number as a float: exact to a quarter of a microsecond.
    let seconds = record["timestamp"].as_f64().expect("a number");
    Some(Seen {
        what: what(record["_event"].as_str().unwrap_or_default(), record["_seq"].as_u64()),
        text: record["short_message"].as_str()?.to_owned(),
        at: Timestamp::from_microsecond((seconds * 1e6).round() as i64).expect("an instant"),
    })
}

/// In the order of their time, as the service returns events.
fn of_stream(server: &AwsServer, run: &Run) -> Vec<Seen> {
    let events = server.log_events(cloudwatch::ACCOUNT, cloudwatch::GROUP, &run.header.job);
    events.iter().map(from_log_event).collect()
}

fn from_log_event(event: &Value) -> Seen {
    let record: Value = event["message"].as_str().and_then(|text| serde_json::from_str(text).ok()).expect("an object");
    from_log_record(event["timestamp"].as_i64().expect("a time"), &record)
}

fn from_log_record(ms: i64, record: &Value) -> Seen {
    Seen {
        what: what(record["event"].as_str().unwrap_or_default(), record["seq"].as_u64()),
        text: record["message"].as_str().unwrap_or_default().to_owned(),
        at: Timestamp::from_millisecond(ms).expect("an instant"),
    }
}

fn of_file(path: &PathBuf, format: &str) -> Vec<Seen> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let complete = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    complete.lines().map(|line| if format == "json" { from_json(line) } else { from_cri(line) }).collect()
}

fn from_json(line: &str) -> Seen {
    let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let at = ["timestamp", "time", "at"].iter().find_map(|name| record[*name].as_str()).expect(line);
    Seen {
        what: what(record["event"].as_str().unwrap_or_default(), record["seq"].as_u64()),
        // An event has no message.
        text: record["message"].as_str().unwrap_or_default().to_owned(),
        at: at.parse().expect("an instant"),
    }
}

/// `STAMP STREAM TAG TEXT`. A CRI line has no number; the test's text contains it.
fn from_cri(line: &str) -> Seen {
    let mut parts = line.splitn(4, ' ');
    let mut part = || parts.next().unwrap_or_else(|| panic!("too short: {line}"));
    let (at, _stream, tag, text) = (part(), part(), part(), part());
    let seq = text.strip_prefix("line ").and_then(|rest| rest.split(' ').next()).and_then(|seq| seq.parse().ok());
    Seen {
        what: what(tag.strip_prefix("F:").unwrap_or_default(), seq),
        text: text.to_owned(),
        at: at.parse().expect("an instant"),
    }
}
