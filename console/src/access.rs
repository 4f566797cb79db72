//! Checks the bearer token of every request. There is one token, and it permits everything.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;

use crate::fault::ApiFault;

pub(crate) async fn check(State(token): State<Arc<str>>, request: Request, next: Next) -> Result<Response, ApiFault> {
    let given = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
    let given = given.strip_prefix(b"Bearer ").unwrap_or_default();
    if !is_equal(given, token.as_bytes()) {
        return Err(ApiFault::unauthorized());
    }
    Ok(next.run(request).await)
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
