//! The KMS key of an installation that was deployed with `KmsKey`: which one it is, and whether its own policy admits
//! the services that use it. For `sexton check` and for the change of the signing key.

use aws_sdk_sqs::types::QueueAttributeName;
use domain::ports::{PortError, PortResult};
use serde_json::Value;

use crate::Aws;
use crate::fault::{CallName, call_error};
use crate::secrets::AwsSecrets;

/// A service that uses the key without a role, with the permissions that it needs.
struct ServiceUse {
    principal: String,
    actions: &'static [&'static str],
}

/// The statements of docs/aws.md.
fn services(region: &str) -> Vec<ServiceUse> {
    let messages = &["kms:Decrypt", "kms:GenerateDataKey"][..];
    let logs = &[
        "kms:Encrypt",
        "kms:Decrypt",
        "kms:ReEncryptFrom",
        "kms:ReEncryptTo",
        "kms:GenerateDataKey",
        "kms:DescribeKey",
    ];
    let mut all: Vec<ServiceUse> = ["cloudwatch", "sns", "sqs"]
        .iter()
        .map(|name| ServiceUse { principal: format!("{name}.amazonaws.com"), actions: messages })
        .collect();
    all.push(ServiceUse { principal: format!("logs.{region}.amazonaws.com"), actions: logs });
    all
}

impl Aws {
    /// Returns the key that encrypts the queue of reports; none for a key of AWS.
    ///
    /// # Errors
    /// Returns the port's error.
    pub async fn kms_key(&self) -> PortResult<Option<String>> {
        let sqs = aws_sdk_sqs::Client::new(&self.sdk_config);
        let queue = self.names.reports();
        let place = format!("the queue {queue}");
        let call_name = |action| CallName { service: "SQS", action, place: &place };
        let found = sqs.get_queue_url().queue_name(&queue).send().await;
        let url = found.map_err(|error| call_error(call_name("GetQueueUrl"), &error))?.queue_url.unwrap_or_default();
        let name = QueueAttributeName::KmsMasterKeyId;
        let asked = sqs.get_queue_attributes().queue_url(url).attribute_names(name.clone()).send().await;
        let asked = asked.map_err(|error| call_error(call_name("GetQueueAttributes"), &error))?;
        let key = asked.attributes.and_then(|mut all| all.remove(&name));
        Ok(key.filter(|key| !key.is_empty() && !key.starts_with("alias/aws/")))
    }

    /// Checks that the key is enabled and that its policy admits each service.
    pub(crate) async fn check_kms_key(&self, secrets: &AwsSecrets, key: &str) -> Result<String, String> {
        let text = |error: PortError| error.to_string();
        let described =
            secrets.call_kms("DescribeKey", key, &serde_json::json!({ "KeyId": key })).await.map_err(text)?;
        let state = described.pointer("/KeyMetadata/KeyState").and_then(Value::as_str).unwrap_or("without a state");
        if state != "Enabled" {
            return Err(format!("the key is {state}; enable it, or nothing can be read or sent"));
        }
        let request = serde_json::json!({ "KeyId": key, "PolicyName": "default" });
        let policy = secrets.call_kms("GetKeyPolicy", key, &request).await.map_err(text)?;
        let policy = policy["Policy"].as_str().and_then(|policy| serde_json::from_str(policy).ok());
        let policy: Value = policy.ok_or("the policy of the key is unreadable; check it in the AWS console")?;
        let region = self.sdk_config.region().map_or("", |region| region.as_ref());
        let missing: Vec<String> =
            services(region).iter().filter_map(|service| missing_use(&policy, service)).collect();
        match missing.as_slice() {
            [] => Ok("enabled; its policy admits CloudWatch, Logs, SNS and SQS".to_owned()),
            missing => Err(format!("its policy does not allow {}; docs/aws.md has the statements", missing.join(", "))),
        }
    }
}

/// Returns the service with the permissions that no statement of the policy gives it; none if it has all.
fn missing_use(policy: &Value, service: &ServiceUse) -> Option<String> {
    let statements = list(&policy["Statement"]);
    let of_service = statements.iter().filter(|statement| {
        let principals = list(&statement["Principal"]["Service"]);
        statement["Effect"] == "Allow" && principals.iter().any(|principal| **principal == *service.principal)
    });
    let allowed: Vec<&str> =
        of_service.flat_map(|statement| list(&statement["Action"])).filter_map(Value::as_str).collect();
    let is_allowed = |action: &str| allowed.iter().any(|pattern| covers(pattern, action));
    let missing: Vec<&str> = service.actions.iter().copied().filter(|action| !is_allowed(action)).collect();
    (!missing.is_empty()).then(|| format!("{} {}", service.principal, missing.join(" and ")))
}

/// A list of a policy, which may be written as its only member.
fn list(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(members) => members.iter().collect(),
        Value::Null => Vec::new(),
        member => vec![member],
    }
}

/// Whether a pattern of actions, which may end with `*`, covers an action.
fn covers(pattern: &str, action: &str) -> bool {
    let (pattern, action) = (pattern.to_ascii_lowercase(), action.to_ascii_lowercase());
    pattern.strip_suffix('*').map_or(pattern == action, |start| action.starts_with(start))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_policy_without_the_statement_of_a_service_is_found() {
        let statement = |service: Value, action: Value| json!({ "Effect": "Allow", "Principal": { "Service": service }, "Action": action, "Resource": "*" });
        let missing = |statements: Value| -> Vec<String> {
            let policy = json!({ "Statement": statements });
            services("eu-west-1").iter().filter_map(|service| missing_use(&policy, service)).collect()
        };
        let all = json!([
            statement(
                json!(["cloudwatch.amazonaws.com", "sns.amazonaws.com", "sqs.amazonaws.com"]),
                json!(["kms:Decrypt", "kms:GenerateDataKey*"])
            ),
            statement(json!("logs.eu-west-1.amazonaws.com"), json!("kms:*")),
        ]);
        assert_eq!(missing(all), Vec::<String>::new());
        let some = json!([
            statement(json!("cloudwatch.amazonaws.com"), json!("kms:Decrypt")),
            statement(json!(["sns.amazonaws.com", "sqs.amazonaws.com"]), json!(["kms:decrypt", "kms:GenerateDataKey"])),
            statement(json!("logs.us-east-1.amazonaws.com"), json!("kms:*")),
        ]);
        let found = missing(some);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0], "cloudwatch.amazonaws.com kms:GenerateDataKey");
        assert!(found[1].starts_with("logs.eu-west-1.amazonaws.com kms:Encrypt and "), "{found:?}");
    }
}
