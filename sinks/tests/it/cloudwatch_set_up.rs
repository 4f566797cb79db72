//! Optional settings of new groups, groups that are slow to be created, and endpoints with a smaller limit: none of
//! them holds a line that can be delivered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use domain::line::Stream;
use serde_json::json;
use sinks::check::CHECK_GROUP;
use sinks::status::SinkState;

use crate::cloudwatch::{GROUP, sink};
use crate::memory::{Run, config, start, wait_until};
use crate::strict_logs::{Plan, StrictLogs};

const SETTINGS: &str = "retention_days = 30\ntags = { team = \"data\" }\n";

#[tokio::test(flavor = "multi_thread")]
async fn denied_settings_of_a_new_group_hold_no_line_and_are_reported_until_they_are_applied() {
    static DENIED: AtomicBool = AtomicBool::new(true);
    let logs = StrictLogs::start(|action, body, _| match action {
        "PutRetentionPolicy" | "TagLogGroup" | "TagResource" if DENIED.load(SeqCst) => Plan::Deny,
        "CreateLogGroup" if body.get("tags").is_some() => Plan::Deny,
        _ => Plan::Serve,
    })
    .await;
    let run = Run::new(1);
    run.print_numbers(0..10);
    let (engine, _events) = start(&sink(logs.address, SETTINGS));
    engine.add(run.feed());
    wait_until(|| run.durable().seq == 11).await;
    wait_until(|| logs.count("PutRetentionPolicy") > 2).await;
    run.print_numbers(10..20);
    engine.wake(&run.header.run_id);
    wait_until(|| run.durable().seq == 21).await;
    let status = engine.status();
    assert_eq!((status.state, status.failing_since, status.lag_lines), (SinkState::Working, None, 0), "{status:?}");
    let fault = status.set_up_fault.expect("a fault");
    assert!(fault.starts_with("cannot tag log group /cron/db: CloudWatch Logs answered"), "{fault}");
    assert!(fault.contains("AccessDeniedException") && fault.ends_with("(and 1 more)"), "{fault}");
    DENIED.store(false, SeqCst);
    wait_until(|| engine.status().set_up_fault.is_none()).await;
    assert_eq!(logs.state().groups[GROUP].0, Some(30));
    let tagged = logs.state().calls.iter().rev().find(|call| call.0 == "TagLogGroup").map(|call| call.1.clone());
    assert_eq!(tagged, Some(json!({ "logGroupName": GROUP, "tags": { "team": "data" } })));
    run.finish();
    engine.wake(&run.header.run_id);
    wait_until(|| run.is_delivered()).await;
    assert_eq!(logs.events(GROUP, "job1").len(), 22);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_creation_or_retention_hangs_holds_no_other_group() {
    let logs = StrictLogs::start(|action, body, _| match (action, body["logGroupName"].as_str()) {
        ("CreateLogGroup", Some("/job1")) | ("PutRetentionPolicy", Some("/job2")) => Plan::Hang,
        _ => Plan::Serve,
    })
    .await;
    let runs = [Run::new(1), Run::new(2), Run::new(3)];
    let text = sink(logs.address, "retention_days = 30\n").replace("/cron/{group}", "/{job}");
    let (engine, _events) = start(&text);
    for run in &runs {
        run.print_numbers(0..10);
        run.finish();
        engine.add(run.feed());
    }
    wait_until(|| runs[1].is_delivered() && runs[2].is_delivered()).await;
    assert!(!runs[0].is_delivered());
    assert_eq!(logs.state().groups["/job3"].0, Some(30));
    let fault = engine.status().set_up_fault.expect("a fault");
    assert_eq!(fault, "cannot set the retention of log group /job2 to 30 days: no answer within 2 s");
    logs.release();
    wait_until(|| runs[0].is_delivered() && engine.status().set_up_fault.is_none()).await;
    assert_eq!(logs.state().groups["/job2"].0, Some(30));
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_writes_only_into_groups_that_exist_or_that_a_job_has() {
    let check = async |text: &str, group: &str| sinks::check::check(&config(text), group).await.expect("no fault");
    let logs = StrictLogs::start(|_, _, _| Plan::Serve).await;
    for group in ["/cron/{group}", "/cron/all"] {
        let text = sink(logs.address, SETTINGS).replace("/cron/{group}", group);
        let name = group.replace("{group}", CHECK_GROUP);
        let message = check(&text, CHECK_GROUP).await;
        let wanted =
            format!("permits writing to log group {name}, which does not exist and would be made; nothing was");
        assert!(message.contains(&wanted), "{message}");
        assert!(logs.state().groups.is_empty(), "nothing was created");
        logs.state().groups.insert(name.clone(), Default::default());
        let message = check(&text, CHECK_GROUP).await;
        assert!(message.ends_with(&format!("in stream check of {name}")), "{message}");
        logs.state().groups.clear();
    }
    let message = check(&sink(logs.address, SETTINGS), "db").await;
    assert!(message.ends_with("in stream check of /cron/db"), "{message}");
    assert_eq!(logs.state().groups[GROUP].0, Some(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_cut_to_the_limit_that_an_endpoint_names_and_none_is_refused() {
    for (format, event_bytes) in [("json", 262_144), ("text", 262_144), ("json", 65_536)] {
        let logs = StrictLogs::start(move |_, _, _| Plan::EventBytesMax(event_bytes)).await;
        let run = Run::new(1);
        let texts = [vec![b'a'; 100], vec![b'b'; 300_000], vec![b'c'; 1_000_000], vec![0x1b; 200_000], vec![b'd'; 10]];
        for text in &texts {
            run.print(Stream::Stdout, text);
        }
        run.finish();
        let (engine, _events) = start(&sink(logs.address, &format!("format = \"{format}\"\n")));
        engine.add(run.feed());
        wait_until(|| run.is_delivered()).await;
        assert_eq!(engine.status().refused_records, 0, "{format}");
        let events = logs.events(GROUP, "job1");
        assert!(events.iter().all(|event| event.message.len() + 26 <= event_bytes), "{format}");
        if format == "json" {
            for (seq, text) in (1_u64..).zip(&texts) {
                // What was accepted before the limit was known is sent again with the rest of its call.
                let parts: BTreeMap<u64, String> = events
                    .iter()
                    .map(|event| event.object())
                    .filter(|event| event["seq"] == seq)
                    .map(|event| (event["part"].as_u64().unwrap_or(0), event["message"].as_str().unwrap_or("").into()))
                    .collect();
                assert!(parts.into_values().collect::<String>().as_bytes() == text, "seq {seq}");
            }
        } else {
            let bytes: usize = events.iter().skip(1).map(|event| event.message.len()).sum();
            assert!(bytes >= texts.iter().map(Vec::len).sum(), "{bytes}");
        }
        engine.shutdown().await;
        assert_eq!(logs.state().violations, Vec::<String>::new());
    }
}
