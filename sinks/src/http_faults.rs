//! Errors of HTTP calls and bad answers in plain words, with the remedy. Used by GELF over HTTP and by CloudWatch Logs.

use std::fmt::Display;
use std::io::{self, ErrorKind};

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
    let shown = shown.to_string();
    if let Some(proxy) = proxy_of(&shown).filter(|_| error.is_connect()) {
        return proxy_fault(&shown, &proxy, error);
    }
    if let Some(hyper) = causes(error).find_map(|cause| cause.downcast_ref::<hyper::Error>()) {
        // The error for an answer before the request has no predicate.
        if hyper.is_parse() || hyper.to_string().contains("unexpected message") {
            let scheme = if shown.starts_with("https://") { "http://" } else { "https:// when it speaks TLS" };
            return SinkError::misconfigured(format!(
                "{shown}: this port does not speak HTTP/1.1; use the port that does, or begin the address with {scheme}"
            ));
        }
        if hyper.is_incomplete_message() || hyper.is_canceled() || hyper.is_closed() {
            return SinkError::retry(format!(
                "{shown} ended the connection without an answer; does that port speak HTTP?"
            ));
        }
    }
    SinkError::retry(format!("cannot reach {shown}: {}", call_words(error)))
}

fn proxy_fault(shown: &str, proxy: &Proxy, error: &reqwest::Error) -> SinkError {
    let Proxy { variable, address } = proxy;
    let host = shown.split("://").nth(1).unwrap_or_default().split(['/', ':']).next().unwrap_or_default();
    // The type of these errors is private.
    let library = causes(error).map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let needs_password = library.contains("authorization") || library.contains("authentication");
    let words = match () {
        () if needs_password => "it requires a user and a password".to_owned(),
        () if library.contains("unsuccessful") => "it does not permit a connection to that host".to_owned(),
        () if library.contains("headers too long") || library.contains("unexpected end of file") => {
            "it does not answer as an HTTP proxy does".to_owned()
        }
        () => call_words(error).split("; ").next().unwrap_or_default().to_owned(),
    };
    if needs_password {
        return SinkError::misconfigured(format!(
            "cannot reach {shown} through the proxy {address}: {words}; write http://USER:PASSWORD@HOST:PORT into \
             {variable}"
        ));
    }
    SinkError::retry(format!(
        "cannot reach {shown} through the proxy {address}: {words}; correct or unset {variable}, or add {host} to NO_PROXY"
    ))
}

/// The errors from the outermost to the innermost.
fn causes<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// What happened to a call, and the remedy. Texts of the HTTP library are written for programmers, and may contain the
/// URL with its password.
fn call_words(error: &reqwest::Error) -> String {
    if error.is_timeout() && error.is_connect() {
        let seconds = CONNECT_TIMEOUT.as_secs();
        return format!(
            "no connection within {seconds} s; is that machine running, and is the protocol of the port right?"
        );
    }
    if error.is_timeout() {
        return format!("no answer within {} s; is the server overloaded or stopped?", REQUEST_TIMEOUT.as_secs());
    }
    if let Some(system) = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).last() {
        return match system.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::InvalidData | ErrorKind::WriteZero => {
                "the connection ended in the middle of a message; the log of the server may have the reason".to_owned()
            }
            _ => network_words(system),
        };
    }
    match error.is_connect() {
        // Errors of the resolver are no errors of the system.
        true => network_words(&io::Error::other(causes(error).last().map(ToString::to_string).unwrap_or_default())),
        false => "the request or its answer was cut short; the log of the server may have the reason".to_owned(),
    }
}

/// `413 Payload Too Large`, or the number alone.
pub(crate) fn status_name(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

/// The text of an answer in one line; empty for a page for browsers, which repeats the status.
pub(crate) fn quoted(text: &str, chars_max: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.starts_with('<') {
        String::new()
    } else {
        line.chars().filter(|c| !c.is_control()).take(chars_max).collect()
    }
}

/// What an operator does about an answer; empty when the server's own text has to do.
pub(crate) fn status_remedy(status: StatusCode, url: &str) -> String {
    let proxy = proxy_of(url).map_or_else(String::new, |Proxy { variable, address }| {
        format!(" (through the proxy {address} of {variable})")
    });
    let remedy = match status.as_u16() {
        401 | 403 => "; correct the user and password in the address, or the rights of that user",
        404 | 405 | 410 => "; correct the path in the address (Graylog: /gelf)",
        300..=399 => "; the server wants another address: write that one",
        407 => "; write USER:PASSWORD@ into the variable of the proxy",
        411 | 415 => "; remove `compression`, or allow it on the server",
        413 => {
            "; raise the limit of the server, or of a proxy in front of it (nginx: client_max_body_size), or lower \
             `max_line` here (with `bulk`: `batch.max_bytes`)"
        }
        426 => "; begin the address with https://",
        429 | 503 => "; the server is overloaded, the lines wait",
        502 | 504 => "; a proxy in front of the server does not reach it, the lines wait",
        408 => "; the request took too long, the lines wait",
        // The sink adds what it knows: one record or all.
        400 | 422 => "",
        500..=599 => "; the log of the server has the reason, the lines wait",
        _ => "; no receiver of GELF answers so: correct the address, or read the log of the server",
    };
    format!("{proxy}{remedy}")
}
