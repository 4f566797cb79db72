//! The ports of `domain` over DynamoDB, SQS and SNS, for installations on AWS. Used by `sexton` and by the Lambdas.
//!
//! | item | purpose |
//! |---|---|
//! | [`connect`], [`connect_with_signing`] | open an installation from its [`Options`] |
//! | [`Aws`] | an open installation: its ports, names and meter |
//! | [`Names`] | the names of tables, queues, topics and parameters, made from the prefix |
//! | [`tables()`] | keys, indexes and expiry of every table, as data |
//! | [`Signer`], [`Verifier`] | sign orders, and check the signature of a received order |
//! | [`AwsSecrets`] | values of secrets from the Parameter Store and Secrets Manager |
//! | [`Topics`] | SNS topics as alert channels |
//! | [`Meter`] | requests and capacity units that the calls of this process cost |
//!
//! This crate calls no service of `services` and decides nothing about runs. It never creates tables, queues or topics
//! of a real installation: the template does.
//!
//! `fault` decides for all AWS services whether a failed call can be retried, and [`Retries`] repeats it.

#![warn(missing_docs)]

mod alerts;
mod buckets;
mod channel_names;
mod check;
mod claims;
mod due;
mod dynamo;
mod emulated;
mod encryption_key;
mod fault;
mod group_secrets;
mod item;
mod job_item;
mod jobs;
mod key_rotation;
mod meter;
mod names;
mod notifier;
mod options;
mod orders;
mod reports;
mod retry;
mod runs;
mod secrets;
mod settings;
mod signature;
mod signing_key;
mod sqs;
mod tables;
mod unsigned_orders;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use domain::ports::{PortError, Ports};
use jiff::Timestamp;

use dynamo::Dynamo;
use sqs::Sqs;

pub use check::{CheckRole, Finding};
pub use claims::CLAIM_ATTRIBUTES;
pub use due::{SHARDS_DEFAULT, SHARDS_MAX};
pub use emulated::install;
pub use fault::is_denied;
pub use group_secrets::{SECRETS_TAG, SecretPaths};
pub use key_rotation::{KeyRotation, OrderKey};
pub use meter::{Meter, Usage};
pub use names::{Names, PREFIX_DEFAULT, check_group};
pub use notifier::{ALERTS_CHANNEL, MESSAGE_BYTES_MAX, PER_SECOND_MAX, TOPIC_TAG, Topics};
pub use options::{AccessKey, CALL_TIMEOUT_DEFAULT, ConnectError, Options, RETENTION_DEFAULT};
pub use orders::{OrderSigning, RefusedOrders};
pub use reports::{SentReport, decode_report};
pub use retry::Retries;
pub use secrets::AwsSecrets;
pub use signature::{Signer, Verifier};
pub use signing_key::{KeyState, SigningKey};
pub use tables::{Index, Projection, Table, tables};

/// An installation on AWS. Cheap to clone.
#[derive(Clone)]
pub struct Aws {
    /// All ports over the tables and queues of this installation.
    pub ports: Ports,
    /// The names of this installation's resources.
    pub names: Names,
    /// Cost of all calls since the start, by kind.
    pub meter: Arc<Meter>,
    /// Counts the orders that were unreadable, expired or not signed correctly.
    pub refused_orders: Arc<RefusedOrders>,
    /// Region, credentials, endpoint and timeouts, from which callers build further AWS clients.
    pub sdk_config: aws_config::SdkConfig,
    /// How failed calls are repeated; holds the deadline of a Lambda.
    pub retries: Retries,
    backend: Backend,
}

impl Aws {
    /// Receives reports with their senders, which the port leaves out.
    ///
    /// # Errors
    /// Returns the errors of [`domain::ports::Reports::receive`].
    pub async fn receive_sent(
        &self,
        most: usize,
        lease: Duration,
        wait: Duration,
    ) -> Result<Vec<SentReport>, PortError> {
        self.backend.receive_sent(most, lease, wait).await
    }

