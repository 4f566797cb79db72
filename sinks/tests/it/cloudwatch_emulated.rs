//! CloudWatch Logs against independent emulators: ministack, which creates groups and separates accounts, and moto,
//! which checks the order and the age of events. Neither enforces limits of the service: see `cloudwatch.rs`.

use std::time::Duration;

use domain::line::Stream;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sinks::error::ErrorClass;
use sinks::status::SinkEvent;
use testbed::{AwsServer, Ministack, Moto, Proxy};

use crate::cloudwatch::{ACCOUNT, GROUP, deliver, sink};
use crate::memory::{Run, start, wait_until};

const OTHER_ACCOUNT: &str = "222222222222";
/// A hanging call ends after 30 s.
const SHORTER_THAN_A_CALL: Duration = Duration::from_secs(20);

/// Time and object of each event.
fn events(server: &AwsServer, stream: &str) -> Vec<(i64, Value)> {
    let events = server.log_events(ACCOUNT, GROUP, stream);
    let read = |event: &Value| {
        let text = event["message"].as_str().expect("a message");
        (event["timestamp"].as_i64().expect("a time"), serde_json::from_str(text).expect("an object"))
    };
    events.iter().map(read).collect()
}

fn seqs(server: &AwsServer, stream: &str) -> Vec<u64> {
    events(server, stream).iter().filter_map(|(_, event)| event["seq"].as_u64()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ministack_has_every_line_of_every_run_in_order_with_its_time_and_fields() {
    let Some(server) = Ministack::start() else { return };
    // More than one call, exactly one call, and only the brackets.
    let counts = [12_000, 300, 0];
    let runs = [Run::new(1), Run::new(2), Run::new(3)];
    for (run, count) in runs.iter().zip(counts) {
        for number in 1..=count {
            run.set_time(run.header.started_at + SignedDuration::from_millis(number));
            let stream = if number % 2 == 0 { Stream::Stderr } else { Stream::Stdout };
            run.print(stream, format!("caf\u{e9} \"{number}\"\t\\").as_bytes());
        }
        run.finish();
    }
    deliver(&sink(server.address(), "retention_days = 30\n"), &[&runs[0], &runs[1], &runs[2]]).await.shutdown().await;
    let groups = server.log_groups(ACCOUNT);
    assert_eq!(groups.len(), 1, "{groups:?}");
    assert_eq!((&groups[0]["logGroupName"], &groups[0]["retentionInDays"]), (&json!(GROUP), &json!(30)));
    for (run, count) in runs.iter().zip(counts) {
        assert!(run.is_delivered());
        let events = events(&server, &run.header.job);
        assert_eq!(events.len() as i64, count + 2, "{}", run.header.job);
        assert!(events.iter().all(|(_, event)| event["run_id"] == run.header.run_id.as_str()));
        assert!(events.iter().all(|(_, event)| event["job"] == *run.header.job));
        assert_eq!(events[0].1["event"], "run.started");
        assert_eq!(events[events.len() - 1].1["event"], "run.finished");
        for (number, (at, event)) in (1..=count).zip(&events[1..]) {
            assert_eq!(*at, run.header.started_at.as_millisecond() + number, "{event}");
            let stream = if number % 2 == 0 { "stderr" } else { "stdout" };
            assert_eq!((&event["seq"], &event["stream"]), (&json!(number), &json!(stream)));
            assert_eq!(event["message"], format!("caf\u{e9} \"{number}\"\t\\"));
        }
    }
    // The signature selects the account: another account has no lines.
    assert_eq!(server.log_groups(OTHER_ACCOUNT), Vec::<Value>::new());
    assert_eq!(server.log_events(OTHER_ACCOUNT, GROUP, "job1"), Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_emulators_accept_calls_with_a_single_event() {
    fn check(server: &AwsServer) {
        let mut seqs = seqs(server, "job1");
        seqs.sort_unstable();
        assert_eq!(seqs, [1, 2, 3]);
        let events = events(server, "job1");
        assert_eq!(events.len(), 5);
        assert!(events.iter().all(|(_, event)| event["run_id"].is_string()), "{events:?}");
    }
    let run = || {
        let run = Run::new(1);
        run.print_numbers(0..3);
        run.finish();
        run
    };
    let options = "batch = { timeout = \"20ms\", max_events = 1 }\n";
    let text = |server: &AwsServer| sink(server.address(), "").replace("batch = { timeout = \"20ms\" }\n", options);
    if let Some(server) = Ministack::start() {
        deliver(&text(&server), &[&run()]).await.shutdown().await;
        check(&server);
    }
    if let Some(server) = Moto::start() {
        deliver(&text(&server), &[&run()]).await.shutdown().await;
        check(&server);
        // Five events in five accepted calls, and one call before, which found no stream.
        let requests = server.requests();
        let puts = |request: &&Value| request["headers"]["X-Amz-Target"] == "Logs_20140328.PutLogEvents";
        assert_eq!(requests.iter().filter(puts).count(), 6, "{requests:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_exists_keeps_its_retention_and_its_events() {
    let Some(server) = Ministack::start() else { return };
    for (action, body) in [
        ("CreateLogGroup", json!({ "logGroupName": GROUP })),
        ("PutRetentionPolicy", json!({ "logGroupName": GROUP, "retentionInDays": 7 })),
    ] {
        assert_eq!(server.call_logs(ACCOUNT, action, &body).0, 200);
    }
    for count in [20, 40] {
        let run = Run::new(1);
        run.print_numbers(0..20);
        run.finish();
        deliver(&sink(server.address(), "retention_days = 30\n"), &[&run]).await.shutdown().await;
        assert_eq!(seqs(&server, "job1").len(), count);
    }
    assert_eq!(server.log_groups(ACCOUNT)[0]["retentionInDays"], 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_accepts_every_call_although_the_clock_steps() {
    let Some(server) = Moto::start() else { return };
    for (action, body) in [
        ("CreateLogGroup", json!({ "logGroupName": GROUP })),
        ("CreateLogStream", json!({ "logGroupName": GROUP, "logStreamName": "job1" })),
    ] {
        assert_eq!(server.call_logs(ACCOUNT, action, &body).0, 200);
    }
    let now = Timestamp::now();
    let run = Run::new(1);
    for minutes in [-3000, -1400, -10, -11, -9, -2000, -1, 100, -1, -30, 0] {
        run.set_time(now + SignedDuration::from_mins(minutes));
        run.print_numbers(0..50);
    }
    run.finish();
    let engine = deliver(&sink(server.address(), ""), &[&run]).await;
    assert_eq!((engine.status().refused_records, engine.status().last_error), (0, None));
    // A call refused for its order would have been repeated in halves.
    let requests = server.diagnostics();
    assert!(requests.contains("\" 200 ") && !requests.contains("\" 400 "), "{requests}");
    let mut seqs = seqs(&server, "job1");
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=550).collect::<Vec<u64>>());
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_old_and_too_new_events_are_counted_and_reported_and_the_rest_arrives() {
    let Some(server) = Moto::start() else { return };
    let now = Timestamp::now();
    let run = Run::new(1);
    for (hours, count) in [(-15 * 24, 3), (-1, 200), (3, 1), (0, 100)] {
        run.set_time(now + SignedDuration::from_hours(hours));
        for _ in 0..count {
            run.print(Stream::Stdout, b"line");
        }
    }
    run.finish();
    // Without it the sink would drop the old lines.
    let text = sink(server.address(), "").replace("retry = {", "retry = { max_age = \"30d\",");
    let (engine, mut sent_events) = start(&text);
    engine.add(run.feed());
    assert!(engine.flush(testbed::DEADLINE).await, "{:?}", engine.status());
    let status = engine.status();
    // Moto returns the index of the last event that is too old, the service the index after it: moto's deviation hides
    // the third.
    let refused: Vec<Option<u64>> = status.refused.iter().map(|refused| refused.seq).collect();
    assert_eq!((status.refused_records, &*refused), (3, &[Some(1), Some(2), Some(204)][..]), "{status:?}");
    let messages: Vec<&str> = status.refused.iter().map(|refused| &*refused.message).collect();
    assert!(messages[0].contains("too old") && messages[2].contains("ahead of the service's clock"), "{messages:?}");
    assert!(
        matches!(sent_events.recv().await, Some(SinkEvent::Trouble(trouble)) if trouble.class == ErrorClass::Permanent)
    );
    let mut seqs = seqs(&server, "job1");
    seqs.sort_unstable();
    assert_eq!(seqs, (4..=203).chain(205..=304).collect::<Vec<u64>>());
    assert!(run.is_delivered());
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_endpoint_does_not_delay_the_shutdown_and_loses_no_line() {
    let Some(server) = Ministack::start() else { return };
    let proxy = Proxy::start(server.address());
    proxy.hang();
    let run = Run::new(1);
    run.print_numbers(0..500);
    run.finish();
    let text = sink(proxy.address(), "");
    let (engine, _events) = start(&text);
    engine.add(run.feed());
    wait_until(|| proxy.connections() > 0).await;
    assert!(!engine.flush(Duration::from_millis(100)).await);
    let status = engine.status();
    assert_eq!((status.delivered_lines, status.lag_lines + status.unconfirmed_lines), (0, 500), "{status:?}");
    tokio::time::timeout(SHORTER_THAN_A_CALL, engine.shutdown()).await.expect("the shutdown waits for no call");
    assert!(!run.is_delivered());
    proxy.pass();
    deliver(&text, &[&run]).await.shutdown().await;
    // The server may have executed the call that hung, too.
    let mut seqs = seqs(&server, "job1");
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs, (1..=500).collect::<Vec<u64>>());
}
