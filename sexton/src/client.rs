//! HTTP client of the JSON API, used by all subcommands. Never starts a server.
//!
//! The installation is selected by the first of these: `--aws`; `--server` or `SEXTON_SERVER` (with `SEXTON_TOKEN`);
//! `[aws]` of the configuration, unless `--state` is given; the `up` of a state directory of this machine. For AWS, the
//! API runs in this process over the tables.

use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use axum::response::Response;
use domain::ca_store;
use domain::connection_error::plain_cause;
use futures_core::Stream;
use reqwest::{Method, StatusCode, Url};
use serde_json::Value;
use tower_service::Service;

use crate::configuration::Configuration;
use crate::failure::Failure;
use crate::on_aws;
use crate::state::StateDirectory;

/// Timeout of a connection. Chosen: far above any round trip, short for a person who waits.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Default timeout of an answer. Chosen: a query of the store takes far less. Requests that make the server wait set
/// [`ApiRequest::with_timeout`].
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Characters of a server's error message that are printed at most. Chosen: an HTML page of another server is longer.
const ERROR_CHARS_MAX: usize = 2000;

/// Base address of requests to an API in this process; never resolved.
const IN_PROCESS_URL: &str = "http://in.this.process/";

/// Options that select the installation.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ServerArguments {
    #[command(flatten)]
    pub(crate) aws: AwsArguments,
    /// URL of the server; its token is read from SEXTON_TOKEN
    #[arg(long, value_name = "URL", env = "SEXTON_SERVER")]
    pub(crate) server: Option<String>,
    /// Configuration file
    #[arg(long, value_name = "FILE", env = "SEXTON_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// State directory of an `up` on this machine
    #[arg(long, value_name = "DIR", env = "SEXTON_STATE")]
    pub(crate) state: Option<PathBuf>,
}

/// `--aws`
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct AwsArguments {
    /// Use the installation on AWS with this prefix [default: `prefix` of [aws] in the configuration, else `sexton`]
    #[arg(
        long,
        value_name = "PREFIX",
        env = "SEXTON_AWS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = ""
    )]
    pub(crate) aws: Option<String>,
}

impl ServerArguments {
    /// Reads the configuration; the default without `--config`.
    ///
    /// # Errors
    /// Returns every fault of the file.
    pub(crate) fn configuration(&self) -> Result<Configuration, Failure> {
        Configuration::load(self.config.as_deref())
    }

    /// The installation on AWS, if selected: by `--aws`, or by `[aws]` without `--server` and `--state`.
    pub(crate) fn on_aws(&self, configuration: &Configuration) -> Option<aws::Options> {
        let named = self.server.is_some() || self.state.is_some();
        self.aws.options(configuration).filter(|_| self.aws.aws.is_some() || !named)
    }

    /// The state directory of `--state` or the configuration, otherwise the default.
    ///
    /// # Errors
    /// Fails if none is named and no home directory is known.
    pub(crate) fn state(&self, configuration: &Configuration) -> Result<StateDirectory, Failure> {
        let named = self.state.as_deref().or(configuration.state.as_deref());
        StateDirectory::find(named).map_err(|error| Failure::usage(error.to_string()))
    }
}

impl AwsArguments {
    /// The options of `[aws]`, with the prefix of `--aws`; `None` if neither is given.
    pub(crate) fn options(&self, configuration: &Configuration) -> Option<aws::Options> {
        let Some(prefix) = &self.aws else { return configuration.aws.clone() };
        let mut options = configuration.aws.clone().unwrap_or_default();
        if !prefix.is_empty() {
            options.prefix.clone_from(prefix);
        }
        Some(options)
    }
}

pub(crate) struct Client {
    transport: Transport,
    base: Url,
    token: Option<String>,
}

/// How requests are sent.
enum Transport {
    Http(reqwest::Client),
    /// To a router in this process.
    InProcess(Router),
}

/// The body of an answer, chunk by chunk.
pub(crate) struct BodyChunks(BodyDataStream);

impl BodyChunks {
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, axum::Error>> {
        std::future::poll_fn(|context| Pin::new(&mut self.0).poll_next(context)).await
    }
}

/// One request to the API.
pub(crate) struct ApiRequest<'a> {
    method: Method,
    /// Path below `/api/`; each segment is escaped.
    segments: Vec<&'a str>,
    query: Vec<(&'a str, String)>,
    body: Option<Value>,
    /// The media type that the answer should have.
    accept: Option<&'static str>,
    timeout: Duration,
}

