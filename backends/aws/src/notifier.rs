//! Alerts to SNS topics: one publication in which mail finds text, chat applications their schema, and programs JSON.
//!
//! More than ten mails a second to one address suspend its subscription (SNS developer guide, e-mail notifications), and
//! people then hear nothing at all; so publications are counted for all processes together, and what comes too fast
//! is told to come again.

mod content;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_sns::types::MessageAttributeValue;
use domain::alert::Alert;
use domain::ports::{Notifier, PortError, PortResult};
use jiff::Timestamp;

use crate::dynamo::{Dynamo, ItemUpdate, ItemWriteResult};
use crate::fault::{CallName, call_error};
use crate::item::{n, number_at};
use crate::meter::Meter;
use crate::settings::{SETTINGS, key};
use content::{attributes, build_message};

pub use content::MESSAGE_BYTES_MAX;

/// Publications to one topic in one second, by the clock's seconds: at most ten in any second.
pub const PER_SECOND_MAX: u64 = 5;

const RATE_KIND: &str = "sns_rate";

/// What tells the time to the rate limit. Tests step it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// SNS topics as channels.
#[derive(Clone)]
pub struct Topics {
    client: aws_sdk_sns::Client,
    dynamo: Dynamo,
    meter: Arc<Meter>,
    prefix: String,
    /// ARN by the name of the channel.
    topics: BTreeMap<String, String>,
    clock: Clock,
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topics").field("topics", &self.topics).finish_non_exhaustive()
    }
}

impl crate::Aws {
    /// The topics as channels, by their names; each with its ARN.
    pub fn topics(&self, topics: BTreeMap<String, String>) -> Topics {
        self.topics_at(topics, Arc::new(Timestamp::now))
    }

    /// The same with a clock of the caller's.
    pub fn topics_at(&self, topics: BTreeMap<String, String>, clock: Clock) -> Topics {
        let client = aws_sdk_sns::Client::new(&self.sdk_config);
        let (dynamo, meter) = (self.backend.dynamo.clone(), self.meter.clone());
        Topics { client, dynamo, meter, prefix: self.names.prefix().to_owned(), topics, clock }
    }
}

#[async_trait]
impl Notifier for Topics {
    async fn notify(&self, channel: &str, alert: &Alert) -> PortResult<()> {
        let Some(topic) = self.topics.get(channel) else {
            let known: Vec<&str> = self.topics.keys().map(String::as_str).collect();
            return Err(PortError::Permanent(format!(
                "there is no SNS topic for the channel `{channel}`; there are: {}",
                known.join(", ")
            )));
        };
        let (alert, text) = build_message(&self.prefix, alert)?;
        self.count_publication(channel).await?;
        self.meter.add_request("sns Publish".to_owned(), text.len());
        let place = format!("the topic {topic}");
        let mut call = self
            .client
            .publish()
            .topic_arn(topic)
            .subject(domain::alert::wording::subject(&alert))
            .message_structure("json")
            .message(text);
        for (name, value) in attributes(&alert) {
            let value = MessageAttributeValue::builder().data_type("String").string_value(value).build();
            let value = value.map_err(|error| PortError::Permanent(error.to_string()))?;
            call = call.message_attributes(name, value);
        }
        let call_name = CallName { service: "SNS", action: "Publish", place: &place };
        call.send().await.map_err(|error| call_error(call_name, &error))?;
        Ok(())
    }
}

impl Topics {
    /// Takes one of this second's publications; an error to try again when there is none left.
    async fn count_publication(&self, channel: &str) -> PortResult<()> {
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
        // A second that another process's clock has reached already is the one that counts.
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
                "{PER_SECOND_MAX} alerts were sent to the channel `{channel}` within a second; more would make SNS suspend its mail addresses"
            ))),
        }
    }
}
