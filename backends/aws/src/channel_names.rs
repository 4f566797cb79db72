//! Checks the alert channels that jobs name: the channel NAME is the topic `PREFIX-alerts-NAME`. Used where jobs are
//! stored, and by `sexton check`; publishes nothing.

use std::collections::{BTreeMap, BTreeSet};

use domain::ports::PortResult;

use crate::check::topic_arn;
use crate::fault::{CallName, Cause, call_error, cause_of};
use crate::notifier::ALERTS_CHANNEL;
use crate::{Aws, Names};

impl Aws {
    /// Returns one sentence for each of these channels that has no topic, by name.
    ///
    /// # Errors
    /// Returns the port's error when the topics cannot be found out, such as a missing permission.
    pub async fn unknown_channels(&self, names: &BTreeSet<String>) -> PortResult<BTreeMap<String, String>> {
        let asked: BTreeSet<&String> = names.iter().filter(|name| *name != ALERTS_CHANNEL).collect();
        if asked.is_empty() {
            return Ok(BTreeMap::new());
        }
        let table_arn = self.jobs_table_arn().await?;
        let client = aws_sdk_sns::Client::new(&self.sdk_config);
        let mut unknown = BTreeMap::new();
        for name in asked {
            let topic = topic_name(&self.names, name);
            let arn = topic_arn(&table_arn, &topic).unwrap_or_default();
            let place = format!("the topic {topic}");
            let call_name = CallName { service: "SNS", action: "GetTopicAttributes", place: &place };
            let attempt = || client.get_topic_attributes().topic_arn(&arn).send();
            if let Err(error) = self.retries.call(None, cause_of, attempt).await.result {
                match cause_of(&error) {
                    Cause::Absent | Cause::Invalid => drop(unknown.insert(
                        name.clone(),
                        format!(
                            "no alert channel `{name}`: there is no topic {topic}; create it, or write `{ALERTS_CHANNEL}`"
                        ),
                    )),
                    Cause::Denied | Cause::Throttled | Cause::Transient => return Err(call_error(call_name, &error)),
                }
            }
        }
        Ok(unknown)
    }

    /// The ARN of the table of jobs, which shows partition, region and account.
    async fn jobs_table_arn(&self) -> PortResult<String> {
        let client = aws_sdk_dynamodb::Client::new(&self.sdk_config);
        let table = self.names.jobs();
        let place = format!("the table {table}");
        let call_name = CallName { service: "DynamoDB", action: "DescribeTable", place: &place };
        let attempt = || client.describe_table().table_name(&table).send();
        let described = self.retries.call(None, cause_of, attempt).await.result;
        let described = described.map_err(|error| call_error(call_name, &error))?;
        Ok(described.table.and_then(|table| table.table_arn).unwrap_or_default())
    }
}

fn topic_name(names: &Names, channel: &str) -> String {
    format!("{}-{channel}", names.alerts_topic())
}
