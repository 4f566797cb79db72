//! Sends alerts as JSON to an HTTP address, signed if `secret` is set.
//!
//! The signature is `X-Sexton-Signature: sha256=HEX`: HMAC-SHA256 (RFC 2104) of the body with the secret as key, like
//! GitHub's webhooks.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use aws_lc_rs::hmac;
use domain::alert::Alert;
use domain::document::Section;
use domain::ports::{PortError, PortResult};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use crate::http;
use crate::secret_reference::{read_secret, resolve_reference};

/// The keys `url`, `headers`, `secret` and `timeout`.
pub struct Options {
    url: String,
    headers: BTreeMap<String, String>,
    secret: Option<String>,
    timeout: Duration,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("webhook")
    }
}

impl Options {
    pub(crate) fn read(section: &mut Section) -> Option<Options> {
        let url = crate::read_url(section);
        let line = section.line_of("headers");
        let mut headers = section.map("headers").unwrap_or_default();
        for (name, value) in &mut headers {
            match resolve_reference(value) {
                Ok(resolved) => *value = resolved,
                Err(message) => section.fault(line, name.as_str(), message),
            }
        }
        let secret = read_secret(section, "secret");
        let timeout = section.duration("timeout").unwrap_or(http::TIMEOUT_DEFAULT);
        Some(Options { url: url?, headers, secret, timeout })
    }
}

pub(crate) struct Webhook {
    receiver: http::Receiver,
    headers: HeaderMap,
    key: Option<hmac::Key>,
}

impl Webhook {
    pub(crate) fn new(options: Options) -> Result<Webhook, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in &options.headers {
            let parsed = HeaderName::try_from(name).ok().zip(HeaderValue::try_from(value).ok());
            let (key, value) =
                parsed.ok_or_else(|| format!("the header `{name}` has an invalid name or value; correct it"))?;
            headers.insert(key, value);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(Webhook {
            receiver: http::Receiver::new(&options.url, options.timeout)?,
            headers,
            key: options.secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())),
        })
    }

    pub(crate) async fn send(&self, alert: &Alert) -> PortResult<()> {
        let body = serde_json::to_vec(alert)
            .map_err(|error| PortError::Permanent(format!("cannot write the alert as JSON: {error}")))?;
        let mut request = self.receiver.post()?.headers(self.headers.clone());
        if let Some(key) = &self.key {
            request = request.header("x-sexton-signature", signature(key, &body));
        }
        http::send_request(request.body(body)).await
    }

    pub(crate) async fn probe(&self) -> PortResult<&'static str> {
        self.receiver.probe().await
    }
}

fn signature(key: &hmac::Key, body: &[u8]) -> String {
    let tag = hmac::sign(key, body);
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert_text::tests::failed_alert;
    use crate::http::tests::{next, receiver};

    fn webhook(address: std::net::SocketAddr) -> Webhook {
        let options = Options {
            url: format!("http://{address}/hook"),
            headers: BTreeMap::from([("X-Team".to_owned(), "data".to_owned())]),
            secret: Some("key".to_owned()),
            timeout: Duration::from_secs(30),
        };
        Webhook::new(options).expect("options are good")
    }

    #[test]
    fn the_signature_is_hmac_sha256_of_the_body() {
        // The example of RFC 4231, test case 2.
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"Jefe");
        assert_eq!(
            signature(&key, b"what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[tokio::test]
    async fn the_alert_arrives_as_json_with_headers_and_signature() {
        let (address, received) = receiver(&["204 No Content"]);
        webhook(address).send(&failed_alert()).await.expect("delivered");
        let request = next(&received);
        assert!(request.head.starts_with("POST /hook HTTP/1.1\r\n"), "{}", request.head);
        let head = request.head.to_ascii_lowercase();
        let signed = signature(&hmac::Key::new(hmac::HMAC_SHA256, b"key"), &request.body);
        for line in ["content-type: application/json", "x-team: data", &format!("x-sexton-signature: {signed}")] {
            assert!(head.contains(line), "{line} in {head}");
        }
        let alert: Alert = serde_json::from_slice(&request.body).expect("JSON");
        assert_eq!(alert, failed_alert());
    }

    #[tokio::test]
    async fn a_busy_receiver_is_retried_and_a_refusal_is_not() {
        let retry = ["503 Service Unavailable", "429 Too Many Requests", "408 Request Timeout"];
        for status in retry {
            let (address, _received) = receiver(&[status]);
            let error = webhook(address).send(&failed_alert()).await.expect_err(status);
            assert!(matches!(error, PortError::Retry(_)), "{status}: {error:?}");
        }
        for status in ["400 Bad Request", "404 Not Found", "301 Moved Permanently"] {
            let (address, _received) = receiver(&[status]);
            let error = webhook(address).send(&failed_alert()).await.expect_err(status);
            assert!(matches!(&error, PortError::Permanent(message) if message.contains("busy")), "{status}: {error:?}");
        }
        let (address, received) = receiver(&[]);
        drop(received);
        let error = webhook(address).send(&failed_alert()).await.expect_err("no server");
        assert!(matches!(error, PortError::Retry(_)), "{error:?}");
    }
}
