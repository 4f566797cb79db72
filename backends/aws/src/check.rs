//! Connects to every table, queue and topic, for `sexton check`. Writes nothing: a runner's permissions are tested with
//! a conditional write whose condition never holds.

use aws_sdk_sqs::types::QueueAttributeName;
use domain::ports::{Claimant, PortResult};
use jiff::Timestamp;

use crate::claims::claim_update;
use crate::dynamo::{ItemUpdate, ItemWriteResult};
use crate::fault::{CallName, call_error};
use crate::item::{Item, s};
use crate::runs::RUNS;
use crate::settings::RUNNERS;
use crate::signing_key::{KeyState, SigningKey, absent_reason};
use crate::tables::{Table, tables};
use crate::{Aws, Names};

/// The role with whose permissions the check runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckRole {
    /// An operator: every resource must exist.
    Operator,
    /// A runner: only the resources of its groups, and the reports queue.
    Runner,
}

/// Result for one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `table`, `queue`, `topic`, `parameter` or `key`.
    pub kind: &'static str,
    /// Full name of the resource.
    pub name: String,
    /// One sentence; an error includes the remedy.
    pub result: Result<String, String>,
}

impl Aws {
    /// Checks all resources, and the queues of these groups. Calls `report` with each result as soon as it is
    /// available.
    pub async fn check(&self, role: CheckRole, groups: &[String], report: &mut dyn FnMut(Finding)) {
        let dynamo = aws_sdk_dynamodb::Client::new(&self.sdk_config);
        let sqs = aws_sdk_sqs::Client::new(&self.sdk_config);
        let mut add = |kind, name: &str, result| report(Finding { kind, name: name.to_owned(), result });
        match role {
            CheckRole::Runner => {
                for group in groups {
                    let (runs, runners) = self.check_runner_permissions(group).await;
                    add("table", &self.names.runs(), runs);
                    add("table", &self.names.runners(), runners);
                    let queue = self.names.orders(group);
                    add("queue", &queue, check_queue_depth(&sqs, &queue).await);
                }
                let queue = self.names.reports();
                add("queue", &queue, check_queue_exists(&sqs, &queue).await);
            }
            CheckRole::Operator => {
                let mut arn = None;
                for table in tables(&self.names) {
                    let found = check_table(&dynamo, &table).await;
                    arn = found.as_ref().ok().map(|found| found.arn.clone()).or(arn);
                    add("table", &table.name, found.map(|found| found.summary));
                }
                for queue in checked_queues(&self.names, groups) {
                    add("queue", &queue, check_queue_depth(&sqs, &queue).await);
                }
                if let Some(key) = &self.backend.signing.signing_key {
                    add("parameter", key.parameter(), self.check_signing_key(key).await);
                    match self.kms_key().await {
                        Ok(None) => {}
                        Ok(Some(kms_key)) => add("key", &kms_key, self.check_kms_key(key.secrets(), &kms_key).await),
                        // The queue has a finding of its own.
                        Err(_) => {}
                    }
                }
                let sns = aws_sdk_sns::Client::new(&self.sdk_config);
                for topic in [self.names.alerts_topic(), self.names.operations_topic()] {
                    add("topic", &topic, check_topic(&sns, arn.as_deref(), &topic).await);
                }
            }
        }
    }

    /// Checks that orders can be sent: signed, or unsigned because the installation was deployed so.
    async fn check_signing_key(&self, key: &SigningKey) -> Result<String, String> {
        match key.state().await.map_err(|error| error.to_string())? {
            KeyState::Present(signer) => Ok(format!(
                "orders are signed with key {}; `order_keys` of the policy of runners has {}",
                signer.id(),
                signer.public_text()
            )),
            KeyState::Unusable(reason) => Err(reason),
            KeyState::Absent => match self.backend.sends_unsigned().await {
                Ok(true) => Ok("does not exist; orders are sent unsigned, as deployed with Unsigned=yes".to_owned()),
                Ok(false) => Err(absent_reason(key.parameter())),
                Err(error) => Err(error.to_string()),
            },
        }
    }

    /// Tests the permissions for claims and heartbeats, without writing.
    async fn check_runner_permissions(&self, group: &str) -> (Result<String, String>, Result<String, String>) {
        let key = |partition: (&str, String), sort: (&str, &str)| {
            Item::from([(partition.0.to_owned(), s(partition.1)), (sort.0.to_owned(), s(sort.1))])
        };
        let run = key(("bucket", format!("{group}#check")), ("run_id", "check"));
        let runner = key(("group", group.to_owned()), ("runner", "check"));
        let by = Claimant { runner: "check", host: "check", id: Some("check") };
        let mut update = claim_update(1, by, Timestamp::now());
        update.condition += " AND attribute_not_exists(#state)";
        let claim = self.backend.dynamo.update(RUNS, run, update).await;
        let beat = self.backend.dynamo.update(RUNNERS, runner, refused_update()).await;
        let result = |tried: PortResult<ItemWriteResult>, permission: &str| match tried {
            Ok(_) => Ok(format!("a runner of group {group} may {permission} here")),
            Err(error) => Err(error.to_string()),
        };
        (result(claim, "claim runs"), result(beat, "write its heartbeat"))
    }
}

/// An update that DynamoDB always refuses: with a missing permission, or because of its condition.
fn refused_update() -> ItemUpdate {
    ItemUpdate {
        expression: "SET #checked = :checked".to_owned(),
        condition: "attribute_exists(#checked) AND attribute_not_exists(#checked)".to_owned(),
        values: vec![(":checked", s("check"))],
        return_item: false,
    }
}

