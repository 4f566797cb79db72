//! The Lambda `collector`.

use aws_lambda_events::event::sqs::SqsEvent;
use jiff::Timestamp;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use lambdas::collector::{Collector, DeadLetterQueue};
use lambdas::environment::{self, Environment};
use lambdas::senders::Senders;
use rules::Packs;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    environment::init_log();
    let environment = Environment::from_process()?;
    let aws = environment.connect().await?;
    let sqs = aws_sdk_sqs::Client::new(&aws.sdk_config);
    let (topics, worker) = (aws.topics(environment.topics()), environment::worker_name());
    let collector = Collector {
        ports: &aws.ports,
        packs: &Packs::builtin(),
        senders: &Senders::new(sqs.clone(), aws.names.clone()),
        dead_letters: &DeadLetterQueue::new(sqs, &aws.names),
        notifier: &topics,
        worker: &worker,
    };
    let collector = &collector;
    let handler = |event: LambdaEvent<SqsEvent>| async move {
        Ok::<_, Error>(collector.collect(event.payload, Timestamp::now()).await)
    };
    lambda_runtime::run(service_fn(handler)).await
}
