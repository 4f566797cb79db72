//! The console on a free port, over its own database; tests choose the output of runs.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use console::{Console, LogChunks, LogOutput, LogQuery, Logs, PackReason, ServerLimits, Sinks};
use domain::run::Run;
use embedded::Embedded;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const TOKEN: &str = "token-of-this-test";

type BodyChunks = Vec<Result<Vec<u8>, String>>;

/// Sends the next chunks of a run's output.
pub(crate) type ChunkSender = tokio::sync::mpsc::Sender<std::io::Result<axum::body::Bytes>>;

#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Option<LogChunks>>>);

#[async_trait]
impl Logs for Printed {
    async fn read(&self, _run: &Run, _query: LogQuery) -> Result<Option<LogOutput>, String> {
        let Some(chunks) = self.0.lock().expect("not poisoned").take() else { return Ok(None) };
        Ok(Some(LogOutput { chunks, removed_lines: 0 }))
    }
}

struct OneSink;

#[async_trait]
impl Sinks for OneSink {
    async fn status(&self) -> Vec<Value> {
        let status = serde_json::json!({
            "name": "central", "kind": "syslog", "state": "retrying", "lag_lines": 7, "lag_seconds": 1.5,
            "dropped_lines": 3, "refused_records": 2,
        });
        vec![status]
    }
}

pub(crate) struct Server {
    url: String,
    http: reqwest::Client,
    printed: Printed,
    _folder: TempDir,
}

impl Server {
    pub(crate) async fn start() -> Server {
        Server::start_with(ServerLimits::default()).await
    }

    pub(crate) async fn start_with(limits: ServerLimits) -> Server {
        let folder = TempDir::new().expect("temporary directory");
        let now = "2026-11-23T12:00:00Z".parse().expect("instant");
        let store = Embedded::open_at(&folder.path().join("sexton.db"), Arc::new(move || now)).expect("opened");
        let printed = Printed::default();
        let console = Console {
            ports: store.ports(),
            logs: Arc::new(printed.clone()),
            sinks: Arc::new(OneSink),
            sources: Arc::new(Vec::new),
            health: Arc::new(()),
            token: TOKEN.into(),
            clock: Arc::new(move || now),
            random: Arc::new(|| [1, 2, 3, 4, 5, 6]),
            check_job: Arc::new(|job| {
                job.rules.iter().filter(|name| *name == "pyhton").map(|_| "no rule pack `pyhton`".to_owned()).collect()
            }),
            choose_packs: Arc::new(|job| {
                let reason = |pack: &String| PackReason { pack: pack.clone(), reason: "as named".to_owned() };
                job.rules.iter().map(reason).collect()
            }),
            channels: Arc::new(()),
            nudge: Arc::new(|| {}),
            stop_now: Arc::new(|_, _| {}),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        tokio::spawn(console::serve(listener, console::router(console), limits, std::future::pending()));
        Server { url, http: reqwest::Client::new(), printed, _folder: folder }
    }

    /// Host and port.
    pub(crate) fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// Sets the output that the next request for logs returns.
    pub(crate) fn print(&self, pieces: BodyChunks) {
        let sender = self.print_later();
        tokio::spawn(async move {
            for piece in pieces {
                if sender.send(piece.map(Into::into).map_err(std::io::Error::other)).await.is_err() {
                    return;
                }
            }
        });
    }

    /// The next request for logs returns what the test sends; the output is complete when the sender is dropped.
    pub(crate) fn print_later(&self) -> ChunkSender {
        let (sender, chunks) = tokio::sync::mpsc::channel(1);
        *self.printed.0.lock().expect("not poisoned") = Some(chunks);
        sender
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        self.send_as(Some(TOKEN), method, path, body).await
    }

    /// Sends any body as JSON and returns the status; `None` when the path is not part of a valid URL.
    pub(crate) async fn status_of(&self, method: Method, path: &str, body: Vec<u8>) -> Option<StatusCode> {
        let url = format!("{}/{}", self.url, path.trim_start_matches('/')).parse::<reqwest::Url>().ok()?;
        let request = self.http.request(method, url).bearer_auth(TOKEN).header("content-type", "application/json");
        let response = request.body(body).send().await.expect("answered");
        let status = response.status();
        response.bytes().await.expect("whole");
        Some(status)
    }

    pub(crate) async fn send_as(
        &self,
        token: Option<&str>,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.expect("answered");
        let status = response.status();
        let text = response.text().await.expect("whole");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Sends a request that must succeed, and returns the answer.
    pub(crate) async fn send_ok(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.send(method.clone(), path, body).await;
        assert!(status.is_success(), "{method} {path}: {status} {answer}");
        answer
    }

    /// Applies a file as a client that accepts lines. Returns the lines.
    pub(crate) async fn apply_by_lines(&self, body: Value) -> Vec<Value> {
        let request = self.http.post(format!("{}/api/apply", self.url)).bearer_auth(TOKEN);
        let answer = request.header("accept", console::LINES).json(&body).send().await.expect("answered");
        assert_eq!(answer.headers()["content-type"], console::LINES);
        let text = answer.text().await.expect("whole");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    pub(crate) async fn read_bytes(&self, path: &str) -> reqwest::Result<Vec<u8>> {
        let response = self.http.get(format!("{}{path}", self.url)).bearer_auth(TOKEN).send().await?;
        Ok(response.error_for_status()?.bytes().await?.to_vec())
    }
}
