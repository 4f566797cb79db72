//! Checks the bearer token of every request. There is one token, and it permits everything.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;

use crate::caller::Peer;
use crate::fault::ApiFault;
use crate::wrong_tokens::{ANSWER_DELAY, WrongTokens};

/// The token of a server, and its refused requests.
pub(crate) struct Access {
    token: Arc<str>,
    wrong_tokens: WrongTokens,
}

impl Access {
    pub(crate) fn new(token: Arc<str>) -> Arc<Access> {
        Arc::new(Access { token, wrong_tokens: WrongTokens::default() })
    }
}

/// Refuses a request without a token at once, and one with a wrong token after a delay.
pub(crate) async fn check(
    State(access): State<Arc<Access>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiFault> {
    let given = given_token(request.headers());
    let peer = request.extensions().get::<Peer>();
    if is_equal(given, access.token.as_bytes()) {
        if let Some(peer) = peer {
            peer.accept_token();
        }
        return Ok(next.run(request).await);
    }
    if !given.is_empty() {
        access.wrong_tokens.note(peer.map(Peer::address));
        drop(request);
        tokio::time::sleep(ANSWER_DELAY).await;
    }
    Err(ApiFault::unauthorized())
}

/// Whether the request has the token.
pub(crate) fn has_token(headers: &HeaderMap, token: &str) -> bool {
    is_equal(given_token(headers), token.as_bytes())
}

fn given_token(headers: &HeaderMap) -> &[u8] {
    let given = headers.get(AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
    given.strip_prefix(b"Bearer ").unwrap_or_default()
}

/// Compares in constant time, so that the time of an answer does not show how many leading bytes are correct.
fn is_equal(given: &[u8], token: &[u8]) -> bool {
    let differences = given.iter().zip(token).fold(0, |seen, (one, other)| std::hint::black_box(seen | (one ^ other)));
    !token.is_empty() && given.len() == token.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_right() {
        for (given, right) in [("abc", true), ("abd", false), ("ab", false), ("abcd", false), ("", false)] {
            assert_eq!(is_equal(given.as_bytes(), b"abc"), right, "{given}");
        }
        assert!(!is_equal(b"", b""));
    }
}
