//! Golden bytes of both syslog formats.

use super::*;
use crate::record::Gap;
use crate::record::tests::piece;
use crate::sample_records::{finished, header, output_ended};

fn syslog(address: &str, format: SyslogFormat, framing: Framing) -> Syslog {
    let schemes = [Scheme::Udp, Scheme::Tcp, Scheme::Tls, Scheme::Unix];
    let address = Address::parse(address, &schemes, |_| PORT).expect("address");
    let config = SyslogConfig { address, format, framing, facility: 9, sd_id: SD_ID.into(), tls: TlsConfig::default() };
    let bytes_max = message_bytes_max(&config);
    Syslog::new(config, bytes_max)
}

fn check(mut syslog: Syslog, header: &RunHeader, record: Record<'_>, wanted: &[u8]) {
    let run = syslog.open(header);
    let mut frames = Frames::default();
    syslog.write(&run, &record, &mut frames);
    assert_eq!(String::from_utf8_lossy(&frames.bytes), String::from_utf8_lossy(wanted));
    assert_eq!(frames.bytes, wanted);
    assert_eq!(frames.count(), 1);
}

const SD: &str = r#"[run@32473 id="20261123T075000Z-3f9a1c0e7b2d" group="db" job="nightly-dump" attempt="1""#;

#[test]
fn a_line_matches_the_golden_bytes_of_rfc5424() {
    let wanted = format!(
        "<78>1 2026-11-23T07:50:00.123456Z host1 nightly-dump 4242 stdout {SD} seq=\"7\" stream=\"stdout\"] caf\u{e9} \"]\\"
    );
    let text = "caf\u{e9} \"]\\".as_bytes();
    let line = || Record::Line(piece(7, Stream::Stdout, text));
    check(syslog("udp://x", SyslogFormat::Rfc5424, Framing::None), &header(), line(), wanted.as_bytes());
    let newline = format!("{wanted}\n");
    check(syslog("tcp://x", SyslogFormat::Rfc5424, Framing::Newline), &header(), line(), newline.as_bytes());
    let counted = format!("{} {wanted}", wanted.len());
    check(syslog("tcp://x", SyslogFormat::Rfc5424, Framing::OctetCounting), &header(), line(), counted.as_bytes());
}

#[test]
fn stderr_is_an_error_and_bytes_stay_bytes() {
    let mut wanted = format!(
        "<75>1 2026-11-23T07:50:00.123456Z host1 nightly-dump 4242 stderr {SD} seq=\"8\" stream=\"stderr\" part=\"2\" part_last=\"true\"] "
    )
    .into_bytes();
    wanted.extend_from_slice(b"\xff\x00");
    let record = Record::Line(Piece { part: 2, ..piece(8, Stream::Stderr, b"\xff\x00") });
    check(syslog("udp://x", SyslogFormat::Rfc5424, Framing::None), &header(), record, &wanted);
}

#[test]
fn brackets_match_the_golden_bytes_of_rfc5424() {
    let started = format!(
        "<78>1 2026-11-23T07:50:00.250000Z host1 nightly-dump 4242 run.started {SD} event=\"run.started\" nominal=\"2026-11-23T07:50:00Z\" trigger=\"schedule\" runner=\"runner1\"] run started: dump.sh \"all\""
    );
    check(syslog("udp://x", SyslogFormat::Rfc5424, Framing::None), &header(), Record::Started, started.as_bytes());
    let ended = format!(
        "<75>1 2026-11-23T07:50:01.750000Z host1 nightly-dump 4242 run.finished {SD} event=\"run.finished\" outcome=\"failed\" reason=\"exit code 3\" exit_code=\"3\" duration_ms=\"1500\" stdout_lines=\"2\" stderr_lines=\"1\" stdout_bytes=\"20\" stderr_bytes=\"10\" last_seq=\"3\" dropped_lines=\"0\"] run failed after 1s500ms: exit code 3 (3 lines)"
    );
    let finished = finished();
    let record = Record::Finished(&finished);
    check(syslog("udp://x", SyslogFormat::Rfc5424, Framing::None), &header(), record, ended.as_bytes());
    let late = format!(
        "<78>1 2026-11-23T07:50:07.500000Z host1 nightly-dump 4242 run.output_ended {SD} event=\"run.output_ended\" late_lines=\"2\" stdout_lines=\"4\" stderr_lines=\"1\" stdout_bytes=\"40\" stderr_bytes=\"10\" last_seq=\"5\" dropped_lines=\"0\"] run output ended: 2 late lines (5 lines)"
    );
    let output_ended = output_ended();
    let record = Record::OutputEnded(&output_ended);
    check(syslog("udp://x", SyslogFormat::Rfc5424, Framing::None), &header(), record, late.as_bytes());
    let at = "2026-11-23T07:50:01Z".parse().expect("instant");
    let gap = Gap { first_seq: 7, last_seq: 18, lines: 12, bytes: 900, at };
    let text = format!(
        "<76>1 2026-11-23T07:50:01.000000Z host1 nightly-dump 4242 gap {SD} event=\"gap\"] 12 lines, 900 bytes dropped (seq 7-18): older than this sink's max_age"
    );
    check(syslog("udp://x", SyslogFormat::Rfc5424, Framing::None), &header(), Record::Gap(gap), text.as_bytes());
}

