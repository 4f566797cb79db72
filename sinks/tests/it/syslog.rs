//! Syslog, read by rsyslog and syslog-ng, field by field.

use domain::line::{Stream, Tag};
use jiff::Timestamp;
use serde_json::Value;
use testbed::{Capture, Framing, Rsyslog, RsyslogOptions, SyslogFormat, SyslogNg, Transport, certificates};

use crate::memory::{Run, capture_time, deliver};

const TEXTS: [&str; 6] =
    ["plain", "caf\u{e9} \u{1f514}", "\"quotes\" and \\backslashes\\", "[brackets] and ]", "  leading", "tab\tin it"];

/// The run that is sent to the local socket.
const LOCAL: u32 = 5;

fn talkative(number: u32) -> Run {
    let run = Run::new(number);
    run.set_time(capture_time());
    for (index, text) in TEXTS.iter().enumerate() {
        let stream = if index % 2 == 0 { Stream::Stdout } else { Stream::Stderr };
        run.print(stream, text.as_bytes());
    }
    run.finish();
    run
}

fn text<'v>(record: &'v Value, key: &str) -> &'v str {
    record[key].as_str().unwrap_or_else(|| panic!("{key} in {record}"))
}

fn check_rsyslog(records: &[Value], run: &Run) {
    let id = &run.header.run_id;
    let job = &run.header.job;
    assert_eq!(records.len(), TEXTS.len() + 2, "{records:?}");
    let (started, finished) = (&records[0], &records[records.len() - 1]);
    assert_eq!((text(started, "msgid"), text(finished, "msgid")), ("run.started", "run.finished"));
    assert_eq!(text(started, "msg"), "run started: dump.sh \"all\"");
    assert!(text(finished, "sd").contains(" outcome=\"succeeded\" "), "{finished}");
    assert!(text(finished, "sd").contains(" last_seq=\"6\" "), "{finished}");
    for (index, record) in records[1..=TEXTS.len()].iter().enumerate() {
        let stream = if index % 2 == 0 { "stdout" } else { "stderr" };
        let (severity, seq) = (if index % 2 == 0 { "info" } else { "err" }, index + 1);
        assert_eq!(text(record, "msg"), TEXTS[index]);
        assert_eq!((text(record, "facility"), text(record, "severity")), ("cron", severity));
        let at: Timestamp = text(record, "ts").parse().expect("instant");
        // rsyslog stamps messages of its local socket itself.
        if run.header.job != Run::new(LOCAL).header.job {
            assert_eq!(at.to_string(), format!("{:.6}", run.time()));
        }
        assert_eq!(
            (text(record, "host"), text(record, "app"), text(record, "procid")),
            ("host1", job.as_str(), "4242")
        );
        assert_eq!(text(record, "msgid"), stream);
        let sd = format!(
            "[run@32473 id=\"{id}\" group=\"db\" job=\"{job}\" attempt=\"1\" seq=\"{seq}\" stream=\"{stream}\"]"
        );
        assert_eq!(text(record, "sd"), sd);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rsyslog_reads_every_field_over_every_transport() {
    let Some(server) = Rsyslog::start(RsyslogOptions::default()) else { return };
    let Some(certificates) = certificates() else { return };
    let tls = format!("tls = {{ ca_file = \"{}\" }}", certificates.ca.display());
    for (number, address, options) in [
        (1, format!("udp://{}", server.udp()), ""),
        (2, format!("tcp://{}", server.tcp()), "framing = \"octet_counting\""),
        (3, format!("tcp://{}", server.tcp()), "framing = \"newline\""),
        (4, format!("tcp+tls://{}", server.tls()), tls.as_str()),
        (LOCAL, format!("unix://{}", server.unix().display()), "format = \"rfc5424\""),
    ] {
        let run = talkative(number);
        deliver(&format!("[sink.a]\ntype = \"syslog\"\naddress = \"{address}\"\n{options}\n"), &run).await;
        let of_run = |records: &[Value]| -> Vec<Value> {
            records
                .iter()
                .filter(|record| record["sd"].as_str().is_some_and(|sd| sd.contains(run.header.run_id.as_str())))
                .cloned()
                .collect()
        };
        let records = server.wait_for(|records| of_run(records).len() >= TEXTS.len() + 2, testbed::DEADLINE);
        check_rsyslog(&of_run(&records), &run);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rsyslog_without_octet_counting_reads_newlines() {
    let options = RsyslogOptions { framing: Framing::Newline, ..RsyslogOptions::default() };
    let Some(server) = Rsyslog::start(options) else { return };
    let run = talkative(1);
    deliver(&format!("[sink.a]\ntype = \"syslog\"\naddress = \"tcp://{}\"\n", server.tcp()), &run).await;
    check_rsyslog(&server.wait_for_count(TEXTS.len() + 2), &run);
}

#[tokio::test(flavor = "multi_thread")]
async fn rsyslog_reads_the_old_format() {
    let options = RsyslogOptions { format: SyslogFormat::Rfc3164, ..RsyslogOptions::default() };
    let Some(server) = Rsyslog::start(options) else { return };
    let run = talkative(1);
    let config = format!("[sink.a]\ntype = \"syslog\"\nformat = \"rfc3164\"\naddress = \"tcp://{}\"\n", server.tcp());
    deliver(&config, &run).await;
    let records = server.wait_for_count(TEXTS.len() + 2);
    for (record, wanted) in records[1..].iter().zip(TEXTS) {
        assert_eq!((text(record, "host"), text(record, "tag")), ("host1", "job1[4242]:"));
        assert_eq!(text(record, "msg").strip_prefix(' '), Some(wanted));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn syslog_ng_reads_every_field_over_every_transport() {
    let Some(server) = SyslogNg::start() else { return };
    let Some(certificates) = certificates() else { return };
    let tls = format!("tls = {{ ca_file = \"{}\" }}", certificates.ca.display());
    for (number, address, options) in [
        (1, format!("udp://{}", server.udp()), ""),
        (2, format!("tcp://{}", server.tcp()), "framing = \"octet_counting\""),
        (3, format!("tcp+tls://{}", server.tls()), tls.as_str()),
    ] {
        let run = talkative(number);
        deliver(&format!("[sink.a]\ntype = \"syslog\"\naddress = \"{address}\"\n{options}\n"), &run).await;
        let records = server.wait_for_count(number as usize * (TEXTS.len() + 2));
        let records = &records[records.len() - TEXTS.len() - 2..];
        assert_eq!(
            (text(&records[0], "MSGID"), text(&records[TEXTS.len() + 1], "MSGID")),
            ("run.started", "run.finished")
        );
        for (index, record) in records[1..=TEXTS.len()].iter().enumerate() {
            assert_eq!(text(record, "MESSAGE"), TEXTS[index]);
            assert_eq!((text(record, "HOST"), text(record, "PROGRAM")), ("host1", run.header.job.as_str()));
            assert_eq!(text(record, "PID"), "4242");
            let sd = &record["_SDATA"]["run@32473"];
            assert_eq!((text(sd, "id"), text(sd, "group")), (run.header.run_id.as_str(), "db"), "{record}");
            assert_eq!((text(sd, "seq"), text(sd, "attempt")), ((index + 1).to_string().as_str(), "1"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_line_arrives_in_parts_that_join_to_the_line() {
    let Some(server) = Rsyslog::start(RsyslogOptions::default()) else { return };
    let run = Run::new(1);
    let first = "\u{e9}".repeat(100_000);
    let last = "the end".to_owned();
    run.print_tagged(Stream::Stdout, Tag { part: 1, last: false, ..Tag::WHOLE }, first.as_bytes());
    run.print_tagged(Stream::Stdout, Tag { part: 2, ..Tag::WHOLE }, last.as_bytes());
    run.finish();
    let config =
        format!("[sink.a]\ntype = \"syslog\"\nframing = \"octet_counting\"\naddress = \"tcp://{}\"\n", server.tcp());
    deliver(&config, &run).await;
    let records =
        server.wait_for(|records| records.iter().any(|record| record["msgid"] == "run.finished"), testbed::DEADLINE);
    let lines: Vec<&Value> = records.iter().filter(|record| record["msgid"] == "stdout").collect();
    let joined: String = lines.iter().map(|record| text(record, "msg")).collect();
    assert_eq!(joined, first + &last);
    let mut before = 0;
    for (index, record) in lines.iter().enumerate() {
        let sd = text(record, "sd");
        let part: u64 =
            sd.split("part=\"").nth(1).and_then(|rest| rest.split('"').next()).expect(sd).parse().expect(sd);
        assert!(part > before, "{part} after {before}");
        before = part;
        assert!(sd.contains(&format!("part_last=\"{}\"", index + 1 == lines.len())), "{sd}");
        assert!(text(record, "raw").len() <= 8192);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_stream_socket_is_detected() {
    let capture = Capture::start(Transport::UnixStream);
    let run = talkative(1);
    let config = format!("[sink.a]\ntype = \"syslog\"\naddress = \"unix://{}\"\n", capture.path().display());
    deliver(&config, &run).await;
    let received = capture.wait_for(|all| all.concat().ends_with(b")\n"), testbed::DEADLINE).concat();
    let lines: Vec<_> = received.split(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), TEXTS.len() + 3);
    assert!(lines[1].ends_with(b" job1[4242]: plain"));
}
