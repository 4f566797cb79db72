//! Which receivers a sink trusts over TLS, by openssl's certificates and server, and the messages of refusals.

use std::path::Path;

use domain::line::Stream;
use jiff::{SignedDuration, Timestamp};
use sinks::status::{SinkEvent, SinkState};
use testbed::{Openssl, OpensslServer, certificates};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::http::serve;
use crate::memory::{RETRY, Run, config, start, wait_until};

/// A sink of each kind that uses TLS without HTTP.
const KINDS: [&str; 2] = ["syslog", "gelf"];

fn sink(kind: &str, address: impl std::fmt::Display, tls: &str) -> String {
    format!("[sink.a]\ntype = \"{kind}\"\naddress = \"tcp+tls://{address}\"\ntls = {{ {tls} }}\n{RETRY}")
}

fn ca_file(path: &Path) -> String {
    format!("ca_file = \"{}\"", path.display())
}

/// Delivers one line, and waits until the server has it.
#[track_caller]
fn arrives(toml: &str, server: &OpensslServer, text: &str) -> impl Future<Output = ()> {
    let (engine, _events) = start(toml);
    let run = Run::new(1);
    run.print(Stream::Stdout, text.as_bytes());
    engine.add(run.feed());
    async move {
        tokio::task::block_in_place(|| server.wait_for(text));
        engine.shutdown().await;
    }
}

