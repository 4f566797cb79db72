//! Tests of the sinks file: the documented example is accepted, and every fault names its line and remedy.

use super::*;
use crate::address::Scheme;
use crate::gelf::Compression;
use crate::syslog::{Framing, SyslogFormat};

fn accepted(text: &str) -> Vec<SinkConfig> {
    let (sinks, faults) = SinksFile::parse("sinks.toml", text);
    assert_eq!(faults.to_string(), "", "{text}");
    sinks
}

fn check_fault(text: &str, wanted: &[&str]) {
    let (_, faults) = SinksFile::parse("sinks.toml", text);
    let faults_found: Vec<String> = faults.0.iter().map(ToString::to_string).collect();
    assert_eq!(faults_found, wanted, "{text}");
    assert!(faults.has_faults());
}

#[test]
fn the_documented_file_is_accepted() {
    let sinks = accepted(
        r#"
[sink.graylog]
type = "gelf"
address = "udp://graylog.internal:12201"
compression = "gzip"

[sink.central]
type = "syslog"
address = "tcp+tls://logs.internal:6514"
format = "rfc5424"
framing = "octet_counting"
facility = "cron"
tls = { ca_file = "ca.pem", crt_file = "c.pem", key_file = "k.pem", server_name = "logs" }
when = { groups = ["db*"], jobs = ["dump"], streams = ["stderr"] }
strip_ansi = true
batch = { max_events = 500, max_bytes = "32KiB", timeout = "2s" }
retry = { initial = "1s", max = "1m", max_age = "2d" }
max_line = "4KiB"
required = true
alert_after = "10m"

[sink.aws]
type = "cloudwatch_logs"
group = "/cron/{group}"
stream = "{job}/{date}"
create_group = true
retention_days = 30
format = "json"

[sink.archive]
type = "file"
path = "/var/log/sexton/{group}/{job}.log"

[sink.out]
type = "stdout"
format = "json"
"#,
    );
    let names: Vec<(&str, &str)> = sinks.iter().map(|sink| (sink.name.as_str(), sink.kind.name())).collect();
    let wanted = [
        ("graylog", "gelf"),
        ("central", "syslog"),
        ("aws", "cloudwatch_logs"),
        ("archive", "file"),
        ("out", "stdout"),
    ];
    assert_eq!(names, wanted);
    let SinkKind::Gelf(gelf) = &sinks[0].kind else { panic!("gelf") };
    assert_eq!((gelf.compression, gelf.address.port), (Compression::Gzip, 12201));
    let central = &sinks[1];
    let SinkKind::Syslog(syslog) = &central.kind else { panic!("syslog") };
    assert_eq!((syslog.framing, syslog.format, syslog.facility), (Framing::OctetCounting, SyslogFormat::Rfc5424, 9));
    assert_eq!(syslog.tls.server_name.as_deref(), Some("logs"));
    assert_eq!(central.batch, BatchConfig { max_events: 500, max_bytes: 32768, timeout: Duration::from_secs(2) });
    assert_eq!((central.retry.max_age, central.max_line), (Duration::from_secs(172_800), Some(4096)));
    assert!(central.required && central.strip_ansi && central.when.streams == [Stream::Stderr]);
    assert_eq!(central.alert_after, Duration::from_secs(600));
}

#[test]
fn options_left_out_follow_from_the_address() {
    for (address, port, framing, format) in [
        ("udp://x", 514, Framing::None, SyslogFormat::Rfc5424),
        ("tcp://x", 514, Framing::Newline, SyslogFormat::Rfc5424),
        ("tcp+tls://x", 6514, Framing::OctetCounting, SyslogFormat::Rfc5424),
        ("unix:///dev/log", 0, Framing::Newline, SyslogFormat::Rfc3164),
    ] {
        let sinks = accepted(&format!("[sink.a]\ntype = \"syslog\"\naddress = \"{address}\"\n"));
        let SinkKind::Syslog(syslog) = &sinks[0].kind else { panic!("syslog") };
        assert_eq!((syslog.address.port, syslog.framing, syslog.format), (port, framing, format), "{address}");
    }
    let sinks = accepted("[sink.a]\ntype = \"gelf\"\naddress = \"https://graylog\"\n");
    let SinkKind::Gelf(gelf) = &sinks[0].kind else { panic!("gelf") };
    assert_eq!((gelf.address.scheme, gelf.address.path.as_str()), (Scheme::Https, "/gelf"));
}

