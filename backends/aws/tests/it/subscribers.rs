//! Alerts reach the subscribers that they concern: filters over the attributes of a message, topics of groups, and the
//! channels of jobs.

use std::collections::{BTreeMap, BTreeSet};

use aws::{TOPIC_TAG, Topics};
use aws_sdk_sqs::types::QueueAttributeName;
use domain::alert::{Alert, AlertKind, DeliveryState, Transition};
use domain::job::JobKey;
use domain::ports::AlertStep;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use services::Links;
use services::alert_batch::BatchLimits;
use services::alerts::{AlertWorker, tick};

use crate::emulator::Installation;

/// A queue that is subscribed to a topic.
struct Subscriber {
    sqs: aws_sdk_sqs::Client,
    queue: String,
}

/// A received message: the alert, and the attributes as type and value.
struct Message {
    alert: Alert,
    attributes: Value,
}

impl Subscriber {
    /// Subscribes with the filter of docs/aws.md.
    async fn new(installation: &Installation, topic: &str, name: &str, filter: Option<&str>) -> Subscriber {
        let config = &installation.aws.sdk_config;
        let (sns, sqs) = (aws_sdk_sns::Client::new(config), aws_sdk_sqs::Client::new(config));
        let queue = sqs.create_queue().queue_name(name).send().await.unwrap().queue_url.unwrap();
        let arn = sqs.get_queue_attributes().queue_url(&queue).attribute_names(QueueAttributeName::QueueArn);
        let arn = arn.send().await.unwrap().attributes.unwrap().remove(&QueueAttributeName::QueueArn).unwrap();
        let mut subscription = sns.subscribe().topic_arn(topic).protocol("sqs").endpoint(arn);
        if let Some(filter) = filter {
            subscription = subscription.attributes("FilterPolicy", filter);
        }
        subscription.send().await.unwrap();
        Subscriber { sqs, queue }
    }

    /// Returns and deletes all messages. SNS has delivered them when a publication returns.
    async fn receive(&self) -> Vec<Message> {
        let mut received = Vec::new();
        loop {
            let answer =
                self.sqs.receive_message().queue_url(&self.queue).max_number_of_messages(10).wait_time_seconds(1);
            let messages = answer.send().await.unwrap().messages.unwrap_or_default();
            if messages.is_empty() {
                return received;
            }
            for message in messages {
                let body: Value = serde_json::from_str(message.body().unwrap()).unwrap();
                let alert = serde_json::from_str(body["Message"].as_str().unwrap()).unwrap();
                received.push(Message { alert, attributes: body["MessageAttributes"].clone() });
                let receipt = message.receipt_handle().unwrap();
                self.sqs.delete_message().queue_url(&self.queue).receipt_handle(receipt).send().await.unwrap();
            }
        }
    }
}

async fn make_topic(installation: &Installation, name: &str) -> String {
    let sns = aws_sdk_sns::Client::new(&installation.aws.sdk_config);
    let name = format!("{}{name}", installation.aws.names.alerts_topic());
    sns.create_topic().name(name).send().await.unwrap().topic_arn.unwrap()
}

/// Sends what is due, as a Lambda does.
async fn send(installation: &Installation, topics: &Topics, now: Timestamp) {
    let (links, limits) = (Links::default(), BatchLimits::by_group(250));
    let worker = AlertWorker { notifier: topics, channels: &[], links: &links, name: "lambda", limits };
    tick(&installation.aws.ports, &worker, now).await.unwrap();
}

async fn raise(installation: &Installation, transitions: Vec<Transition>) {
    installation.aws.ports.alerts.raise(&AlertStep { state: None, transitions }).await.unwrap();
}

