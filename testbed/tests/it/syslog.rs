//! rsyslog and syslog-ng return every field that an independent client sent.

use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::{env, fs, thread};

use serde_json::Value;
use testbed::{DEADLINE, Framing, Rsyslog, RsyslogOptions, SyslogFormat, SyslogNg, wait_until};

use crate::client::{logger, openssl};

const MESSAGE: &str = r#"grüße "quoted" ]"#;
const LOGGER_ARGUMENTS: [&str; 12] = [
    "--rfc5424",
    "-p",
    "local0.err",
    "-t",
    "job1",
    "--id=4242",
    "--msgid",
    "M1",
    "--sd-id",
    "cron@32473",
    "--sd-param",
    r#"exec="e-1""#,
];

/// A message with escaped quotes, bracket and backslash in its structured data, and a newline and a tab in its text.
const RAW: &str =
    "<30>1 2026-11-23T07:50:00.123456Z web1 job2 77 stdout [run@32473 id=\"a\\\"b\\]c\\\\d\"] two\nlines\tof text";

fn send_by_logger(address: SocketAddr, transport: &[&str]) {
    logger(address, &[transport, &LOGGER_ARGUMENTS, &[MESSAGE]].concat());
}

fn octet_counted(message: &str) -> Vec<u8> {
    format!("{} {message}", message.len()).into_bytes()
}

fn check(record: &Value, expected: &[(&str, &str)]) {
    for (field, value) in expected {
        let found = record[*field].as_str().map_or_else(|| record[*field].to_string(), str::to_owned);
        assert_eq!(found, *value, "{field} of {record}");
    }
}

