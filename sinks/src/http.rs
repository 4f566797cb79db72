//! GELF over HTTP(S): one POST per message, or many messages in one POST with `bulk`. The only GELF transport whose
//! receiver answers: 202 confirms the message.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, StatusCode};
use tokio::time::Instant;

use crate::address::{Address, Scheme};
use crate::error::{ErrorClass, SinkError, SinkResult};
use crate::frames::Frames;
use crate::gelf::{Compression, compress};
use crate::http_faults::{quoted, status_name, status_remedy, unreachable};
use crate::refusals::{Parts, REFUSES_ALL, send_parts};
use crate::sink::{READ_BYTES_MAX, Refused};
use crate::stream::CONNECT_TIMEOUT;
use crate::tls::TlsConfig;
use crate::unanswered::UnansweredCalls;

/// From the first byte sent to the last byte of the answer. Chosen: a working server answers within seconds.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Attempts for one request before the whole batch fails, and the wait after the first; twice as long after the
/// second. Chosen: a busy moment of the server does not resend the batch.
const ATTEMPTS_MAX: u32 = 3;
const ATTEMPT_WAIT: Duration = Duration::from_millis(100);
/// A request that failed after a longer time is not repeated at once. Chosen: a busy server refuses in less.
const QUICK_FAILURE: Duration = Duration::from_secs(2);
/// Read size without `bulk`: one request per message, so about 40 lines are sent twice after a failure.
const SINGLE_READ_BYTES_MAX: usize = 4096;
/// Longest message that is kept to be sent again. Chosen: larger than most lines.
const ACCEPTED_BYTES_MAX: usize = 8192;
/// The library reads only the variables of proxies, besides what is checked before.
pub(crate) const NO_CLIENT: &str =
    "HTTP cannot be used with these settings; correct or unset HTTP_PROXY, HTTPS_PROXY and ALL_PROXY";
/// Characters of an answer that an error quotes. Chosen, not measured.
const ANSWER_CHARS_MAX: usize = 200;

pub(crate) struct HttpWire {
    address: Address,
    compression: Compression,
    bulk: bool,
    tls: TlsConfig,
    client: Option<Client>,
    last_status: Option<StatusCode>,
    /// The latest accepted message of at most [`ACCEPTED_BYTES_MAX`].
    accepted: Option<Vec<u8>>,
    refused_batches: u32,
    pub unanswered: Arc<UnansweredCalls>,
}

