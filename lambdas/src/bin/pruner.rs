//! The Lambda `pruner`.

use std::time::Duration;

use jiff::Timestamp;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use lambdas::environment::{self, Environment};
use lambdas::pruner;
use serde_json::Value;

/// Time of a call to store its progress. Chosen, not measured.
const RESERVE: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    environment::init_log();
    let environment = Environment::from_process()?;
    let aws = environment.connect().await?;
    let (ports, keep, retries) = (&aws.ports, &environment.keep, &aws.retries);
    let handler = |event: LambdaEvent<Value>| async move {
        retries.set_deadline(environment::timeout_of(&event.context).checked_sub(RESERVE));
        pruner::prune(ports, keep, Timestamp::now()).await.map_err(Error::from)
    };
    lambda_runtime::run(service_fn(handler)).await
}