#[test]
fn rsyslog_returns_every_field_over_udp_tcp_and_tls() {
    let Some(server) = Rsyslog::start(RsyslogOptions::default()) else { return };
    send_by_logger(server.udp(), &["--udp"]);
    send_by_logger(server.tcp(), &["--tcp", "--octet-count"]);
    for record in server.wait_for_count(2) {
        check(
            &record,
            &[
                ("pri", "131"),
                ("facility", "local0"),
                ("severity", "err"),
                ("version", "1"),
                ("app", "job1"),
                ("procid", "4242"),
                ("msgid", "M1"),
                ("msg", MESSAGE),
            ],
        );
        assert!(record["sd"].as_str().is_some_and(|text| text.contains(r#"[cron@32473 exec="e-1"]"#)), "{record}");
    }

    openssl(server.tls(), &octet_counted(RAW));
    check(
        &server.wait_for_count(3)[2],
        &[
            ("pri", "30"),
            ("ts", "2026-11-23T07:50:00.123456Z"),
            ("host", "web1"),
            ("app", "job2"),
            ("procid", "77"),
            ("msgid", "stdout"),
            ("sd", r#"[run@32473 id="a\"b\]c\\d"]"#),
            ("msg", "two\nlines\tof text"),
            ("raw", RAW),
        ],
    );
}

#[test]
fn rsyslog_receives_a_unix_datagram() {
    let Some(server) = Rsyslog::start(RsyslogOptions::default()) else { return };
    let socket = UnixDatagram::unbound().unwrap();
    socket.send_to(RAW.as_bytes(), server.unix()).unwrap();
    check(&server.wait_for_count(1)[0], &[("host", "web1"), ("app", "job2"), ("msg", "two\nlines\tof text")]);
}

#[test]
fn rsyslog_reads_rfc3164_with_newline_framing() {
    let options = RsyslogOptions { format: SyslogFormat::Rfc3164, framing: Framing::Newline };
    let Some(server) = Rsyslog::start(options) else { return };
    logger(server.udp(), &["--udp", "--rfc3164", "-p", "cron.info", "-t", "job1", "first"]);
    server.wait_for_count(1);
    let mut stream = TcpStream::connect(server.tcp()).unwrap();
    stream.write_all(b"<78>Nov 23 07:50:00 web1 job1[77]: second\n12 third\n").unwrap();
    let records = server.wait_for_count(3);
    check(
        &records[0],
        &[("pri", "78"), ("facility", "cron"), ("severity", "info"), ("tag", "job1:"), ("msg", " first")],
    );
    check(
        &records[1],
        &[("host", "web1"), ("app", "job1"), ("tag", "job1[77]:"), ("procid", "77"), ("msg", " second")],
    );
    check(&records[2], &[("raw", "12 third")]);
}

#[test]
fn rsyslog_does_not_parse_rfc3164_as_rfc5424() {
    let Some(server) = Rsyslog::start(RsyslogOptions::default()) else { return };
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(b"<78>Nov 23 07:50:00 web1 job1[77]: old", server.udp()).unwrap();
    socket.send_to(RAW.as_bytes(), server.udp()).unwrap();
    let records = server.wait_for(|records| records.iter().any(|record| record["app"] == "job2"), DEADLINE);
    assert!(records.iter().all(|record| record["app"] != "job1"), "{records:?}");
}

#[test]
fn rsyslog_keeps_100_kilobytes_and_the_byte_order_mark() {
    let Some(server) = Rsyslog::start(RsyslogOptions::default()) else { return };
    let text = format!("\u{feff}{}", "x".repeat(100_000));
    let mut stream = TcpStream::connect(server.tcp()).unwrap();
    stream.write_all(&octet_counted(&format!("<30>1 - - - - - - {text}"))).unwrap();
    check(&server.wait_for_count(1)[0], &[("msg", &text), ("host", "-"), ("sd", "-")]);
}

#[test]
fn syslog_ng_returns_every_field_over_udp_tcp_and_tls() {
    let Some(server) = SyslogNg::start() else { return };
    send_by_logger(server.udp(), &["--udp"]);
    send_by_logger(server.tcp(), &["--tcp", "--octet-count"]);
    for record in server.wait_for_count(2) {
        check(
            &record,
            &[
                ("PRI", "131"),
                ("FACILITY", "local0"),
                ("PRIORITY", "err"),
                ("PROGRAM", "job1"),
                ("PID", "4242"),
                ("MSGID", "M1"),
                ("MESSAGE", MESSAGE),
            ],
        );
        assert_eq!(record["_SDATA"]["cron@32473"]["exec"], "e-1", "{record}");
    }

    openssl(server.tls(), &octet_counted(RAW));
    let record = &server.wait_for_count(3)[2];
    check(
        record,
        &[
            ("PRI", "30"),
            ("ISODATE", "2026-11-23T07:50:00+00:00"),
            ("HOST", "web1"),
            ("MESSAGE", "two\nlines\tof text"),
        ],
    );
    assert_eq!(record["_SDATA"]["run@32473"]["id"], r#"a"b]c\d"#, "{record}");
}

#[test]
fn a_stopped_server_refuses_and_a_restarted_one_continues() {
    let Some(server) = Rsyslog::start(RsyslogOptions::default()) else { return };
    send_by_logger(server.tcp(), &["--tcp", "--octet-count"]);
    server.wait_for_count(1);
    for end in [testbed::LogServer::stop, testbed::LogServer::kill] {
        end(&server);
        assert!(TcpStream::connect(server.tcp()).is_err());
        assert!(TcpStream::connect(server.tls()).is_err());
        let before = server.records().len();
        server.restart();
        send_by_logger(server.tcp(), &["--tcp", "--octet-count"]);
        assert_eq!(server.wait_for_count(before + 1).len(), before + 1);
    }
}

#[test]
fn a_frozen_server_receives_messages_when_it_is_thawed() {
    let Some(server) = Rsyslog::start(RsyslogOptions::default()) else { return };
    send_by_logger(server.udp(), &["--udp"]);
    server.wait_for_count(1);
    server.freeze();
    send_by_logger(server.udp(), &["--udp"]);
    server.thaw();
    server.wait_for_count(2);
}

#[test]
fn two_servers_share_nothing() {
    let Some(one) = Rsyslog::start(RsyslogOptions::default()) else { return };
    let Some(other) = Rsyslog::start(RsyslogOptions::default()) else { return };
    send_by_logger(one.udp(), &["--udp"]);
    one.wait_for_count(1);
    assert_eq!(other.records(), Vec::<Value>::new());
}

#[test]
fn a_dropped_server_has_ended() {
    let Some(server) = Rsyslog::start(RsyslogOptions::default()) else { return };
    let (tcp, socket) = (server.tcp(), server.unix().to_owned());
    drop(server);
    wait_until(DEADLINE, || TcpStream::connect(tcp).is_err() && !socket.exists());
}

/// Set for the copy of the test below that is killed; its value is the file for the server's address.
const HELD_ADDRESS: &str = "TESTBED_HELD_ADDRESS";

#[test]
fn a_server_dies_with_its_test_process() {
    if let Some(file) = env::var_os(HELD_ADDRESS) {
        let server = Rsyslog::start(RsyslogOptions::default()).unwrap();
        fs::write(file, server.tcp().to_string()).unwrap();
        loop {
            thread::park();
        }
    }
    if Rsyslog::start(RsyslogOptions::default()).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("address");
    let mut copy = Command::new(env::current_exe().unwrap())
        .args(["--exact", "syslog::a_server_dies_with_its_test_process"])
        .env(HELD_ADDRESS, &file)
        .env("TMPDIR", folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let address = || fs::read_to_string(&file).ok()?.parse::<SocketAddr>().ok();
    wait_until(DEADLINE, || address().is_some());
    TcpStream::connect(address().unwrap()).unwrap();
    copy.kill().unwrap();
    copy.wait().unwrap();
    wait_until(DEADLINE, || TcpStream::connect(address().unwrap()).is_err());
}