#[test]
fn all_faults_are_reported_at_once() {
    check_fault(
        "[sink.a]\ntype = \"syslogg\"\n[sink.b]\ntype = \"syslog\"\naddress = \"tpc://x\"\nfacility = \"corn\"\nframming = \"newline\"\n[sink.c]\npath = \"/x\"\n",
        &[
            "sinks.toml:2: `syslogg`: not a `type`; write one of file, stdout, syslog, gelf, cloudwatch_logs; did you mean `syslog`?",
            "sinks.toml:5: `tpc://x`: `tpc://` is not possible with this sink; begin with one of udp:// tcp:// tcp+tls:// unix://",
            "sinks.toml:6: `corn`: not a `facility`; write one of kern, user, mail, daemon, auth, syslog, lpr, news, uucp, cron, authpriv, ftp, local0, local1, local2, local3, local4, local5, local6, local7; did you mean `cron`?",
            "sinks.toml:7: `framming`: unknown key; did you mean `framing`?",
            "sinks.toml:8: sink `c` has no `type`; write type = \"syslog\" or another of file, stdout, syslog, gelf, cloudwatch_logs",
        ],
    );
}

#[test]
fn conflicting_options_are_faults() {
    for (text, wanted) in [
        (
            "type = \"syslog\"\naddress = \"udp://x\"\nframing = \"newline\"",
            "sinks.toml:4: `framing` is for tcp and tcp+tls; remove it for udp",
        ),
        (
            "type = \"syslog\"\naddress = \"tcp://x\"\ntls = { ca_file = \"x\" }",
            "sinks.toml:4: `tls` needs an address that begins with tcp+tls://",
        ),
        (
            "type = \"syslog\"\naddress = \"tcp+tls://x\"\ntls = { crt_file = \"x\" }",
            "sinks.toml:4: `key_file` is missing; crt_file and key_file go together",
        ),
        (
            "type = \"gelf\"\naddress = \"tcp://x\"\ncompression = \"gzip\"",
            "sinks.toml:4: GELF over tcp cannot be compressed; remove `compression`",
        ),
        (
            "type = \"file\"\npath = \"log/{jbo}.log\"",
            "sinks.toml:3: `log/{jbo}.log`: not an absolute path; write for example /var/log/sexton/{group}/{job}.log",
        ),
        ("type = \"stdout\"\nmax_line = 10", "sinks.toml:3: `10`: `max_line` is out of range; write 480 to 1000000"),
        (
            "type = \"cloudwatch_logs\"\ngroup = \"/cron\"\nretention_days = 31",
            "sinks.toml:4: `31`: `retention_days` is not a retention of CloudWatch Logs; the next longer one is 60, the longest 3653",
        ),
        (
            "type = \"stdout\"\nwhen = { streams = [\"stdlog\"] }",
            "sinks.toml:3: `stdlog`: not a stream; write stdout or stderr",
        ),
    ] {
        let (_, faults) = SinksFile::parse("sinks.toml", &format!("[sink.a]\n{text}\n"));
        assert_eq!(faults.0.first().map(ToString::to_string).as_deref(), Some(wanted), "{text}");
    }
}

