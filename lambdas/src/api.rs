//! Serves the router of `console` behind the function URL. AWS checks the caller's signature (AWS_IAM) before it
//! invokes the Lambda. The router's token is a random one that only this process knows: it is added to requests with a
//! signer, and the router refuses all others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use aws::Aws;
use axum::Router;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::AUTHORIZATION;
use axum::middleware::{self, Next};
use console::{ChannelNames, Console, LogOutput, LogQuery, Logs, Peer, Sinks};
use domain::run::Run;
use jiff::Timestamp;
use lambda_http::request::RequestContext;
use serde_json::Value;

/// Returns all routes, for requests of a function URL.
///
/// # Errors
/// Returns an error if the system has no random bytes for the token.
pub fn router(aws: Aws) -> Result<Router, getrandom::Error> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?;
    let token: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let bearer = HeaderValue::try_from(format!("Bearer {token}")).unwrap_or(HeaderValue::from_static(""));
    let console = Console {
        ports: aws.ports.clone(),
        logs: Arc::new(NoLocalOutput),
        sinks: Arc::new(NoLocalOutput),
        sources: Arc::new(Vec::new),
        health: Arc::new(()),
        token: token.into(),
        clock: Arc::new(Timestamp::now),
        random: Arc::new(random_bytes),
        // Rule packs are those of the runners.
        check_job: Arc::new(|_| Vec::new()),
        choose_packs: Arc::new(|job| {
            let chosen = rules::choose_packs(&rules::Packs::builtin(), &job.rules, &job.command);
            let reasons = chosen.names.into_iter().zip(chosen.reasons);
            reasons.map(|(pack, reason)| console::PackReason { pack, reason }).collect()
        }),
        channels: Arc::new(Topics(aws)),
        // The scheduler ticks every minute and needs no wake-up.
        nudge: Arc::new(|| {}),
        stop_now: Arc::new(|_, _| {}),
    };
    Ok(console::router(console)
        .layer(middleware::from_fn(move |request, next| authorize(bearer.clone(), request, next))))
}

/// Replaces the caller's `Authorization` header, so that only the signature that AWS checked counts.
async fn authorize(bearer: HeaderValue, mut request: Request, next: Next) -> axum::response::Response {
    let context = match request.extensions().get::<RequestContext>() {
        Some(RequestContext::ApiGatewayV2(context)) => Some(context),
        _ => None,
    };
    let is_signed =
        context.is_some_and(|context| context.authorizer.as_ref().is_some_and(|authorizer| authorizer.iam.is_some()));
    let address = context.and_then(|context| context.http.source_ip.as_ref()?.parse().ok());
    if let Some(address) = address {
        request.extensions_mut().insert(Peer::new(address));
    }
    request.headers_mut().remove(AUTHORIZATION);
    if is_signed {
        request.headers_mut().insert(AUTHORIZATION, bearer);
    }
    next.run(request).await
}

/// Returns six random bytes for the id of a run without a schedule.
fn random_bytes() -> [u8; 6] {
    let mut bytes = [0; 6];
    if let Err(why) = getrandom::fill(&mut bytes) {
        // The nanoseconds of the clock still differ between runs, and the store refuses an id that exists.
        tracing::warn!(%why, "no random bytes; using the clock for a run id");
        bytes.copy_from_slice(&Timestamp::now().as_nanosecond().to_le_bytes()[..6]);
    }
    bytes
}

/// The alert channels: topics of the installation.
struct Topics(Aws);

#[async_trait]
impl ChannelNames for Topics {
    async fn unknown(&self, names: &BTreeSet<String>) -> BTreeMap<String, String> {
        self.0.unknown_channels(names).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the alert channels of a job are not checked");
            BTreeMap::new()
        })
    }
}

/// Output and sinks are on the runners. Shipped output is read from its sink.
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