fn checked_queues(names: &Names, groups: &[String]) -> Vec<String> {
    let of_groups = groups.iter().flat_map(|group| [names.orders(group), names.orders_dead(group)]);
    of_groups.chain([names.reports(), names.reports_dead()]).collect()
}

struct TableCheck {
    arn: String,
    summary: String,
}

async fn check_table(client: &aws_sdk_dynamodb::Client, table: &Table) -> Result<TableCheck, String> {
    let place = format!("the table {}", table.name);
    let call_name = CallName { service: "DynamoDB", action: "DescribeTable", place: &place };
    let described = client.describe_table().table_name(&table.name).send().await;
    let described = described.map_err(|error| call_error(call_name, &error).to_string())?.table;
    let described = described.ok_or_else(|| format!("{place}: the answer has no description"))?;
    let status = described.table_status().map_or("without a status", |status| status.as_str());
    if !matches!(status, "ACTIVE" | "UPDATING") {
        return Err(format!("is {status}; wait until it is ACTIVE"));
    }
    let keys: Vec<&str> = described.key_schema().iter().map(|key| key.attribute_name()).collect();
    let wanted: Vec<&str> = [table.partition].into_iter().chain(table.sort).collect();
    if keys != wanted {
        return Err(format!(
            "belongs to another program: its key is {}, not {}; choose another `prefix`, or deploy the template again",
            keys.join(", "),
            wanted.join(", ")
        ));
    }
    let indexes: Vec<&str> =
        described.global_secondary_indexes().iter().filter_map(|index| index.index_name()).collect();
    if let Some(missing) = table.indexes.iter().find(|index| !indexes.contains(&index.name)) {
        return Err(format!("has no index {}; deploy the template again", missing.name));
    }
    let items = described.item_count().unwrap_or(0);
    let arn = described.table_arn().unwrap_or_default().to_owned();
    Ok(TableCheck { arn, summary: format!("reachable; about {items} items") })
}

async fn queue_url(client: &aws_sdk_sqs::Client, queue: &str, place: &str) -> Result<String, String> {
    let call_name = CallName { service: "SQS", action: "GetQueueUrl", place };
    let found = client.get_queue_url().queue_name(queue).send().await;
    let found = found.map_err(|error| call_error(call_name, &error).to_string())?;
    found.queue_url.ok_or_else(|| format!("{place}: the answer has no URL"))
}

/// The only call on a queue that a sender may make without sending.
async fn check_queue_exists(client: &aws_sdk_sqs::Client, queue: &str) -> Result<String, String> {
    queue_url(client, queue, &format!("the queue {queue}")).await.map(|_| "exists".to_owned())
}

async fn check_queue_depth(client: &aws_sdk_sqs::Client, queue: &str) -> Result<String, String> {
    let place = format!("the queue {queue}");
    let url = queue_url(client, queue, &place).await?;
    let call_name = CallName { service: "SQS", action: "GetQueueAttributes", place: &place };
    let name = QueueAttributeName::ApproximateNumberOfMessages;
    let asked = client.get_queue_attributes().queue_url(url).attribute_names(name.clone()).send().await;
    let asked = asked.map_err(|error| call_error(call_name, &error).to_string())?;
    let waiting = asked.attributes().and_then(|all| all.get(&name)).map_or("an unknown number of", String::as_str);
    Ok(format!("reachable; {waiting} messages waiting"))
}

/// `table_arn`: ARN of any table of this installation. A topic's ARN differs from it in service and name only.
async fn check_topic(client: &aws_sdk_sns::Client, table_arn: Option<&str>, topic: &str) -> Result<String, String> {
    let arn = table_arn.and_then(|arn| topic_arn(arn, topic));
    let arn = arn.ok_or("not checked: no table was found that shows the account".to_owned())?;
    let place = format!("the topic {topic}");
    let call_name = CallName { service: "SNS", action: "GetTopicAttributes", place: &place };
    let asked = client.get_topic_attributes().topic_arn(arn).send().await;
    let asked = asked.map_err(|error| call_error(call_name, &error).to_string())?;
    let count = asked.attributes().and_then(|all| all.get("SubscriptionsConfirmed")).map_or("0", String::as_str);
    match count {
        "0" => Ok("reachable, but has no subscriber: alerts reach no one".to_owned()),
        count => Ok(format!("reachable; {count} subscriptions")),
    }
}

/// Reads partition, region and account from `arn:PARTITION:dynamodb:REGION:ACCOUNT:table/NAME`.
pub(crate) fn topic_arn(table_arn: &str, topic: &str) -> Option<String> {
    let mut parts = table_arn.split(':');
    let (_, partition, _) = (parts.next()?, parts.next()?, parts.next()?);
    let (region, account) = (parts.next()?, parts.next()?);
    Some(format!("arn:{partition}:sns:{region}:{account}:{topic}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arn_of_a_topic_is_made_from_the_arn_of_a_table() {
        let arn = topic_arn("arn:aws-cn:dynamodb:cn-north-1:123456789012:table/sexton-runs", "sexton-alerts");
        assert_eq!(arn.as_deref(), Some("arn:aws-cn:sns:cn-north-1:123456789012:sexton-alerts"));
        assert_eq!(topic_arn("", "sexton-alerts"), None);
    }
}
