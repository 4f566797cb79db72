//! The ports over DynamoDB, SQS and SNS. Chosen by `sexton` and by the Lambdas; knows no service.
//!
//! Everything is called by its name as a function of the installation's prefix (`names`). The tables are data (`tables`).
//! What an item costs is counted (`meter`); what a call that failed means is decided in one place (`fault`).

mod alerts;
mod buckets;
mod check;
mod claims;
mod due;
mod dynamo;
mod emulated;
mod fault;
mod item;
mod job_item;
mod jobs;
mod meter;
mod names;
mod notifier;
mod options;
mod orders;
mod reports;
mod runs;
mod secrets;
mod settings;
mod signature;
mod signing_key;
mod sqs;
mod tables;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use domain::ports::{PortError, Ports};
use jiff::Timestamp;

use dynamo::Dynamo;
use sqs::Sqs;

pub use check::{CheckRole, Finding};
pub use due::{SHARDS_DEFAULT, SHARDS_MAX};
pub use emulated::install;
pub use meter::{Meter, Usage};
pub use names::{Names, PREFIX_DEFAULT, check_group};
pub use notifier::{MESSAGE_BYTES_MAX, PER_SECOND_MAX, Topics};
pub use options::{AccessKey, CALL_TIMEOUT_DEFAULT, ConnectError, Options, RETENTION_DEFAULT};
pub use orders::{OrderSigning, RefusedOrders};
pub use reports::{SentReport, decode_report};
pub use secrets::AwsSecrets;
pub use signature::{Signer, Verifier};
pub use signing_key::SigningKey;
pub use tables::{Index, Projection, Table, tables};

/// An installation on AWS. Cheap to clone.
#[derive(Clone)]
pub struct Aws {
    pub ports: Ports,
    pub names: Names,
    /// What the calls so far cost.
    pub meter: Arc<Meter>,
    /// Orders that were not executed as they could not be read or did not verify.
    pub refused_orders: Arc<RefusedOrders>,
    /// What other clients of AWS's services are made from: region, credentials, endpoint, timeouts.
    pub sdk_config: aws_config::SdkConfig,
    backend: Backend,
}

impl Aws {
    /// Reports with their senders, which the port does not tell.
    ///
    /// # Errors
    /// As of [`domain::ports::Reports::receive`].
    pub async fn receive_sent(
        &self,
        most: usize,
        lease: Duration,
        wait: Duration,
    ) -> Result<Vec<SentReport>, PortError> {
        self.backend.receive_sent(most, lease, wait).await
    }

    /// Puts many jobs without asking what is there: for a migration into empty tables.
    ///
    /// # Errors
    /// A port's. Some may be stored by then; doing it again is harmless.
    pub async fn put_jobs(&self, jobs: &[domain::job::Job]) -> Result<(), PortError> {
        self.backend.put_jobs(jobs).await
    }

    /// Sets the number of shards of the due index for everybody, from `at` on.
    ///
    /// # Errors
    /// A port's.
    pub async fn change_shards(&self, wanted: u32, at: Timestamp) -> Result<(), PortError> {
        self.backend.change_shards(wanted, at).await
    }
}

impl std::fmt::Debug for Aws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aws").field("names", &self.names).finish_non_exhaustive()
    }
}

/// Every port.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    dynamo: Dynamo,
    sqs: Sqs,
    names: Names,
    /// How long runs and settled alerts are kept.
    retention: Duration,
    shards: Arc<due::ShardCache>,
    known_buckets: Arc<buckets::KnownBuckets>,
    signing: OrderSigning,
    refused_orders: Arc<RefusedOrders>,
    /// Which of several queues is asked first.
    next_queue: Arc<AtomicUsize>,
}

/// Makes an installation's clients. Nothing is asked yet, unless credentials or shards demand it. Orders that are sent are
/// signed with the installation's key.
///
/// # Errors
/// One sentence: a prefix or a number that cannot be, or no region.
pub async fn connect(options: &Options) -> Result<Aws, ConnectError> {
    let signing_key = SigningKey::new(options, options.names()?.signing_key_parameter());
    connect_with_signing(options, OrderSigning { signing_key: Some(Arc::new(signing_key)), verifier: None }).await
}

/// As [`connect`], for who verifies orders, or has them signed otherwise.
///
/// # Errors
/// As of [`connect`].
pub async fn connect_with_signing(options: &Options, signing: OrderSigning) -> Result<Aws, ConnectError> {
    let names = options.names()?;
    if let Some(shards) = options.shards.filter(|shards| !(1..=SHARDS_MAX).contains(shards)) {
        return Err(ConnectError::Shards(shards));
    }
    let sdk_config = options.sdk_config().await?;
    let meter = Arc::new(Meter::default());
    let backend = Backend {
        dynamo: Dynamo::new(aws_sdk_dynamodb::Client::new(&sdk_config), names.prefix(), meter.clone()),
        sqs: Sqs::new(aws_sdk_sqs::Client::new(&sdk_config), meter.clone(), options.call_timeout),
        names: names.clone(),
        retention: options.retention,
        shards: Arc::new(due::ShardCache::new()),
        known_buckets: Arc::default(),
        signing,
        refused_orders: Arc::default(),
        next_queue: Arc::default(),
    };
    if let Some(shards) = options.shards {
        backend.change_shards(shards, Timestamp::now()).await?;
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
        reports: backend_ports,
    };
    let refused_orders = backend.refused_orders.clone();
    Ok(Aws { ports, names, meter, refused_orders, sdk_config, backend })
}
