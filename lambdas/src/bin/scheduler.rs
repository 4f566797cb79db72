//! The Lambda `scheduler`.

use jiff::Timestamp;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use lambdas::environment::{self, Environment};
use lambdas::scheduler::{Call, Scheduler};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    environment::log();
    let environment = Environment::of_process()?;
    let aws = environment.connect().await?;
    let (topics, worker) = (aws.topics(environment.topics()), environment::worker());
    let scheduler = Scheduler { ports: &aws.ports, notifier: &topics, worker: &worker };
    let scheduler = &scheduler;
    let handler = |event: LambdaEvent<Value>| async move {
        let call = Call::decode(event.payload)?;
        scheduler.call(call, Timestamp::now()).await.map_err(Error::from)
    };
    lambda_runtime::run(service_fn(handler)).await
}
