//! Receivers whose names have several addresses, and machines that are switched off, in a network of the test's own.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;

use domain::line::{Position, Stream};
use sinks::status::SinkState;
use testbed::{SILENT_NETWORK, in_own_network};

use crate::memory::{RETRY, Run, config, start, wait_until};

fn write_hosts(hosts: &Path, lines: &str) {
    fs::write(hosts, lines).expect("written");
}

fn sink(address: &str) -> String {
    format!("[sink.a]\ntype = \"syslog\"\naddress = \"{address}\"\n{RETRY}")
}

fn printed() -> Run {
    let run = Run::new(1);
    for text in ["one", "two", "three"] {
        run.print(Stream::Stdout, text.as_bytes());
    }
    run.finish();
    run
}

/// The datagrams of a socket until `run.finished`.
fn received(listener: &UdpSocket) -> String {
    listener.set_read_timeout(Some(testbed::DEADLINE)).expect("a socket");
    let mut all = String::new();
    let mut buffer = [0; 4096];
    while !all.contains("run.finished") {
        let bytes = listener.recv(&mut buffer).unwrap_or_else(|error| panic!("{error} after {all}"));
        all.push_str(&String::from_utf8_lossy(&buffer[..bytes]));
    }
    all
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().expect("a runtime").block_on(test);
}

#[test]
fn a_datagram_receiver_is_found_at_any_address_of_its_name() {
    in_own_network(SILENT_NETWORK, |hosts| {
        // IPv6 comes first, and the receiver has only IPv4. Then a machine that does not exist comes first.
        for other in ["::1", "2001:db8::9"] {
            write_hosts(hosts, &format!("{other} logs.test\n127.0.0.1 logs.test\n"));
            let listener = UdpSocket::bind("127.0.0.1:5514").expect("bind");
            block_on(async {
                let run = printed();
                let (engine, _events) = start(&sink("udp://logs.test:5514"));
                engine.add(run.feed());
                wait_until(|| run.is_delivered()).await;
                if other == "::1" {
                    assert_eq!(engine.status().last_error, None, "the first address costs no failure");
                }
                engine.shutdown().await;
                let all = received(&listener);
                let order: Vec<_> = ["] one", "] two", "] three"].map(|text| all.find(text).expect(text)).into();
                assert!(order.is_sorted(), "{all}");
                if other == "::1" {
                    let checked = sinks::check::check(&config(&sink("udp://logs.test:5514")), "g").await;
                    checked.expect("the check finds the address too");
                }
            });
        }
    });
}

#[test]
fn a_machine_that_is_switched_off_is_noticed_and_its_lines_wait() {
    in_own_network(SILENT_NETWORK, |_| {
        block_on(async {
            let run = printed();
            let (engine, _events) = start(&sink("udp://10.9.9.7:5514"));
            engine.add(run.feed());
            wait_until(|| engine.status().failing_since.is_some()).await;
            let status = engine.status();
            assert_eq!((status.state, status.lag_lines), (SinkState::Retrying, 3), "{status:?}");
            let error = status.last_error.expect("an error");
            assert!(error.contains("udp://10.9.9.7:5514") && error.contains("is that machine switched on"), "{error}");
            assert_eq!(run.durable(), Position::START);
            // A drain does not believe in silence either: a short `exec` must not lose its lines.
            assert!(!engine.flush(Duration::from_millis(1)).await);
            let checked = sinks::check::check(&config(&sink("udp://10.9.9.7:5514")), "g").await;
            let checked = checked.expect_err("the check waits for the report");
            assert!(checked.contains("is that machine switched on"), "{checked}");
            // The machine is switched on.
            let ip = ["addr", "add", "10.9.9.7/24", "dev", "v1"];
            assert!(std::process::Command::new("ip").args(ip).status().expect("ip starts").success());
            let listener = UdpSocket::bind("10.9.9.7:5514").expect("bind");
            wait_until(|| run.is_delivered()).await;
            assert_eq!(engine.status().state, SinkState::Working);
            engine.shutdown().await;
            let all = received(&listener);
            for text in ["] one", "] two", "] three"] {
                assert!(all.contains(text), "{text} in {all}");
            }
        });
    });
}

#[test]
fn a_tcp_receiver_is_found_behind_an_address_that_never_answers() {
    in_own_network(SILENT_NETWORK, |hosts| {
        write_hosts(hosts, "2001:db8::7 logs.test\n127.0.0.1 logs.test\n");
        let listener = TcpListener::bind("127.0.0.1:5514").expect("bind");
        block_on(async {
            let run = printed();
            let (engine, _events) = start(&sink("tcp://logs.test:5514"));
            engine.add(run.feed());
            let accepted = tokio::task::spawn_blocking(move || listener.accept().expect("a connection"));
            let (mut stream, _) = accepted.await.expect("accepted");
            let text = tokio::task::spawn_blocking(move || {
                let mut all = Vec::new();
                let mut buffer = [0; 4096];
                while !String::from_utf8_lossy(&all).contains("run.finished") {
                    let bytes = std::io::Read::read(&mut stream, &mut buffer).expect("lines");
                    assert!(bytes > 0, "ended early");
                    all.extend_from_slice(&buffer[..bytes]);
                }
                String::from_utf8_lossy(&all).into_owned()
            });
            assert!(text.await.expect("read").contains("] three"));
            assert_eq!(engine.status().last_error, None);
            engine.shutdown().await;
        });
    });
}
