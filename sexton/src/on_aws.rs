//! The API of an installation on AWS, in the process of a client command, over its tables and queues.
//!
//! So every command has the same code for one machine and for AWS. It does not listen on a port, and has the
//! permissions of the AWS credentials of the user.

mod cloudwatch_output;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use console::{ChannelNames, Console, Sinks};
use domain::order::PublicKey;
use domain::ports::Ports;
use jiff::Timestamp;
use sinks::config::SinkKind;

use crate::configuration::Configuration;
use crate::failure::{Failure, print_error_line};
use crate::known_names::check_on_aws;
use crate::machine::random_or_clock_bytes;
use crate::setup::SinksSource;
use cloudwatch_output::CloudwatchOutput;

/// A constant is safe: no other process can reach an API without a listener.
const IN_PROCESS_TOKEN: &str = "in this process";

pub(crate) struct Api {
    pub(crate) router: Router,
    pub(crate) token: String,
}

/// The API of the installation.
///
/// # Errors
/// Fails if AWS cannot be used with this configuration, or if the sinks file has faults.
pub(crate) async fn api(options: &aws::Options, configuration: &Configuration) -> Result<Api, Failure> {
    let aws = connect(options).await?;
    let ports = aws.ports.clone();
    let output = cloudwatch_output(configuration, &ports)?;
    let console = Console {
        ports,
        logs: Arc::new(output),
        sinks: Arc::new(NoSinks),
        sources: Arc::new(Vec::new),
        health: Arc::new(()),
        token: IN_PROCESS_TOKEN.into(),
        clock: Arc::new(Timestamp::now),
        random: Arc::new(random_or_clock_bytes),
        choose_packs: crate::known_names::choice_of_api(|| Arc::new(rules::Packs::builtin())),
        check_job: check_on_aws(configuration.rules.clone()),
        channels: Arc::new(Topics(aws)),
        // The scheduler on AWS ticks every minute and needs no wake-up.
        nudge: Arc::new(|| {}),
        stop_now: Arc::new(|_, _| {}),
    };
    Ok(Api { router: console::router(console), token: IN_PROCESS_TOKEN.to_owned() })
}

/// The ports of the installation.
///
/// # Errors
/// Fails if there is no region, or if there are no credentials.
pub(crate) async fn connect(options: &aws::Options) -> Result<aws::Aws, Failure> {
    aws::connect(options).await.map_err(|error| Failure::failed(error.to_string()))
}

/// The ports for a runner, which accepts only orders signed with one of these keys. Without keys it accepts all orders.
///
/// # Errors
/// Fails if there is no region, or if there are no credentials.
pub(crate) async fn connect_runner(options: &aws::Options, order_keys: &[PublicKey]) -> Result<aws::Aws, Failure> {
    if order_keys.is_empty() {
        tracing::warn!("orders are not verified: no `order_keys` in the policy file");
    }
    let verifier = (!order_keys.is_empty()).then(|| Arc::new(aws::Verifier::new(order_keys)));
    let signing = aws::OrderSigning { verifier, ..aws::OrderSigning::default() };
    aws::connect_with_signing(options, signing).await.map_err(|error| Failure::failed(error.to_string()))
}

/// Reads the output of runs from the first CloudWatch sink of the sinks file, if there is one.
fn cloudwatch_output(configuration: &Configuration, ports: &Ports) -> Result<CloudwatchOutput, Failure> {
    let sinks = SinksSource::from_configuration(configuration).load_configured()?;
    let logs = sinks.into_iter().find_map(|sink| match sink.kind {
        SinkKind::CloudwatchLogs(logs) => Some(*logs),
        _ => None,
    });
    Ok(CloudwatchOutput::new(logs, ports.runs.clone()))
}

/// The alert channels: topics of the installation.
struct Topics(aws::Aws);

#[async_trait]
impl ChannelNames for Topics {
    async fn unknown(&self, names: &BTreeSet<String>) -> BTreeMap<String, String> {
        self.0.unknown_channels(names).await.unwrap_or_else(|error| {
            print_error_line(&format!("warning: the alert channels are not checked: {error}"));
            BTreeMap::new()
        })
    }
}

/// There are no sinks in this process: each runner ships its own lines.
struct NoSinks;

#[async_trait]
impl Sinks for NoSinks {
    async fn status(&self) -> Vec<serde_json::Value> {
        Vec::new()
    }
}