/// The fault of `sexton check`.
async fn fault(toml: &str) -> String {
    sinks::check::check(&config(toml), "g").await.expect_err("a fault")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_in_ca_file_that_is_the_servers_own_is_trusted() {
    let Some(openssl) = Openssl::new() else { return };
    openssl.self_signed("cn", "logs", None);
    openssl.self_signed("san", "logs", Some("IP:127.0.0.1"));
    openssl.self_signed("foreign", "logs", Some("DNS:logs.example"));
    let now = Timestamp::from_second(Timestamp::now().as_second()).expect("an instant");
    let day = |days: i64| now + SignedDuration::from_hours(24 * days);
    let between = |name: &str, start: Timestamp, end: Timestamp| {
        let openssl_time = |at: Timestamp| at.strftime("%Y%m%d%H%M%SZ").to_string();
        openssl.self_signed_between(name, &openssl_time(start), &openssl_time(end));
    };
    between("expired", day(-20), day(-10));
    between("future", day(10), day(20));
    for name in ["cn", "san", "foreign"] {
        let server = OpensslServer::start(&openssl, name, "");
        for kind in KINDS {
            let toml = sink(kind, server.address(), &ca_file(&openssl.path(&format!("{name}.pem"))));
            arrives(&toml, &server, &format!("{kind} trusts {name}")).await;
        }
        // Another certificate of the same subject and name is not trusted.
        openssl.self_signed("other", "logs", Some("IP:127.0.0.1"));
        let refused = fault(&sink("syslog", server.address(), &ca_file(&openssl.path("other.pem")))).await;
        assert!(refused.contains("other.pem; set tls.ca_file to"), "{name}: {refused}");
        let fingerprint = openssl.fingerprint(&openssl.path(&format!("{name}.pem")));
        let fingerprint = fingerprint.split('=').next_back().expect("text");
        assert!(refused.contains(&format!("tls.fingerprint = \"{fingerprint}\"")), "{name}: {refused}");
        let unknown = fault(&sink("syslog", server.address(), "")).await;
        assert!(unknown.contains("CA certificates"), "{unknown}");
    }
    for (name, part) in [
        ("expired", format!("its certificate expired at {} (the clock here: ", day(-10))),
        ("future", format!("its certificate is not valid before {} (the clock here: ", day(10))),
    ] {
        let server = OpensslServer::start(&openssl, name, "");
        let refused = fault(&sink("syslog", server.address(), &ca_file(&openssl.path(&format!("{name}.pem"))))).await;
        assert!(refused.starts_with(&format!("tcp+tls://{}: {part}", server.address())), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fingerprint_pins_one_certificate() {
    let Some(openssl) = Openssl::new() else { return };
    openssl.self_signed("own", "logs", None);
    openssl.self_signed("other", "logs", None);
    let server = OpensslServer::start(&openssl, "own", "-tls1_2");
    let printed = openssl.fingerprint(&openssl.path("own.pem"));
    let digits = printed.split('=').next_back().expect("text").replace(':', "").to_lowercase();
    for (index, spelling) in [printed, digits.clone()].into_iter().enumerate() {
        for more in ["", &format!(", {}", ca_file(&openssl.path("own.pem")))] {
            let text = format!("pinned {index}{}", more.len());
            let toml = sink("syslog", server.address(), &format!("fingerprint = \"{spelling}\"{more}"));
            arrives(&toml, &server, &text).await;
        }
    }
    let other = openssl.fingerprint(&openssl.path("other.pem"));
    let refused = fault(&sink("gelf", server.address(), &format!("fingerprint = \"{other}\""))).await;
    assert!(refused.contains("not the one in tls.fingerprint"), "{refused}");
    // Both are checked where both are given.
    let both = format!("fingerprint = \"{digits}\", {}", ca_file(&openssl.path("other.pem")));
    let refused = fault(&sink("gelf", server.address(), &both)).await;
    assert!(refused.contains("other.pem"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_requires_a_client_certificate_is_misconfigured_at_once() {
    let Some(openssl) = Openssl::new() else { return };
    let Some(certificates) = certificates() else { return };
    openssl.self_signed("stranger", "stranger", None);
    let trusted = ca_file(&certificates.ca);
    for version in ["-tls1_2", "-tls1_3"] {
        let options = format!("{version} -Verify 2 -verify_return_error -CAfile {}", certificates.ca.display());
        let server = OpensslServer::start_with(&certificates.server, &certificates.server_key, &options);
        let (engine, mut events) = start(&sink("syslog", server.address(), &trusted));
        let run = Run::new(1);
        run.print(Stream::Stdout, b"kept");
        engine.add(run.feed());
        let SinkEvent::Trouble(trouble) = events.recv().await.expect("an event") else { panic!("no trouble") };
        let part = if version == "-tls1_3" { "it requires a client certificate" } else { "may require a client cert" };
        assert!(trouble.error.contains(part), "{version}: {}", trouble.error);
        assert!(trouble.error.contains("tls.crt_file and tls.key_file"), "{}", trouble.error);
        assert_eq!(engine.status().state, SinkState::Misconfigured, "{version}");
        assert_eq!(engine.status().lag_lines, 1);
        engine.shutdown().await;
        let https =
            format!("[sink.a]\ntype = \"gelf\"\naddress = \"https://{}\"\ntls = {{ {trusted} }}\n", server.address());
        let refused = fault(&https).await;
        assert!(refused.contains(part), "{version}: {refused}");
        let identity = |crt: &Path, key: &Path| {
            format!("{trusted}, crt_file = \"{}\", key_file = \"{}\"", crt.display(), key.display())
        };
        let stranger = identity(&openssl.path("stranger.pem"), &openssl.path("stranger.key"));
        let refused = fault(&sink("syslog", server.address(), &stranger)).await;
        assert!(refused.contains("client certificate"), "{version}: {refused}");
        let toml = sink("syslog", server.address(), &identity(&certificates.client, &certificates.client_key));
        arrives(&toml, &server, "with a certificate").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_handshake_names_its_cause_and_remedy() {
    let Some(openssl) = Openssl::new() else { return };
    let Some(certificates) = certificates() else { return };
    let trusted = ca_file(&certificates.ca);
    let server = OpensslServer::start_with(&certificates.server, &certificates.server_key, "");
    let named = fault(&sink("syslog", server.address(), &format!("{trusted}, server_name = \"logs.example\""))).await;
    assert!(named.contains("its certificate is for 127.0.0.1, localhost, not for logs.example; use one"), "{named}");
    openssl.self_signed("old", "logs", None);
    let old = OpensslServer::start(&openssl, "old", "-tls1_1 -cipher ALL:@SECLEVEL=0");
    let refused = fault(&sink("syslog", old.address(), &ca_file(&openssl.path("old.pem")))).await;
    assert!(refused.contains("enable TLS 1.2 or 1.3 on the receiver"), "{refused}");
    // Receivers without TLS: one answers, one ends the connection.
    for answer in ["220 mail ready\r\n", ""] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(answer.as_bytes()).await.ok();
            }
        });
        let refused = fault(&sink("gelf", address, &trusted)).await;
        assert!(refused.contains("speak TLS") && refused.contains("begin the address with tcp://"), "{refused}");
    }
}

/// Decrypts, and forwards to a plain receiver.
async fn tls_front(folder: &Openssl, name: &str, to: std::net::SocketAddr) -> std::net::SocketAddr {
    use rustls_pki_types::pem::PemObject;
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = rustls_pki_types::CertificateDer::pem_file_iter(folder.path(&format!("{name}.pem"))).expect("file");
    let key = rustls_pki_types::PrivateKeyDer::from_pem_file(folder.path(&format!("{name}.key"))).expect("key");
    let server = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let server = server.expect("versions").with_no_client_auth();
    let server = server.with_single_cert(chain.map(|one| one.expect("certificate")).collect(), key).expect("identity");
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut receiver = tokio::net::TcpStream::connect(to).await.expect("the receiver");
                tokio::io::copy_bidirectional(&mut stream, &mut receiver).await.ok();
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn gelf_over_https_trusts_as_the_other_sinks_do() {
    let Some(openssl) = Openssl::new() else { return };
    openssl.self_signed("own", "logs", None);
    let (plain, received) = serve(|_, _| 202).await;
    let address = tls_front(&openssl, "own", plain).await;
    let toml = |tls: &str| {
        format!("[sink.a]\ntype = \"gelf\"\naddress = \"https://{address}/gelf\"\ntls = {{ {tls} }}\n{RETRY}")
    };
    let fingerprint = openssl.fingerprint(&openssl.path("own.pem"));
    for tls in [ca_file(&openssl.path("own.pem")), format!("fingerprint = \"{fingerprint}\"")] {
        let before = received.requests();
        let (engine, _events) = start(&toml(&tls));
        let run = Run::new(1);
        run.finish();
        engine.add(run.feed());
        wait_until(|| run.is_delivered()).await;
        assert_eq!(received.requests(), before + 2);
        engine.shutdown().await;
    }
    let wrong = format!("fingerprint = \"{}\"", "00".repeat(32));
    let refused = fault(&toml(&wrong)).await;
    assert!(refused.starts_with(&format!("https://{address}/gelf: its certificate has the SHA-256")), "{refused}");
}
