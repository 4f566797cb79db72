//! Publishes alerts to SNS topics. One publication contains text for mail, the schema of chat applications, and JSON
//! for programs.
//!
//! Subscribers choose by the attributes of a message (filter policies) or by topic ([`topic_routes`]).
//!
//! SNS suspends a mail subscription that gets more than ten mails a second (SNS developer guide, e-mail notifications),
//! and no later alert reaches it. So all processes count their publications together; beyond the limit, a publication
//! waits for the next second, and after some seconds, the caller retries later.

mod content;
mod topic_routes;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sns::types::MessageAttributeValue;
use domain::alert::Alert;
use domain::ports::{Notifier, PortError, PortResult};
use jiff::Timestamp;

use crate::dynamo::{Dynamo, ItemUpdate, ItemWriteResult};
use crate::fault::{CallName, Cause, call_error, cause_of};
use crate::item::{n, number_at};
use crate::meter::Meter;
use crate::retry::Retries;
use crate::settings::{SETTINGS, key};
use content::{Attribute, DIGEST_NAMES_BYTES_MAX, attributes, build_message};
use topic_routes::TopicRoutes;

pub use content::MESSAGE_BYTES_MAX;
pub use topic_routes::{ALERTS_CHANNEL, TOPIC_TAG};

/// Publications to one topic in one second of the clock. Chosen: two adjacent seconds then have at most the ten that
/// SNS permits in any second.
pub const PER_SECOND_MAX: u64 = 5;

/// How often a publication waits for the next second. Chosen: less than the timeout of a Lambda for a whole storm.
const WAITS_MAX: u32 = 2;

const RATE_KIND: &str = "sns_rate";

/// Clock of the rate limit. Tests advance it.
pub(crate) type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// SNS topics as alert channels: a [`Notifier`].
#[derive(Clone)]
pub struct Topics {
    client: aws_sdk_sns::Client,
    dynamo: Dynamo,
    meter: Arc<Meter>,
    retries: Retries,
    prefix: String,
    routes: Arc<TopicRoutes>,
    clock: Clock,
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topics").field("topics", self.routes.topics()).finish_non_exhaustive()
    }
}

impl crate::Aws {
    /// Returns alert channels for topics. `topics`: ARN by name of the channel.
    pub fn topics(&self, topics: BTreeMap<String, String>) -> Topics {
        self.topics_at(topics, Arc::new(Timestamp::now))
    }

    /// As [`Self::topics`], with the clock of the rate limit.
    pub fn topics_at(&self, topics: BTreeMap<String, String>, clock: Clock) -> Topics {
        let client = aws_sdk_sns::Client::new(&self.sdk_config);
        let (dynamo, meter, retries) = (self.backend.dynamo.clone(), self.meter.clone(), self.retries.clone());
        let routes = TopicRoutes::new(&self.sdk_config, retries.clone(), self.names.clone(), topics);
        let prefix = self.names.prefix().to_owned();
        Topics { client, dynamo, meter, retries, prefix, routes: Arc::new(routes), clock }
    }
}

#[async_trait]
impl Notifier for Topics {
    async fn notify(&self, channel: &str, alert: &Alert) -> PortResult<()> {
        let Some(topic) = self.routes.arn_of(channel) else {
            let known: Vec<&str> = self.routes.topics().keys().map(String::as_str).collect();
            return Err(PortError::Permanent(format!(
                "the channel `{channel}` has no SNS topic; channels with a topic: {}",
                known.join(", ")
            )));
        };
        let (alert, text) = build_message(&self.prefix, alert)?;
        self.count_publication(channel).await?;
        let bytes = text.len();
        let place = format!("the topic {topic}");
        let mut call = self
            .client
            .publish()
            .topic_arn(&topic)
            .subject(domain::alert::wording::subject(&alert))
            .message_structure("json")
            .message(text);
        for Attribute { name, data_type, value } in attributes(&alert) {
            let value = MessageAttributeValue::builder().data_type(data_type).string_value(value).build();
            let value = value.map_err(|error| PortError::Permanent(error.to_string()))?;
            call = call.message_attributes(name, value);
        }
        let call_name = CallName { service: "SNS", action: "Publish", place: &place };
        // A publication whose answer was lost arrives twice.
        let attempt = || {
            self.meter.add_request("sns Publish".to_owned(), bytes);
            call.clone().send()
        };
        let called = self.retries.call(None, cause_of, attempt).await;
        let Err(error) = called.result else { return Ok(()) };
        let refusal = call_error(call_name, &error);
        if channel == ALERTS_CHANNEL || !matches!(cause_of(&error), Cause::Denied | Cause::Absent) {
            return Err(refusal);
        }
        // The retry goes to the next topic: a wrong name or policy must not silence an alert.
        self.routes.note_refusal(topic);
        Err(PortError::Retry(refusal.to_string()))
    }

    async fn route(&self, group: &str, named: &[String], _all: &[String]) -> PortResult<Vec<String>> {
        self.routes.route(group, named).await
    }

    fn reason_bytes_max(&self, _channel: &str) -> usize {
        DIGEST_NAMES_BYTES_MAX
    }
}

impl Topics {
    /// Whether the channel has a topic.
    ///
    /// # Errors
    /// Returns the port's error.
    pub async fn has_channel(&self, channel: &str) -> PortResult<bool> {
        self.routes.exists(channel).await
    }

    /// Counts one publication, in this second or one of the next. Returns an error to retry if they have none left.
    async fn count_publication(&self, channel: &str) -> PortResult<()> {
        for _ in 0..WAITS_MAX {
            match self.count_in_second(channel).await {
                Err(PortError::Retry(_)) => tokio::time::sleep(self.rest_of_second()).await,
                counted => return counted,
            }
        }
        self.count_in_second(channel).await
    }

    fn rest_of_second(&self) -> Duration {
        let nanoseconds = (self.clock)().subsec_nanosecond().unsigned_abs();
        Duration::from_secs(1).saturating_sub(Duration::from_nanos(nanoseconds.into()))
    }

    /// Counts one publication in the current second. Returns an error to retry if the second has none left.
    async fn count_in_second(&self, channel: &str) -> PortResult<()> {
        let second = (self.clock)().as_second();
        let first = ItemUpdate {
            expression: "SET #second = :second, #sent = :one".to_owned(),
            condition: "attribute_not_exists(#second) OR #second < :second".to_owned(),
            values: vec![(":second", n(second)), (":one", n(1))],
            return_item: false,
        };
        let ItemWriteResult::Refused(counted) = self.dynamo.update(SETTINGS, key(RATE_KIND, channel), first).await?
        else {
            return Ok(());
        };
        // If the clock of another process is ahead, its second counts.
        let counted = counted.as_ref().and_then(|item| number_at(item, "second")).unwrap_or_default();
        let next = ItemUpdate {
            expression: "ADD #sent :one".to_owned(),
            condition: "#second = :second AND #sent < :most".to_owned(),
            values: vec![(":second", n(counted)), (":one", n(1)), (":most", n(PER_SECOND_MAX))],
            return_item: false,
        };
        match self.dynamo.update(SETTINGS, key(RATE_KIND, channel), next).await? {
            ItemWriteResult::Done(_) => Ok(()),
            ItemWriteResult::Refused(_) => Err(PortError::Retry(format!(
                "{PER_SECOND_MAX} alerts were sent to the channel `{channel}` within a second; with more, \
                 SNS suspends its mail subscriptions"
            ))),
        }
    }
}
