//! The requirements for every sink, tested against the real server where there is one. Every line arrives at least
//! once, in order per run, with its capture time, between its brackets, through every fault of its transport. A sink
//! that is down reads nothing ahead and blocks no run, and delivers soon after the server is back.
//!
//! A new sink needs one line here, and a target in `conformance_targets.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::line::Stream;
use jiff::{SignedDuration, Timestamp};
use sinks::engine::Engine;
use testbed::Framing;

use crate::conformance_targets::{self as targets, Fault, Seen, Target, What};
use crate::memory::{RETRY, Run, flush, start, wait_until};

/// Limit from the server's return until everything is delivered.
const RECOVERY: Duration = testbed::DEADLINE;
/// What a sink may have read beyond its cursor while nothing can be delivered: one read, and the batch before it.
const AHEAD_BYTES_MAX: u64 = 3 * 64 * 1024;
/// Failed attempts after which the state of a failing sink is checked.
const ATTEMPTS: usize = 3;

macro_rules! conforms {
    ($($name:ident: $target:expr;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let Some(target) = $target else { return };
                conforms(target).await;
            }
        )*
    };
}

conforms! {
    syslog_over_tcp_by_lines: targets::rsyslog(Framing::Newline, "tcp", "framing = \"newline\"\n");
    syslog_over_tcp_by_octets: targets::rsyslog(Framing::OctetCounting, "tcp", "framing = \"octet_counting\"\n");
    syslog_over_tls: targets::rsyslog(Framing::OctetCounting, "tcp+tls", "");
    syslog_over_udp: targets::rsyslog(Framing::OctetCounting, "udp", "");
    syslog_to_syslog_ng: targets::syslog_ng();
    gelf_over_tcp: targets::rsyslog_gelf("tcp");
    gelf_over_tls: targets::rsyslog_gelf("tcp+tls");
    gelf_over_udp: targets::graygelf();
    gelf_over_http: targets::gelf_http("").await;
    gelf_over_http_in_bulk: targets::gelf_http("bulk = true\n").await;
    cloudwatch_logs: targets::cloudwatch_logs();
    cloudwatch_logs_by_arrival: targets::strict_logs().await;
    file_as_the_spool_writes: targets::file("cri");
    file_as_json: targets::file("json");
}

async fn conforms(target: Target) {
    let mut number = 0;
    for fault in target.faults.iter().copied() {
        number += 2;
        let runs = [started(number), started(number + 1)];
        println!("{}: {fault:?}", target.name);
        (target.begin)(fault);
        let (engine, _events) = start(&format!("{}{RETRY}", target.sink));
        // The first lines are printed before the fault shows, the rest during it.
        runs.iter().for_each(|run| engine.add(run.feed()));
        for run in &runs {
            print(run, 0..target.lines);
            run.finish();
            engine.wake(&run.header.run_id);
        }
        if fault.is_total() {
            check_while_down(&target, fault, &engine, &runs).await;
        }
        (target.end)(fault);
        let delivered = flush(&engine).await;
        assert!(delivered, "{} after {fault:?}: {:?}", target.name, engine.status());
        assert!(runs.iter().all(Run::is_delivered));
        let status = engine.status();
        assert_eq!((status.lag_lines, status.unconfirmed_lines, status.failing_since), (0, 0, None), "{status:?}");
        assert_eq!((status.dropped_lines, status.refused_records), (0, 0), "{status:?}");
        for run in &runs {
            let complete = || check_complete(&(target.seen)(run), run, &target);
            let mut last = Err(String::new());
            wait_until_or_timeout(|| {
                last = complete();
                last.is_ok()
            })
            .await;
            assert_eq!(last, Ok(()), "{} after {fault:?}", target.name);
        }
        engine.shutdown().await;
    }
}

/// Waits without a panic: the caller's own message is more useful.
async fn wait_until_or_timeout(mut condition: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + RECOVERY;
    while !condition() && tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Started a minute ago, so that its lines are not in the future.
fn started(number: u32) -> Run {
    let mut run = Run::new(number);
    let header = Arc::get_mut(&mut run.header).expect("no other owner yet");
    header.started_at -= SignedDuration::from_mins(1);
    run
}

/// The capture time of a line, different for each.
fn captured_at(run: &Run, seq: u64) -> Timestamp {
    run.header.started_at + SignedDuration::from_micros(i64::try_from(seq).expect("small") * 1001)
}

fn print(run: &Run, numbers: std::ops::Range<u64>) {
    for number in numbers {
        run.set_time(captured_at(run, number + 1));
        let stream = if number % 3 == 0 { Stream::Stderr } else { Stream::Stdout };
        run.print(stream, text_of(number + 1).as_bytes());
    }
}

fn text_of(seq: u64) -> String {
    format!("line {seq} caf\u{e9} {}", "x".repeat((seq % 97) as usize))
}

/// Every line is printed by now, so the sink blocked no run. It retries without reading further ahead.
async fn check_while_down(target: &Target, fault: Fault, engine: &Engine, runs: &[Run; 2]) {
    let mut seen = BTreeMap::new();
    wait_until(|| {
        let status = engine.status();
        if let Some(at) = status.last_error_at {
            seen.insert(at, status.last_error.clone());
        }
        seen.len() >= ATTEMPTS
    })
    .await;
    let status = engine.status();
    assert_eq!(status.lag_lines + status.unconfirmed_lines, 2 * target.lines, "{}: {status:?}", target.name);
    assert_eq!((status.delivered_lines, status.dropped_lines), (0, 0), "{}: {status:?}", target.name);
    assert!(status.lag_seconds > 0.0 && status.oldest_undelivered_run.is_some(), "{}: {status:?}", target.name);
    for run in runs {
        let most = if target.connects && fault == Fault::Down { 0 } else { AHEAD_BYTES_MAX };
        assert!(run.ahead_bytes_max() <= most, "{}: {} bytes were read ahead", target.name, run.ahead_bytes_max());
    }
}

fn check_complete(seen: &[Seen], run: &Run, target: &Target) -> Result<(), String> {
    let mut next = 1;
    let (mut started, mut finished) = (false, false);
    for record in seen {
        match record.what {
            What::Started => started = true,
            What::Finished => finished |= next == target.lines + 1,
            What::Line { seq } => {
                if !started {
                    return Err(format!("seq {seq} came before run.started"));
                }
                if seq > next {
                    return Err(format!("seq {seq} came before {next}"));
                }
                if record.text != text_of(seq) {
                    return Err(format!("seq {seq} contains {:?}", record.text));
                }
                let off = record.at.duration_since(captured_at(run, seq)).unsigned_abs();
                if off > target.precision {
                    return Err(format!("seq {seq} has the time {}, not {}", record.at, captured_at(run, seq)));
                }
                next = next.max(seq + 1);
            }
        }
    }
    let id = &run.header.run_id;
    match (started, next == target.lines + 1, finished) {
        (true, true, true) => Ok(()),
        _ => Err(format!("{id}: started {started}, next {next} of {}, finished {finished}", target.lines)),
    }
}

impl Fault {
    /// Nothing is delivered until the fault ends, and the sink notices it.
    fn is_total(self) -> bool {
        matches!(self, Fault::Down | Fault::NoServer | Fault::TlsPort | Fault::HalfClose)
    }
}