    /// Overwrites many jobs without reading them first: for a migration into empty tables.
    ///
    /// # Errors
    /// Returns the port's error. Some jobs may be stored by then; repeating the call is harmless.
    pub async fn put_jobs(&self, jobs: &[domain::job::Job]) -> Result<(), PortError> {
        self.backend.put_jobs(jobs).await
    }

    /// Sets the number of shards of the due index for all processes, from `at` on.
    ///
    /// # Errors
    /// Returns the port's error.
    pub async fn change_shards(&self, wanted: u32, at: Timestamp) -> Result<(), PortError> {
        self.backend.change_shards(wanted, at).await
    }
}

impl std::fmt::Debug for Aws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aws").field("names", &self.names).finish_non_exhaustive()
    }
}

/// Implements every port.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    dynamo: Dynamo,
    sqs: Sqs,
    names: Names,
    /// Age at which runs and settled alerts expire.
    retention: Duration,
    shards: Arc<due::ShardCache>,
    known_buckets: Arc<buckets::KnownBuckets>,
    signing: OrderSigning,
    refused_orders: Arc<RefusedOrders>,
    unsigned_choice: Arc<unsigned_orders::UnsignedChoice>,
    /// Rotates the queue that a receive polls first.
    next_queue: Arc<AtomicUsize>,
}

/// Opens an installation whose sent orders are signed with the installation's key. Calls AWS only for credentials, and
/// to store a new number of shards and the choice about unsigned orders.
///
/// # Errors
/// Returns an error for an invalid prefix or number of shards, a missing region, or a choice that cannot be stored.
pub async fn connect(options: &Options) -> Result<Aws, ConnectError> {
    let signing_key = SigningKey::new(options, options.names()?.signing_key_parameter());
    connect_with_signing(options, OrderSigning { signing_key: Some(Arc::new(signing_key)), verifier: None }).await
}

/// As [`connect`], with the caller's choice of signing key and verifier.
///
/// # Errors
/// Returns the errors of [`connect`].
pub async fn connect_with_signing(options: &Options, signing: OrderSigning) -> Result<Aws, ConnectError> {
    let names = options.names()?;
    if let Some(shards) = options.shards.filter(|shards| !(1..=SHARDS_MAX).contains(shards)) {
        return Err(ConnectError::Shards(shards));
    }
    let sdk_config = options.sdk_config().await?;
    let (meter, retries) = (Arc::new(Meter::default()), options.retries.clone());
    let backend = Backend {
        dynamo: Dynamo::new(aws_sdk_dynamodb::Client::new(&sdk_config), &names, meter.clone(), retries.clone()),
        sqs: Sqs::new(aws_sdk_sqs::Client::new(&sdk_config), meter.clone(), retries.clone(), options.call_timeout),
        names: names.clone(),
        retention: options.retention,
        shards: Arc::new(due::ShardCache::new()),
        known_buckets: Arc::default(),
        signing,
        refused_orders: Arc::default(),
        unsigned_choice: Arc::default(),
        next_queue: Arc::default(),
    };
    if let Some(shards) = options.shards {
        backend.change_shards(shards, Timestamp::now()).await?;
    }
    if let Some(unsigned) = options.unsigned {
        backend.store_unsigned(unsigned).await?;
    }
    let backend_ports = Arc::new(backend.clone());
    let ports = Ports {
        jobs: backend_ports.clone(),
        due: backend_ports.clone(),
        runs: backend_ports.clone(),
        alerts: backend_ports.clone(),
        settings: backend_ports.clone(),
        orders: backend_ports.clone(),
        claims: backend_ports.clone(),
        enforces_max_open: false,
        reports: backend_ports,
    };
    let refused_orders = backend.refused_orders.clone();
    Ok(Aws { ports, names, meter, refused_orders, sdk_config, retries, backend })
}
