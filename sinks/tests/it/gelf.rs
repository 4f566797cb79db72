//! GELF, read by graygelf (UDP) and rsyslog (TCP, TLS).

use domain::line::Stream;
use serde_json::{Value, json};
use testbed::{Graygelf, RsyslogGelf, certificates};

use crate::memory::{Run, capture_time, deliver};

fn talkative(number: u32, long: usize) -> Run {
    let run = Run::new(number);
    run.set_time(capture_time());
    run.print(Stream::Stdout, "caf\u{e9} \"quoted\" \\ [x]".as_bytes());
    run.print(Stream::Stderr, b"");
    // Pseudo-random, so that it stays long when compressed.
    let mut state = 1u64;
    let noise: String = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (state >> 60) as u8)
    })
    .take(long)
    .collect();
    run.print(Stream::Stdout, noise.as_bytes());
    run.finish();
    run
}

fn check_records(records: &[Value], run: &Run, long: usize) {
    assert_eq!(records.len(), 5, "{records:?}");
    let find = |key: &str, value: Value| {
        let found = records.iter().find(|record| record[key] == value);
        found.unwrap_or_else(|| panic!("{key} {value} in {records:?}"))
    };
    let first = find("_seq", json!(1));
    assert_eq!(first["short_message"], "caf\u{e9} \"quoted\" \\ [x]");
    assert_eq!((&first["version"], &first["host"]), (&json!("1.1"), &json!("host1")));
    assert_eq!((&first["level"], &first["_stream"]), (&json!(6), &json!("stdout")));
    assert_eq!(first["_run_id"], run.header.run_id.as_str());
    assert_eq!((&first["_group"], &first["_job"]), (&json!("db"), &json!(run.header.job)));
    assert_eq!(first["_attempt"], 1);
    let at = run.time().as_microsecond() as f64 / 1e6;
    assert!((first["timestamp"].as_f64().expect("number") - at).abs() < 1e-6, "{first}");
    let second = find("_seq", json!(2));
    assert_eq!((&second["short_message"], &second["level"]), (&json!("(empty line)"), &json!(3)));
    assert_eq!(find("_seq", json!(3))["short_message"].as_str().map(str::len), Some(long));
    assert_eq!(find("_event", json!("run.started"))["_command"], "dump.sh \"all\"");
    let finished = find("_event", json!("run.finished"));
    assert_eq!((&finished["_outcome"], &finished["_last_seq"]), (&json!("succeeded"), &json!(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn graygelf_reads_datagrams_chunked_and_compressed() {
    let Some(server) = Graygelf::start() else { return };
    for (index, compression) in ["none", "gzip", "zlib"].into_iter().enumerate() {
        let run = talkative(index as u32, 20_000);
        let config = format!(
            "[sink.a]\ntype = \"gelf\"\naddress = \"udp://{}\"\ncompression = \"{compression}\"\n",
            server.udp()
        );
        deliver(&config, &run).await;
        let id = run.header.run_id.as_str();
        let of_run = |records: &[Value]| -> Vec<Value> {
            records.iter().filter(|record| record["_run_id"] == id).cloned().collect()
        };
        let records = server.wait_for(|records| of_run(records).len() >= 5, testbed::DEADLINE);
        check_records(&of_run(&records), &run, 20_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rsyslog_reads_frames_over_tcp_and_tls() {
    let Some(server) = RsyslogGelf::start() else { return };
    let Some(certificates) = certificates() else { return };
    let tls = format!("tls = {{ ca_file = \"{}\" }}", certificates.ca.display());
    for (number, address, options) in
        [(1, format!("tcp://{}", server.tcp()), ""), (2, format!("tcp+tls://{}", server.tls()), tls.as_str())]
    {
        let run = talkative(number, 20_000);
        deliver(&format!("[sink.a]\ntype = \"gelf\"\naddress = \"{address}\"\n{options}\n"), &run).await;
        let id = run.header.run_id.as_str();
        let of_run = |records: &[Value]| -> Vec<Value> {
            records.iter().filter(|record| record["_run_id"] == id).cloned().collect()
        };
        let records = server.wait_for(|records| of_run(records).len() >= 5, testbed::DEADLINE);
        check_records(&of_run(&records), &run, 20_000);
    }
}
