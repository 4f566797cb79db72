//! CloudWatch Logs against an endpoint that enforces every limit of the service, and answers like it.

#![expect(unsafe_code, reason = "credentials come from the environment, which a test must set")]

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use domain::line::{Position, Stream};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sinks::check::CHECK_GROUP;
use sinks::engine::Engine;
use sinks::error::ErrorClass;
use sinks::status::SinkEvent;

use crate::memory::{RETRY, Run, config, start, wait_until};
use crate::strict_logs::{Plan, StrictLogs};

/// The log group of the memory feed's runs.
pub(crate) const GROUP: &str = "/cron/db";
/// An emulator uses the access key id as the account.
pub(crate) const ACCOUNT: &str = "111111111111";

/// Credentials for all tests of this process; the endpoint does not check them.
#[expect(clippy::disallowed_methods, reason = "where credentials are found in the environment is under test")]
fn credentials() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for (name, value) in
            [("AWS_ACCESS_KEY_ID", ACCOUNT), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_EC2_METADATA_DISABLED", "true")]
        {
            // SAFETY: tests read the environment through std only, which locks it.
            unsafe { std::env::set_var(name, value) };
        }
    });
}

/// The sink's options without section head and `retry`.
pub(crate) fn options(address: impl std::fmt::Display) -> String {
    credentials();
    format!(
        "type = \"cloudwatch_logs\"\ngroup = \"/cron/{{group}}\"\nstream = \"{{job}}\"\ncreate_group = true\n\
         region = \"us-east-1\"\nendpoint = \"http://{address}\"\nbatch = {{ timeout = \"20ms\" }}\n"
    )
}

pub(crate) fn sink(address: impl std::fmt::Display, more: &str) -> String {
    format!("[sink.aws]\n{}{more}{RETRY}", options(address))
}

async fn serve() -> StrictLogs {
    StrictLogs::start(|_, _, _| Plan::Serve).await
}

fn seqs(logs: &StrictLogs, stream: &str) -> Vec<u64> {
    logs.events(GROUP, stream).iter().filter_map(|event| event.object()["seq"].as_u64()).collect()
}

pub(crate) async fn deliver(text: &str, runs: &[&Run]) -> Engine {
    let (engine, _events) = start(text);
    runs.iter().for_each(|run| engine.add(run.feed()));
    assert!(engine.flush(testbed::DEADLINE).await, "{:?}", engine.status());
    engine
}

