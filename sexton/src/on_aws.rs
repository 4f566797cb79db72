//! The installation on AWS as the client commands see it: the console's API in this process, over the tables and queues.
//!
//! So every command is one code for one machine and for many. Nothing is listened on; the rights are those of the AWS
//! credentials that are found.

mod cloudwatch_output;

use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use console::{Console, Sinks};
use domain::order::PublicKey;
use domain::ports::Ports;
use jiff::Timestamp;
use sinks::config::SinkKind;

use crate::configuration::Configuration;
use crate::failure::Failure;
use crate::machine::random_bytes;
use crate::setup::SinksSource;
use cloudwatch_output::CloudwatchOutput;

/// Nobody else can ask an API that listens nowhere.
const IN_PROCESS_TOKEN: &str = "asked in this process";

pub struct Api {
    pub router: Router,
    pub token: String,
}

/// # Errors
/// When AWS cannot be asked with what is configured, or the sinks file has faults.
pub async fn api(options: &aws::Options, configuration: &Configuration) -> Result<Api, Failure> {
    let ports = connect(options).await?.ports;
    let output = cloudwatch_output(configuration, &ports)?;
    let console = Console {
        ports,
        logs: Arc::new(output),
        sinks: Arc::new(NoSinks),
        token: IN_PROCESS_TOKEN.into(),
        clock: Arc::new(Timestamp::now),
        random: Arc::new(random_bytes),
        // The scheduler there wakes every minute, and looks back.
        nudge: Arc::new(|| {}),
    };
    Ok(Api { router: console::router(console), token: IN_PROCESS_TOKEN.to_owned() })
}

/// # Errors
/// When there is no region, or no credentials.
pub async fn connect(options: &aws::Options) -> Result<aws::Aws, Failure> {
    aws::connect(options).await.map_err(|error| Failure::failed(error.to_string()))
}

/// For a runner: orders must be signed with one of these keys, where there are any.
///
/// # Errors
/// When there is no region, or no credentials.
pub async fn connect_runner(options: &aws::Options, order_keys: &[PublicKey]) -> Result<aws::Aws, Failure> {
    if order_keys.is_empty() {
        tracing::warn!("orders are executed without a look at their signature; name `order_keys` in the policy file");
    }
    let verifier = (!order_keys.is_empty()).then(|| Arc::new(aws::Verifier::new(order_keys)));
    let seal = aws::Seal { verifier, ..aws::Seal::default() };
    aws::connect_sealed(options, seal).await.map_err(|error| Failure::failed(error.to_string()))
}

/// Where runs' lines are read: what the first CloudWatch sink of the sinks file says, if there is one.
fn cloudwatch_output(configuration: &Configuration, ports: &Ports) -> Result<CloudwatchOutput, Failure> {
    let sinks = SinksSource::from_configuration(configuration).load_configured()?;
    let logs = sinks.into_iter().find_map(|sink| match sink.kind {
        SinkKind::CloudwatchLogs(logs) => Some(*logs),
        _ => None,
    });
    Ok(CloudwatchOutput::new(logs, ports.runs.clone()))
}

/// Sinks are the runners' own.
struct NoSinks;

#[async_trait]
impl Sinks for NoSinks {
    async fn status(&self) -> Vec<serde_json::Value> {
        Vec::new()
    }
}
