//! Outages beyond those of the conformance suite: a server killed during delivery, many runs through changing faults,
//! and a server that accepts bytes and does not read them.

use serde_json::Value;
use testbed::{Capture, LogServer, Proxy, Rsyslog, RsyslogOptions, Transport};

use crate::memory::{RETRY, Run, flush, start, wait_delivered, wait_until};

const LINES: u64 = 5_000;
/// Several batches.
const AHEAD_BYTES: u64 = 1 << 20;

/// Checks that every line arrived at least once and in order, between its brackets.
fn is_complete(records: &[Value], run: &Run, lines: u64) -> Result<(), String> {
    let id = run.header.run_id.as_str();
    let mut next = 1;
    let (mut started, mut finished) = (false, false);
    for record in records {
        let sd = record["sd"].as_str().unwrap_or_default();
        if !sd.contains(id) {
            continue;
        }
        let value = |name: &str| sd.split(&format!(" {name}=\"")).nth(1).and_then(|rest| rest.split('"').next());
        match record["msgid"].as_str() {
            Some("run.started") => started = true,
            Some("run.finished") => finished |= next == lines + 1,
            _ => {
                let Some(seq) = value("seq").and_then(|seq| seq.parse::<u64>().ok()) else { continue };
                let wanted = format!("line {} ", seq - 1);
                if !record["msg"].as_str().unwrap_or_default().starts_with(&wanted) {
                    return Err(format!("seq {seq} contains {record}"));
                }
                if seq > next {
                    return Err(format!("seq {seq} came before {next}"));
                }
                next = next.max(seq + 1);
            }
        }
    }
    match (started, next == lines + 1, finished) {
        (true, true, true) => Ok(()),
        _ => Err(format!("started {started}, next {next} of {lines}, finished {finished}")),
    }
}

fn printed(number: u32, lines: u64) -> Run {
    let run = Run::new(number);
    run.print_numbers(0..lines);
    run.finish();
    run
}

fn wait_for_complete(server: &LogServer, run: &Run, lines: u64) {
    server.wait_for(|records| is_complete(records, run, lines).is_ok(), testbed::DEADLINE);
}

fn sink(address: impl std::fmt::Display) -> String {
    format!("[sink.a]\ntype = \"syslog\"\nframing = \"octet_counting\"\naddress = \"tcp://{address}\"\n{RETRY}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_during_delivery_gets_every_line_after_its_restart() {
    let Some(server) = Rsyslog::start(RsyslogOptions::default()) else { return };
    let run = printed(1, LINES);
    let (engine, _events) = start(&sink(server.tcp()));
    engine.add(run.feed());
    server.wait_for_count(50);
    server.kill();
    wait_until(|| engine.status().failing_since.is_some()).await;
    server.restart();
    wait_delivered(&run).await;
    wait_for_complete(&server, &run, LINES);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_runs_stay_in_order_while_the_server_refuses_and_is_slow() {
    let Some(server) = Rsyslog::start(RsyslogOptions::default()) else { return };
    let proxy = Proxy::start(server.tcp());
    let runs: Vec<Run> = (1..=8).map(Run::new).collect();
    let (engine, _events) = start(&sink(proxy.address()));
    for run in &runs {
        engine.add(run.feed());
    }
    for round in 0..6u64 {
        match round {
            1 => proxy.refuse(),
            2 => proxy.pass(),
            3 => proxy.slow(500_000),
            4 => proxy.cut_after(30_000),
            _ => proxy.pass(),
        }
        for run in &runs {
            run.print_numbers(round * 100..(round + 1) * 100);
            engine.wake(&run.header.run_id);
        }
        if round == 1 {
            wait_until(|| engine.status().failing_since.is_some()).await;
        }
    }
    for run in &runs {
        run.finish();
        engine.wake(&run.header.run_id);
    }
    for run in &runs {
        wait_delivered(run).await;
    }
    for run in &runs {
        wait_for_complete(&server, run, 600);
    }
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_server_confirms_nothing_and_gets_every_line_later() {
    const HUNG_LINES: u64 = 100_000;
    let capture = Capture::start(Transport::Tcp);
    let proxy = Proxy::start(capture.address());
    proxy.hang();
    let run = printed(1, HUNG_LINES);
    let (engine, _events) = start(&sink(proxy.address()));
    engine.add(run.feed());
    // By now a sink that confirms too early has moved its cursor.
    wait_until(|| run.ahead_bytes_max() > AHEAD_BYTES).await;
    let status = engine.status();
    assert!(status.lag_lines > HUNG_LINES / 10, "{status:?}");
    proxy.pass();
    assert!(flush(&engine).await, "{:?}", engine.status());
    let received = capture.bytes();
    let text = String::from_utf8_lossy(&received);
    let mut seqs = text.split(" seq=\"").skip(1).map(|rest| rest.split('"').next().unwrap_or_default());
    for seq in 1..=HUNG_LINES {
        assert_eq!(seqs.next(), Some(seq.to_string().as_str()));
    }
    assert!(text.contains("event=\"run.finished\""));
    engine.shutdown().await;
}
