//! Which words no source may contain, and which only some crates may.

use std::collections::BTreeMap;

use super::dependencies::PURE;
use super::{Source, none, sources};

const CLOCKS: [&str; 4] = ["Timestamp::now(", "Zoned::now(", "SystemTime::now(", "Instant::now("];

/// The crates of the AWS SDK, as `use` names them.
const AWS: [&str; 6] = ["aws_config", "aws_credential_types", "aws_sdk", "aws_sigv4", "aws_smithy", "aws_types"];

/// The file of the keeper that passes descriptors between processes of this machine, through a socket pair.
const SOCKET_PAIR: &str = "fork_server.rs";

/// Cargo cannot forbid these to the keeper: features of rustix are unified over the workspace.
const NETWORK: [&str; 3] = ["std::net", "rustix::net", "UnixStream"];

#[test]
fn no_source_contains_what_its_crate_may_not() {
    none(sources().iter().flat_map(content_faults));
}

#[test]
fn the_rules_of_content_find_faults() {
    let faults =
        |path: &str, text: &str| content_faults(&Source { path: path.to_owned(), text: text.to_owned() }).len();
    assert_eq!(faults("sinks/src/gelf.rs", "fn a() { todo!() }"), 1);
    assert_eq!(faults("sinks/src/gelf.rs", "fn a() { unimplemented!(\"later\") }"), 1);
    assert_eq!(faults("services/src/alerts.rs", "let now = Timestamp::now();"), 1);
    assert_eq!(faults("sexton/src/main.rs", "let now = Timestamp::now();"), 0);
    assert_eq!(faults("sinks/src/gelf.rs", "use aws_sdk_sns::Client;"), 1);
    assert_eq!(faults("sinks/src/tls.rs", "use rustls::crypto::aws_lc_rs;"), 0);
    assert_eq!(faults("sinks/src/cloudwatch.rs", "use aws_sdk_cloudwatchlogs::Client;"), 0);
    assert_eq!(faults("keeper/src/process.rs", "use std::net::TcpStream;"), 1);
    assert_eq!(faults("keeper/src/process.rs", "use std::os::unix::net::UnixStream;"), 1);
    assert_eq!(faults("keeper/src/process.rs", "let socket = rustix::net::socket();"), 1);
    assert_eq!(faults("keeper/src/fork_server.rs", "use rustix::net::socketpair;"), 0);
    assert_eq!(faults("runner/src/feed.rs", "use std::net::TcpStream;"), 0);
}

fn content_faults(source: &Source) -> Vec<String> {
    let Some((folder, below)) = source.path.split_once("/src/") else { return Vec::new() };
    let mut forbidden =
        BTreeMap::from([("todo!", "finish it before it lands"), ("unimplemented!", "finish it before it lands")]);
    if PURE.contains(&folder) {
        forbidden.extend(CLOCKS.map(|clock| (clock, "time is an argument in this crate")));
    }
    if folder == "sinks" && !below.starts_with("cloudwatch") {
        forbidden.extend(AWS.map(|name| (name, "only the CloudWatch sink calls AWS")));
    }
    if folder == "keeper" && below != SOCKET_PAIR {
        forbidden.extend(NETWORK.map(|name| (name, "a keeper never uses a network")));
    }
    let path = &source.path;
    let found = forbidden.into_iter().filter(|(word, _)| source.text.contains(word));
    found.map(|(word, reason)| format!("{path} contains {word}: {reason}")).collect()
}
