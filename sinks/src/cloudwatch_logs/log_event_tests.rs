use domain::line::Stream;

use super::*;
use crate::config::{SinkKind, SinksFile};
use crate::record::tests::piece;
use crate::sample_records::{finished, header, output_ended};

const HEAD: &str =
    r#"{"run_id":"20261123T075000Z-3f9a1c0e7b2d","group":"db","job":"nightly-dump","attempt":1,"host":"host1","#;

fn encoder(options: &str) -> EventEncoder {
    let text = format!("[sink.a]\ntype = \"cloudwatch_logs\"\ngroup = \"/cron\"\n{options}");
    let (mut sinks, faults) = SinksFile::parse("sinks.toml", &text);
    assert_eq!(faults.to_string(), "");
    let SinkKind::CloudwatchLogs(config) = sinks.remove(0).kind else { panic!("another kind") };
    EventEncoder::new(&config, None, MessageLimit::new(), &header())
}

fn check(options: &str, record: Record<'_>, wanted: &str) {
    let (mut scratch, mut body) = (Vec::new(), b"\"".to_vec());
    let bytes = encoder(options).write(&record, &mut scratch, &mut body);
    body.push(b'"');
    let read: String = serde_json::from_slice(&body).expect("a JSON string");
    assert_eq!(read, wanted);
    assert_eq!(bytes, read.len(), "counted as the service counts");
}

#[test]
fn a_line_is_an_object_with_the_documented_names() {
    check(
        "",
        Record::Line(piece(7, Stream::Stderr, b"say \"hi\"\t\xff")),
        &format!("{HEAD}\"seq\":7,\"stream\":\"stderr\",\"message\":\"say \\\"hi\\\"\\t\u{fffd}\"}}"),
    );
    let part = Piece { part: 2, part_last: true, ..piece(10, Stream::Stdout, b"x") };
    check(
        "",
        Record::Line(part),
        &format!(r#"{HEAD}"seq":10,"stream":"stdout","part":2,"part_last":true,"message":"x"}}"#),
    );
    check(
        "",
        Record::Line(piece(1, Stream::Stdout, b"")),
        &format!(r#"{HEAD}"seq":1,"stream":"stdout","message":""}}"#),
    );
}

#[test]
fn an_empty_line_is_sent_as_a_space() {
    check("format = \"text\"\n", Record::Line(piece(1, Stream::Stdout, b"")), " ");
    check("format = \"text\"\n", Record::Line(piece(1, Stream::Stdout, b"a\\b\xff\xfe")), "a\\b\u{fffd}\u{fffd}");
    check(
        "format = \"text\"\n",
        Record::Started,
        "run started: dump.sh \"all\" (run 20261123T075000Z-3f9a1c0e7b2d, attempt 1)",
    );
}

#[test]
fn an_output_that_ends_after_its_run_has_its_own_record() {
    let open = FinishedRecord { output_open: true, ..finished() };
    let end = r#""event":"run.finished","outcome":"failed","reason":"exit code 3","exit_code":3,"duration_ms":1500,"stdout_lines":2,"stderr_lines":1,"stdout_bytes":20,"stderr_bytes":10,"last_seq":3,"dropped_lines":0,"output_open":true,"#;
    let message = r#""message":"run failed after 1s500ms: exit code 3 (3 lines, more may follow)"}"#;
    check("", Record::Finished(&open), &format!("{HEAD}{end}{message}"));
    check(
        "",
        Record::OutputEnded(&output_ended()),
        &format!(
            r#"{HEAD}"event":"run.output_ended","late_lines":2,"stdout_lines":4,"stderr_lines":1,"stdout_bytes":40,"stderr_bytes":10,"last_seq":5,"dropped_lines":0,"message":"run output ended: 2 late lines (5 lines)"}}"#
        ),
    );
}

#[test]
fn emf_adds_metrics_to_run_finished() {
    let end = r#""event":"run.finished","outcome":"failed","reason":"exit code 3","exit_code":3,"duration_ms":1500,"stdout_lines":2,"stderr_lines":1,"stdout_bytes":20,"stderr_bytes":10,"last_seq":3,"dropped_lines":0,"#;
    let message = format!("\"message\":\"{}\"}}", bracket_records::finished_text(&finished()));
    check("", Record::Finished(&finished()), &format!("{HEAD}{end}{message}"));
    let metrics = r#""succeeded":0,"failed":1,"_aws":{"Timestamp":1795420201750,"CloudWatchMetrics":[{"Namespace":"Jobs","Dimensions":[["group","job"]],"Metrics":[{"Name":"duration_ms","Unit":"Milliseconds"},{"Name":"succeeded","Unit":"Count"},{"Name":"failed","Unit":"Count"},{"Name":"stdout_lines","Unit":"Count"},{"Name":"stderr_lines","Unit":"Count"},{"Name":"dropped_lines","Unit":"Count"},{"Name":"exit_code","Unit":"None"}]}]},"#;
    check(
        "emf = true\nemf_namespace = \"Jobs\"\n",
        Record::Finished(&finished()),
        &format!("{HEAD}{end}{metrics}{message}"),
    );
}
