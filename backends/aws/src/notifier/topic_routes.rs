//! Finds the topics of an alert. The channel `alerts` is the topic of the installation, the channel NAME the topic
//! `PREFIX-alerts-NAME`. The default channel of a group is the topic that a tag of its queue names, else `alerts`.
//!
//! Reads only queues' tags and topics' attributes, and remembers both, so that a storm costs no further calls.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use domain::ports::{PortError, PortResult};

use crate::Names;
use crate::fault::{CallName, Cause, call_error, cause_of};
use crate::retry::Retries;

/// The channel whose topic is `PREFIX-alerts`.
pub const ALERTS_CHANNEL: &str = "alerts";

/// Tag of a group's orders queue: name or ARN of the topic for the alerts of the group.
pub const TOPIC_TAG: &str = "sexton-alerts-topic";

/// How long an answer is remembered. Chosen: a changed tag and a new topic take effect within a minute.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

pub(super) struct TopicRoutes {
    sns: aws_sdk_sns::Client,
    sqs: aws_sdk_sqs::Client,
    retries: Retries,
    names: Names,
    /// ARN by name of the channel, as configured.
    topics: BTreeMap<String, String>,
    /// By ARN: whether the topic exists.
    existing: Remembered<bool>,
    /// By group.
    defaults: Remembered<String>,
}

impl TopicRoutes {
    pub(super) fn new(
        sdk_config: &aws_config::SdkConfig,
        retries: Retries,
        names: Names,
        topics: BTreeMap<String, String>,
    ) -> TopicRoutes {
        TopicRoutes {
            sns: aws_sdk_sns::Client::new(sdk_config),
            sqs: aws_sdk_sqs::Client::new(sdk_config),
            retries,
            names,
            topics,
            existing: Remembered::default(),
            defaults: Remembered::default(),
        }
    }

    pub(super) fn topics(&self) -> &BTreeMap<String, String> {
        &self.topics
    }

    /// The ARN of a channel's topic, whether it exists or not.
    pub(super) fn arn_of(&self, channel: &str) -> Option<String> {
        if let Some(arn) = self.topics.get(channel) {
            return Some(arn.clone());
        }
        match channel.starts_with("arn:") {
            true => Some(channel.to_owned()),
            false => Some(format!("{}-{channel}", self.topics.get(ALERTS_CHANNEL)?)),
        }
    }

    /// The channels of an alert: the named ones whose topics exist, else the default one of its group.
    pub(super) async fn route(&self, group: &str, named: &[String]) -> PortResult<Vec<String>> {
        let mut channels = Vec::new();
        for channel in named {
            if self.exists(channel).await? && !channels.contains(channel) {
                channels.push(channel.clone());
            }
        }
        if channels.is_empty() {
            channels.push(self.default_channel(group).await?);
        }
        Ok(channels)
    }

    /// Whether the channel has a topic. One whose attributes may not be read counts as existing.
    pub(super) async fn exists(&self, channel: &str) -> PortResult<bool> {
        if channel == ALERTS_CHANNEL {
            return Ok(true);
        }
        let Some(arn) = self.arn_of(channel) else { return Ok(false) };
        if let Some(exists) = self.existing.get(&arn) {
            return Ok(exists);
        }
        let place = format!("the topic {arn}");
        let call_name = CallName { service: "SNS", action: "GetTopicAttributes", place: &place };
        let exists = match self
            .retries
            .call(None, cause_of, || self.sns.get_topic_attributes().topic_arn(&arn).send())
            .await
            .result
        {
            Ok(_) => true,
            Err(error) => match cause_of(&error) {
                Cause::Absent | Cause::Invalid => false,
                Cause::Denied => true,
                Cause::Throttled | Cause::Transient => return Err(call_error(call_name, &error)),
            },
        };
        self.existing.put(arn, exists);
        Ok(exists)
    }

    /// A topic that refuses publications counts as missing for [`REMEMBERED_FOR`].
    pub(super) fn note_refusal(&self, arn: String) {
        self.existing.put(arn, false);
        self.defaults.clear();
    }

