//! Peers that take bytes and are no receiver: load balancers without a server (HAProxy), ports that speak another
//! protocol, peers that close, freeze or are killed. None of them confirms a line, and `check` reports what is known.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use domain::line::Position;
use sinks::check::CHECK_GROUP;
use sinks::engine::Engine;
use sinks::status::SinkState;
use testbed::{Capture, Haproxy, LogServer, Proxy, Rsyslog, RsyslogOptions, SyslogNg, Transport, certificates};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::memory::{RETRY, Run, config, flush, start, step, wait_until};

/// The fatal alert `protocol_version`, as a TLS server that is not OpenSSL sends it to a client without TLS.
const TLS_ALERT: &str = "\x15\x03\x01\0\x02\x02\x46";
const LINES: u64 = 12;
/// Longer than HAProxy tries to reach a server (3 retries, one a second), and shorter than the hold of 10 s.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn sink(address: impl std::fmt::Display, options: &str) -> String {
    format!("[sink.a]\ntype = \"syslog\"\naddress = \"{address}\"\nframing = \"newline\"\n{RETRY}{options}")
}

fn printed() -> Run {
    let run = Run::new(1);
    run.print_numbers(0..LINES);
    run.finish();
    run
}

/// How often each of the printed lines is in the text.
pub(crate) fn copies(text: &str, lines: u64) -> Vec<usize> {
    (0..lines).map(|number| text.matches(&format!("] line {number} ")).count()).collect()
}

fn text_of(capture: &Capture) -> String {
    String::from_utf8_lossy(&capture.bytes()).into_owned()
}

/// Nothing is confirmed, dropped or delivered, and every line is counted as waiting.
fn check_kept(engine: &Engine, run: &Run, name: &str) {
    let status = engine.status();
    assert_eq!(run.durable(), Position::START, "{name}: {status:?}");
    assert_eq!(status.lag_lines + status.unconfirmed_lines, LINES, "{name}: {status:?}");
    assert_eq!((status.delivered_lines, status.dropped_lines), (0, 0), "{name}: {status:?}");
}

/// A load balancer, and the one server that it has later.
struct Balanced {
    name: &'static str,
    capture: Capture,
    server: Proxy,
    haproxy: Haproxy,
    /// The sinks file.
    text: String,
}

impl Balanced {
    fn start(name: &'static str, scheme: &str, defaults: &str, server_options: &str) -> Option<Balanced> {
        let capture = Capture::start(Transport::Tcp);
        let server = Proxy::start(capture.address());
        let haproxy = Haproxy::start(&[server.address()], defaults, server_options)?;
        let text = match scheme {
            "tcp" => sink(format!("tcp://{}", haproxy.tcp()), ""),
            _ => {
                let tls = format!("tls = {{ ca_file = \"{}\" }}\n", certificates()?.ca.display());
                sink(format!("tcp+tls://{}", haproxy.tls()), &tls)
            }
        };
        Some(Balanced { name, capture, server, haproxy, text })
    }