fn no_violation(logs: &StrictLogs) {
    assert_eq!(logs.state().violations, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_streams_and_groups_are_created_after_a_put_failed() {
    let logs = serve().await;
    let run = Run::new(1);
    run.print(Stream::Stdout, b"one");
    run.print(Stream::Stderr, b"");
    run.finish();
    let options =
        "retention_days = 30\nlog_group_class = \"infrequent_access\"\nkms_key = \"key\"\ntags = { team = \"data\" }\n";
    deliver(&sink(logs.address, options), &[&run]).await.shutdown().await;
    let calls: Vec<String> = logs.state().calls.iter().map(|(action, ..)| action.clone()).collect();
    assert_eq!(
        calls,
        ["PutLogEvents", "CreateLogStream", "CreateLogGroup", "PutRetentionPolicy", "CreateLogStream", "PutLogEvents"]
    );
    let made = json!({
        "logGroupName": GROUP, "logGroupClass": "INFREQUENT_ACCESS", "kmsKeyId": "key", "tags": { "team": "data" }
    });
    assert_eq!(logs.state().calls[2].1, made);
    assert_eq!(logs.state().groups[GROUP].0, Some(30));
    let events = logs.events(GROUP, "job1");
    let seen: Vec<Value> = events.iter().map(|event| event.object()).collect();
    assert_eq!(seen.len(), 4);
    assert_eq!((&seen[0]["event"], &seen[3]["event"]), (&json!("run.started"), &json!("run.finished")));
    assert_eq!(
        (&seen[1]["message"], &seen[1]["stream"], &seen[1]["seq"]),
        (&json!("one"), &json!("stdout"), &json!(1))
    );
    assert_eq!((&seen[2]["message"], &seen[2]["stream"], &seen[2]["seq"]), (&json!(""), &json!("stderr"), &json!(2)));
    assert_eq!(seen[1]["run_id"], json!(run.header.run_id.as_str()));
    no_violation(&logs);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_lines_follow_the_end_of_their_run_and_a_last_record_closes_the_log() {
    let logs = serve().await;
    let run = Run::new(1);
    run.print(Stream::Stdout, b"first");
    run.finish_with_open_output();
    let engine = deliver(&sink(logs.address, ""), &[&run]).await;
    assert!(!run.is_delivered());
    run.print(Stream::Stdout, b"late");
    run.print(Stream::Stderr, b"later");
    run.end_output();
    engine.wake(&run.header.run_id);
    assert!(engine.flush(testbed::DEADLINE).await, "{:?}", engine.status());
    assert!(run.is_delivered());
    engine.shutdown().await;
    let seen: Vec<Value> = logs.events(GROUP, "job1").iter().map(|event| event.object()).collect();
    let of = |key: &str| seen.iter().map(|event| event[key].clone()).collect::<Vec<_>>();
    let events = [json!("run.started"), json!(null), json!("run.finished"), json!(null), json!(null)];
    assert_eq!(of("event"), [&events[..], &[json!("run.output_ended")]].concat());
    assert_eq!(of("seq"), [json!(null), json!(1), json!(null), json!(2), json!(3), json!(null)]);
    assert_eq!((&seen[2]["last_seq"], &seen[2]["output_open"]), (&json!(1), &json!(true)));
    assert_eq!((&seen[5]["last_seq"], &seen[5]["late_lines"]), (&json!(3), &json!(2)));
    no_violation(&logs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_sent_in_full_batches_and_in_order() {
    let logs = serve().await;
    let run = Run::new(1);
    run.print_numbers(0..60_000);
    run.finish();
    deliver(&sink(logs.address, "format = \"text\"\n"), &[&run]).await.shutdown().await;
    assert!(run.is_delivered());
    let lines: Vec<String> = logs.events(GROUP, "job1").iter().map(|event| event.message.clone()).collect();
    assert_eq!(lines.len(), 60_002);
    assert!((0..60_000).all(|number| lines[number + 1].starts_with(&format!("line {number} "))));
    let batches = logs.state().batches.clone();
    let (last, full) = batches.split_last().expect("batches");
    assert!(full.len() >= 5 && last.0 > 0, "{batches:?}");
    for (_, bytes) in full {
        assert!(*bytes > 1_048_576 * 99 / 100, "{batches:?}");
    }
    no_violation(&logs);
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_steps_and_long_runs_break_no_limit() {
    let logs = serve().await;
    let now = Timestamp::now();
    let first = Run::new(1);
    for minutes in [-3000, -1400, -10, -11, -9, -2000, -1, 100_000, -1] {
        // The second-last line is further ahead than the service accepts.
        let at = now + SignedDuration::from_mins(if minutes > 0 { 200 } else { minutes });
        first.set_time(at);
        first.print(Stream::Stdout, format!("{minutes}").as_bytes());
    }
    first.set_time(now);
    first.finish();
    let (engine, mut events) = start(&sink(logs.address, ""));
    engine.add(first.feed());
    assert!(engine.flush(testbed::DEADLINE).await);
    let status = engine.status();
    assert_eq!(status.refused_records, 1, "{status:?}");
    assert!(status.refused[0].message.contains("ahead of the service's clock"), "{status:?}");
    assert!(matches!(events.recv().await, Some(SinkEvent::Trouble(trouble)) if trouble.class == ErrorClass::Permanent));
    let mut taken = seqs(&logs, "job1");
    taken.sort_unstable();
    assert_eq!(taken, [1, 2, 3, 4, 5, 6, 7, 9]);
    engine.shutdown().await;
    no_violation(&logs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_fits_one_event_is_not_cut_and_a_longer_one_is_sent_in_parts() {
    let logs = serve().await;
    let run = Run::new(1);
    run.print(Stream::Stdout, &vec![b'x'; 1_000_000]);
    run.print(Stream::Stdout, &vec![0x1b; 1_000_000]);
    run.print(Stream::Stdout, "\u{e9}".repeat(499_999).as_bytes());
    run.print(Stream::Stdout, &vec![0xff; 600_000]);
    run.finish();
    deliver(&sink(logs.address, ""), &[&run]).await.shutdown().await;
    no_violation(&logs);
    let seen: Vec<Value> = logs.events(GROUP, "job1").iter().map(|event| event.object()).collect();
    let of = |seq: u64| seen.iter().filter(move |event| event["seq"] == seq).collect::<Vec<_>>();
    let text = |seq: u64| of(seq).iter().filter_map(|event| event["message"].as_str()).collect::<String>();
    assert_eq!((of(1).len(), of(3).len()), (1, 1));
    assert_eq!(text(1).len(), 1_000_000);
    assert_eq!(text(2), "\u{1b}".repeat(1_000_000));
    assert_eq!(text(4), "\u{fffd}".repeat(600_000));
    let parts: Vec<u64> = of(2).iter().filter_map(|event| event["part"].as_u64()).collect();
    assert!(parts.len() > 5 && parts.is_sorted(), "{parts:?}");
    assert_eq!(of(2).last().expect("parts")["part_last"], json!(true));
    assert_eq!(of(2).iter().filter(|event| event["part_last"] == json!(true)).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_event_is_skipped_and_its_batch_is_delivered() {
    let logs = serve().await;
    let run = Run::new(1);
    for number in 1..=1000 {
        run.print(Stream::Stdout, if number == 400 || number == 401 { b"poison" } else { b"good" });
    }
    run.finish();
    let (engine, mut events) = start(&sink(logs.address, ""));
    engine.add(run.feed());
    assert!(engine.flush(testbed::DEADLINE).await);
    let good: Vec<u64> = (1..=1000).filter(|seq| !(400..=401).contains(seq)).collect();
    assert_eq!(seqs(&logs, "job1"), good);
    let status = engine.status();
    assert_eq!(status.refused_records, 2, "{status:?}");
    assert_eq!(status.refused.iter().map(|refused| refused.seq).collect::<Vec<_>>(), [Some(400), Some(401)]);
    assert!(matches!(events.recv().await, Some(SinkEvent::Trouble(trouble)) if trouble.class == ErrorClass::Permanent));
    assert!(run.is_delivered());
    engine.shutdown().await;
    no_violation(&logs);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_refuses_everything_is_misconfigured_and_no_event_is_refused() {
    static REFUSES: AtomicBool = AtomicBool::new(false);
    for (plan, accepted_first, lines) in
        [(Plan::Refuse, true, 1), (Plan::Refuse, false, 3), (Plan::Refuse, true, 500), (Plan::TooLarge, true, 20)]
    {
        REFUSES.store(!accepted_first, SeqCst);
        let logs = StrictLogs::start(
            move |action, _, _| {
                if action == "PutLogEvents" && REFUSES.load(SeqCst) { plan } else { Plan::Serve }
            },
        )
        .await;
        let run = Run::new(1);
        let (engine, mut events) = start(&sink(logs.address, ""));
        engine.add(run.feed());
        if accepted_first {
            wait_until(|| logs.events(GROUP, "job1").len() == 1).await;
            REFUSES.store(true, SeqCst);
        }
        run.print_numbers(0..lines);
        engine.wake(&run.header.run_id);
        let Some(SinkEvent::Trouble(trouble)) = events.recv().await else { panic!("no trouble event") };
        assert_eq!(trouble.class, ErrorClass::Misconfigured, "{}", trouble.error);
        assert!(trouble.error.contains("every record is refused"), "{}", trouble.error);
        let before = logs.count("PutLogEvents");
        wait_until(|| logs.count("PutLogEvents") > before + 4).await;
        assert_eq!(engine.status().refused_records, 0);
        REFUSES.store(false, SeqCst);
        run.finish();
        engine.wake(&run.header.run_id);
        wait_until(|| run.is_delivered()).await;
        // Where the endpoint begins to accept in mid-batch, an event may arrive before one that was refused.
        let mut seqs = seqs(&logs, "job1");
        seqs.sort_unstable();
        assert_eq!(seqs, (1..=lines).collect::<Vec<u64>>());
        assert_eq!(engine.status().refused_records, 0);
        engine.shutdown().await;
        no_violation(&logs);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_bad_events_is_refused_and_holds_no_good_one() {
    let logs = serve().await;
    let run = Run::new(1);
    let (engine, _events) = start(&sink(logs.address, ""));
    engine.add(run.feed());
    wait_until(|| logs.events(GROUP, "job1").len() == 1).await;
    for _ in 0..100 {
        run.print(Stream::Stdout, b"poison");
    }
    engine.wake(&run.header.run_id);
    wait_until(|| engine.status().refused_records == 100).await;
    run.print(Stream::Stdout, b"good");
    run.finish();
    engine.wake(&run.header.run_id);
    wait_until(|| run.is_delivered()).await;
    assert_eq!(seqs(&logs, "job1"), [101]);
    engine.shutdown().await;
    no_violation(&logs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_stream_is_retried_and_the_others_are_not_sent_twice() {
    for plan in [Plan::Throttle, Plan::Fail, Plan::ExpiredToken] {
        let logs = StrictLogs::start(move |action, body, calls| {
            if action == "PutLogEvents" && body["logStreamName"] == "job2" && calls < 20 { plan } else { Plan::Serve }
        })
        .await;
        let runs = [Run::new(1), Run::new(2), Run::new(3)];
        for run in &runs {
            run.print_numbers(0..500);
            run.finish();
        }
        let engine = deliver(&sink(logs.address, ""), &[]).await;
        runs.iter().for_each(|run| engine.add(run.feed()));
        wait_until(|| runs.iter().all(Run::is_delivered)).await;
        for stream in ["job1", "job2", "job3"] {
            assert_eq!(seqs(&logs, stream), (1..=500).collect::<Vec<u64>>(), "{stream} with {plan:?}");
        }
        engine.shutdown().await;
        no_violation(&logs);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_costs_duplicates_and_no_line() {
    let logs = StrictLogs::start(
        |action, _, calls| if action == "PutLogEvents" && calls == 4 { Plan::LoseAnswer } else { Plan::Serve },
    )
    .await;
    let run = Run::new(1);
    run.print_numbers(0..300);
    run.finish();
    let (engine, _events) = start(&sink(logs.address, ""));
    engine.add(run.feed());
    wait_until(|| run.is_delivered()).await;
    let mut seen = seqs(&logs, "job1");
    assert_eq!(seen.len(), 600, "the first answer was lost");
    seen.dedup();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (1..=300).collect::<Vec<u64>>());
    engine.shutdown().await;
    no_violation(&logs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_is_reported_at_once_and_every_line_is_kept() {
    for (plan, options, message) in [
        (Plan::Deny, "", "allow logs:PutLogEvents to these credentials"),
        (Plan::Serve, "create_stream = false\n", "create_stream is false"),
    ] {
        let logs = StrictLogs::start(move |_, _, _| plan).await;
        let run = Run::new(1);
        run.print_numbers(0..10);
        run.finish();
        let (engine, mut events) = start(&sink(logs.address, options));
        engine.add(run.feed());
        let Some(SinkEvent::Trouble(trouble)) = events.recv().await else { panic!("no trouble event") };
        assert_eq!(trouble.class, ErrorClass::Misconfigured);
        assert!(trouble.error.contains(message), "{}", trouble.error);
        assert_eq!(engine.status().lag_lines, 10);
        engine.shutdown().await;
    }
    let logs = serve().await;
    let run = Run::new(1);
    run.finish();
    let text = sink(logs.address, "").replace("create_group = true\n", "");
    let (engine, mut events) = start(&text);
    engine.add(run.feed());
    let Some(SinkEvent::Trouble(trouble)) = events.recv().await else { panic!("no trouble event") };
    assert_eq!(
        trouble.error,
        "no log group /cron/db, and create_group is not true; create the group, or set create_group = true"
    );
    assert_eq!(logs.count("CreateLogGroup"), 0);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_new_streams_at_once_stay_below_the_quotas() {
    let logs = serve().await;
    let runs: Vec<Run> = (1..=100).map(Run::new).collect();
    runs.iter().for_each(Run::finish);
    let all: Vec<&Run> = runs.iter().collect();
    deliver(&sink(logs.address, "retention_days = 1\n"), &all).await.shutdown().await;
    assert!(runs.iter().all(Run::is_delivered));
    assert_eq!(logs.state().groups[GROUP].1.len(), 100);
    assert_eq!((logs.count("CreateLogGroup"), logs.count("PutRetentionPolicy")), (1, 1));
    no_violation(&logs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_another_runner_has_just_created_gets_its_retention() {
    let logs =
        StrictLogs::start(|action, _, _| if action == "CreateLogGroup" { Plan::AnotherFirst } else { Plan::Serve })
            .await;
    let runs = [Run::new(1), Run::new(2)];
    runs.iter().for_each(Run::finish);
    deliver(&sink(logs.address, "retention_days = 7\n"), &[&runs[0], &runs[1]]).await.shutdown().await;
    assert_eq!(logs.state().groups[GROUP].0, Some(7));
    assert_eq!(logs.count("PutRetentionPolicy"), 1);
    no_violation(&logs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_group_blocks_no_cursor_of_another_group() {
    let logs = serve().await;
    let text = sink(logs.address, "").replace("create_group = true\n", "").replace("/cron/{group}", "/{job}");
    logs.state().groups.insert("/job2".to_owned(), Default::default());
    let (missing, there) = (Run::new(1), Run::new(2));
    for run in [&missing, &there] {
        run.print_numbers(0..500);
    }
    there.print(Stream::Stdout, b"poison");
    let (engine, mut events) = start(&text);
    engine.add(missing.feed());
    engine.add(there.feed());
    wait_until(|| there.durable().seq == 502).await;
    // Lines printed later to this run arrive, too, while the other run's group is missing.
    there.print_numbers(501..600);
    there.finish();
    engine.wake(&there.header.run_id);
    wait_until(|| there.is_delivered()).await;
    let good: Vec<u64> = (1..=600).filter(|seq| *seq != 501).collect();
    let seen: Vec<u64> =
        logs.events("/job2", "job2").iter().filter_map(|event| event.object()["seq"].as_u64()).collect();
    assert_eq!(seen, good, "each line once");
    assert_eq!(missing.durable(), Position::START);
    let status = engine.status();
    assert_eq!((status.lag_lines, status.delivered_lines), (500, 599), "{status:?}");
    assert!(status.failing_since.is_some(), "{status:?}");
    let refused: Vec<_> = status.refused.iter().map(|refused| (&refused.run_id, refused.seq)).collect();
    assert_eq!(refused, [(&there.header.run_id, Some(501))], "{status:?}");
    // One event for the permanent loss, one for the missing group, and none for a recovery.
    for _ in 0..2 {
        assert!(matches!(events.recv().await, Some(SinkEvent::Trouble(_))));
    }
    assert!(events.try_recv().is_err(), "no more events");
    logs.state().groups.insert("/job1".to_owned(), Default::default());
    wait_until(|| missing.durable().seq == 501).await;
    engine.shutdown().await;
    no_violation(&logs);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_sends_a_test_line_like_any_other_and_returns_the_result() {
    let check = async |text: &str| sinks::check::check(&config(text), CHECK_GROUP).await;
    let logs = serve().await;
    logs.state().groups.insert("/cron/sexton".to_owned(), Default::default());
    let message = check(&sink(logs.address, "retention_days = 7\n")).await.expect("accepted");
    let date = Timestamp::now().strftime("%Y-%m-%d").to_string();
    assert!(
        message.starts_with(&format!("http://{} accepted the test line of run {}", logs.address, &date[..2])),
        "{message}"
    );
    assert!(message.ends_with(" in stream check of /cron/sexton"), "{message}");
    let seen: Vec<Value> = logs.events("/cron/sexton", "check").iter().map(|event| event.object()).collect();
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(
        seen[1]["message"].as_str().is_some_and(|text| text.starts_with("test line of `sexton check`")),
        "{seen:?}"
    );
    assert_eq!((&seen[1]["group"], &seen[1]["job"]), (&json!("sexton"), &json!("check")));
    assert_eq!(logs.state().groups["/cron/sexton"].0, None, "a group that exists is not changed");
    let message = sinks::check::check(&config(&sink(logs.address, "")), "db").await.expect("accepted");
    assert!(message.ends_with(" in stream check of /cron/db"), "{message}");
    no_violation(&logs);

    let logs = serve().await;
    let without_create = sink(logs.address, "").replace("create_group = true\n", "");
    let message = check(&without_create).await.expect("the group may be missing");
    assert!(message.contains("permits writing to log group /cron/sexton; no test line was sent, because"), "{message}");
    let fixed = without_create.replace("/cron/{group}", "/cron/all");
    let message = check(&fixed).await.expect_err("a group with a fixed name must exist");
    assert!(message.starts_with("no log group /cron/all, and create_group is not true"), "{message}");
    logs.state().groups.insert("/cron/all".to_owned(), Default::default());
    assert!(check(&fixed).await.is_ok_and(|message| message.ends_with(" in stream check of /cron/all")));

    let denied = StrictLogs::start(|_, _, _| Plan::Deny).await;
    let message = check(&sink(denied.address, "")).await.expect_err("denied");
    assert!(message.contains("allow logs:PutLogEvents"), "{message}");
    let no_server = sink(testbed::free_port(), "");
    assert!(check(&no_server).await.expect_err("no server").contains("cannot reach"));
}