impl<'a> ApiRequest<'a> {
    pub(crate) fn get(segments: &[&'a str]) -> ApiRequest<'a> {
        ApiRequest {
            method: Method::GET,
            segments: segments.to_vec(),
            query: Vec::new(),
            body: None,
            accept: None,
            timeout: ANSWER_TIMEOUT,
        }
    }

    pub(crate) fn post(segments: &[&'a str], body: Value) -> ApiRequest<'a> {
        ApiRequest { method: Method::POST, body: Some(body), ..ApiRequest::get(segments) }
    }

    pub(crate) fn put(segments: &[&'a str], body: Value) -> ApiRequest<'a> {
        ApiRequest { method: Method::PUT, body: Some(body), ..ApiRequest::get(segments) }
    }

    pub(crate) fn delete(segments: &[&'a str]) -> ApiRequest<'a> {
        ApiRequest { method: Method::DELETE, ..ApiRequest::get(segments) }
    }

    /// Adds a query parameter if there is a value.
    pub(crate) fn with(mut self, name: &'a str, value: Option<impl ToString>) -> ApiRequest<'a> {
        self.query.extend(value.map(|value| (name, value.to_string())));
        self
    }

    /// Requests an answer with this media type; a server that does not know it sends another one.
    pub(crate) fn accepting(mut self, media_type: &'static str) -> ApiRequest<'a> {
        self.accept = Some(media_type);
        self
    }

    /// Sets the timeout of the answer [default: [`ANSWER_TIMEOUT`]].
    pub(crate) fn with_timeout(mut self, timeout: Duration) -> ApiRequest<'a> {
        self.timeout = timeout;
        self
    }
}

impl Client {
    /// The client of the selected installation.
    ///
    /// # Errors
    /// Fails if no server is named and no `up` serves on this machine, if the address is invalid, or if AWS cannot be
    /// used.
    pub(crate) async fn find(arguments: &ServerArguments) -> Result<Client, Failure> {
        let configuration = arguments.configuration()?;
        match arguments.on_aws(&configuration) {
            Some(options) => Client::on_aws(&options, &configuration).await,
            None => Client::for_server(arguments, &configuration),
        }
    }

    /// The client of the named server, otherwise of the `up` of this machine.
    ///
    /// # Errors
    /// Fails if there is no server, or if its address is invalid.
    pub(crate) fn for_server(arguments: &ServerArguments, configuration: &Configuration) -> Result<Client, Failure> {
        if let Some(server) = &arguments.server {
            let token = std::env::var("SEXTON_TOKEN").ok().filter(|token| !token.is_empty());
            return Client::new(server, token);
        }
        let state = arguments.state(configuration)?;
        let Some(server) = state.read_server_file() else {
            return Err(Failure::failed(format!(
                "no `sexton up` serves from {}; start one, name a server with --server URL or SEXTON_SERVER, or use an \
                 installation on AWS with --aws",
                state.dir.display()
            )));
        };
        let token = state.existing_token()?;
        Client::new(&server.url, token)
    }

    async fn on_aws(options: &aws::Options, configuration: &Configuration) -> Result<Client, Failure> {
        let api = on_aws::api(options, configuration).await?;
        let base = Url::parse(IN_PROCESS_URL).map_err(|error| Failure::failed(error.to_string()))?;
        Ok(Client { transport: Transport::InProcess(api.router), base, token: Some(api.token) })
    }

    pub(crate) fn new(server: &str, token: Option<String>) -> Result<Client, Failure> {
        let invalid = || format!("`{server}` is not a server address; write http://HOST:PORT or https://HOST");
        let base = Url::parse(server).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let base = base.ok_or_else(|| Failure::usage(invalid()))?;
        let http = http_client(&base).map_err(|error| match ca_store::is_missing(&error) {
            true => Failure::failed(format!("cannot reach the server at {base}: {}", ca_store::MISSING)),
            false => Failure::failed(format!("cannot create an HTTP client: {}", plain_cause(&error))),
        })?;
        Ok(Client { transport: Transport::Http(http), base, token })
    }

    /// Sends a request and returns the answer as JSON.
    ///
    /// # Errors
    /// Exit 2 if the server rejects the request as invalid, exit 1 if it is unreachable or fails.
    pub(crate) async fn send(&self, request: ApiRequest<'_>) -> Result<Value, Failure> {
        let timeout = request.timeout;
        let answer = self.request(request, Some(timeout)).await?;
        let text = axum::body::to_bytes(answer.into_body(), usize::MAX).await;
        let text = text.map_err(|error| self.unreachable(&error))?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&text).map_err(|error| {
            Failure::failed(format!("the answer of {} is not JSON ({error}); is it a sexton server?", self.base))
        })
    }

    /// Sends a request and returns the headers and the body as a stream, without a timeout.
    ///
    /// # Errors
    /// Like [`Client::send`].
    pub(crate) async fn stream(&self, request: ApiRequest<'_>) -> Result<(axum::http::HeaderMap, BodyChunks), Failure> {
        let (head, body) = self.request(request, None).await?.into_parts();
        Ok((head.headers, BodyChunks(body.into_data_stream())))
    }

    async fn request(&self, request: ApiRequest<'_>, limit: Option<Duration>) -> Result<Response, Failure> {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("api").extend(request.segments);
        }
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&request.query);
        }
        let answer = match &self.transport {
            Transport::Http(http) => {
                let mut http_request = http.request(request.method, url).header(console::USER_HEADER, own_user());
                if let Some(limit) = limit {
                    http_request = http_request.timeout(limit);
                }
                if let Some(token) = &self.token {
                    http_request = http_request.bearer_auth(token);
                }
                if let Some(accept) = request.accept {
                    http_request = http_request.header(ACCEPT, accept);
                }
                if let Some(body) = &request.body {
                    http_request = http_request.json(body);
                }
                let answer = http_request.send().await.map_err(|error| self.unreachable(&error))?;
                axum::http::Response::from(answer).map(Body::new)
            }
            Transport::InProcess(router) => {
                let token = self.token.as_deref().unwrap_or_default();
                let request = axum::http::Request::builder()
                    .method(request.method)
                    .uri(url.as_str())
                    .header(AUTHORIZATION, format!("Bearer {token}"))
                    .header(CONTENT_TYPE, "application/json")
                    .header(console::USER_HEADER, own_user())
                    .header(ACCEPT, request.accept.unwrap_or("*/*"))
                    .body(request.body.map_or_else(Body::empty, |body| Body::from(body.to_string())));
                let request = request.map_err(|error| Failure::failed(format!("cannot request {url}: {error}")))?;
                let Ok(answer) = router.clone().call(request).await;
                answer
            }
        };
        match answer.status() {
            status if status.is_success() => Ok(answer),
            status => {
                let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap_or_default();
                Err(self.refusal(status, &body))
            }
        }
    }

    /// The failure for an answer that did not arrive or ended early.
    pub(crate) fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> Failure {
        let mut is_timeout = false;
        let mut cause = Some(error);
        while let Some(error) = cause {
            is_timeout |= error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_timeout);
            cause = error.source();
        }
        let why = plain_cause(error);
        match &self.transport {
            Transport::InProcess(_) => Failure::failed(format!("the answer ended early: {why}")),
            Transport::Http(_) => {
                let why = if is_timeout { "no answer within the timeout".to_owned() } else { why };
                Failure::failed(format!("cannot reach the server at {}: {why}; is `sexton up` running?", self.base))
            }
        }
    }

    pub(crate) fn refusal(&self, status: StatusCode, body: &[u8]) -> Failure {
        let parsed: Option<Value> = serde_json::from_slice(body).ok();
        let server_message = parsed.as_ref().and_then(|body| body.get("error")).and_then(Value::as_str);
        let message = match (status, server_message) {
            (StatusCode::UNAUTHORIZED, _) => {
                format!(
                    "the server at {} refused the token; set SEXTON_TOKEN to the token in its state directory",
                    self.base
                )
            }
            (_, Some(server_message)) => server_message.chars().take(ERROR_CHARS_MAX).collect(),
            (status, None) => format!("the server at {} answered {status}; is it a sexton server?", self.base),
        };
        let sentences = message.lines().map(str::to_owned).collect();
        match status {
            StatusCode::BAD_REQUEST
            | StatusCode::NOT_FOUND
            | StatusCode::UNPROCESSABLE_ENTITY
            | StatusCode::PAYLOAD_TOO_LARGE => Failure::Usage(sentences),
            _ => Failure::Failed(sentences),
        }
    }
}

/// The user that runs this command, for the server's record of who requested a change.
fn own_user() -> String {
    let uid = rustix::process::geteuid().as_raw();
    let is_header = |name: &String| name.chars().all(|c| c.is_ascii_graphic());
    keeper::user_name(uid).filter(is_header).unwrap_or_else(|| uid.to_string())
}

/// Only `https` needs the CA certificates of the machine, which minimal images do not have. They are not read for a
/// server on this machine, and read for other `http` servers because these may redirect to `https`.
fn http_client(base: &Url) -> reqwest::Result<reqwest::Client> {
    let builder = || {
        reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(Duration::from_secs(30))
            .user_agent(concat!("sexton/", env!("CARGO_PKG_VERSION")))
    };
    let without_certificates = || builder().tls_certs_only([]).build();
    let is_plain = base.scheme() == "http";
    let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']);
    if is_plain && (host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())) {
        return without_certificates();
    }
    builder().build().or_else(|error| if is_plain { without_certificates() } else { Err(error) })
}

/// Runs a future to its end on this thread.
///
/// # Errors
/// Returns the failure of `work`, or of starting the runtime.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::failed(format!("cannot start: {error}")))?.block_on(work)
}