    /// Until `all_failed`, the sinks' clock must not be stepped.
    async fn has_no_server_and_then_one(self, all_failed: Arc<Barrier>) {
        let Balanced { name, capture, server, haproxy, text } = self;
        let occupied = name.starts_with("waiting").then(|| occupy(haproxy.tcp(), &capture));
        if occupied.is_none() {
            server.refuse();
        }
        if name.starts_with("known") {
            wait_until(|| haproxy.command("show stat").contains(",DOWN,")).await;
        }
        let run = printed();
        let (engine, _events) = start(&text);
        engine.add(run.feed());
        assert!(!engine.flush(PATIENCE).await, "{name}: no server has the lines");
        check_kept(&engine, &run, name);
        let error = engine.status().last_error.expect(name);
        assert!(error.contains("is a log server behind that address"), "{name}: {error}");
        engine.shutdown().await;
        assert_eq!(run.durable(), Position::START, "{name}");
        all_failed.wait().await;
        drop(occupied);
        server.pass();
        wait_until(|| !haproxy.command("show stat").contains(",DOWN,")).await;
        let (engine, _events) = start(&text);
        engine.add(run.feed());
        wait_until(|| !copies(&text_of(&capture), LINES).contains(&0)).await;
        assert!(flush(&engine).await, "{name}: {:?}", engine.status());
        assert!(run.is_delivered(), "{name}");
        // HAProxy may still have a connection of the first engine in its queue.
        let doubled = !name.starts_with("waiting") && copies(&text_of(&capture), LINES) != [1; LINES as usize];
        assert!(!doubled, "{name}: {}", text_of(&capture));
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_without_a_server_confirms_nothing_and_the_next_start_sends_everything() {
    let all: Option<Vec<Balanced>> = [
        ("refused with retries", "tcp", "", ""),
        ("refused behind TLS", "tcp+tls", "", ""),
        ("refused at once", "tcp", "  retries 0", ""),
        ("known to be down", "tcp", "", "check inter 100ms"),
        ("waiting in a queue", "tcp", "  timeout queue 1s", "maxconn 1"),
    ]
    .into_iter()
    .map(|(name, scheme, defaults, server_options)| Balanced::start(name, scheme, defaults, server_options))
    .collect();
    let Some(all) = all else { return };
    let all_failed = Arc::new(Barrier::new(all.len()));
    let mut running = JoinSet::new();
    for balanced in all {
        running.spawn(balanced.has_no_server_and_then_one(all_failed.clone()));
    }
    while let Some(ended) = running.join_next().await {
        ended.expect("no panic");
    }
}

/// Takes the only connection that HAProxy may make to its server.
fn occupy(address: SocketAddr, capture: &Capture) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("HAProxy listens");
    stream.write_all(b"occupied\n").expect("written");
    capture.wait_for(|all| !all.is_empty() && all.concat().ends_with(b"occupied\n"), testbed::DEADLINE);
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_that_switches_in_mid_stream_loses_no_line() {
    let captures = [Capture::start(Transport::Tcp), Capture::start(Transport::Tcp)];
    let Some(haproxy) = Haproxy::start(&captures.each_ref().map(Capture::address), "", "") else { return };
    let run = Run::new(1);
    run.print_numbers(0..LINES / 2);
    let (engine, _events) = start(&sink(format!("tcp://{}", haproxy.tcp()), ""));
    engine.add(run.feed());
    wait_until(|| copies(&text_of(&captures[0]), LINES / 2) == [1; LINES as usize / 2]).await;
    assert_eq!(haproxy.command("set server logs/s0 state maint").trim(), "");
    haproxy.command("shutdown sessions server logs/s0");
    run.print_numbers(LINES / 2..LINES);
    run.finish();
    engine.wake(&run.header.run_id);
    wait_until(|| copies(&text_of(&captures[1]), LINES) == [1; LINES as usize]).await;
    assert!(flush(&engine).await, "{:?}", engine.status());
    assert!(run.is_delivered());
    engine.shutdown().await;
}

/// A listener that handles each connection in a thread.
pub(crate) fn listener(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let handle = Arc::new(handle);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let handle = handle.clone();
            thread::spawn(move || handle(stream));
        }
    });
    address
}

fn read_some(mut stream: &TcpStream) {
    let _ = stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0);
}

fn read_on(mut stream: TcpStream) {
    std::io::copy(&mut stream, &mut std::io::sink()).ok();
}

/// Servers that speak another protocol than the sink, on some of their ports.
struct Servers {
    rsyslog: LogServer,
    haproxy: Haproxy,
    web: Haproxy,
}

impl Servers {
    fn start() -> Option<Servers> {
        let rsyslog = Rsyslog::start(RsyslogOptions::default())?;
        let haproxy = Haproxy::start(&[testbed::free_port()], "", "")?;
        let web = Haproxy::start(&[rsyslog.tcp()], "  mode http\n  timeout http-request 1m", "")?;
        Some(Servers { rsyslog, haproxy, web })
    }
}

