//! Alerts through SNS to a subscribed queue, and the rate limit of all processes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws::PER_SECOND_MAX;
use domain::alert::{Alert, AlertKind};
use domain::ports::{Notifier, PortError};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::emulator::{Installation, subscribe_queue};

fn alert() -> Alert {
    Alert {
        kind: AlertKind::Failed,
        group: "db".into(),
        job: "dump".into(),
        run_id: None,
        nominal: None,
        outcome: None,
        reason: "exit code 3".into(),
        exit_code: Some(3),
        host: None,
        since: None,
        count: 1,
        excerpt: Vec::new(),
        rule: None,
        links: [].into(),
        digest: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscribed_program_gets_the_alert_as_json_with_attributes() {
    let Some(installation) = Installation::start(&[]).await else { return };
    let (topic, queue) = subscribe_queue(&installation.aws).await;
    let topics = installation.aws.topics([("alerts".to_owned(), topic)].into());
    topics.notify("alerts", &alert()).await.unwrap();
    let sqs = aws_sdk_sqs::Client::new(&installation.aws.sdk_config);
    let wait = Duration::from_secs(20);
    let received =
        sqs.receive_message().queue_url(queue).wait_time_seconds(wait.as_secs() as i32).send().await.unwrap();
    let body: Value = serde_json::from_str(received.messages()[0].body().unwrap()).unwrap();
    assert_eq!(serde_json::from_str::<Alert>(body["Message"].as_str().unwrap()).unwrap(), alert());
    assert_eq!(body["Subject"], "[sexton] db/dump failed: exit code 3");
    assert_eq!(body["MessageAttributes"]["severity"]["Value"], "error");
    // A topic that refuses is not asked again: the retry goes to the next one.
    let named = ["oncall".to_owned()];
    let unknown = topics.notify("oncall", &alert()).await;
    assert!(matches!(&unknown, Err(PortError::Retry(message)) if message.contains("alerts-oncall")), "{unknown:?}");
    assert_eq!(topics.route("db", &named, &[]).await.unwrap(), ["alerts"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_processes_together_keep_to_the_rate_limit_of_a_topic() {
    let Some(installation) = Installation::start(&[]).await else { return };
    let (topic, _) = subscribe_queue(&installation.aws).await;
    let now = Arc::new(Mutex::new("2026-11-23T08:00:00Z".parse::<Timestamp>().unwrap()));
    let clock = {
        let now = now.clone();
        Arc::new(move || *now.lock().unwrap())
    };
    let channels = [("alerts".to_owned(), topic)];
    let other = installation.connect_again().await;
    let both =
        [installation.aws.topics_at(channels.clone().into(), clock.clone()), other.topics_at(channels.into(), clock)];
    let alert = alert();
    for _ in 0..2 {
        for number in 0..PER_SECOND_MAX as usize {
            both[number % 2].notify("alerts", &alert).await.unwrap();
        }
        // It waits for the next seconds, which this clock does not reach.
        let (first, other) = tokio::join!(both[0].notify("alerts", &alert), both[1].notify("alerts", &alert));
        for refused in [first, other] {
            assert!(matches!(refused, Err(PortError::Retry(_))), "{refused:?}");
        }
        *now.lock().unwrap() += SignedDuration::from_secs(1);
    }
    let published = installation.aws.meter.total("sns Publish").requests + other.meter.total("sns Publish").requests;
    assert_eq!(published, 2 * PER_SECOND_MAX);
}
