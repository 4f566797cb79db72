//! The Lambda `pruner`.

use jiff::Timestamp;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use lambdas::environment::{self, Environment};
use lambdas::pruner;
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    environment::init_log();
    let environment = Environment::from_process()?;
    let aws = environment.connect().await?;
    let (ports, keep) = (&aws.ports, &environment.keep);
    let handler =
        |_: LambdaEvent<Value>| async move { pruner::prune(ports, keep, Timestamp::now()).await.map_err(Error::from) };
    lambda_runtime::run(service_fn(handler)).await
}
