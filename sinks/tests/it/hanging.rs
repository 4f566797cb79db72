//! Servers that accept a call and do not answer it: other streams of the sink go on, and the state shows the wait.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use domain::line::Stream;
use jiff::Timestamp;
use sinks::status::SinkState;

use crate::cloudwatch::{GROUP, sink};
use crate::http::serve;
use crate::memory::{RETRY, Run, start, wait_until};
use crate::strict_logs::{Plan, StrictLogs};

fn seqs(logs: &StrictLogs, run: &Run) -> Vec<u64> {
    logs.events(GROUP, &run.header.job).iter().filter_map(|event| event.object()["seq"].as_u64()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_whose_call_hangs_hold_no_other_stream_and_are_named_by_the_state() {
    let began = Timestamp::now();
    // More streams hang than calls are made at once.
    let hangs = |body: &serde_json::Value| {
        let number = body["logStreamName"].as_str().and_then(|name| name.strip_prefix("job")?.parse::<u32>().ok());
        number.is_some_and(|number| (11..=30).contains(&number))
    };
    let logs = StrictLogs::start(move |action, body, _| match action {
        "PutLogEvents" if hangs(body) && body["logStreamName"] != "job11" => Plan::Hang,
        "CreateLogStream" if hangs(body) && body["logStreamName"] == "job11" => Plan::Hang,
        _ => Plan::Serve,
    })
    .await;
    let runs: Vec<Run> = (1..=30).map(Run::new).collect();
    let (engine, _events) = start(&sink(logs.address, ""));
    for run in &runs {
        run.print_numbers(0..200);
        engine.add(run.feed());
    }
    let (free, hanging) = runs.split_at(10);
    runs[11].print(Stream::Stdout, b"poison");
    wait_until(|| free.iter().all(|run| run.durable().seq == 201)).await;
    // Later lines arrive, too.
    for run in &runs {
        run.print_numbers(200..250);
        run.finish();
        engine.wake(&run.header.run_id);
    }
    wait_until(|| free.iter().all(Run::is_delivered)).await;
    wait_until(|| engine.status().state == SinkState::Waiting).await;
    let status = engine.status();
    assert!(status.waiting_since.is_some_and(|since| (began..=Timestamp::now()).contains(&since)), "{status:?}");
    assert_eq!((status.lag_lines, status.delivered_lines), (20 * 250 + 1, 10 * 250), "{status:?}");
    assert_eq!((status.last_error, status.failing_since), (None, None));
    assert!(hanging.iter().all(|run| run.durable().seq == 1));
    logs.release();
    wait_until(|| runs.iter().all(Run::is_delivered)).await;
    let status = engine.status();
    assert_eq!((status.state, status.waiting_since, status.lag_lines), (SinkState::Working, None, 0), "{status:?}");
    for run in &runs {
        let seqs = seqs(&logs, run);
        let mut wanted: Vec<u64> = (1..=250).collect();
        if run.header.job == "job12" {
            wanted.retain(|seq| *seq != 201);
            wanted.push(251);
        }
        assert_eq!(seqs, wanted, "{}", run.header.job);
    }
    let refused: Vec<_> = status.refused.iter().map(|refused| (&refused.run_id, refused.seq)).collect();
    assert_eq!(refused, [(&runs[11].header.run_id, Some(201))], "{status:?}");
    engine.shutdown().await;
    assert_eq!(logs.state().violations, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_in_another_stream_ends_no_call_that_waits() {
    static DENIED: AtomicBool = AtomicBool::new(true);
    let logs = StrictLogs::start(|action, body, _| match (action, body["logStreamName"].as_str()) {
        ("PutLogEvents", Some("job1")) => Plan::Hang,
        ("PutLogEvents", Some("job2")) if DENIED.load(SeqCst) => Plan::Fail,
        _ => Plan::Serve,
    })
    .await;
    let runs = [Run::new(1), Run::new(2), Run::new(3)];
    let (engine, _events) = start(&sink(logs.address, ""));
    for run in &runs {
        run.print_numbers(0..100);
        run.finish();
        engine.add(run.feed());
    }
    wait_until(|| runs[2].is_delivered()).await;
    wait_until(|| logs.state().calls.iter().filter(|call| call.1["logStreamName"] == "job2").count() > 5).await;
    DENIED.store(false, SeqCst);
    wait_until(|| runs[1].is_delivered()).await;
    logs.release();
    wait_until(|| runs[0].is_delivered()).await;
    for run in &runs {
        assert_eq!(seqs(&logs, run), (1..=100).collect::<Vec<u64>>(), "{}", run.header.job);
    }
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_shows_that_a_gelf_server_does_not_answer() {
    static HANGS: AtomicBool = AtomicBool::new(true);
    let began = Timestamp::now();
    let (address, _) = serve(|_, _| if HANGS.load(SeqCst) { 0 } else { 202 }).await;
    let run = Run::new(1);
    run.finish();
    let (engine, _events) = start(&format!("[sink.a]\ntype = \"gelf\"\naddress = \"http://{address}\"\n{RETRY}"));
    engine.add(run.feed());
    wait_until(|| engine.status().state == SinkState::Waiting).await;
    assert!(engine.status().waiting_since.is_some_and(|since| since >= began));
    HANGS.store(false, SeqCst);
    wait_until(|| run.is_delivered()).await;
    assert_eq!(engine.status().waiting_since, None);
    engine.shutdown().await;
}
