//! The messages of `sexton check` about HTTP receivers that cannot be reached or answer with an error.

use testbed::{Openssl, OpensslServer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::http::serve;
use crate::memory::config;

async fn fault(address: &str) -> String {
    let toml = format!("[sink.a]\ntype = \"gelf\"\naddress = \"{address}\"\n");
    let fault = sinks::check::check(&config(&toml), "g").await.expect_err("a fault");
    assert_plain(&fault);
    fault
}

/// Asserts that a message has a remedy and no text that a library wrote for programmers.
#[track_caller]
pub(crate) fn assert_plain(message: &str) {
    for word in
        ["parsed", "os error", "invalid peer", "Error(", "Other(", " { ", "Some(", "hyper", "error trying", "Bad("]
    {
        assert!(!message.contains(word), "`{word}` in: {message}");
    }
    assert!(message.contains("; ") || message.contains('?'), "no remedy: {message}");
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().expect("a runtime").block_on(test);
}

#[test]
fn a_dead_proxy_is_named_with_its_variable() {
    let proxy = "http://me:geheim@127.0.0.1:9";
    testbed::with_variables(&[("HTTPS_PROXY", proxy), ("http_proxy", proxy), ("NO_PROXY", "direct.test")], || {
        block_on(async {
            for (url, variable) in [("https://logs.test/gelf", "HTTPS_PROXY"), ("http://logs.test/gelf", "http_proxy")]
            {
                let fault = fault(url).await;
                let start = url.replace(".test/", ".test:12201/");
                assert_eq!(
                    fault,
                    format!(
                        "cannot reach {start} through the proxy http://127.0.0.1:9: connection refused; correct or unset \
                         {variable}, or add logs.test to NO_PROXY"
                    )
                );
            }
            let direct = fault("https://direct.test/gelf").await;
            assert!(!direct.contains("proxy"), "{direct}");
        });
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_another_protocol_is_recognised() {
    let Some(openssl) = Openssl::new() else { return };
    openssl.self_signed("own", "logs", None);
    let tls = OpensslServer::start(&openssl, "own", "");
    let plain = fault(&format!("http://{}", tls.address())).await;
    assert!(plain.contains("HTTP"), "http to a TLS port: {plain}");
    for (answer, scheme, part) in [
        ("HTTP/1.1 400 Bad Request\r\n\r\n", "https", "this port does not speak TLS; use the port that does"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "http", "this port does not speak HTTP/1.1; use the port that does"),
        ("220 mail ready\r\n", "http", "this port does not speak HTTP/1.1; use the port that does"),
        ("\0\0\x12\x04\0\0\0\0\0", "http", "this port does not speak HTTP/1.1"),
        ("HTTP/3.7 200 OK\r\n\r\n", "http", "this port does not speak HTTP/1.1"),
        ("HTTP/1.1 9 Odd\r\n\r\n", "http", "this port does not speak HTTP/1.1"),
        ("HTTP/1.1 200 OK\r\nbad header\r\n\r\n", "http", "this port does not speak HTTP/1.1"),
        ("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "http", "this port does not speak HTTP/1.1"),
        ("", "http", "ended the connection without an answer; does that port speak HTTP?"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(answer.as_bytes()).await.ok();
                stream.shutdown().await.ok();
            }
        });
        let refused = fault(&format!("{scheme}://{address}")).await;
        assert!(refused.starts_with(&format!("{scheme}://{address}/gelf")) && refused.contains(part), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_refuses_has_its_remedy() {
    for (status, remedy) in [
        (401, "correct the user and password in the address"),
        (404, "correct the path in the address (Graylog: /gelf)"),
        (301, "the server wants another address"),
        (415, "remove `compression`"),
        (400, "every record is refused, so the server, a proxy in front of it or the address is wrong"),
        (413, "raise the limit of the server, or of a proxy in front of it (nginx: client_max_body_size), or lower"),
        (418, "no receiver of GELF answers so"),
        (500, "the log of the server has the reason"),
        (599, "the log of the server has the reason"),
    ] {
        let (address, _) = serve(move |_, _| status).await;
        let refused = fault(&format!("http://{address}/gelf")).await;
        assert!(refused.starts_with(&format!("http://{address}/gelf answered {status}")), "{refused}");
        assert!(refused.contains(remedy), "{refused}");
        // One remedy, and no name for a status that has none.
        assert!(status == 400 || !refused.contains("every record is refused"), "{refused}");
        assert!(!refused.contains("unknown status"), "{refused}");
    }
}
