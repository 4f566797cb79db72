//! Asks a running server, over its JSON API, on behalf of the subcommands.
//!
//! Which one: `--server` or `SEXTON_SERVER` with `SEXTON_TOKEN`; else the `up` that a state directory of this machine
//! names. Never starts anything.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Method, StatusCode, Url};
use serde_json::Value;

use crate::failure::Failure;
use crate::state::State;

/// A server that does not even take the connection for this long is not there.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// An answer takes a query of the store; what waits longer says so in `Question::patience`.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// A sentence of the server is shown; a page of some other server is not.
const FAULT_CHARS_MAX: usize = 2000;

/// Where to find the server.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServerArguments {
    /// Address of the server; the token is taken from SEXTON_TOKEN
    #[arg(long, value_name = "URL", env = "SEXTON_SERVER")]
    pub server: Option<String>,
    /// State directory of an `up` on this machine
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
}

/// One request.
pub struct Question<'a> {
    method: Method,
    /// Behind `/api/`; each is escaped on its own.
    segments: Vec<&'a str>,
    query: Vec<(&'a str, String)>,
    body: Option<Value>,
    patience: Duration,
}

impl<'a> Question<'a> {
    pub fn get(segments: &[&'a str]) -> Question<'a> {
        Question {
            method: Method::GET,
            segments: segments.to_vec(),
            query: Vec::new(),
            body: None,
            patience: ANSWER_WAIT,
        }
    }

    pub fn post(segments: &[&'a str], body: Value) -> Question<'a> {
        Question { method: Method::POST, body: Some(body), ..Question::get(segments) }
    }

    pub fn put(segments: &[&'a str], body: Value) -> Question<'a> {
        Question { method: Method::PUT, body: Some(body), ..Question::get(segments) }
    }

    pub fn delete(segments: &[&'a str]) -> Question<'a> {
        Question { method: Method::DELETE, ..Question::get(segments) }
    }

    /// Adds the parameter when there is a value.
    pub fn with(mut self, name: &'a str, value: Option<impl ToString>) -> Question<'a> {
        self.query.extend(value.map(|value| (name, value.to_string())));
        self
    }

    /// Lets the server take this much longer.
    pub fn patient(mut self, longer: Duration) -> Question<'a> {
        self.patience += longer;
        self
    }
}

impl Client {
    /// # Errors
    /// When no server is named and no `up` serves on this machine, or the address cannot be one.
    pub fn find(arguments: &ServerArguments) -> Result<Client, Failure> {
        if let Some(server) = &arguments.server {
            let token = std::env::var("SEXTON_TOKEN").ok().filter(|token| !token.is_empty());
            return Client::new(server, token);
        }
        let state = State::find(arguments.state.as_deref()).map_err(|error| Failure::wrong(error.to_string()))?;
        let Some(server) = state.server() else {
            return Err(Failure::bad(format!(
                "no `sexton up` serves from {}; start one, or name a server with --server URL or SEXTON_SERVER",
                state.dir.display()
            )));
        };
        let token = state.known_token().map_err(|error| Failure::bad(error.to_string()))?;
        Client::new(&server.url, token)
    }

    pub fn new(server: &str, token: Option<String>) -> Result<Client, Failure> {
        let says = || format!("`{server}` is not the address of a server; write http://HOST:PORT or https://HOST");
        let base = Url::parse(server).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let base = base.ok_or_else(|| Failure::wrong(says()))?;
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_WAIT)
            .tcp_keepalive(Duration::from_secs(30))
            .user_agent(concat!("sexton/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Failure::bad(format!("cannot make an HTTP client: {error}")))?;
        Ok(Client { http, base, token })
    }

    /// The answer as JSON.
    ///
    /// # Errors
    /// Exit 2 when the server finds the question wrong, exit 1 when it cannot answer or is not there.
    pub async fn ask(&self, question: Question<'_>) -> Result<Value, Failure> {
        let patience = question.patience;
        let response = self.send(question, Some(patience)).await?;
        let text = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&text).map_err(|error| {
            Failure::bad(format!("{} answered what is not JSON ({error}); is it a sexton server?", self.base))
        })
    }

    /// The answer as a stream without end, once the server has agreed to give it.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn stream(&self, question: Question<'_>) -> Result<reqwest::Response, Failure> {
        self.send(question, None).await
    }

    async fn send(&self, question: Question<'_>, limit: Option<Duration>) -> Result<reqwest::Response, Failure> {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("api").extend(question.segments);
        }
        if !question.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&question.query);
        }
        let mut request = self.http.request(question.method, url);
        if let Some(limit) = limit {
            request = request.timeout(limit);
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = &question.body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        match response.status() {
            status if status.is_success() => Ok(response),
            status => Err(self.refusal(status, &response.bytes().await.unwrap_or_default())),
        }
    }

    pub fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let mut why: &dyn std::error::Error = error;
        while let Some(deeper) = why.source() {
            why = deeper;
        }
        let why = if error.is_timeout() { "it did not answer in time".to_owned() } else { why.to_string() };
        Failure::bad(format!("cannot reach the server at {}: {why}; is `sexton up` running?", self.base))
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> Failure {
        let parsed: Option<Value> = serde_json::from_slice(body).ok();
        let said = parsed.as_ref().and_then(|body| body.get("error")).and_then(Value::as_str);
        let says = match (status, said) {
            (StatusCode::UNAUTHORIZED, _) => {
                format!(
                    "the server at {} does not take this token; set SEXTON_TOKEN to the one in its state directory",
                    self.base
                )
            }
            (_, Some(said)) => said.chars().take(FAULT_CHARS_MAX).collect(),
            (status, None) => format!("the server at {} answered {status}; is it a sexton server?", self.base),
        };
        let sentences = says.lines().map(str::to_owned).collect();
        match status {
            StatusCode::BAD_REQUEST
            | StatusCode::NOT_FOUND
            | StatusCode::UNPROCESSABLE_ENTITY
            | StatusCode::PAYLOAD_TOO_LARGE => Failure::Wrong(sentences),
            _ => Failure::Bad(sentences),
        }
    }
}

/// Runs a client's work to its end on this thread.
///
/// # Errors
/// What the work says, or that no runtime could be made.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::bad(format!("cannot start: {error}")))?.block_on(work)
}
