//! Calls to CloudWatch Logs: finds credentials, region and endpoint like the AWS SDKs, signs with SigV4, and sends
//! once. Never retries: that is the engine's decision.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_types::service_config::ServiceConfigKey;
use bytes::Bytes;
use jiff::Timestamp;
use reqwest::StatusCode;
use tokio::sync::Mutex;

use crate::cloudwatch_logs::answer::{CallFailure, FailureCause, parse_failure};
use crate::cloudwatch_logs::endpoint::regional_endpoint;
use crate::cloudwatch_logs::options::Access;
use crate::error::{SinkError, SinkResult};
use crate::http::NO_CLIENT;
use crate::http_faults::unreachable;
use crate::stream::CONNECT_TIMEOUT;
use crate::unanswered::UnansweredCalls;

const SERVICE: &str = "logs";
const TARGET_PREFIX: &str = "Logs_20140328.";
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
/// From the first byte sent to the last byte of the answer. Chosen: the service answers within seconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Limit for finding credentials, which may query files, a process, STS and the instance's metadata service in turn.
/// Chosen, not measured.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(30);
/// Credentials are renewed this long before they expire. Chosen: longer than a call may take.
const RENEW_BEFORE: Duration = Duration::from_secs(120);
/// Name of the role's session in CloudTrail.
const ROLE_SESSION: &str = "sexton";

pub(super) struct Client {
    http: reqwest::Client,
    pub endpoint: String,
    pub region: String,
    access: Access,
    /// `None`: to be found again at the next call.
    identity: Mutex<Option<Identity>>,
    now: fn() -> Timestamp,
    unanswered: Arc<UnansweredCalls>,
}

/// Credentials and their provider. A provider reads its files once.
struct Identity {
    provider: SharedCredentialsProvider,
    credentials: Option<Credentials>,
}

impl Client {
    /// Finds region, endpoint and provider; requests no credentials yet.
    ///
    /// # Errors
    /// Misconfigured, when there is no region or the TLS settings are not usable.
    pub(super) async fn new(
        access: &Access,
        now: fn() -> Timestamp,
        unanswered: Arc<UnansweredCalls>,
    ) -> SinkResult<Client> {
        let sdk = load_sdk_config(access).await;
        let region = sdk.region().map(ToString::to_string);
        let region =
            region.ok_or_else(|| SinkError::misconfigured("no AWS region is known; set region or AWS_REGION"))?;
        let endpoint = access.endpoint.clone().or_else(|| configured_endpoint(&sdk));
        let (use_fips, use_dual_stack) = (sdk.use_fips().unwrap_or(false), sdk.use_dual_stack().unwrap_or(false));
        let endpoint = endpoint.unwrap_or_else(|| regional_endpoint(&region, use_fips, use_dual_stack));
        let tls = access.tls.client_where(!endpoint.starts_with("http://"))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured((*tls).clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|_| SinkError::misconfigured(NO_CLIENT))?;
        let identity = Mutex::new(Some(Identity::find(access, &sdk).await?));
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Ok(Client { http, endpoint, region, access: access.clone(), identity, now, unanswered })
    }

    /// Calls an action with a JSON body; returns the answer's body.
    ///
    /// # Errors
    /// The service's error, or that there was no answer.
    pub(super) async fn call(&self, action: &str, body: Bytes) -> Result<Bytes, CallFailure> {
        let _unanswered = self.unanswered.begin();
        let credentials = self.credentials().await?;
        let target = format!("{TARGET_PREFIX}{action}");
        let url = format!("{}/", self.endpoint);
        let mut request = self.http.post(&url).header("content-type", CONTENT_TYPE).header("x-amz-target", &target);
        for (name, value) in self.signature(&url, &target, &body, credentials.clone())? {
            request = request.header(name, value);
        }
        let unreachable = |error: reqwest::Error| CallFailure::from(unreachable(&self.endpoint, &error));
        let answer = request.body(body).send().await.map_err(unreachable)?;
        let status = answer.status();
        let kind = answer.headers().get("x-amzn-errortype").and_then(|kind| kind.to_str().ok()).map(str::to_owned);
        let text = answer.bytes().await.map_err(unreachable)?;
        if status == StatusCode::OK {
            return Ok(text);
        }
        let failure = parse_failure(action, status.as_u16(), kind.as_deref(), &text);
        if failure.cause == FailureCause::Credentials {
            self.discard(&credentials).await;
        }
        Err(failure)
    }

