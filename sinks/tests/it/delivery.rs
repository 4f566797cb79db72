//! The guarantees of the engine to the owner of its feeds.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use domain::line::{Position, Stream};
use jiff::{SignedDuration, Timestamp};
use sinks::check::CHECK_GROUP;
use sinks::clock_history::ClockHistory;
use sinks::engine::{Engine, Environment};
use testbed::{Capture, Proxy, Transport};
use tokio::sync::mpsc;

use crate::http;
use crate::memory::{RETRY, Run, config, flush, start, step, wait_delivered, wait_until};

/// After this time an open connection confirms what its kernel has acknowledged.
const HOLD: Duration = Duration::from_secs(10);

fn sink(capture: &Capture, options: &str) -> String {
    format!("[sink.a]\ntype = \"syslog\"\naddress = \"tcp://{}\"\n{options}", capture.address())
}

fn lines_of(capture: &Capture) -> Vec<String> {
    String::from_utf8_lossy(&capture.bytes()).lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_older_than_max_age_are_dropped_counted_and_marked_by_a_gap() {
    let capture = Capture::start(Transport::Tcp);
    let (engine, mut events) = start(&sink(&capture, "retry = { max_age = \"1h\" }\n"));
    let run = Run::new(1);
    run.print(Stream::Stdout, b"new");
    run.set_time(Timestamp::now() - SignedDuration::from_hours(2));
    run.print(Stream::Stdout, b"old 1");
    run.print(Stream::Stderr, b"old 2");
    run.set_time(Timestamp::now());
    run.print(Stream::Stdout, b"new again");
    run.finish();
    engine.add(run.feed());
    // A dropped line is confirmed like any other, by the gap in its place, and counts only then.
    wait_until(|| engine.status().unconfirmed_lines == 4).await;
    let status = engine.status();
    assert_eq!((status.lag_lines, status.dropped_lines, status.delivered_lines), (0, 0, 0), "{status:?}");
    assert!(flush(&engine).await);
    let lines = lines_of(&capture);
    let texts: Vec<&str> = lines.iter().filter_map(|line| line.split("] ").nth(1)).collect();
    assert_eq!(texts[1], "new");
    assert_eq!(texts[2], "2 lines, 10 bytes dropped (seq 2-3): older than this sink's max_age");
    assert_eq!(texts[3], "new again");
    assert_eq!(texts.len(), 5);
    let status = engine.status();
    assert_eq!((status.dropped_lines, status.dropped_bytes, status.delivered_lines), (2, 10, 2));
    assert!(format!("{:?}", events.try_recv()).contains("2 lines were dropped: older than max_age 1h"));
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_forward_or_back_makes_no_line_old() {
    static STEP_HOURS: AtomicI64 = AtomicI64::new(0);
    let wall = || Timestamp::now() + SignedDuration::from_hours(STEP_HOURS.load(SeqCst));
    for (step_hours, days_later, dropped) in [(20 * 24, 0, 0), (-20 * 24, 0, 0), (500, 13, 0), (500, 15, 2)] {
        static LATER_DAYS: AtomicI64 = AtomicI64::new(0);
        STEP_HOURS.store(0, SeqCst);
        LATER_DAYS.store(0, SeqCst);
        let capture = Capture::start(Transport::Tcp);
        let proxy = Proxy::start(capture.address());
        proxy.refuse();
        let boot = || Duration::from_secs(LATER_DAYS.load(SeqCst) as u64 * 86_400) + since_start();
        let (events, _receiver) = mpsc::channel(64);
        let clock = ClockHistory::with_clocks(wall, boot);
        let environment = Environment { now: wall, clock, ..Environment::real(events) };
        let text = format!("[sink.a]\ntype = \"syslog\"\naddress = \"tcp://{}\"\n{RETRY}", proxy.address());
        let engine = Engine::start(config(&text), environment).expect("the sink starts");
        let run = Run::new(1);
        run.print_numbers(0..2);
        run.finish();
        engine.add(run.feed());
        wait_until(|| engine.status().failing_since.is_some()).await;
        // Days pass on both clocks; the step is one of the wall clock alone.
        LATER_DAYS.store(days_later, SeqCst);
        STEP_HOURS.store(step_hours + days_later * 24, SeqCst);
        let lag = engine.status().lag_seconds;
        let passed = days_later as f64 * 86_400.0;
        assert!((passed..passed + 3600.0).contains(&lag), "{step_hours}: {lag}");
        proxy.pass();
        wait_until(|| run.is_delivered()).await;
        assert_eq!(engine.status().dropped_lines, dropped, "{step_hours} {days_later}");
        // Stamps stay as captured.
        let day = run.time().strftime("%Y-%m-%dT%H:%M").to_string();
        let lines = lines_of(&capture).into_iter().filter(|line| line.contains(" stdout ")).collect::<Vec<_>>();
        assert!(lines.iter().all(|line| line.contains(&day)), "{lines:?}");
        assert_eq!(lines.len() as u64, 2 - dropped);
        engine.shutdown().await;
    }
}

fn since_start() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed() + Duration::from_secs(86_400)
}

#[tokio::test(flavor = "multi_thread")]
async fn unwanted_runs_and_streams_are_not_sent_and_their_cursors_move_on() {
    let capture = Capture::start(Transport::Tcp);
    let options = "when = { jobs = [\"job1\"], streams = [\"stderr\"] }\nstrip_ansi = true\n";
    let (engine, _events) = start(&sink(&capture, options));
    let runs = [Run::new(1), Run::new(2)];
    for run in &runs {
        run.print(Stream::Stdout, b"unwanted");
        run.print(Stream::Stderr, b"\x1b[31mred\x1b[0m");
        run.finish();
        engine.add(run.feed());
    }
    assert!(engine.wants(&runs[0].header) && !engine.wants(&runs[1].header));
    assert!(flush(&engine).await);
    assert!(runs.iter().all(Run::is_delivered));
    let lines = lines_of(&capture);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[1].ends_with("] red") && lines[1].contains("job=\"job1\""), "{lines:?}");
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_waits_for_confirmation_and_is_not_stored_for_every_line() {
    let capture = Capture::start(Transport::Tcp);
    let (engine, _events) = start(&sink(&capture, ""));
    let run = Run::new(1);
    engine.add(run.feed());
    for number in 0..200 {
        run.print_numbers(number..number + 1);
        engine.wake(&run.header.run_id);
        wait_until(|| lines_of(&capture).len() as u64 > number + 1).await;
        if number == 0 {
            assert_eq!(run.durable(), Position::START, "sent, and not yet confirmed");
            wait_until(|| engine.status().lag_lines == 0).await;
            let status = engine.status();
            assert_eq!(
                (status.unconfirmed_lines, status.lag_seconds),
                (1, 0.0),
                "accepted lines do not count as lag: {status:?}"
            );
            assert_eq!(run.durable(), Position::START, "accepting moves no cursor");
        }
    }
    wait_until(|| engine.status().unconfirmed_lines == 200).await;
    step(HOLD);
    wait_until(|| run.durable().seq == 201).await;
    assert!(run.commits() < 100, "{} commits", run.commits());
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loud_run_does_not_starve_a_quiet_one() {
    let capture = Capture::start(Transport::Tcp);
    let proxy = Proxy::start(capture.address());
    proxy.refuse();
    let address = proxy.address();
    let (engine, _events) = start(&format!("[sink.a]\ntype = \"syslog\"\naddress = \"tcp://{address}\"\n{RETRY}"));
    let (loud, quiet) = (Run::new(1), Run::new(2));
    loud.print_numbers(0..50_000);
    quiet.print(Stream::Stdout, b"here I am");
    engine.add(loud.feed());
    engine.add(quiet.feed());
    wait_until(|| engine.status().last_error.is_some()).await;
    proxy.pass();
    assert!(flush(&engine).await);
    let lines = lines_of(&capture);
    let place = lines.iter().position(|line| line.ends_with("here I am")).expect("the quiet run's line");
    assert!(place < 5_000, "it came as line {place}");
    assert_eq!(lines.len(), 50_003);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_idle_connection_is_not_a_failure() {
    let capture = Capture::start(Transport::Tcp);
    let (engine, mut events) = start(&sink(&capture, ""));
    let run = Run::new(1);
    run.print(Stream::Stdout, b"one");
    engine.add(run.feed());
    wait_until(|| engine.status().unconfirmed_lines == 1).await;
    step(HOLD);
    wait_until(|| run.durable().seq == 2).await;
    capture.disconnect();
    run.print(Stream::Stdout, b"two");
    run.finish();
    engine.wake(&run.header.run_id);
    wait_delivered(&run).await;
    assert!(lines_of(&capture).iter().any(|line| line.ends_with("] two")));
    assert!(events.try_recv().is_err());
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_waits_for_its_timeout_and_is_sent_as_one() {
    let (address, received) = http::serve(|_, _| 202).await;
    let text = format!("[sink.a]\ntype = \"gelf\"\naddress = \"http://{address}\"\nbulk = true\n");
    let (engine, _events) = start(&format!("{text}batch = {{ timeout = \"10m\", max_events = 3 }}\n"));
    let run = Run::new(1);
    run.print(Stream::Stdout, b"one");
    engine.add(run.feed());
    wait_until(|| run.ahead_bytes_max() > 0).await;
    run.print(Stream::Stdout, b"two");
    engine.wake(&run.header.run_id);
    wait_until(|| received.accepted().len() == 3).await;
    assert_eq!(received.requests(), 1, "run.started and the first line have waited");
    run.print(Stream::Stdout, b"three");
    engine.wake(&run.header.run_id);
    assert!(flush(&engine).await, "a flush does not wait for the batch");
    assert_eq!((received.requests(), received.accepted().len()), (2, 4));
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_sends_a_test_line_or_returns_the_reason() {
    let capture = Capture::start(Transport::Tcp);
    let reached = sinks::check::check(&config(&sink(&capture, "")), CHECK_GROUP).await;
    let message = reached.expect("the server listens");
    let sent = format!("tcp://{}: connected, sent the test line of run 2", capture.address());
    assert!(message.starts_with(&sent), "{message}");
    let known = ", accepted by the receiver's kernel, application unknown: this protocol has no acknowledgement";
    assert!(message.ends_with(known), "{message}");
    let lines = lines_of(&capture);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[1].contains(" group=\"sexton\" job=\"check\" "), "the line is marked: {lines:?}");
    assert!(lines[1].contains("] test line of `sexton check`, run "), "{lines:?}");
    let free = testbed::free_port();
    let no_server = config(&format!("[sink.a]\ntype = \"syslog\"\naddress = \"tcp://{free}\"\n"));
    let refused = sinks::check::check(&no_server, CHECK_GROUP).await.expect_err("no server");
    assert!(refused.starts_with(&format!("cannot reach tcp://{free}: ")), "{refused}");
    let tls = config(&format!(
        "[sink.a]\ntype = \"gelf\"\naddress = \"tcp+tls://{free}\"\ntls = {{ ca_file = \"/nowhere.pem\" }}\n"
    ));
    let refused = sinks::check::check(&tls, CHECK_GROUP).await.expect_err("no such file");
    assert!(refused.starts_with("tls.ca_file: /nowhere.pem does not exist; "), "{refused}");
    let udp = config(&format!("[sink.a]\ntype = \"gelf\"\naddress = \"udp://{free}\"\n"));
    let refused = sinks::check::check(&udp, CHECK_GROUP).await.expect_err("no receiver");
    assert!(refused.starts_with(&format!("no program receives at udp://{free} ")), "{refused}");
    let datagrams = Capture::start(Transport::Udp);
    let udp = config(&format!("[sink.a]\ntype = \"gelf\"\naddress = \"udp://{}\"\n", datagrams.address()));
    assert!(sinks::check::check(&udp, CHECK_GROUP).await.is_ok_and(|message| message.contains("udp does not confirm")));
    datagrams.wait_for(|all| all.len() == 3, testbed::DEADLINE);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_engine_sends_unconfirmed_lines_again() {
    let capture = Capture::start(Transport::Tcp);
    let run = Run::new(1);
    run.print_numbers(0..100);
    run.finish();
    let (engine, _events) = start(&sink(&capture, ""));
    engine.add(run.feed());
    wait_until(|| lines_of(&capture).len() == 102).await;
    engine.shutdown().await;
    assert_eq!(run.durable(), Position::START);
    let (engine, _events) = start(&sink(&capture, ""));
    engine.add(run.feed());
    assert!(flush(&engine).await);
    assert!(run.is_delivered());
    let lines = lines_of(&capture);
    assert_eq!(lines.len(), 204);
    assert_eq!(lines[..102], lines[102..], "the copies are equal, also in seq");
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_certificate_is_reported_at_once() {
    let Some(server) = testbed::Rsyslog::start(testbed::RsyslogOptions::default()) else { return };
    let (engine, mut events) =
        start(&format!("[sink.a]\ntype = \"syslog\"\naddress = \"tcp+tls://{}\"\n", server.tls()));
    let run = Run::new(1);
    run.finish();
    engine.add(run.feed());
    let event = events.recv().await.expect("an event");
    let sinks::status::SinkEvent::Trouble(trouble) = event else { panic!("{event:?}") };
    assert_eq!(trouble.class, sinks::error::ErrorClass::Misconfigured);
    assert!(trouble.error.contains("certificate"), "{}", trouble.error);
    assert_eq!(run.durable(), Position::START);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_run_is_forgotten() {
    let free = testbed::free_port();
    let (engine, _events) = start(&format!("[sink.a]\ntype = \"syslog\"\naddress = \"tcp://{free}\"\n{RETRY}"));
    let run = Run::new(1);
    run.print_numbers(0..10);
    engine.add(run.feed());
    wait_until(|| engine.status().last_error.is_some()).await;
    assert_eq!(engine.status().lag_lines, 10);
    engine.remove(&run.header.run_id, 1);
    assert_eq!((engine.status().lag_lines, engine.status().oldest_undelivered_run), (0, None));
    assert!(flush(&engine).await, "no record is left to flush");
    engine.shutdown().await;
}
