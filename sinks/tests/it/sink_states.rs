//! State and numbers of a sink through the whole life of its receiver: no two of them contradict each other. And the
//! attempts that others ask of a failing sink.

use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::time::{Duration, Instant};

use domain::line::Stream;
use sinks::engine::{Engine, LastFlush};
use sinks::status::{SinkState, SinkStatus};
use testbed::{Capture, Proxy, Transport};

use crate::http::serve;
use crate::memory::{RETRY, Run, start, step, wait_until};

/// No retry by itself within a test.
const NO_RETRY: &str = "retry = { initial = \"7d\", max = \"7d\" }\n";

fn syslog(address: impl std::fmt::Display, retry: &str) -> String {
    format!("[sink.a]\ntype = \"syslog\"\naddress = \"tcp://{address}\"\n{retry}")
}

/// A run that prints on request, and its sink.
struct Walk {
    engine: Engine,
    run: Run,
    printed: u64,
}

impl Walk {
    fn start(text: &str) -> Walk {
        let (engine, _events) = start(text);
        let run = Run::new(1);
        engine.add(run.feed());
        Walk { engine, run, printed: 0 }
    }

    fn print(&mut self, lines: u64) {
        self.run.print_numbers(self.printed..self.printed + lines);
        self.printed += lines;
        self.engine.wake(&self.run.header.run_id);
    }