#[test]
fn limits_name_their_key_the_written_value_and_what_is_allowed() {
    let check = |text: &str, wanted: &str| {
        let (_, faults) = SinksFile::parse("x", &format!("[sink.a]\ntype = \"stdout\"\n{text}\n"));
        assert_eq!(faults.to_string(), format!("x:3: {wanted}"), "{text}");
    };
    for (text, wanted) in [
        ("retry = { max = \"0s\" }", "`0s`: `max` is out of range; write 500ms to 7d, or set a shorter `initial`"),
        (
            "retry = { max = \"499ms\" }",
            "`499ms`: `max` is out of range; write 500ms to 7d, or set a shorter `initial`",
        ),
        (
            "retry = { initial = \"2m\", max = \"1m\" }",
            "`1m`: `max` is out of range; write 2m to 7d, or set a shorter `initial`",
        ),
        ("retry = { max = \"8d\", initial = \"1ms\" }", "`8d`: `max` is out of range; write 1ms to 7d"),
        ("retry = { initial = \"0s\", max = \"1m\" }", "`0s`: `initial` is out of range; write 1ms to 7d"),
        ("retry = { initial = \"1m\" }", "`1m`: `initial` is out of range; write 1ms to 30s, or set `max` too"),
        ("retry = { max_age = \"0ms\" }", "`0ms`: `max_age` is out of range; write 1s to 3650d"),
        ("retry.max_age = \"99999d\"", "`99999d`: `max_age` is out of range; write 1s to 3650d"),
        ("alert_after = \"400d\"", "`400d`: `alert_after` is out of range; write 0s to 365d"),
        ("batch = { timeout = \"2h\" }", "`2h`: `timeout` is out of range; write 0s to 1h"),
        ("batch = { max_bytes = \"17MiB\" }", "`17MiB`: `max_bytes` is out of range; write 1 to 16MiB"),
        ("batch = { max_bytes = 0 }", "`0`: `max_bytes` is out of range; write 1 to 16MiB"),
        ("batch = { max_events = 0 }", "`0`: `max_events` is out of range; write a whole number from 1 to 1000000"),
        ("max_line = \"2MB\"", "`2MB`: `max_line` is out of range; write 480 to 1000000"),
    ] {
        check(text, wanted);
    }
}

#[test]
fn words_of_other_programs_lead_to_the_right_ones() {
    let check = |text: &str, wanted: &str| {
        let (_, faults) = SinksFile::parse("sinks.toml", text);
        assert!(faults.0.iter().any(|fault| fault.to_string().contains(wanted)), "{text}: {faults}");
    };
    for (name, remedy) in [
        ("awslogs", "`awslogs`: not a `type`; CloudWatch Logs is type = \"cloudwatch_logs\""),
        ("CloudWatch", "CloudWatch Logs is type"),
        ("json-file", "type = \"file\""),
        ("local", "type = \"file\""),
        ("journald", "type = \"syslog\" with address = \"unix:///dev/log\""),
        ("fluentd", "type = \"syslog\" with its address"),
        ("splunk", "Splunk reads syslog"),
        ("gcplogs", "its agent reads files"),
        ("etwlogs", "write one of file, stdout, syslog"),
        ("none", "leave out this table"),
        ("Syslog", "did you mean `syslog`?"),
        ("stderr", "path = \"/dev/stderr\""),
    ] {
        check(&format!("[sink.a]\ntype = \"{name}\"\n"), remedy);
    }
    check("[sink.a]\ntype = 5\n", "`5`: not a `type`; write one of file");
    let syslog = |rest: &str| format!("[sink.a]\ntype = \"syslog\"\naddress = \"tcp+tls://h\"\n{rest}\n");
    for (rest, wanted) in [
        ("facility = 16", "`16`: not a `facility`; facility 16 has a name: write facility = \"local0\""),
        ("facility = \"9\"", "write facility = \"cron\""),
        ("facility = 13", "write the name of a facility, for example"),
        ("facility = \"LOCAL0\"", "did you mean `local0`?"),
        ("severity = \"info\"", "`severity`: unknown key; the severity follows from the stream; remove it"),
        ("syslog-address = \"x\"", "write address = \"PROTOCOL://HOST:PORT\""),
        ("ca_file = \"/x\"", "it belongs into the table `tls`"),
        (
            "tls = { skip_verify = true }",
            "`skip_verify`: unknown key; the certificate of a receiver is always checked;",
        ),
        ("tls = { cert = \"/x\" }", "write `crt_file`"),
        ("tls = { key_file = \"/x\", crt_file = \"/y\", key_password = \"ssm:/p\" }", "write env:NAME or file:/path"),
        ("tls = { fingerprint = \"ab\" }", "2 hexadecimal digits, but a SHA-256 fingerprint has 64"),
    ] {
        check(&syslog(rest), wanted);
    }
    check("[sink.a]\ntype = \"file\"\npath = \"/x\"\nmode = 640\n", "write it in quotes: mode = \"640\"");
    check("[sink]\ntype = \"file\"\n", "`type`: a key outside of a table [sink.NAME]; write that line above it");
    // A fault shows no password.
    let (_, faults) = SinksFile::parse("x", "[sink.a]\ntype = \"gelf\"\naddress = \"https://me:geheim@h:99999/\"\n");
    let shown = faults.to_string();
    assert!(shown.contains("https://me:***@h:99999/") && !shown.contains("geheim"), "{shown}");
}
