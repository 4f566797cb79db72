//! GELF over HTTP. Graylog itself is not available here: the receiver is a listener that answers with the test's status
//! and keeps each request; it does not check GELF.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::line::Stream;
use serde_json::Value;
use sinks::error::ErrorClass;
use sinks::status::SinkEvent;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::memory::{RETRY, Run, start, wait_until};

/// The status for a body, chosen by the test.
pub(crate) trait Answer: Fn(&str, usize) -> u16 + Clone + Send + 'static {}

impl<F: Fn(&str, usize) -> u16 + Clone + Send + 'static> Answer for F {}

#[derive(Clone, Default)]
pub(crate) struct Received(Arc<Mutex<Vec<(String, u16)>>>);

impl Received {
    pub(crate) fn requests(&self) -> usize {
        self.0.lock().expect("lock").len()
    }

    /// Requests that were left without an answer at first.
    pub(crate) fn hung(&self) -> usize {
        self.0.lock().expect("lock").iter().filter(|(_, status)| *status == 0).count()
    }

    pub(crate) fn accepted(&self) -> Vec<Value> {
        let all = self.0.lock().expect("lock");
        let accepted = all.iter().filter(|(_, status)| *status == 202);
        accepted.flat_map(|(body, _)| body.lines()).map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

pub(crate) async fn serve(answer: impl Answer) -> (std::net::SocketAddr, Received) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let received = Received::default();
    let kept = received.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(requests(stream, kept.clone(), answer.clone()));
        }
    });
    (address, received)
}

