//! Arbitrary requests: each gets an answer, and never a server error.

use reqwest::Method;
use testbed::try_inputs;

use crate::server::Server;

/// An input is `METHOD PATH`; the body follows the first newline.
#[test]
fn any_request_is_answered_without_a_server_error() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let server = runtime.block_on(Server::start());
    try_inputs("api", |input| {
        let line_bytes = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
        let line = String::from_utf8_lossy(&input[..line_bytes]);
        let Some((method, path)) = line.split_once(' ') else { return };
        let Ok(method) = Method::from_bytes(method.as_bytes()) else { return };
        let body = input.get(line_bytes + 1..).unwrap_or_default().to_vec();
        if let Some(status) = runtime.block_on(server.status_of(method, path, body)) {
            assert!(!status.is_server_error(), "{status}");
        }
    });
}