    /// The first status with these states and numbers (waiting, unconfirmed, delivered, refused), where every line is
    /// in one of them. No status until then contradicts itself.
    async fn reach(&self, state: SinkState, numbers: [u64; 4]) -> SinkStatus {
        let deadline = Instant::now() + testbed::DEADLINE;
        loop {
            let status = self.engine.status();
            check_consistent(&status);
            let found = [status.lag_lines, status.unconfirmed_lines, status.delivered_lines, status.refused_records];
            if (status.state, found) == (state, numbers) {
                assert_eq!(numbers.iter().sum::<u64>(), self.printed, "the test's own numbers");
                return status;
            }
            assert!(Instant::now() < deadline, "not {state:?} with {numbers:?}: {status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn check_consistent(status: &SinkStatus) {
    let fails = matches!(status.state, SinkState::Retrying | SinkState::Misconfigured);
    assert_eq!(status.failing_since.is_some(), fails, "{status:?}");
    assert_eq!(status.waiting_since.is_some(), status.state == SinkState::Waiting, "{status:?}");
    if let Some(since) = status.failing_since {
        assert!(status.last_error.is_some() && status.last_error_at.is_some_and(|at| at >= since), "{status:?}");
    }
    let has_lag = status.lag_lines > 0;
    assert_eq!((status.lag_bytes > 0, status.oldest_undelivered_run.is_some()), (has_lag, has_lag), "{status:?}");
    assert!(has_lag || status.lag_seconds == 0.0, "{status:?}");
    assert_eq!(status.unconfirmed_bytes > 0, status.unconfirmed_lines > 0, "{status:?}");
    let waits = status.lag_lines + status.unconfirmed_lines > 0;
    assert!(waits || status.state != SinkState::Retrying, "nothing is retried: {status:?}");
    assert_eq!(status.refused.len() as u64, status.refused_records, "{status:?}");
}

fn said(status: &SinkStatus, part: &str) {
    assert!(status.last_error.as_ref().is_some_and(|error| error.contains(part)), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn state_and_numbers_of_a_tcp_sink_agree_from_the_first_line_to_the_last() {
    use SinkState::{Misconfigured, Retrying, Working};
    let capture = Capture::start(Transport::Tcp);
    let proxy = Proxy::start(capture.address());
    let mut walk = Walk::start(&syslog(proxy.address(), RETRY));
    walk.reach(Working, [0, 0, 0, 0]).await;
    walk.print(3);
    walk.reach(Working, [0, 3, 0, 0]).await;
    step(Duration::from_secs(11));
    walk.reach(Working, [0, 0, 3, 0]).await;

    // A receiver that is away while nothing waits is no failure, although the run is read again.
    proxy.refuse();
    walk.engine.wake(&walk.run.header.run_id);
    assert!(walk.engine.flush(testbed::DEADLINE).await, "nothing is left");
    walk.reach(Working, [0, 0, 3, 0]).await;
    walk.print(2);
    wait_until(|| walk.engine.status().last_error.is_some_and(|error| error.contains("connection refused"))).await;
    walk.reach(Retrying, [2, 0, 3, 0]).await;
    proxy.pass();
    // At once, not when the lines are confirmed.
    said(&walk.reach(Working, [0, 2, 3, 0]).await, "connection refused");
    step(Duration::from_secs(11));
    walk.reach(Working, [0, 0, 5, 0]).await;

    proxy.speak_tls();
    walk.print(2);
    wait_until(|| walk.engine.status().last_error.is_some_and(|error| error.contains("speaks something else"))).await;
    walk.reach(Misconfigured, [2, 0, 5, 0]).await;
    proxy.pass();
    // A port that gave an answer must now accept for longer without one.
    wait_until(|| walk.engine.status().unconfirmed_lines == 2).await;
    step(Duration::from_secs(2));
    said(&walk.reach(Working, [0, 2, 5, 0]).await, "speaks something else");
    step(Duration::from_secs(11));
    walk.reach(Working, [0, 0, 7, 0]).await;

    // A run that is removed leaves nothing to retry.
    proxy.refuse();
    walk.print(1);
    walk.reach(Retrying, [1, 0, 7, 0]).await;
    walk.engine.remove(&walk.run.header.run_id, walk.run.header.attempt);
    walk.printed -= 1;
    // The run is no longer counted when its removal is asked for; the sink notices it a moment later.
    wait_until(|| walk.engine.status().state == Working).await;
    walk.reach(Working, [0, 0, 7, 0]).await;
    walk.engine.shutdown().await;
    let status = walk.engine.status();
    assert_eq!((status.state, status.failing_since, status.waiting_since), (SinkState::Stopped, None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn state_and_numbers_of_an_http_sink_agree_from_the_first_line_to_the_last() {
    use SinkState::{Misconfigured, Retrying, Waiting, Working};
    static ANSWER: AtomicU16 = AtomicU16::new(202);
    let answer = |body: &str, _| if body.contains("poison") { 400 } else { ANSWER.load(SeqCst) };
    let (server, received) = serve(answer).await;
    let proxy = Proxy::start(server);
    let address = proxy.address();
    let mut walk = Walk::start(&format!("[sink.a]\ntype = \"gelf\"\naddress = \"http://{address}\"\n{RETRY}"));
    walk.print(3);
    walk.reach(Working, [0, 0, 3, 0]).await;
    proxy.refuse();
    walk.print(2);
    walk.reach(Retrying, [2, 0, 3, 0]).await;
    proxy.pass();
    walk.reach(Working, [0, 0, 5, 0]).await;
    ANSWER.store(404, SeqCst);
    walk.print(2);
    said(&walk.reach(Misconfigured, [2, 0, 5, 0]).await, "404");
    // Its next call hangs for longer than a wait takes to be shown: the sink is still misconfigured.
    ANSWER.store(0, SeqCst);
    wait_until(|| received.hung() > 0).await;
    let hangs_since = Instant::now();
    while hangs_since.elapsed() < Duration::from_millis(1300) {
        walk.reach(Misconfigured, [2, 0, 5, 0]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ANSWER.store(202, SeqCst);
    walk.reach(Working, [0, 0, 7, 0]).await;
    // A refused line is no delivered one.
    walk.run.print(Stream::Stdout, b"poison");
    walk.printed += 1;
    walk.print(1);
    walk.reach(Working, [0, 0, 8, 1]).await;
    ANSWER.store(0, SeqCst);
    walk.print(1);
    walk.reach(Waiting, [1, 0, 8, 1]).await;
    ANSWER.store(202, SeqCst);
    walk.reach(Working, [0, 0, 9, 1]).await;
    walk.run.finish();
    walk.engine.wake(&walk.run.header.run_id);
    wait_until(|| walk.run.is_delivered()).await;
    walk.reach(Working, [0, 0, 9, 1]).await;
    walk.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_sink_retries_on_request_before_its_time() {
    let capture = Capture::start(Transport::Tcp);
    let proxy = Proxy::start(capture.address());
    proxy.refuse();
    let mut walk = Walk::start(&syslog(proxy.address(), NO_RETRY));
    walk.print(1);
    walk.reach(SinkState::Retrying, [1, 0, 0, 0]).await;
    // The wait may begin a moment after the failure is shown.
    let mut last = None;
    for _ in 0..2 {
        wait_until_retried(&walk.engine, &mut last).await;
    }
    assert!(walk.engine.failure().is_some_and(|error| error.contains("connection refused")));
    proxy.pass();
    while walk.engine.failure().is_some() {
        walk.engine.retry_now(Duration::from_millis(100)).await;
    }
    walk.reach(SinkState::Working, [0, 1, 0, 0]).await;
    // A proxy without a server accepts, too; it proves nothing by that.
    proxy.have_no_server();
    proxy.kill();
    proxy.have_no_server();
    let mut last = None;
    for _ in 0..3 {
        wait_until_retried(&walk.engine, &mut last).await;
        assert!(walk.engine.failure().is_some(), "{:?}", walk.engine.status());
    }
    walk.engine.shutdown().await;
}

/// Asks for retries until one has failed later than `last`.
async fn wait_until_retried(engine: &Engine, last: &mut Option<jiff::Timestamp>) {
    let deadline = Instant::now() + testbed::DEADLINE;
    loop {
        engine.retry_now(Duration::from_millis(100)).await;
        let status = engine.status();
        if status.failing_since.is_some() && status.last_error_at > *last {
            *last = status.last_error_at;
            return;
        }
        assert!(Instant::now() < deadline, "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_flush_gives_up_a_sink_that_fails_and_waits_for_one_that_works() {
    let missing = "tls = { ca_file = \"/no/such/file\" }\n";
    let refused = testbed::free_port();
    for (name, text, part) in [
        ("refused", syslog(refused, RETRY), "connection refused"),
        ("long backoff", syslog(refused, NO_RETRY), "connection refused"),
        ("unresolvable", syslog("no-such-host.invalid:514", RETRY), "no-such-host.invalid"),
        ("misconfigured", syslog(refused, RETRY).replace("tcp:", "tcp+tls:") + missing, "/no/such/file"),
    ] {
        let mut walk = Walk::start(&text);
        walk.print(2);
        let state = if name == "misconfigured" { SinkState::Misconfigured } else { SinkState::Retrying };
        walk.reach(state, [2, 0, 0, 0]).await;
        // A flush that waits for its limit would end with the test's own.
        let flushed = walk.engine.flush_while_working(4 * testbed::DEADLINE).await;
        assert!(matches!(&flushed, LastFlush::Failing(error) if error.contains(part)), "{name}: {flushed:?}");
        walk.engine.shutdown().await;
    }
    // Its first failure comes during the flush.
    let mut walk = Walk::start(&syslog(refused, RETRY));
    walk.print(2);
    let flushed = walk.engine.flush_while_working(4 * testbed::DEADLINE).await;
    assert!(matches!(flushed, LastFlush::Failing(_)), "{flushed:?}");
    walk.engine.shutdown().await;

    let capture = Capture::start(Transport::Tcp);
    let proxy = Proxy::start(capture.address());
    let mut walk = Walk::start(&syslog(proxy.address(), RETRY));
    walk.print(2);
    walk.reach(SinkState::Working, [0, 2, 0, 0]).await;
    assert_eq!(walk.engine.flush_while_working(Duration::from_millis(300)).await, LastFlush::TimedOut);
    let mut flushed = std::pin::pin!(walk.engine.flush_while_working(testbed::DEADLINE));
    // The connection ends once, and the receiver is still there.
    proxy.kill();
    wait_until(|| walk.engine.status().last_error.is_some()).await;
    let flushed = loop {
        tokio::select! {
            flushed = &mut flushed => break flushed,
            () = tokio::time::sleep(Duration::from_millis(20)) => step(Duration::from_secs(1)),
        }
    };
    assert_eq!(flushed, LastFlush::Done, "{:?}", walk.engine.status());
    walk.reach(SinkState::Working, [0, 0, 2, 0]).await;
    walk.engine.shutdown().await;
}
