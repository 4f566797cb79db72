//! graygelf and rsyslog return the GELF messages of independent clients, field by field.

use serde_json::Value;
use testbed::{Graygelf, RsyslogGelf, python};

use crate::client;

const PYGELF: &str = r#"
import logging, pygelf, ssl, sys
host, port, kind, size = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
options = dict(host=host, port=port, include_extra_fields=True, _group="db", debug=False)
handler = {
    "udp": lambda: pygelf.GelfUdpHandler(compress=False, chunk_size=1300, **options),
    "udp-zlib": lambda: pygelf.GelfUdpHandler(compress=True, chunk_size=1300, **options),
    "tcp": lambda: pygelf.GelfTcpHandler(**options),
    "tls": lambda: pygelf.GelfTlsHandler(validate=True, ca_certs=sys.argv[5], **options),
}[kind]()
logger = logging.getLogger("x")
logger.addHandler(handler)
logger.error("grüße " + "x" * size, extra={"seq": 7})
handler.close()
"#;

const GRAYPY: &str = r#"
import graypy, logging, random, sys
logger = logging.getLogger("x")
size = int(sys.argv[3])
# Random letters, so that a chunked message stays long when it is compressed.
text = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=size))
handler = graypy.GELFUDPHandler(sys.argv[1], int(sys.argv[2]), debugging_fields=False)
logger.addHandler(handler)
logger.warning(text, extra={"group": "db", "seq": 7})
handler.close()
"#;

const BIG: usize = 20_000;

fn check_pygelf(record: &Value, size: usize) {
    assert_eq!(record["version"], "1.1", "{record}");
    assert_eq!(record["level"], 3, "{record}");
    assert_eq!(record["short_message"], format!("grüße {}", "x".repeat(size)));
    assert_eq!(record["_group"], "db", "{record}");
    assert_eq!(record["_seq"], 7, "{record}");
    assert!(record["host"].as_str().is_some_and(|host| !host.is_empty()), "{record}");
    assert!(record["timestamp"].as_f64().is_some_and(|seconds| seconds > 1.7e9), "{record}");
}

#[test]
fn graygelf_returns_plain_compressed_and_chunked_messages() {
    let (Some(server), Some(_)) = (Graygelf::start(), python()) else { return };
    let cases = [("udp", 10), ("udp-zlib", 10), ("udp", BIG), ("udp-zlib", BIG)];
    for (count, (kind, size)) in cases.into_iter().enumerate() {
        client::python(PYGELF, server.udp(), &[kind, &size.to_string()]);
        check_pygelf(&server.wait_for_count(count + 1)[count], size);
    }
}

#[test]
fn graygelf_returns_the_messages_of_graypy() {
    let (Some(server), Some(_)) = (Graygelf::start(), python()) else { return };
    for (count, size) in [10, BIG].into_iter().enumerate() {
        client::python(GRAYPY, server.udp(), &[&size.to_string()]);
        let record = &server.wait_for_count(count + 1)[count];
        assert_eq!(record["short_message"].as_str().map(str::len), Some(size));
        assert_eq!((&record["_group"], &record["_seq"], &record["level"]), (&"db".into(), &7.into(), &4.into()));
    }
}

#[test]
fn rsyslog_returns_messages_over_tcp_and_tls() {
    let (Some(server), Some(_)) = (RsyslogGelf::start(), python()) else { return };
    let ca = testbed::certificates().unwrap().ca.display().to_string();
    let cases = [("tcp", 10), ("tcp", BIG), ("tls", 10), ("tls", BIG)];
    for (count, (kind, size)) in cases.into_iter().enumerate() {
        let address = if kind == "tcp" { server.tcp() } else { server.tls() };
        client::python(PYGELF, address, &[kind, &size.to_string(), &ca]);
        check_pygelf(&server.wait_for_count(count + 1)[count], size);
    }
}

#[test]
fn rsyslog_returns_frames_that_are_not_json() {
    use std::io::Write;
    let Some(server) = RsyslogGelf::start() else { return };
    let mut stream = std::net::TcpStream::connect(server.tcp()).unwrap();
    stream.write_all(b"not \"json\"\0{\"short_message\":\"two in one\\nsegment\"}\0").unwrap();
    let records = server.wait_for_count(2);
    assert_eq!(records[0]["bad"], "not \"json\"", "{records:?}");
    assert_eq!(records[1]["short_message"], "two in one\nsegment");
}
