//! The Lambda `collector`.

use std::time::Duration;

use aws_lambda_events::event::sqs::SqsEvent;
use jiff::Timestamp;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use lambdas::collector::{Collector, DeadLetterQueue};
use lambdas::environment::{self, Environment};
use lambdas::senders::Senders;
use rules::Packs;

/// Time of a call for what it must store at the end. Chosen: more than the timeout of one call to AWS.
const RESERVE: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    environment::init_log();
    let environment = Environment::from_process()?;
    let aws = environment.connect().await?;
    // The SDK repeats these few calls: at worst, the dead-letter queue gets a report twice.
    let standard = aws_sdk_sqs::config::retry::RetryConfig::standard();
    let sqs = aws_sdk_sqs::config::Builder::from(&aws.sdk_config).retry_config(standard).build();
    let sqs = aws_sdk_sqs::Client::from_conf(sqs);
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
    let retries = &aws.retries;
    let handler = |event: LambdaEvent<SqsEvent>| async move {
        retries.set_deadline(environment::timeout_of(&event.context).checked_sub(RESERVE));
        Ok::<_, Error>(collector.collect(event.payload, Timestamp::now()).await)
    };
    lambda_runtime::run(service_fn(handler)).await
}
