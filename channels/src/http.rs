//! HTTP client of the webhook and Slack channels, and the classification of their errors.

use std::sync::OnceLock;
use std::time::Duration;

use domain::ca_store;
use domain::connection_error::plain_cause;
use domain::ports::{PortError, PortResult};
use reqwest::{Client, RequestBuilder, StatusCode, Url};

/// Default timeout. Chosen, not measured: receivers usually answer within 2 s, and a late answer is only a retry.
pub(crate) const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// At most this much of an error response is quoted.
const QUOTE_CHARS_MAX: usize = 200;

/// The receiver of a channel.
pub(crate) struct Receiver {
    url: Url,
    timeout: Duration,
    /// Made at the first use: only `https` needs the CA certificates of the machine, and they may be installed later.
    client: OnceLock<Client>,
}

impl Receiver {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// Returns one message for an invalid address.
    pub(crate) fn new(url: &str, timeout: Duration) -> Result<Receiver, String> {
        Ok(Receiver { url: parse_url(url)?, timeout, client: OnceLock::new() })
    }

    /// A POST to the address.
    pub(crate) fn post(&self) -> PortResult<RequestBuilder> {
        Ok(self.client()?.post(self.url.clone()))
    }

    fn client(&self) -> PortResult<&Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = build_client(self.timeout, self.url.scheme() == "https").map_err(|error| {
            match ca_store::is_missing(&error) {
                true => PortError::Retry(ca_store::MISSING.to_owned()),
                false => PortError::Retry(format!("cannot create an HTTP client: {}", plain_cause(&error))),
            }
        })?;
        Ok(self.client.get_or_init(|| client))
    }

    /// Opens a TCP connection and closes it. Sends no request, because a webhook would treat any request as an alert.
    pub(crate) async fn probe(&self) -> PortResult<&'static str> {
        self.client()?;
        probe(&self.url, self.timeout).await
    }
}

/// Follows no redirects: a redirected POST would become a GET without its body (RFC 9110, 15.4).
fn build_client(timeout: Duration, uses_tls: bool) -> reqwest::Result<Client> {
    let builder = Client::builder()
        .timeout(timeout)
        .connect_timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("sexton/", env!("CARGO_PKG_VERSION")));
    if uses_tls { builder.build() } else { builder.tls_certs_only([]).build() }
}

/// # Errors
/// Returns one message, without the address: the address of a webhook is a secret.
fn parse_url(text: &str) -> Result<Url, String> {
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| "`url` is not an HTTP address; write https://HOST/PATH".to_owned())
}

/// Sends the request. Any 2xx means delivered; 408, 425, 429 and 5xx are retried; the rest is permanent.
pub(crate) async fn send_request(request: RequestBuilder) -> PortResult<()> {
    let mut response = request.send().await.map_err(|error| PortError::Retry(error_text(error)))?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let body = response.chunk().await.ok().flatten().unwrap_or_default();
    let quote: String =
        String::from_utf8_lossy(&body).chars().filter(|c| !c.is_control()).take(QUOTE_CHARS_MAX).collect();
    let message = if quote.is_empty() {
        format!("the receiver answered {status}")
    } else {
        format!("the receiver answered {status}: {quote}")
    };
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Err(PortError::Retry(message))
        }
        status if status.is_server_error() => Err(PortError::Retry(message)),
        _ => Err(PortError::Permanent(message)),
    }
}

async fn probe(url: &Url, timeout: Duration) -> PortResult<&'static str> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    let connect = tokio::net::TcpStream::connect((host.as_str(), port));
    match tokio::time::timeout(timeout, connect).await {
        Ok(Ok(_)) => Ok("accepts connections (nothing was sent)"),
        Ok(Err(why)) => Err(PortError::Retry(format!("{host}:{port}: {}", plain_cause(&why)))),
        Err(_) => Err(PortError::Retry(format!("{host}:{port}: no connection within {}s", timeout.as_secs()))),
    }
}

/// The innermost cause, without the address.
fn error_text(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "the receiver did not answer in time".to_owned();
    }
    format!("cannot reach the receiver: {}", plain_cause(&error.without_url()))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{SocketAddr, TcpListener};
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    /// One request as it arrived.
    pub(crate) struct Received {
        pub(crate) head: String,
        pub(crate) body: Vec<u8>,
    }

    /// A receiver on a real socket that answers each request with the next status.
    pub(crate) fn receiver(statuses: &[&'static str]) -> (SocketAddr, Receiver<Received>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
        let address = listener.local_addr().expect("address");
        let statuses = statuses.to_vec();
        let (sender, received) = channel();
        std::thread::spawn(move || {
            for status in statuses {
                let Ok((stream, _)) = listener.accept() else { return };
                let mut reader = BufReader::new(stream);
                let mut head = String::new();
                while reader.read_line(&mut head).is_ok_and(|read| read > 2) {}
                let length = head
                    .lines()
                    .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok())
                    .unwrap_or(0);
                let mut body = vec![0; length];
                reader.read_exact(&mut body).expect("a body of the announced length");
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbusy");
                reader.get_mut().write_all(answer.as_bytes()).expect("answered");
                if sender.send(Received { head, body }).is_err() {
                    return;
                }
            }
        });
        (address, received)
    }

    /// The next request that arrived.
    pub(crate) fn next(received: &Receiver<Received>) -> Received {
        received.recv_timeout(Duration::from_secs(30)).expect("a request arrived")
    }
}
