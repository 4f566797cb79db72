//! What the channels over HTTP share: one client, one way to tell errors apart.

use std::time::Duration;

use domain::ports::{PortError, PortResult};
use reqwest::{Client, RequestBuilder, StatusCode, Url};

/// Alert receivers answer within a second or two; one that does not is asked again later.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// Of a refusal, this much is quoted.
const QUOTE_CHARS_MAX: usize = 200;

/// A redirected POST would become a GET without its body (RFC 9110, 15.4): redirects are refused and told.
pub fn client(timeout: Duration) -> Result<Client, String> {
    Client::builder()
        .timeout(timeout)
        .connect_timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("sexton/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| format!("cannot make an HTTP client: {error}"))
}

/// # Errors
/// One lower-case sentence that does not hold the address: an address of a webhook is a secret.
pub fn parse_url(text: &str) -> Result<Url, String> {
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| "`url` is not an address; write https://HOST/PATH".to_owned())
}

/// Sends, and takes any 2xx for delivered.
pub async fn send_request(request: RequestBuilder) -> PortResult<()> {
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

/// Whether something takes connections there. Says nothing to it: a webhook would take any request for an alert.
pub async fn probe(url: &Url, timeout: Duration) -> PortResult<&'static str> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    let connect = tokio::net::TcpStream::connect((host.as_str(), port));
    match tokio::time::timeout(timeout, connect).await {
        Ok(Ok(_)) => Ok("takes connections (nothing was sent)"),
        Ok(Err(why)) => Err(PortError::Retry(format!("{host}:{port}: {why}"))),
        Err(_) => Err(PortError::Retry(format!("{host}:{port}: no connection within {}s", timeout.as_secs()))),
    }
}

/// The deepest cause, without the address.
fn error_text(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "the receiver did not answer in time".to_owned();
    }
    let error = error.without_url();
    let mut why: &dyn std::error::Error = &error;
    while let Some(deeper) = why.source() {
        why = deeper;
    }
    format!("cannot reach the receiver: {why}")
}

#[cfg(test)]
pub mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{SocketAddr, TcpListener};
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    /// One request as it arrived.
    pub struct Received {
        pub head: String,
        pub body: Vec<u8>,
    }

    /// A receiver on a real socket that answers each request with the next of these statuses.
    pub fn receiver(statuses: &[&'static str]) -> (SocketAddr, Receiver<Received>) {
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

    /// The receiver has it by now: sending waits for the answer.
    pub fn next(received: &Receiver<Received>) -> Received {
        received.recv_timeout(Duration::from_secs(30)).expect("a request arrived")
    }
}