impl HttpWire {
    pub(crate) fn new(address: Address, compression: Compression, bulk: bool, tls: TlsConfig) -> HttpWire {
        HttpWire {
            address,
            compression,
            bulk,
            tls,
            client: None,
            last_status: None,
            accepted: None,
            refused_batches: 0,
            unanswered: Arc::default(),
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.client.is_some()
    }

    pub(crate) fn disconnect(&mut self) {
        self.client = None;
    }

    /// Builds the client, which opens connections as it needs them.
    pub(crate) fn connect(&mut self) -> SinkResult<()> {
        if self.client.is_some() {
            return Ok(());
        }
        let tls = self.tls.client_where(self.address.scheme == Scheme::Https)?;
        let client = Client::builder()
            .tls_backend_preconfigured((*tls).clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build();
        self.client = Some(client.map_err(|_| SinkError::misconfigured(NO_CLIENT))?);
        Ok(())
    }

    pub(crate) async fn send(&mut self, frames: &Frames) -> SinkResult<Vec<Refused>> {
        // The ranges that are to be sent, the next one last: one request each.
        let ranges = match self.bulk {
            true => std::iter::once(0..frames.count()).collect(),
            false => (0..frames.count()).rev().map(|frame| frame..frame + 1).collect(),
        };
        let mut refused = send_parts(&mut Posts { wire: self, frames }, ranges).await?;
        refused.sort_by_key(|refused| refused.frame);
        Ok(refused)
    }

    pub(crate) fn read_bytes_max(&self) -> usize {
        if self.bulk { READ_BYTES_MAX } else { SINGLE_READ_BYTES_MAX }
    }

    async fn post_with_retry(&mut self, body: &[u8]) -> SinkResult<()> {
        let mut attempt = 1;
        loop {
            let started = Instant::now();
            match self.post_once(body).await {
                Err(error)
                    if error.class == ErrorClass::Retry
                        && attempt < ATTEMPTS_MAX
                        && started.elapsed() < QUICK_FAILURE =>
                {
                    tokio::time::sleep(ATTEMPT_WAIT * attempt).await;
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    async fn post_once(&mut self, body: &[u8]) -> SinkResult<()> {
        let shown = &self.address;
        let Some(client) = &self.client else {
            return Err(SinkError::retry(format!("not connected to {shown}")));
        };
        let mut request = client.post(self.address.url()).header("content-type", "application/json");
        if self.compression != Compression::None {
            request = request.header("content-encoding", "gzip");
        }
        let unanswered = self.unanswered.begin();
        let answer = request.body(compress(body, self.compression)).send().await;
        let answer = answer.map_err(|error| unreachable(shown, &error))?;
        let status = answer.status();
        self.last_status = Some(status);
        if status.is_success() {
            return Ok(());
        }
        let location = answer.headers().get("location").and_then(|to| to.to_str().ok()).map(|to| format!(" to {to}"));
        let text = quoted(&answer.text().await.unwrap_or_default(), ANSWER_CHARS_MAX);
        drop(unanswered);
        let remedy = status_remedy(status, &shown.to_string());
        let location = location.filter(|_| status.is_redirection()).unwrap_or_default();
        let said = if text.is_empty() { String::new() } else { format!(": {text}") };
        let message = format!("{shown} answered {}{location}{said}{remedy}", status_name(status));
        Err(SinkError { class: classify_status(status), message })
    }

    /// The status of the latest answer.
    pub(crate) fn last_status(&self) -> Option<StatusCode> {
        self.last_status
    }
}

/// The requests of one batch.
struct Posts<'w> {
    wire: &'w mut HttpWire,
    frames: &'w Frames,
}

impl Parts for Posts<'_> {
    type Refusal = Refused;

    async fn send(&mut self, range: Range<usize>) -> SinkResult<Vec<Refused>> {
        self.wire.post_with_retry(self.frames.slice(range.clone())).await?;
        let last = self.frames.slice(range.end.saturating_sub(1)..range.end);
        if last.len() <= ACCEPTED_BYTES_MAX {
            let kept = self.wire.accepted.get_or_insert_default();
            kept.clear();
            kept.extend_from_slice(last);
        }
        Ok(Vec::new())
    }

    async fn send_accepted_again(&mut self) -> SinkResult<Option<bool>> {
        let Some(accepted) = self.wire.accepted.take() else { return Ok(None) };
        let sent = self.wire.post_with_retry(&accepted).await;
        self.wire.accepted = Some(accepted);
        match sent {
            Ok(()) => Ok(Some(true)),
            Err(error) if error.class == ErrorClass::Permanent => Ok(Some(false)),
            Err(error) => Err(error),
        }
    }

    fn refusal(&self, record: usize, message: String) -> Option<Refused> {
        Some(Refused { frame: record, message })
    }

    fn refuses_all(&self, message: String) -> String {
        match self.wire.last_status {
            // The size of a record is the reason, not the address.
            Some(StatusCode::PAYLOAD_TOO_LARGE) => message,
            _ => format!("{message}; {REFUSES_ALL}"),
        }
    }

    fn refused_batches(&mut self) -> &mut u32 {
        &mut self.wire.refused_batches
    }
}

/// Classifies the server's answer. Only an error of the message itself is permanent.
fn classify_status(status: StatusCode) -> ErrorClass {
    match status {
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            ErrorClass::Permanent
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::CONFLICT | StatusCode::TOO_EARLY => {
            ErrorClass::Retry
        }
        status if status.is_server_error() => ErrorClass::Retry,
        _ => ErrorClass::Misconfigured,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_error_of_the_message_is_permanent() {
        for (status, class) in [
            (400, ErrorClass::Permanent),
            (413, ErrorClass::Permanent),
            (401, ErrorClass::Misconfigured),
            (404, ErrorClass::Misconfigured),
            (301, ErrorClass::Misconfigured),
            (408, ErrorClass::Retry),
            (429, ErrorClass::Retry),
            (500, ErrorClass::Retry),
            (503, ErrorClass::Retry),
        ] {
            assert_eq!(classify_status(StatusCode::from_u16(status).expect("status")), class, "{status}");
        }
    }
}
