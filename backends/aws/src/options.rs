//! Which installation, where it is, and as whom it is called.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};

use crate::names::{Names, PREFIX_DEFAULT};

/// One call, from the first byte sent to the last one of its answer. Ours: DynamoDB, SNS and SQS answer within
/// milliseconds; three seconds are an outage.
pub const CALL_TIMEOUT_DEFAULT: Duration = Duration::from_secs(3);

/// What finding credentials may take beyond it.
const CREDENTIALS_EXTRA_TIMEOUT: Duration = Duration::from_secs(7);

/// What an assumed role's session is called in CloudTrail.
const ROLE_SESSION_NAME: &str = "sexton";

/// Runs and settled alerts are kept as long as an error budget is looked back on.
pub const RETENTION_DEFAULT: Duration = Duration::from_secs(90 * 86_400);

/// What [`crate::connect`] needs to know. What is absent is found as every AWS program finds it: environment, profile,
/// instance metadata.
#[derive(Clone, Debug)]
pub struct Options {
    /// What all names of the installation begin with.
    pub prefix: String,
    pub region: Option<String>,
    pub profile: Option<String>,
    /// A URL that is asked instead of AWS, for all services: an emulator, or a VPC endpoint that serves them.
    pub endpoint: Option<String>,
    /// A role to assume.
    pub role_arn: Option<String>,
    pub external_id: Option<String>,
    /// An access key of the caller's own; only for emulators and tests.
    pub access_key: Option<AccessKey>,
    /// Shards of the due index that this process wants from now on; `None`: as they are. One takes 1000 firings a second.
    pub shards: Option<u32>,
    /// How long runs and settled alerts are kept.
    pub retention: Duration,
    /// A call that has no answer by then is given up, and may have worked. Waiting for messages comes on top.
    pub call_timeout: Duration,
}

/// A key of an emulator. Its secret is no secret.
#[derive(Clone, Debug)]
pub struct AccessKey {
    pub id: String,
    pub secret: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            prefix: PREFIX_DEFAULT.to_owned(),
            region: None,
            profile: None,
            endpoint: None,
            role_arn: None,
            external_id: None,
            access_key: None,
            shards: None,
            retention: RETENTION_DEFAULT,
            call_timeout: CALL_TIMEOUT_DEFAULT,
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "the prefix `{0}` cannot begin the name of a table and of a queue; use up to 30 letters, digits, `-` and `_`"
    )]
    Prefix(String),
    #[error("no AWS region is chosen; set `region` in [aws], AWS_REGION, or a region in the profile")]
    NoRegion,
    #[error("{0} shards of the due index are not between 1 and {most}", most = crate::due::SHARDS_MAX)]
    Shards(u32),
    #[error(transparent)]
    Port(#[from] domain::ports::PortError),
}

/// Longest prefix: leaves 37 characters for a group in `PREFIX-orders-GROUP-dead`.
const PREFIX_MAX: usize = 30;

impl Options {
    /// The names of this installation.
    ///
    /// # Errors
    /// That the prefix cannot be part of them.
    pub fn names(&self) -> Result<Names, ConnectError> {
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if self.prefix.is_empty() || self.prefix.len() > PREFIX_MAX || !self.prefix.bytes().all(is_legal) {
            return Err(ConnectError::Prefix(self.prefix.clone()));
        }
        Ok(Names::new(&self.prefix))
    }

    /// What the SDK's clients are made from. Nothing is called twice: each duty is repeated as a whole.
    ///
    /// # Errors
    /// That no region is chosen.
    pub async fn sdk_config(&self) -> Result<SdkConfig, ConnectError> {
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(self.call_timeout)
            .operation_timeout(self.call_timeout + CREDENTIALS_EXTRA_TIMEOUT);
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts.build());
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(profile) = &self.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(endpoint) = &self.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some(key) = &self.access_key {
            loader = loader.credentials_provider(Credentials::new(&key.id, &key.secret, None, None, "options"));
        }
        let config = loader.load().await;
        if config.region().is_none() {
            return Err(ConnectError::NoRegion);
        }
        let Some(role_arn) = &self.role_arn else { return Ok(config) };
        let mut role =
            aws_config::sts::AssumeRoleProvider::builder(role_arn).session_name(ROLE_SESSION_NAME).configure(&config);
        if let Some(id) = &self.external_id {
            role = role.external_id(id);
        }
        let role = SharedCredentialsProvider::new(role.build().await);
        Ok(config.into_builder().credentials_provider(role).build())
    }
}
