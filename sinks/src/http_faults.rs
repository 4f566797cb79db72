//! Errors of HTTP calls and bad answers in plain words, with the remedy. Used by GELF over HTTP and by CloudWatch Logs.

use std::fmt::Display;
use std::io;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::StatusCode;

use crate::error::{SinkError, network_words};
use crate::http::REQUEST_TIMEOUT;
use crate::stream::CONNECT_TIMEOUT;
use crate::tls_faults::tls_fault;

/// A proxy of the environment, and the variable that names it.
struct Proxy {
    variable: &'static str,
    address: String,
}

/// The proxy through which a URL is called. The same rules as the HTTP client's.
fn proxy_of(url: &str) -> Option<Proxy> {
    let intercept = Matcher::from_env().intercept(&url.parse().ok()?)?;
    let names = match url.starts_with("https://") {
        true => ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
        false => ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
    };
    let variable = names.into_iter().find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))?;
    // Without a password.
    let uri = intercept.uri();
    let port = uri.port().map_or_else(String::new, |port| format!(":{port}"));
    let address = format!("{}://{}{port}", uri.scheme_str().unwrap_or("http"), uri.host().unwrap_or_default());
    Some(Proxy { variable, address })
}

/// No connection, no answer, or a certificate that is not trusted. `shown` is the URL without a password.
pub(crate) fn unreachable(shown: impl Display, error: &reqwest::Error) -> SinkError {
    if let Some(fault) = tls_fault(&shown, error) {
        return fault;
    }
    let cause = root_cause(error);
    let is_https = shown.to_string().starts_with("https://");
    if let Some(proxy) = proxy_of(&shown.to_string()).filter(|_| error.is_connect()) {
        let Proxy { variable, address } = proxy;
        let host = shown.to_string();
        let host = host.split("://").nth(1).unwrap_or_default().split(['/', ':']).next().unwrap_or_default().to_owned();
        let message = format!(
            "cannot reach {shown} through the proxy {address}: {}; correct or unset {variable}, or add {host} to NO_PROXY",
            cause.split("; ").next().unwrap_or_default()
        );
        return match cause.contains("authorization") || cause.contains("authentication") {
            true => SinkError::misconfigured(message),
            false => SinkError::retry(message),
        };
    }
    if ["invalid HTTP", "unexpected message", "HTTP/2"].iter().any(|known| cause.contains(known)) {
        let other = if is_https { "http://" } else { "https:// when it speaks TLS" };
        return SinkError::misconfigured(format!(
            "{shown}: this port does not speak HTTP (its answer: {cause}); use the port that does, or begin the address \
             with {other}"
        ));
    }
    if cause.contains("connection closed before message completed") {
        return SinkError::retry(format!("{shown} ended the connection without an answer; does that port speak HTTP?"));
    }
    SinkError::retry(format!("cannot reach {shown}: {cause}"))
}

/// The innermost cause: the outer ones repeat the URL, which may contain a password.
pub(crate) fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() && error.is_connect() {
        let seconds = CONNECT_TIMEOUT.as_secs();
        return format!(
            "no connection within {seconds} s; is that machine running, and is the protocol of the port right?"
        );
    }
    if error.is_timeout() {
        return format!("no answer within {} s; is the server overloaded or stopped?", REQUEST_TIMEOUT.as_secs());
    }
    let mut cause: &(dyn std::error::Error + 'static) = error;
    loop {
        if let Some(error) = cause.downcast_ref::<io::Error>()
            && error.raw_os_error().is_some()
        {
            return network_words(error);
        }
        match cause.source() {
            Some(inner) => cause = inner,
            None => return network_words(&io::Error::other(cause.to_string())),
        }
    }
}

/// What an operator does about an answer; empty when the server's own text has to do.
pub(crate) fn status_remedy(status: StatusCode, url: &str) -> String {
    let proxy = proxy_of(url).map_or_else(String::new, |Proxy { variable, address }| {
        format!(" (through the proxy {address} of {variable})")
    });
    let remedy = match status.as_u16() {
        401 | 403 => "; correct the user and password in the address, or the rights of that user",
        404 | 405 => "; correct the path in the address (Graylog: /gelf)",
        300..=399 => "; the server wants another address: write that one",
        407 => "; write USER:PASSWORD@ into the variable of the proxy",
        411 | 415 => "; remove `compression`, or allow it on the server",
        413 => "; lower `max_line`, or `batch.max_bytes` with `bulk`",
        426 => "; begin the address with https://",
        429 | 503 => "; the server is overloaded, the lines wait",
        502 | 504 => "; a proxy in front of the server does not reach it, the lines wait",
        _ => "",
    };
    format!("{proxy}{remedy}")
}