/// Name, address, whether it is misconfigured, and a part of the error, for each kind of peer that is no receiver.
fn false_receivers(servers: &Servers) -> Vec<(&'static str, String, bool, String)> {
    let answer = |text: &'static str| {
        listener(move |mut stream| {
            read_some(&stream);
            stream.write_all(text.as_bytes()).ok();
            read_on(stream);
        })
    };
    let ssh = || {
        listener(|mut stream| {
            stream.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n").ok();
            read_on(stream);
        })
    };
    let said = |said: &str| format!("that port speaks something else (it said {said})");
    let closed = "is a log server behind that address".to_owned();
    let tcp = |address| format!("tcp://{address}");
    vec![
        ("a web server", tcp(servers.web.tcp()), true, said("`HTTP/1.1 400 Bad request`")),
        ("an SSH server", tcp(ssh()), true, said("`SSH-2.0-OpenSSH_9.2p1 Debian-2`")),
        ("an error text", tcp(answer("\x1b[31m500 unrecognised\r\n")), true, said("`\\x1b[31m500 unrecognised`")),
        ("rsyslog with TLS", tcp(servers.rsyslog.tls()), false, closed.clone()),
        ("HAProxy with TLS", tcp(servers.haproxy.tls()), false, closed.clone()),
        ("a port that answers with a TLS alert", tcp(answer(TLS_ALERT)), true, said("a TLS alert")),
        ("a peer that closes at once", tcp(listener(drop)), false, closed.clone()),
        ("a peer that closes after some lines", tcp(listener(|stream| read_some(&stream))), false, closed.clone()),
        ("TLS to an SSH server", format!("tcp+tls://{}", ssh()), true, "this port does not speak TLS".to_owned()),
        (
            "TLS to a peer that closes",
            format!("tcp+tls://{}", listener(drop)),
            false,
            "does that port speak TLS?".to_owned(),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_speaks_something_else_confirms_nothing_and_is_named() {
    let Some(servers) = Servers::start() else { return };
    for (name, address, is_misconfigured, part) in false_receivers(&servers) {
        for kind in ["syslog", "gelf"] {
            let run = printed();
            let (engine, _events) = start(&format!("[sink.a]\ntype = \"{kind}\"\naddress = \"{address}\"\n{RETRY}"));
            engine.add(run.feed());
            wait_until(|| engine.status().last_error.is_some_and(|error| error.contains(&part))).await;
            let state = if is_misconfigured { SinkState::Misconfigured } else { SinkState::Retrying };
            wait_until(|| engine.status().state == state).await;
            assert!(!engine.flush(Duration::from_millis(300)).await, "{name}: {kind}");
            check_kept(&engine, &run, name);
            engine.shutdown().await;
            assert_eq!(run.durable(), Position::START, "{name}: {kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_how_far_the_test_line_is_known_to_have_come() {
    let Some(servers) = Servers::start() else { return };
    let without_server = format!("tcp://{}", servers.haproxy.tcp());
    let unread = TcpListener::bind("127.0.0.1:0").expect("a port");
    let socket = Capture::start(Transport::UnixStream);
    let known = |name, address, part: &str| (name, address, true, part.to_owned());
    let kernel = "accepted by the receiver's kernel, application unknown";
    let tcp = format!("tcp://{}", servers.rsyslog.tcp());
    let mut cases: Vec<_> =
        false_receivers(&servers).into_iter().map(|(name, address, _, part)| (name, address, false, part)).collect();
    cases.push(known("rsyslog", tcp, kernel));
    cases.push(known("a peer that never reads", format!("tcp://{}", unread.local_addr().expect("bound")), kernel));
    cases.push(known("a local socket", format!("unix://{}", socket.path().display()), "read by the receiver"));
    let no_server = "is a log server behind that address".to_owned();
    cases.push(("HAProxy without a server", without_server, false, no_server));
    let mut checks = JoinSet::new();
    for (name, address, is_good, part) in cases {
        checks.spawn(async move {
            let sink = config(&format!("[sink.a]\ntype = \"syslog\"\naddress = \"{address}\"\n"));
            let found = sinks::check::check(&sink, CHECK_GROUP).await;
            let (Ok(message) | Err(message)) = &found;
            assert!(found.is_ok() == is_good && message.contains(&part), "{name}: {found:?}");
        });
    }
    while let Some(checked) = checks.join_next().await {
        checked.expect("checked");
    }
}

/// A listener that serves one connection after the other, records what it reads, and resets the open one on request.
struct Resettable {
    address: SocketAddr,
    received: Arc<Mutex<Vec<u8>>>,
    requests: Sender<Sender<()>>,
}

impl Resettable {
    fn start() -> Resettable {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let received = Arc::new(Mutex::new(Vec::new()));
        let (requests, resets) = mpsc::channel::<Sender<()>>();
        let keep = received.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (mut reading, keep) = (stream.try_clone().expect("a handle"), keep.clone());
                let reader = thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(count @ 1..) = reading.read(&mut buffer) {
                        keep.lock().expect("no panic").extend_from_slice(&buffer[..count]);
                    }
                });
                let Ok(done) = resets.recv() else { return };
                // Without lingering, closing sends a reset. The reader's handle must be closed first.
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("set");
                stream.shutdown(std::net::Shutdown::Read).ok();
                reader.join().expect("no panic");
                drop(stream);
                done.send(()).ok();
            }
        });
        Resettable { address, received, requests }
    }

    /// Returns when the reset is sent.
    fn reset(&self) {
        let (done, is_done) = mpsc::channel();
        self.requests.send(done).expect("the listener runs");
        is_done.recv().expect("reset");
    }

    fn copies(&self, lines: u64) -> Vec<usize> {
        copies(&String::from_utf8_lossy(&self.received.lock().expect("no panic")), lines)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_on_an_idle_connection_repeats_what_was_sent_less_than_ten_seconds_before() {
    let server = Resettable::start();
    let run = Run::new(1);
    run.print_numbers(0..3);
    let (engine, _events) = start(&sink(format!("tcp://{}", server.address), ""));
    engine.add(run.feed());
    wait_until(|| server.copies(3) == [1, 1, 1] && engine.status().unconfirmed_lines == 3).await;
    step(Duration::from_secs(11));
    wait_until(|| run.durable().seq == 4).await;
    run.print_numbers(3..5);
    engine.wake(&run.header.run_id);
    wait_until(|| server.copies(5) == [1; 5] && engine.status().unconfirmed_lines == 2).await;
    // The connection has stood for long, but these two lines were sent 8 s before its end. Sending one more line makes
    // the sink check what is confirmed by now.
    step(Duration::from_secs(8));
    run.print_numbers(5..6);
    engine.wake(&run.header.run_id);
    wait_until(|| server.copies(6) == [1; 6] && engine.status().unconfirmed_lines == 3).await;
    server.reset();
    wait_until(|| server.copies(6) == [1, 1, 1, 2, 2, 2] && engine.status().unconfirmed_lines == 3).await;
    step(Duration::from_secs(11));
    wait_until(|| run.durable().seq == 7).await;
    // A firewall that resets a silent connection doubles nothing.
    server.reset();
    run.print_numbers(6..7);
    engine.wake(&run.header.run_id);
    wait_until(|| server.copies(7) == [1, 1, 1, 2, 2, 2, 1]).await;
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_that_is_noticed_late_confirms_nothing() {
    let server = Resettable::start();
    let run = Run::new(1);
    run.print_numbers(0..1);
    // `run.started` and a line fill a batch; a line alone waits for the next one.
    let batch = "batch = { timeout = \"10m\", max_events = 2 }\n";
    let (engine, _events) = start(&sink(format!("tcp://{}", server.address), batch));
    engine.add(run.feed());
    wait_until(|| server.copies(1) == [1] && engine.status().unconfirmed_lines == 1).await;
    let read = run.ahead_bytes_max();
    run.print_numbers(1..2);
    engine.wake(&run.header.run_id);
    wait_until(|| run.ahead_bytes_max() > read).await;
    server.reset();
    step(Duration::from_mins(5));
    run.print_numbers(2..3);
    engine.wake(&run.header.run_id);
    wait_until(|| server.copies(3) == [2, 1, 1]).await;
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_freezes_for_seconds_and_is_killed_gets_every_line_after_its_restart() {
    let Some(server) = Rsyslog::start(RsyslogOptions::default()) else { return };
    let run = Run::new(1);
    run.print_numbers(0..1);
    let (engine, _events) = start(&sink(format!("tcp://{}", server.tcp()), ""));
    engine.add(run.feed());
    server.wait_for_count(2);
    step(Duration::from_secs(60));
    wait_until(|| run.durable().seq == 2).await;
    server.freeze();
    run.print_numbers(1..21);
    engine.wake(&run.header.run_id);
    wait_until(|| engine.status().unconfirmed_lines == 20).await;
    step(Duration::from_secs(5));
    // Sending one more line makes the sink check what is confirmed by now.
    run.print_numbers(21..22);
    run.finish();
    engine.wake(&run.header.run_id);
    wait_until(|| engine.status().unconfirmed_lines == 21).await;
    server.kill();
    server.restart();
    wait_until(|| server.records().len() >= 24).await;
    assert!(flush(&engine).await, "{:?}", engine.status());
    let texts: Vec<String> = server.records().iter().map(|record| record["msg"].to_string()).collect();
    for number in 0..22 {
        let wanted = format!("\"line {number} ");
        assert_eq!(texts.iter().filter(|text| text.starts_with(&wanted)).count(), 1, "line {number}: {texts:?}");
    }
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_closes_properly_confirms_a_stop_at_once_and_gets_no_line_twice() {
    let Some(rsyslog) = Rsyslog::start(RsyslogOptions::default()) else { return };
    let Some(behind) = Rsyslog::start(RsyslogOptions::default()) else { return };
    let Some(syslog_ng) = SyslogNg::start() else { return };
    let Some(haproxy) = Haproxy::start(&[behind.tcp()], "", "") else { return };
    let Some(certificates) = certificates() else { return };
    let tls = format!("tls = {{ ca_file = \"{}\" }}\n", certificates.ca.display());
    for (name, server, address, options) in [
        ("rsyslog", &rsyslog, format!("tcp://{}", rsyslog.tcp()), ""),
        ("rsyslog with TLS", &rsyslog, format!("tcp+tls://{}", rsyslog.tls()), tls.as_str()),
        ("HAProxy", &behind, format!("tcp://{}", haproxy.tcp()), ""),
        ("syslog-ng", &syslog_ng, format!("tcp://{}", syslog_ng.tcp()), ""),
        ("syslog-ng with TLS", &syslog_ng, format!("tcp+tls://{}", syslog_ng.tls()), tls.as_str()),
    ] {
        let text = format!(
            "[sink.a]\ntype = \"syslog\"\naddress = \"{address}\"\nframing = \"octet_counting\"\n{RETRY}{options}"
        );
        let before = server.records().len();
        let (young, old) = (Run::new(1), Run::new(2));
        young.print_numbers(0..3);
        young.finish();
        let (engine, _events) = start(&text);
        engine.add(young.feed());
        wait_until(|| engine.status().unconfirmed_lines == 3).await;
        assert!(!engine.flush(Duration::from_millis(300)).await, "{name}: a young connection proves nothing");
        assert!(flush(&engine).await && young.is_delivered(), "{name}: {:?}", engine.status());
        engine.shutdown().await;

        old.print_numbers(0..3);
        let (engine, _events) = start(&text);
        engine.add(old.feed());
        wait_until(|| engine.status().unconfirmed_lines == 3).await;
        step(Duration::from_secs(11));
        wait_until(|| old.durable().seq == 4).await;
        old.print_numbers(3..6);
        old.finish();
        engine.wake(&old.header.run_id);
        wait_until(|| engine.status().unconfirmed_lines == 3).await;
        // Less than the hold: the receiver's end confirms.
        assert!(engine.flush(PATIENCE).await && old.is_delivered(), "{name}: {:?}", engine.status());
        engine.shutdown().await;
        let records = server.wait_for(|records| records.len() >= before + 13, testbed::DEADLINE);
        assert_eq!(records.len(), before + 13, "{name}: no record came twice");
    }
}
