//! The console's router behind the function URL. The URL has taken the caller's signature (AWS_IAM) before anything gets
//! here; the router's own token is one that nobody knows but this process, and is given to requests that AWS vouches for.
//! A request that does not say who signed it is refused by the router.

use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::AUTHORIZATION;
use axum::middleware::{self, Next};
use console::{Console, LogOutput, LogQuery, Logs, Sinks};
use domain::ports::Ports;
use domain::run::Run;
use jiff::Timestamp;
use lambda_http::request::RequestContext;
use serde_json::Value;

/// All routes, for requests of a function URL.
///
/// # Errors
/// No randomness is to be had.
pub fn router(ports: Ports) -> Result<Router, getrandom::Error> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?;
    let token: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let bearer = HeaderValue::try_from(format!("Bearer {token}")).unwrap_or(HeaderValue::from_static(""));
    let console = Console {
        ports,
        logs: Arc::new(NoLocalOutput),
        sinks: Arc::new(NoLocalOutput),
        token: token.into(),
        clock: Arc::new(Timestamp::now),
        random: Arc::new(random_bytes),
        // The scheduler looks every minute.
        nudge: Arc::new(|| {}),
    };
    Ok(console::router(console)
        .layer(middleware::from_fn(move |request, next| authorize(bearer.clone(), request, next))))
}

/// Replaces whatever the caller sent as `Authorization`, so that only AWS's word counts.
async fn authorize(bearer: HeaderValue, mut request: Request, next: Next) -> axum::response::Response {
    let is_signed = matches!(
        request.extensions().get::<RequestContext>(),
        Some(RequestContext::ApiGatewayV2(context))
            if context.authorizer.as_ref().is_some_and(|authorizer| authorizer.iam.is_some())
    );
    request.headers_mut().remove(AUTHORIZATION);
    if is_signed {
        request.headers_mut().insert(AUTHORIZATION, bearer);
    }
    next.run(request).await
}

/// Six bytes that name a run which nobody scheduled.
fn random_bytes() -> [u8; 6] {
    let mut bytes = [0; 6];
    if let Err(why) = getrandom::fill(&mut bytes) {
        // The clock's nanoseconds still tell runs apart; the store refuses a name that is taken.
        tracing::warn!(%why, "no random bytes");
        bytes.copy_from_slice(&Timestamp::now().as_nanosecond().to_le_bytes()[..6]);
    }
    bytes
}

/// Output and sinks are the runners'; what they shipped is read where it went.
struct NoLocalOutput;

#[async_trait]
impl Logs for NoLocalOutput {
    async fn read(&self, _: &Run, _: LogQuery) -> Result<Option<LogOutput>, String> {
        Ok(None)
    }
}

#[async_trait]
impl Sinks for NoLocalOutput {
    async fn status(&self) -> Vec<Value> {
        Vec::new()
    }
}