async fn requests(mut stream: TcpStream, received: Received, answer: impl Answer) {
    let mut buffer = Vec::new();
    loop {
        let head_end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await.is_ok_and(|count| count > 0) {
                continue;
            }
            return;
        };
        let head = String::from_utf8_lossy(&buffer[..head_end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let end = head_end + length.expect("a length").trim().parse::<usize>().expect("a number");
        while buffer.len() < end {
            if stream.read_buf(&mut buffer).await.is_ok_and(|count| count == 0) {
                return;
            }
        }
        let body = String::from_utf8_lossy(&buffer[head_end..end]).into_owned();
        buffer.drain(..end);
        let mut status = {
            let mut all = received.0.lock().expect("lock");
            let status = answer(&body, all.len());
            all.push((body.clone(), status));
            status
        };
        // A test answers 0 while its server hangs.
        while status == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            status = answer(&body, 0);
        }
        let reply = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
        if stream.write_all(reply.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn run() -> Run {
    let run = Run::new(1);
    for text in ["one", "poison", "three"] {
        run.print(Stream::Stdout, text.as_bytes());
    }
    run.finish();
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_is_skipped_and_the_others_are_delivered() {
    for options in ["", "bulk = true\n"] {
        let (address, received) = serve(|body, _| if body.contains("poison") { 400 } else { 202 }).await;
        let run = run();
        let (engine, mut events) =
            start(&format!("[sink.a]\ntype = \"gelf\"\naddress = \"http://{address}/gelf\"\n{options}{RETRY}"));
        engine.add(run.feed());
        assert!(engine.flush(testbed::DEADLINE).await);
        let seqs: Vec<Value> = received.accepted().iter().map(|message| message["_seq"].clone()).collect();
        assert_eq!(seqs, [Value::Null, 1.into(), 3.into(), Value::Null], "{options}");
        assert_eq!(engine.status().refused_records, 1);
        let refused = engine.status().refused;
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert_eq!((&refused[0].run_id, refused[0].seq, &*refused[0].record), (&run.header.run_id, Some(2), "line"));
        assert!(refused[0].message.contains("answered 400"), "{refused:?}");
        let event = format!("{:?}", events.try_recv().expect("an event about the loss"));
        assert!(event.contains(&format!("the first is seq 2 of run {}", run.header.run_id)), "{event}");
        assert!(run.is_delivered());
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_gets_the_request_again_and_no_line_is_lost() {
    let (address, received) =
        serve(|_, attempt| if attempt % 3 == 1 || (4..12).contains(&attempt) { 503 } else { 202 }).await;
    let run = run();
    let (engine, _events) = start(&format!("[sink.a]\ntype = \"gelf\"\naddress = \"http://{address}\"\n{RETRY}"));
    engine.add(run.feed());
    wait_until(|| run.is_delivered()).await;
    let seqs: Vec<u64> = received.accepted().iter().filter_map(|message| message["_seq"].as_u64()).collect();
    for seq in 1..=3 {
        assert!(seqs.contains(&seq), "{seqs:?}");
    }
    assert_eq!(engine.status().refused_records, 0);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_path_is_reported_at_once_and_every_line_is_kept() {
    let (address, _) = serve(|_, _| 404).await;
    let run = run();
    let (engine, mut events) = start(&format!("[sink.a]\ntype = \"gelf\"\naddress = \"http://{address}\"\n{RETRY}"));
    engine.add(run.feed());
    let event = events.recv().await.expect("an event");
    let sinks::status::SinkEvent::Trouble(trouble) = event else { panic!("{event:?}") };
    assert_eq!(trouble.class, sinks::error::ErrorClass::Misconfigured);
    assert!(trouble.error.contains("answered 404"), "{}", trouble.error);
    assert_eq!(engine.status().lag_lines, 3);
    assert_eq!(run.durable(), domain::line::Position::START);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn halving_finds_refused_messages_in_few_requests() {
    let (address, received) = serve(|body, _| if body.contains("poison") { 400 } else { 202 }).await;
    let run = Run::new(1);
    for number in 1..=100 {
        run.print(Stream::Stdout, if number % 50 == 7 { b"poison" } else { b"good" });
    }
    run.finish();
    let (engine, _events) =
        start(&format!("[sink.a]\ntype = \"gelf\"\naddress = \"http://{address}/gelf\"\nbulk = true\n{RETRY}"));
    engine.add(run.feed());
    assert!(engine.flush(testbed::DEADLINE).await);
    let seqs: Vec<u64> = received.accepted().iter().filter_map(|message| message["_seq"].as_u64()).collect();
    let wanted: Vec<u64> = (1..=100).filter(|seq| seq % 50 != 7).collect();
    assert_eq!(seqs, wanted, "each of the others once, and in order");
    let refused: Vec<Option<u64>> = engine.status().refused.iter().map(|refused| refused.seq).collect();
    assert_eq!(refused, [Some(7), Some(57)]);
    let requests = received.requests();
    assert!(requests < 40, "{requests} requests for 102 messages");
    engine.shutdown().await;
}

/// The sequence numbers that were accepted, in the order of arrival.
fn seqs(received: &Received) -> Vec<u64> {
    received.accepted().iter().filter_map(|message| message["_seq"].as_u64()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_everything_is_misconfigured_and_no_record_is_refused() {
    static REFUSES: AtomicBool = AtomicBool::new(false);
    for status in [400, 413, 422, 401, 403, 404] {
        static STATUS: AtomicU16 = AtomicU16::new(0);
        STATUS.store(status, SeqCst);
        // A first batch is accepted, or nothing ever was; one message a request, or many; one line, or many.
        let cases = [(true, "", 300), (true, "bulk = true\n", 300), (false, "", 1), (false, "bulk = true\n", 300)];
        for (accepted_first, options, lines) in &cases[..if status == 400 { 4 } else { 1 }] {
            let (accepted_first, lines) = (*accepted_first, *lines);
            REFUSES.store(!accepted_first, SeqCst);
            let answer = |_: &str, _| if REFUSES.load(SeqCst) { STATUS.load(SeqCst) } else { 202 };
            let (address, received) = serve(answer).await;
            let case = format!("{status} {options} {lines}");
            let run = Run::new(1);
            let retry = "retry = { initial = \"5ms\", max = \"10ms\" }\n";
            let (engine, mut events) =
                start(&format!("[sink.a]\ntype = \"gelf\"\naddress = \"http://{address}\"\n{options}{retry}"));
            engine.add(run.feed());
            if accepted_first {
                wait_until(|| received.accepted().len() == 1).await;
                REFUSES.store(true, SeqCst);
            }
            run.print_numbers(0..lines);
            engine.wake(&run.header.run_id);
            let Some(SinkEvent::Trouble(trouble)) = events.recv().await else { panic!("no trouble event: {case}") };
            assert_eq!(trouble.class, ErrorClass::Misconfigured, "{case}: {}", trouble.error);
            assert!(trouble.error.contains(&format!("answered {status}")), "{case}: {}", trouble.error);
            let before = received.requests();
            wait_until(|| received.requests() > before + 20).await;
            assert_eq!(engine.status().refused_records, 0, "{case}");
            REFUSES.store(false, SeqCst);
            run.finish();
            engine.wake(&run.header.run_id);
            wait_until(|| run.is_delivered()).await;
            let mut seqs = seqs(&received);
            seqs.sort_unstable();
            seqs.dedup();
            assert_eq!(seqs, (1..=lines).collect::<Vec<u64>>(), "{case}");
            assert_eq!(engine.status().refused_records, 0, "{case}");
            engine.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_bad_messages_is_refused_and_holds_no_good_one() {
    let (address, received) = serve(|body, _| if body.contains("poison") { 413 } else { 202 }).await;
    for options in ["", "bulk = true\n"] {
        let run = Run::new(1);
        let (engine, _events) =
            start(&format!("[sink.a]\ntype = \"gelf\"\naddress = \"http://{address}\"\n{options}{RETRY}"));
        engine.add(run.feed());
        for _ in 0..100 {
            run.print(Stream::Stdout, b"poison");
        }
        engine.wake(&run.header.run_id);
        // No good message follows yet: the accepted start of the run is sent again in its place.
        wait_until(|| engine.status().refused_records == 100).await;
        run.print(Stream::Stdout, b"good");
        run.finish();
        engine.wake(&run.header.run_id);
        wait_until(|| run.is_delivered()).await;
        assert!(seqs(&received).ends_with(&[101]), "{options}");
        assert_eq!(engine.status().refused_records, 100);
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_server_behind_a_load_balancer_refuses_no_record() {
    // Requests go to a good and to a bad server in turn.
    let (address, received) = serve(|_, attempt| if attempt % 2 == 1 { 400 } else { 202 }).await;
    let run = Run::new(1);
    run.print_numbers(0..200);
    run.finish();
    let (engine, _events) = start(&format!("[sink.a]\ntype = \"gelf\"\naddress = \"http://{address}\"\n{RETRY}"));
    engine.add(run.feed());
    wait_until(|| run.is_delivered()).await;
    let mut seqs = seqs(&received);
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs, (1..=200).collect::<Vec<u64>>());
    assert_eq!(engine.status().refused_records, 0);
    engine.shutdown().await;
}