#[test]
fn names_are_sanitised_and_values_escaped() {
    let odd = RunHeader {
        job: format!("caf\u{e9} job]\"\\{}", "x".repeat(60)),
        group: "a\nb".into(),
        host: String::new(),
        pid: None,
        ..header()
    };
    let x60 = "x".repeat(60);
    let wanted = format!(
        "<78>1 2026-11-23T07:50:00.123456Z - caf__job]\"\\{} - stdout [run@32473 id=\"20261123T075000Z-3f9a1c0e7b2d\" group=\"a\\\\nb\" job=\"caf\u{e9} job\\]\\\"\\\\{x60}\" attempt=\"1\" seq=\"1\" stream=\"stdout\"] x",
        "x".repeat(37)
    );
    let record = Record::Line(piece(1, Stream::Stdout, b"x"));
    check(syslog("udp://x", SyslogFormat::Rfc5424, Framing::None), &odd, record, wanted.as_bytes());
}

#[test]
fn rfc3164_is_in_local_time_and_a_local_socket_gets_no_host() {
    let time = "2026-11-23T07:50:00Z".parse::<jiff::Timestamp>().expect("instant");
    let time = time.to_zoned(jiff::tz::TimeZone::system()).strftime("%b %e %H:%M:%S").to_string();
    let line = || Record::Line(piece(7, Stream::Stderr, b"text"));
    let remote = format!("<75>{time} host1 nightly-dump[4242]: text");
    check(syslog("udp://x", SyslogFormat::Rfc3164, Framing::None), &header(), line(), remote.as_bytes());
    let local = format!("<75>{time} nightly-dump[4242]: text\n");
    check(syslog("unix:///dev/log", SyslogFormat::Rfc3164, Framing::Newline), &header(), line(), local.as_bytes());
}

#[test]
fn no_message_is_longer_than_the_limit() {
    for (address, limit) in [("udp://x", DATAGRAM_MESSAGE_BYTES), ("tcp://x", STREAM_MESSAGE_BYTES)] {
        let mut syslog = syslog(address, SyslogFormat::Rfc5424, Framing::None);
        let run = syslog.open(&header());
        let text = vec![b'x'; syslog.text_bytes_max(&run)];
        let long =
            Piece { seq: u64::MAX, part: u64::MAX, part_last: false, gap: true, ..piece(1, Stream::Stderr, &text) };
        let mut frames = Frames::default();
        syslog.write(&run, &Record::Line(long), &mut frames);
        assert!(frames.bytes.len() <= limit, "{} > {limit}", frames.bytes.len());
        assert!(frames.bytes.len() + 60 > limit, "{} leaves room below {limit}", frames.bytes.len());
    }
}

proptest::proptest! {
    #[test]
    fn values_of_structured_data_parse_to_themselves(value in "\\PC{0,60}") {
        let mut out = Vec::new();
        param("name", &value, &mut out);
        let text = String::from_utf8(out).expect("UTF-8");
        let inner = text.strip_prefix(" name=\"").and_then(|text| text.strip_suffix('"')).expect("quoted");
        let (mut read, mut escaped) = (String::new(), false);
        for c in inner.chars() {
            match c {
                '\\' if !escaped => escaped = true,
                '"' | ']' if !escaped => panic!("{c} is not escaped in {inner}"),
                _ => {
                    read.push(c);
                    escaped = false;
                }
            }
        }
        proptest::prop_assert_eq!(read, value);
    }
}
