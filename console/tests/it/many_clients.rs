//! Many clients, slow clients, and clients without the token, over real sockets.

use std::time::Duration;

use console::ServerLimits;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testbed::DEADLINE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::server::{ChunkSender, Server, TOKEN};

/// Times so short that a test can wait for them. A request that is sent at once is complete long before.
fn short_times() -> ServerLimits {
    ServerLimits {
        header_time: Duration::from_millis(1500),
        idle_time: Duration::from_millis(1500),
        ..ServerLimits::default()
    }
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address()).await.expect("connected")
}

/// Sends the beginning of a request, or a whole one.
async fn connect_and_send(server: &Server, text: &str) -> TcpStream {
    let mut stream = connect(server).await;
    stream.write_all(text.as_bytes()).await.expect("sent");
    stream
}

/// Waits until the server closes the connection, and returns what it sent before.
async fn read_until_closed(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let closed = timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("the server closes the connection");
    // A reset also is an end.
    closed.ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn is_open(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0; 1]), Err(why) if why.kind() == std::io::ErrorKind::WouldBlock)
}

async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        let mut bytes = [0; 4096];
        let count = timeout(DEADLINE, stream.read(&mut bytes)).await.expect("in time").expect("read");
        assert!(count > 0, "closed after: {text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    text
}

/// Creates a run, and opens a connection that follows its output.
async fn follow(server: &Server) -> (TcpStream, ChunkSender) {
    let job = json!({ "group": "db", "name": "dump", "schedule": "@daily", "command": "true" });
    server.send_ok(Method::PUT, "/api/jobs/db/dump", Some(job)).await;
    let runs = server.send_ok(Method::GET, "/api/runs", None).await;
    let run = match runs["runs"].get(0) {
        Some(run) => run.clone(),
        None => server.send_ok(Method::POST, "/api/jobs/db/dump/run", None).await,
    };
    let sender = server.print_later();
    let path = format!("/api/runs/{}/logs?follow=true", run["run_id"].as_str().expect("an id"));
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    let mut stream = connect_and_send(server, &request).await;
    sender.send(Ok("started\n".into())).await.expect("read");
    read_until(&mut stream, "started").await;
    (stream, sender)
}

#[tokio::test]
async fn connections_without_a_request_are_closed_and_an_answer_in_progress_is_not() {
    let server = Server::start_with(short_times()).await;
    let (mut followed, sender) = follow(&server).await;
    let health = "GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n";
    let body_missing = format!(
        "POST /api/jobs/db/dump/pause HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{{"
    );
    let mut connections = Vec::new();
    for (what, text) in [
        ("nothing is sent", ""),
        ("the request line is not complete", "GET /api/hea"),
        ("the header is not complete", "GET /api/health HTTP/1.1\r\nHost: x\r\n"),
        ("no second request follows", health),
        ("the second header is not complete", &format!("{health}GET")),
        ("the body does not arrive", &body_missing),
    ] {
        connections.push((what, text.starts_with(health), connect_and_send(&server, text).await));
    }
    for (what, is_complete, connection) in connections {
        let answer = read_until_closed(connection).await;
        assert_eq!(answer.contains("200 OK"), is_complete, "{what}: {answer}");
    }
    // A header that arrives byte by byte has the same time as one that stops.
    let mut slow = connect(&server).await;
    let start = Instant::now();
    while slow.write_all(b"G").await.is_ok() && is_open(&slow) {
        assert!(start.elapsed() < DEADLINE, "the connection stays open");
        sleep(Duration::from_millis(20)).await;
    }
    sender.send(Ok("late\n".into())).await.expect("the answer is still in progress");
    read_until(&mut followed, "late").await;
    drop(sender);
    read_until_closed(followed).await;
}

#[tokio::test]
async fn an_answer_that_the_client_reads_slowly_is_complete() {
    let server = Server::start_with(short_times()).await;
    let (mut stream, sender) = follow(&server).await;
    let chunk = vec![b'x'; 1 << 20];
    let sending = tokio::spawn(async move {
        for _ in 0..32 {
            sender.send(Ok(chunk.clone().into())).await.expect("read");
        }
    });
    // Longer than the idle time: other connections are closed in between.
    read_until_closed(connect(&server).await).await;
    read_until_closed(connect(&server).await).await;
    let (mut bytes, mut count) = (vec![0; 1 << 16], 0);
    while count < 32 << 20 {
        let read = timeout(DEADLINE, stream.read(&mut bytes)).await.expect("in time").expect("not cut off");
        assert!(read > 0, "closed after {count} bytes");
        count += bytes[..read].iter().filter(|byte| **byte == b'x').count();
    }
    sending.await.expect("sent");
}

