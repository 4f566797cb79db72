//! Prefix, region and credentials of an installation.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};

use crate::names::{Names, PREFIX_DEFAULT};
use crate::retry::Retries;

/// Timeout of one call, from the first byte sent to the last byte received. Chosen: DynamoDB, SNS and SQS answer within
/// milliseconds, so 3 s without an answer are an outage.
pub const CALL_TIMEOUT_DEFAULT: Duration = Duration::from_secs(3);

/// Added to the timeout of a call for finding credentials. Chosen, not measured.
const CREDENTIALS_EXTRA_TIMEOUT: Duration = Duration::from_secs(7);

/// Session name of an assumed role, visible in CloudTrail.
const ROLE_SESSION_NAME: &str = "sexton";

/// Retention of runs and settled alerts: 90 days. Chosen: error budgets cover at most a quarter.
pub const RETENTION_DEFAULT: Duration = Duration::from_secs(90 * 86_400);

/// Input of [`crate::connect`]. Absent values are found as every AWS program finds them: environment, profile, instance
/// metadata.
#[derive(Clone, Debug)]
pub struct Options {
    /// Start of all names of the installation: 1 to 30 letters, digits, `-` and `_`.
    pub prefix: String,
    /// AWS region, such as `eu-west-1`.
    pub region: Option<String>,
    /// Profile of the AWS configuration files.
    pub profile: Option<String>,
    /// URL that replaces the endpoints of all services: an emulator, or a VPC endpoint for all of them.
    pub endpoint: Option<String>,
    /// ARN of a role to assume.
    pub role_arn: Option<String>,
    /// External id that the assumed role requires.
    pub external_id: Option<String>,
    /// Access key that replaces the default credentials; only for emulators and tests.
    pub access_key: Option<AccessKey>,
    /// Number of shards of the due index, stored when the process connects; `None` keeps the stored number. One shard
    /// takes 1000 firings a second. Range: 1 to [`crate::SHARDS_MAX`].
    pub shards: Option<u32>,
    /// Whether orders are sent unsigned while there is no signing key. Stored when the process connects, for all that
    /// send orders; `None` follows what is stored.
    pub unsigned: Option<bool>,
    /// Age at which DynamoDB expires runs and settled alerts.
    pub retention: Duration,
    /// Timeout of one call, which may have worked although no answer came. The wait of a receive is added to it.
    pub call_timeout: Duration,
    /// How failed calls are repeated. Clones of the options share it.
    pub retries: Retries,
}

/// Access key of an emulator, which accepts any secret.
#[derive(Clone, Debug)]
pub struct AccessKey {
    /// Access key id; emulators read it as the account.
    pub id: String,
    /// Secret access key.
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
            unsigned: None,
            retention: RETENTION_DEFAULT,
            call_timeout: CALL_TIMEOUT_DEFAULT,
            retries: Retries::default(),
        }
    }
}

/// Reasons why an installation cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The prefix is empty, too long, or has a character that a queue's name cannot have.
    #[error(
        "the prefix `{0}` cannot begin the name of a table and of a queue; use up to 30 letters, digits, `-` and `_`"
    )]
    Prefix(String),
    /// Neither options, environment nor profile name a region.
    #[error("no AWS region is chosen; set `region` in [aws], AWS_REGION, or a region in the profile")]
    NoRegion,
    /// The number of shards is out of range.
    #[error("{0} shards of the due index are not between 1 and {most}", most = crate::due::SHARDS_MAX)]
    Shards(u32),
    /// The number of shards, or the choice about unsigned orders, could not be read or stored.
    #[error(transparent)]
    Port(#[from] domain::ports::PortError),
}

/// Characters of the longest prefix. Chosen: leaves 37 of a queue's 80 for a group in `PREFIX-orders-GROUP-dead`.
const PREFIX_MAX: usize = 30;

impl Options {
    /// Returns the names of this installation.
    ///
    /// # Errors
    /// Returns [`ConnectError::Prefix`] if the prefix cannot be part of a name.
    pub fn names(&self) -> Result<Names, ConnectError> {
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if self.prefix.is_empty() || self.prefix.len() > PREFIX_MAX || !self.prefix.bytes().all(is_legal) {
            return Err(ConnectError::Prefix(self.prefix.clone()));
        }
        Ok(Names::new(&self.prefix))
    }

    /// Builds the configuration of the SDK's clients. The SDK retries no call:
    /// [`Retries`] does.
    ///
    /// # Errors
    /// Returns [`ConnectError::NoRegion`] if no region is configured.
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