    fn signature(
        &self,
        url: &str,
        target: &str,
        body: &[u8],
        credentials: Credentials,
    ) -> SinkResult<Vec<(&'static str, String)>> {
        let unsigned =
            |message: String| SinkError::misconfigured(format!("cannot sign for {}: {message}", self.endpoint));
        let identity = credentials.into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(SERVICE)
            .time(SystemTime::from((self.now)()))
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| unsigned(error.to_string()))?
            .into();
        let headers = [("content-type", CONTENT_TYPE), ("x-amz-target", target)];
        let request = SignableRequest::new("POST", url, headers.into_iter(), SignableBody::Bytes(body));
        let request = request.map_err(|error| unsigned(error.to_string()))?;
        let signed = sign(request, &parameters).map_err(|error| unsigned(error.to_string()))?;
        let (headers, _) = signed.into_parts().0.into_parts();
        Ok(headers.into_iter().map(|header| (header.name(), header.value().to_owned())).collect())
    }

    /// Cached until [`RENEW_BEFORE`] before they expire. Concurrent calls find them once.
    async fn credentials(&self) -> SinkResult<Credentials> {
        let mut identity = self.identity.lock().await;
        let identity = match &mut *identity {
            Some(identity) => identity,
            none => none.insert(Identity::find(&self.access, &load_sdk_config(&self.access).await).await?),
        };
        let renew_at = SystemTime::from((self.now)()) + RENEW_BEFORE;
        if let Some(credentials) = &identity.credentials
            && credentials.expiry().is_none_or(|expiry| expiry > renew_at)
        {
            return Ok(credentials.clone());
        }
        let found = tokio::time::timeout(CREDENTIALS_TIMEOUT, identity.provider.provide_credentials()).await;
        let found = found.map_err(|_| SinkError::retry("finding AWS credentials took longer than 30 s"))?;
        let credentials = found.map_err(|error| credentials_error(&error, &self.access))?;
        identity.credentials = Some(credentials.clone());
        Ok(credentials)
    }

    /// The service rejected these credentials: files and roles may have new ones. Credentials that another call has
    /// found since then stay.
    async fn discard(&self, refused: &Credentials) {
        let mut identity = self.identity.lock().await;
        if identity.as_ref().is_some_and(|identity| identity.credentials.as_ref() == Some(refused)) {
            *identity = None;
        }
    }
}

impl Identity {
    async fn find(access: &Access, sdk: &SdkConfig) -> SinkResult<Identity> {
        let no_provider = || SinkError::misconfigured("no AWS credentials are configured");
        let provider = match &access.role_arn {
            Some(role) => assume_role(role, access, sdk).await,
            None => sdk.credentials_provider().ok_or_else(no_provider)?,
        };
        Ok(Identity { provider, credentials: None })
    }
}

async fn load_sdk_config(access: &Access) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12());
    if let Some(region) = &access.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(profile) = &access.profile {
        loader = loader.profile_name(profile);
    }
    let sdk = loader.load().await;
    match &access.profile {
        Some(profile) => {
            let provider = SharedCredentialsProvider::new(profile_provider(profile, &sdk));
            sdk.into_builder().credentials_provider(provider).build()
        }
        None => sdk,
    }
}

/// The credentials of the profile that the sinks file names, even when the environment has others, like `--profile` of
/// the AWS CLI. The SDK's own chain reads the environment first.
fn profile_provider(profile: &str, sdk: &SdkConfig) -> ProfileFileCredentialsProvider {
    let config = ProviderConfig::without_region()
        .with_region(sdk.region().cloned())
        .with_use_fips(sdk.use_fips())
        .with_use_dual_stack(sdk.use_dual_stack());
    // The values of `credential_source` (AWS SDKs and tools reference, assume role credential provider).
    ProfileFileCredentialsProvider::builder()
        .with_custom_provider("Environment", EnvironmentVariableCredentialsProvider::new())
        .with_custom_provider("Ec2InstanceMetadata", ImdsCredentialsProvider::builder().configure(&config).build())
        .with_custom_provider("EcsContainer", EcsCredentialsProvider::builder().configure(&config).build())
        .configure(&config)
        .profile_name(profile)
        .build()
}

async fn assume_role(role: &str, access: &Access, sdk: &SdkConfig) -> SharedCredentialsProvider {
    let mut role = aws_config::sts::AssumeRoleProvider::builder(role).session_name(ROLE_SESSION).configure(sdk);
    if let Some(id) = &access.external_id {
        role = role.external_id(id);
    }
    SharedCredentialsProvider::new(role.build().await)
}

/// `AWS_ENDPOINT_URL_CLOUDWATCH_LOGS` or `cloudwatch_logs` in the profile's services, then `AWS_ENDPOINT_URL` or the
/// profile's `endpoint_url` (AWS SDKs and tools reference, service-specific endpoints). For the id `CloudWatch Logs`
/// this SDK would read `cloudwatch-logs`, which no other SDK knows.
fn configured_endpoint(sdk: &SdkConfig) -> Option<String> {
    let key = ServiceConfigKey::builder().service_id("cloudwatch_logs").env("AWS_ENDPOINT_URL").profile("endpoint_url");
    let specific = key.build().ok().and_then(|key| sdk.service_config()?.load_config(key));
    specific.or_else(|| sdk.endpoint_url().map(str::to_owned))
}

fn credentials_error(error: &CredentialsError, access: &Access) -> SinkError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let (of, remedy) = match &access.profile {
        Some(profile) => (format!(" of profile {profile}"), "add them to ~/.aws/config or ~/.aws/credentials"),
        None => (String::new(), "set AWS_ACCESS_KEY_ID, a profile, or a role of this machine"),
    };
    let message = format!("no AWS credentials{of}: {cause}");
    match error {
        CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => {
            SinkError::misconfigured(format!("{message}; {remedy}"))
        }
        _ => SinkError::retry(message),
    }
}