/// The jobs that the messages name, and each message's groups.
fn jobs_of(messages: &[Message]) -> BTreeSet<String> {
    let mut jobs = BTreeSet::new();
    for Message { alert, .. } in messages {
        match alert.kind {
            AlertKind::Digest => {
                let names = alert.reason.split([' ', ',', ';', ':']).filter(|word| word.contains('/'));
                jobs.extend(names.map(str::to_owned));
            }
            _ => drop(jobs.insert(format!("{}/{}", alert.group, alert.job))),
        }
    }
    jobs
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_storm_over_three_groups_each_subscriber_gets_the_alerts_of_its_groups() {
    let Some(installation) = Installation::start(&["g1", "g2", "g3"]).await else { return };
    let topic = make_topic(&installation, "").await;
    let filters = [
        ("everything", None),
        ("first", Some(r#"{"group":["g1"]}"#)),
        ("second", Some(r#"{"group":["g2"],"severity":["error","critical"]}"#)),
        ("recoveries", Some(r#"{"group":["g3","g1"],"kind":["recovered"]}"#)),
    ];
    let mut subscribers = BTreeMap::new();
    for (name, filter) in filters {
        subscribers.insert(name, Subscriber::new(&installation, &topic, name, filter).await);
    }
    let topics = installation.aws.topics([("alerts".to_owned(), topic)].into());
    let start = Timestamp::now();
    let (mut now, mut expected) = (start, BTreeSet::new());
    // Collectors find ten failures after the other; of the third group, one job recovers.
    for batch in 0..30 {
        let transitions = (0..10).map(|number| {
            let number = batch * 10 + number;
            let group = if number % 6 == 0 {
                "g1"
            } else if number % 6 == 1 {
                "g3"
            } else {
                "g2"
            };
            let kind = if number == 295 - 295 % 6 + 1 { AlertKind::Recovered } else { AlertKind::Failed };
            let key = JobKey::new(group, format!("job-{number:03}"));
            expected.insert(key.to_string());
            Transition::new(format!("storm:{key}"), kind, &key, "exit code 1", now)
        });
        raise(&installation, transitions.collect()).await;
        if batch % 10 == 9 {
            send(&installation, &topics, now).await;
            now += SignedDuration::from_secs(3);
        }
    }
    // The next tick of the scheduler.
    send(&installation, &topics, start + SignedDuration::from_secs(61)).await;

    let of_group = |group: &str| -> BTreeSet<String> {
        expected.iter().filter(|job| job.starts_with(&format!("{group}/"))).cloned().collect()
    };
    let everything = subscribers["everything"].receive().await;
    assert_eq!(jobs_of(&everything), expected);
    assert!(everything.len() <= 12, "a few digests of each group: {}", everything.len());
    for Message { alert, attributes } in &everything {
        assert!(!alert.group.is_empty(), "each message is about one group");
        let is_digest = alert.kind == AlertKind::Digest;
        for name in ["kind", "group", "job", "severity"] {
            let attribute = &attributes[name];
            assert_eq!(attribute["Type"], if is_digest { "String.Array" } else { "String" }, "{name}: {attribute}");
        }
        if is_digest {
            let groups: Vec<String> = serde_json::from_str(attributes["group"]["Value"].as_str().unwrap()).unwrap();
            let jobs: Vec<String> = serde_json::from_str(attributes["job"]["Value"].as_str().unwrap()).unwrap();
            assert_eq!((groups, jobs.len()), (vec![alert.group.clone()], alert.count as usize));
        }
    }
    assert_eq!(jobs_of(&subscribers["first"].receive().await), of_group("g1"));
    assert_eq!(jobs_of(&subscribers["second"].receive().await), of_group("g2"));
    let recoveries = subscribers["recoveries"].receive().await;
    assert_eq!(recoveries.len(), 1);
    assert_eq!(recoveries[0].alert.group, "g3");
    let stored = installation.aws.ports.alerts.list(None, 1000).await.unwrap().records;
    assert!(stored.iter().all(|transition| transition.delivery != DeliveryState::Pending), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_can_have_its_own_topic_and_a_job_its_own_channels() {
    let Some(installation) = Installation::start(&["g1", "g2", "g3"]).await else { return };
    let sqs = aws_sdk_sqs::Client::new(&installation.aws.sdk_config);
    let own = format!("{}-own", installation.aws.names.alerts_topic());
    // That of another account, and one that does not exist.
    let foreign = "arn:aws:sns:eu-west-1:999999999999:foreign".to_owned();
    for (group, value) in [("g1", own), ("g2", foreign), ("g3", "absent".to_owned())] {
        let url = sqs.get_queue_url().queue_name(installation.aws.names.orders(group)).send().await.unwrap();
        sqs.tag_queue().queue_url(url.queue_url.unwrap()).tags(TOPIC_TAG, value).send().await.unwrap();
    }
    let mut subscribers = Vec::new();
    let mut alerts_topic = String::new();
    for (name, topic) in [("all", ""), ("own", "-own"), ("oncall", "-oncall")] {
        let topic = make_topic(&installation, topic).await;
        subscribers.push((name, Subscriber::new(&installation, &topic, name, None).await));
        if name == "all" {
            alerts_topic = topic;
        }
    }
    let topics = installation.aws.topics([("alerts".to_owned(), alerts_topic)].into());
    let now = Timestamp::now();
    let transition = |group: &str, job: &str, channels: &[&str]| Transition {
        channels: channels.iter().map(|channel| (*channel).to_owned()).collect(),
        ..Transition::new(format!("{group}/{job}"), AlertKind::Failed, &JobKey::new(group, job), "exit code 1", now)
    };
    // The last release counts the tries of all channels together.
    let older = Transition { tries: 3, last_error: Some("throttled".to_owned()), ..transition("g2", "older", &[]) };
    let all = vec![
        transition("g1", "plain", &[]),
        transition("g1", "named", &["oncall", "alerts"]),
        transition("g1", "typo", &["oncal"]),
        transition("g2", "plain", &[]),
        transition("g3", "plain", &[]),
        transition("g4", "no-queue", &[]),
        transition("", "", &[]),
        older,
    ];
    raise(&installation, all).await;
    send(&installation, &topics, now).await;
    // What a topic refused goes to the next one; the older alert had failed three times before.
    send(&installation, &topics, now + SignedDuration::from_secs(130)).await;
    let received = async |name: &str| {
        let (_, subscriber) = subscribers.iter().find(|(subscribed, _)| *subscribed == name).unwrap();
        jobs_of(&subscriber.receive().await).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(received("own").await, ["g1/plain", "g1/typo"], "and nowhere else");
    assert_eq!(received("oncall").await, ["g1/named"]);
    assert_eq!(received("all").await, ["/", "g1/named", "g2/older", "g2/plain", "g3/plain", "g4/no-queue"]);
    let unknown = ["alerts", "oncal", "oncall"].map(str::to_owned).into();
    let unknown = installation.aws.unknown_channels(&unknown).await.unwrap();
    assert_eq!(unknown.keys().collect::<Vec<_>>(), ["oncal"]);
}
