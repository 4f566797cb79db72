//! The Lambda `collector`.

use aws_lambda_events::event::sqs::SqsEvent;
use jiff::Timestamp;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use lambdas::collector::{Collector, Parking};
use lambdas::environment::{self, Environment};
use lambdas::senders::Senders;
use rules::Packs;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    environment::log();
    let environment = Environment::of_process()?;
    let aws = environment.connect().await?;
    let sqs = aws_sdk_sqs::Client::new(&aws.sdk_config);
    let (topics, worker) = (aws.topics(environment.topics()), environment::worker());
    let collector = Collector {
        ports: &aws.ports,
        packs: &Packs::builtin(),
        senders: &Senders::new(sqs.clone(), aws.names.clone()),
        parking: &Parking::new(sqs, &aws.names),
        notifier: &topics,
        worker: &worker,
    };
    let collector = &collector;
    let handler = |event: LambdaEvent<SqsEvent>| async move {
        Ok::<_, Error>(collector.collect(event.payload, Timestamp::now()).await)
    };
    lambda_runtime::run(service_fn(handler)).await
}
