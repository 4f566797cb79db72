//! The Lambda `scheduler`.

use jiff::Timestamp;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use lambdas::environment::{self, Environment};
use lambdas::scheduler::{Call, Scheduler};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    environment::init_log();
    let environment = Environment::from_process()?;
    let aws = environment.connect().await?;
    let (topics, worker) = (aws.topics(environment.topics()), environment::worker_name());
    let scheduler = Scheduler { ports: &aws.ports, retries: &aws.retries, notifier: &topics, worker: &worker };
    let scheduler = &scheduler;
    let handler = |event: LambdaEvent<Value>| async move {
        let call = Call::decode(event.payload)?;
        scheduler.run(call, Timestamp::now(), environment::timeout_of(&event.context)).await.map_err(Error::from)
    };
    lambda_runtime::run(service_fn(handler)).await
}