#[tokio::test]
async fn clients_without_a_token_cannot_keep_the_holder_of_the_token_out() {
    let limits = ServerLimits { connections_without_token: 4, ..ServerLimits::default() };
    let server = Server::start_with(limits).await;
    let mut idle = Vec::new();
    for text in ["", "GET /api/hea", "GET /api/health HTTP/1.1\r\nHost: x\r\n"] {
        for _ in 0..20 {
            idle.push(connect_and_send(&server, text).await);
        }
        server.send_ok(Method::GET, "/api/jobs", None).await;
    }
    let start = Instant::now();
    while idle.iter().filter(|stream| is_open(stream)).count() > 4 {
        assert!(start.elapsed() < DEADLINE, "more than 4 connections of one address stay open");
        sleep(Duration::from_millis(20)).await;
    }
    // Connections with the token are not counted.
    let with_token = format!("GET /api/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    let mut holders = Vec::new();
    for _ in 0..20 {
        let mut stream = connect_and_send(&server, &with_token).await;
        read_until(&mut stream, "\"jobs\"").await;
        holders.push(stream);
    }
    for stream in &mut holders {
        stream.write_all(with_token.as_bytes()).await.expect("still open");
        read_until(stream, "\"jobs\"").await;
    }
}

#[tokio::test]
async fn a_full_server_names_the_reason_and_ends_no_answer_in_progress() {
    let server = Server::start_with(ServerLimits { connections: 3, ..ServerLimits::default() }).await;
    let mut followers = Vec::new();
    for _ in 0..3 {
        followers.push(follow(&server).await);
    }
    let answer = read_until_closed(connect(&server).await).await;
    assert!(answer.contains("503") && answer.contains("too many connections"), "{answer}");
    for (stream, sender) in &mut followers {
        sender.send(Ok("late\n".into())).await.expect("the answer is still in progress");
        read_until(stream, "late").await;
    }
}

#[tokio::test]
async fn a_wrong_token_waits_and_the_right_one_never_waits_for_it() {
    let server = Server::start().await;
    let start = Instant::now();
    let mut first = Vec::new();
    while !first.contains(&"right") {
        assert!(start.elapsed() < DEADLINE, "the right token waits for the wrong one");
        let wrong = server.send_as(Some("wrong"), Method::GET, "/api/jobs", None);
        let right = server.send(Method::GET, "/api/jobs", None);
        let at = Instant::now();
        tokio::select! {
            (status, _) = wrong => {
                assert_eq!(status, StatusCode::UNAUTHORIZED);
                assert!(at.elapsed() >= Duration::from_secs(1), "a guess is answered after {:?}", at.elapsed());
                first.push("wrong");
            }
            (status, _) = right => {
                assert_eq!(status, StatusCode::OK);
                first.push("right");
            }
        }
    }
    let at = Instant::now();
    server.send_as(Some("wrong"), Method::GET, "/metrics", None).await;
    assert!(at.elapsed() >= Duration::from_secs(1), "a guess is answered after {:?}", at.elapsed());
}

#[tokio::test]
async fn each_route_accepts_bodies_of_its_own_size_only() {
    let server = Server::start().await;
    let job =
        |bytes: usize| json!({ "group": "db", "name": "dump", "schedule": "@daily", "command": "x".repeat(bytes) });
    let why = |bytes: usize| json!({ "on": true, "why": "x".repeat(bytes) });
    let apply = move |bytes: usize| json!({ "jobs": [job(bytes)], "source": "file" });
    let reports = |bytes: usize| json!({ "events": [], "x": "x".repeat(bytes) });
    type Body = Box<dyn Fn(usize) -> Value>;
    let routes: [(Method, &str, Body, usize, usize); 4] = [
        (Method::PUT, "/api/jobs/db/dump", Box::new(job), 1 << 20, 3 << 20),
        (Method::POST, "/api/maintenance", Box::new(why), 1 << 10, 100 << 10),
        (Method::POST, "/api/apply", Box::new(apply), 3 << 20, 129 << 20),
        (Method::POST, "/api/reports", Box::new(reports), 3 << 20, 129 << 20),
    ];
    for (method, path, body, within, above) in routes {
        for (bytes, is_too_large) in [(within, false), (above, true)] {
            let (status, answer) = server.send(method.clone(), path, Some(body(bytes))).await;
            assert_eq!(status == StatusCode::PAYLOAD_TOO_LARGE, is_too_large, "{path}, {bytes} bytes: {answer}");
        }
    }
}

#[tokio::test]
async fn a_pause_or_a_window_that_ends_in_the_past_is_refused() {
    let server = Server::start().await;
    let job = json!({ "group": "db", "name": "dump", "schedule": "@daily", "command": "true" });
    server.send_ok(Method::PUT, "/api/jobs/db/dump", Some(job)).await;
    // The server's clock is fixed at 2026-11-23T12:00:00Z.
    for (until, is_refused) in
        [("2026-11-23T12:00:00Z", true), ("1970-01-01T00:00:00Z", true), ("2026-11-23T12:00:01Z", false)]
    {
        for (path, body) in [
            ("/api/jobs/db/dump/pause", json!({ "until": until })),
            ("/api/maintenance", json!({ "on": true, "until": until })),
        ] {
            let (status, answer) = server.send(Method::POST, path, Some(body)).await;
            assert_eq!(status == StatusCode::BAD_REQUEST, is_refused, "{path} {until}: {answer}");
        }
    }
}