    async fn default_channel(&self, group: &str) -> PortResult<String> {
        if group.is_empty() {
            return Ok(ALERTS_CHANNEL.to_owned());
        }
        if let Some(channel) = self.defaults.get(group) {
            return Ok(channel);
        }
        let mut channel = ALERTS_CHANNEL.to_owned();
        if let Some(topic) = self.topic_tag(group).await? {
            let named = channel_of_topic(&topic, self.topics.get(ALERTS_CHANNEL).map_or("", String::as_str));
            match self.exists(&named).await? {
                true => channel = named,
                false => tracing::warn!(group, topic, "the topic of a group does not exist; using that of all groups"),
            }
        }
        self.defaults.put(group.to_owned(), channel.clone());
        Ok(channel)
    }

    /// The tag of the group's queue. None where there is no queue, no tag, or no permission to read it.
    async fn topic_tag(&self, group: &str) -> PortResult<Option<String>> {
        let queue = self.names.orders(group);
        let place = format!("the queue {queue}");
        let none_or = |cause: Cause, error: PortError| match cause {
            Cause::Throttled | Cause::Transient => Err(error),
            Cause::Denied => {
                tracing::warn!(group, %error, "cannot read the topic of a group; using that of all groups");
                Ok(None)
            }
            Cause::Absent | Cause::Invalid => Ok(None),
        };
        let url =
            match self.retries.call(None, cause_of, || self.sqs.get_queue_url().queue_name(&queue).send()).await.result
            {
                Ok(found) => found.queue_url.unwrap_or_default(),
                Err(error) => {
                    let call_name = CallName { service: "SQS", action: "GetQueueUrl", place: &place };
                    return none_or(cause_of(&error), call_error(call_name, &error));
                }
            };
        match self.retries.call(None, cause_of, || self.sqs.list_queue_tags().queue_url(&url).send()).await.result {
            Ok(tags) => Ok(tags.tags.and_then(|mut tags| tags.remove(TOPIC_TAG)).filter(|topic| !topic.is_empty())),
            Err(error) => {
                let call_name = CallName { service: "SQS", action: "ListQueueTags", place: &place };
                none_or(cause_of(&error), call_error(call_name, &error))
            }
        }
    }
}

/// The channel of a topic, given by name or ARN; its ARN where it is none of `PREFIX-alerts-NAME` here.
fn channel_of_topic(topic: &str, alerts_topic: &str) -> String {
    let arn = match (topic.starts_with("arn:"), alerts_topic.rsplit_once(':')) {
        (false, Some((place, _))) => format!("{place}:{topic}"),
        _ => topic.to_owned(),
    };
    match arn.strip_prefix(alerts_topic) {
        Some("") => ALERTS_CHANNEL.to_owned(),
        Some(end) if end.starts_with('-') => end[1..].to_owned(),
        _ => arn,
    }
}

/// Answers by name, for [`REMEMBERED_FOR`].
struct Remembered<T>(Mutex<BTreeMap<String, (T, Instant)>>);

impl<T> Default for Remembered<T> {
    fn default() -> Remembered<T> {
        Remembered(Mutex::default())
    }
}

impl<T: Clone> Remembered<T> {
    fn get(&self, name: &str) -> Option<T> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(name).filter(|(_, at)| at.elapsed() < REMEMBERED_FOR).map(|(value, _)| value.clone())
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn put(&self, name: String, value: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name, (value, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_of_the_installation_is_a_channel_and_any_other_one_is_its_arn() {
        let alerts = "arn:aws:sns:eu-west-1:123456789012:sexton-alerts";
        for (topic, channel) in [
            ("sexton-alerts-db", "db"),
            ("sexton-alerts", "alerts"),
            ("arn:aws:sns:eu-west-1:123456789012:sexton-alerts-db", "db"),
            ("pager", "arn:aws:sns:eu-west-1:123456789012:pager"),
            ("sexton-alertsdb", "arn:aws:sns:eu-west-1:123456789012:sexton-alertsdb"),
            (
                "arn:aws:sns:eu-west-1:210987654321:sexton-alerts-db",
                "arn:aws:sns:eu-west-1:210987654321:sexton-alerts-db",
            ),
        ] {
            assert_eq!(channel_of_topic(topic, alerts), channel, "{topic}");
        }
    }
}
