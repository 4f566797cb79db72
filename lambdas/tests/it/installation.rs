//! An installation in ministack, deployed by its CloudFormation from the templates, with three changes: code is
//! packaged as by `aws cloudformation package`; resource types that ministack does not support are left out; and a
//! permission that covers a call and its batch is listed under both names, because ministack checks each.

use std::time::Instant;

use serde_json::{Value, json};
use testbed::{Boto, Caller, DEADLINE, Ministack, Refusal, repository};

pub(crate) const ACCOUNT: &str = "111111111111";

/// Name of the installation's stack, and its prefix.
pub(crate) const STACK: &str = "sexton";

/// Resource types that ministack does not support. Nothing else is left out.
const UNKNOWN_TYPES: [&str; 1] = ["AWS::Logs::QueryDefinition"];

/// The parameter with the key that signs orders.
pub(crate) const SIGNING_KEY: &str = "/sexton/order-signing-key";

/// RFC 8032, 7.1, test 1.
const ORDER_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
                         MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
                         -----END PRIVATE KEY-----\n";

const LAMBDAS: [&str; 4] = ["scheduler", "collector", "pruner", "api"];

pub(crate) struct Installation {
    pub boto: Boto,
    pub server: Ministack,
}

impl Installation {
    /// Deploys an installation with the groups `db` and `web`, and a key for its orders. IAM is enforced, also for the
    /// Lambdas.
    #[track_caller]
    pub(crate) fn deploy() -> Option<Installation> {
        let installation = Installation::deploy_without_key(&[])?;
        installation.put_parameter(SIGNING_KEY, ORDER_KEY);
        Some(installation)
    }

    /// As [`Installation::deploy`], without a key, and with these parameters.
    #[track_caller]
    pub(crate) fn deploy_without_key(parameters: &[(&str, &str)]) -> Option<Installation> {
        let installation = Installation::prepare()?;
        installation.create(STACK, packaged(installation.template("template.yaml")), named(parameters));
        let account = format!("arn:aws:iam::{ACCOUNT}:root");
        for group in ["db", "web"] {
            installation.add_group(group, &[("Group", group), ("RunnerPrincipal", &account)]);
        }
        Some(installation)
    }

    /// Deploys the installation and group `db` from the templates of the last release, which are kept as JSON, without
    /// descriptions. The Lambdas are those of this release.
    #[track_caller]
    pub(crate) fn deploy_last_release() -> Option<Installation> {
        let installation = Installation::prepare()?;
        installation.create(STACK, packaged(released("template.json")), json!([]));
        let account = format!("arn:aws:iam::{ACCOUNT}:root");
        let parameters = named(&[("Group", "db"), ("RunnerPrincipal", &account)]);
        installation.create("db", released("group.json"), parameters);
        Some(installation)
    }

    /// Starts the emulator, and uploads the code of the Lambdas.
    #[track_caller]
    fn prepare() -> Option<Installation> {
        let server = Ministack::start_enforcing()?;
        let boto = Boto::start(&server)?;
        let installation = Installation { boto, server };
        installation.upload_code();
        Some(installation)
    }

    /// Updates the stacks of [`Installation::deploy_last_release`] to the templates of this release.
    #[track_caller]
    pub(crate) fn update(&self, parameters: &[(&str, &str)], of_group: &[(&str, &str)]) {
        self.apply("update_stack", STACK, packaged(self.template("template.yaml")), named(parameters));
        let account = format!("arn:aws:iam::{ACCOUNT}:root");
        let of_group = [&[("Group", "db"), ("RunnerPrincipal", &account)], of_group].concat();
        self.apply("update_stack", "db", self.template("group.yaml"), named(&of_group));
    }

    /// Deploys a group with these parameters.
    #[track_caller]
    pub(crate) fn add_group(&self, stack: &str, parameters: &[(&str, &str)]) {
        self.create(stack, self.template("group.yaml"), named(parameters));
    }

    /// Writes a parameter of the Parameter Store, or replaces it.
    #[track_caller]
    pub(crate) fn put_parameter(&self, name: &str, value: &str) {
        let request = json!({ "Name": name, "Type": "SecureString", "Value": value, "Overwrite": true });
        self.call("ssm", "put_parameter", request);
    }

    /// Subscribes a new queue to a topic of the installation, which is made where it is missing.
    #[track_caller]
    pub(crate) fn subscribe(&self, queue: &str, topic: &str) {
        let made = self.call("sqs", "create_queue", json!({ "QueueName": queue }));
        let queue = format!("arn:aws:sqs:us-east-1:{ACCOUNT}:{queue}");
        let topic = self.call("sns", "create_topic", json!({ "Name": topic }));
        let policy = json!({ "Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Principal": { "Service": "sns.amazonaws.com" },
            "Action": "sqs:SendMessage", "Resource": queue
        }] });
        let attributes = json!({ "Policy": policy.to_string() });
        self.call("sqs", "set_queue_attributes", json!({ "QueueUrl": made["QueueUrl"], "Attributes": attributes }));
        let attributes = json!({ "RawMessageDelivery": "true" });
        let request = json!({
            "TopicArn": topic["TopicArn"], "Protocol": "sqs", "Endpoint": queue, "Attributes": attributes
        });
        self.call("sns", "subscribe", request);
    }

    pub(crate) fn root(&self) -> Caller {
        Caller::root(ACCOUNT)
    }

    /// Calls AWS as the account's root, which has all permissions.
    #[track_caller]
    pub(crate) fn call(&self, service: &str, action: &str, parameters: Value) -> Value {
        self.try_call(service, action, parameters)
            .unwrap_or_else(|refusal| panic!("{service} {action}: {refusal:?}\n{}", self.server.diagnostics()))
    }

    pub(crate) fn try_call(&self, service: &str, action: &str, parameters: Value) -> Result<Value, Refusal> {
        self.boto.call(&self.root(), service, action, parameters)
    }

    /// Reads a template of this crate as JSON.
    #[track_caller]
    pub(crate) fn template(&self, file: &str) -> Value {
        template(&self.boto, file)
    }

    /// Returns the physical name of a resource.
    #[track_caller]
    pub(crate) fn resource(&self, stack: &str, logical: &str) -> String {
        let found = self.call(
            "cloudformation",
            "describe_stack_resource",
            json!({ "StackName": stack, "LogicalResourceId": logical }),
        );
        found["StackResourceDetail"]["PhysicalResourceId"].as_str().expect("its name").to_owned()
    }

    /// Assumes a role of a stack.
    #[track_caller]
    pub(crate) fn role(&self, stack: &str, logical: &str) -> Caller {
        let arn = format!("arn:aws:iam::{ACCOUNT}:role/{}", self.resource(stack, logical));
        let answer = self.call("sts", "assume_role", json!({ "RoleArn": arn, "RoleSessionName": "test" }));
        let text = |name: &str| answer["Credentials"][name].as_str().expect(name).to_owned();
        Caller { key: text("AccessKeyId"), secret: text("SecretAccessKey"), token: Some(text("SessionToken")) }
    }

    /// Stores a job with the five required attributes, as an operator does in the AWS console.
    #[track_caller]
    pub(crate) fn put_job(&self, group: &str, name: &str, command: &str, schedule: &str) {
        let item = json!({
            "group": { "S": group }, "name": { "S": name }, "command": { "S": command }, "schedule": { "S": schedule },
            "enabled": { "BOOL": true }
        });
        self.call("dynamodb", "put_item", json!({ "TableName": format!("{STACK}-jobs"), "Item": item }));
    }

    /// Returns all items of a table.
    #[track_caller]
    pub(crate) fn items(&self, table: &str) -> Vec<Value> {
        let found = self.call("dynamodb", "scan", json!({ "TableName": format!("{STACK}-{table}") }));
        found["Items"].as_array().cloned().unwrap_or_default()
    }

    /// Invokes a Lambda, and returns its answer or its error message.
    #[track_caller]
    pub(crate) fn invoke(&self, name: &str, payload: &str) -> Result<Value, String> {
        let request = json!({ "FunctionName": format!("{STACK}-{name}"), "Payload": payload });
        let answer = self.call("lambda", "invoke", request);
        let text = answer["Payload"].as_str().unwrap_or_default();
        match answer.get("FunctionError") {
            None => Ok(serde_json::from_str(text).unwrap_or(Value::Null)),
            Some(_) => Err(text.to_owned()),
        }
    }

    /// Invokes the scheduler with a tick.
    #[track_caller]
    pub(crate) fn tick(&self) {
        self.invoke("scheduler", r#"{"duty":"tick"}"#).expect("a tick");
    }

    /// Waits until `condition` holds; otherwise fails with a diagnosis of the installation.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let started = Instant::now();
        while !condition() {
            assert!(started.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}; {}", self.diagnosis());
        }
    }

    /// Returns tables and logs of the installation, for a failed test.
    pub(crate) fn diagnosis(&self) -> String {
        let tables = ["jobs", "due", "runs", "alerts"].map(|table| format!("{table}: {:#?}", self.items(table)));
        let logs = ["scheduler", "collector"].map(|name| self.lambda_log(name).concat());
        format!("{}\n{}\n{}", tables.join("\n"), logs.concat(), self.server.diagnostics())
    }

    /// Waits for `count` messages of a queue, and deletes them.
    #[track_caller]
    pub(crate) fn receive(&self, queue: &str, count: usize) -> Vec<Value> {
        let mut messages = Vec::new();
        self.wait(&format!("{count} messages are in {queue}"), || {
            messages.extend(self.received_now(queue));
            messages.len() >= count
        });
        messages
    }

    /// Returns and deletes the available messages of a queue.
    #[track_caller]
    pub(crate) fn received_now(&self, queue: &str) -> Vec<Value> {
        let url = self.queue_url(queue);
        let request = json!({
            "QueueUrl": url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 0, "MessageAttributeNames": ["All"]
        });
        let messages = self.call("sqs", "receive_message", request)["Messages"].as_array().cloned().unwrap_or_default();
        for message in &messages {
            self.call("sqs", "delete_message", json!({ "QueueUrl": url, "ReceiptHandle": message["ReceiptHandle"] }));
        }
        messages
    }

    /// Returns the role id of a group's runners, from the tag of the group's queue.
    #[track_caller]
    pub(crate) fn role_id(&self, group: &str) -> String {
        let tags = self.call("sqs", "list_queue_tags", json!({ "QueueUrl": self.orders_url(group) }));
        tags["Tags"]["sexton-runner-role"].as_str().expect("the tag").to_owned()
    }

    /// Permits a sender to report for a group.
    #[track_caller]
    pub(crate) fn trust_sender(&self, group: &str, sender: &str) {
        let tags = json!({ "sexton-runner-role": sender });
        self.call("sqs", "tag_queue", json!({ "QueueUrl": self.orders_url(group), "Tags": tags }));
    }

    fn orders_url(&self, group: &str) -> String {
        self.queue_url(&format!("{STACK}-orders-{group}"))
    }

    pub(crate) fn queue_url(&self, queue: &str) -> String {
        format!("{}/{ACCOUNT}/{queue}", self.server.endpoint())
    }

    /// Returns the log lines of a Lambda.
    #[track_caller]
    pub(crate) fn lambda_log(&self, name: &str) -> Vec<String> {
        self.logged(&format!("/aws/lambda/{STACK}-{name}"))
    }

    /// Returns the shipped records of a run: its lines and bracket records.
    #[track_caller]
    pub(crate) fn output_of(&self, group: &str, run_id: &str) -> Vec<Value> {
        let records = self.logged(&format!("/cron/{group}"));
        let records = records.iter().map(|text| serde_json::from_str(text).expect("JSON"));
        records.filter(|record: &Value| record["run_id"] == run_id).collect()
    }

    /// Returns the messages of a log group.
    #[track_caller]
    fn logged(&self, group: &str) -> Vec<String> {
        let found = self.call("logs", "filter_log_events", json!({ "logGroupName": group }));
        let events = found["events"].as_array().cloned().unwrap_or_default();
        events.iter().filter_map(|event| event["message"].as_str().map(str::to_owned)).collect()
    }

    /// Uploads a small launcher that starts the real binary.
    fn upload_code(&self) {
        self.call("s3", "create_bucket", json!({ "Bucket": "code" }));
        for name in LAMBDAS {
            let bootstrap =
                format!("#!/bin/sh\nexport AWS_ENDPOINT_URL={}\nexec {}\n", self.server.endpoint(), binary(name));
            let body = json!({ "$zip": { "bootstrap": bootstrap } });
            self.call("s3", "put_object", json!({ "Bucket": "code", "Key": format!("{name}.zip"), "Body": body }));
        }
    }

    #[track_caller]
    fn create(&self, stack: &str, template: Value, parameters: Value) {
        self.apply("create_stack", stack, template, parameters);
    }

    #[track_caller]
    fn apply(&self, action: &str, stack: &str, mut template: Value, parameters: Value) {
        let resources = template["Resources"].as_object_mut().expect("resources");
        resources.retain(|_, resource| !UNKNOWN_TYPES.iter().any(|unknown| resource["Type"] == *unknown));
        name_batches(&mut template);
        let request = json!({
            "StackName": stack, "TemplateBody": template.to_string(), "Parameters": parameters,
            "Capabilities": ["CAPABILITY_IAM"]
        });
        self.call("cloudformation", action, request);
        let started = Instant::now();
        loop {
            let found = self.call("cloudformation", "describe_stacks", json!({ "StackName": stack }));
            match found["Stacks"][0]["StackStatus"].as_str() {
                Some("CREATE_COMPLETE") if action == "create_stack" => return,
                Some("UPDATE_COMPLETE") => return,
                Some("CREATE_IN_PROGRESS" | "CREATE_COMPLETE") if started.elapsed() < DEADLINE => {}
                Some(status)
                    if status.starts_with("UPDATE") && !status.contains("ROLLBACK") && started.elapsed() < DEADLINE => {
                }
                _ => {
                    let events = self.call("cloudformation", "describe_stack_events", json!({ "StackName": stack }));
                    panic!("{action} of {stack} failed: {events}");
                }
            }
        }
    }
}

fn named(parameters: &[(&str, &str)]) -> Value {
    parameters.iter().map(|(key, value)| json!({ "ParameterKey": key, "ParameterValue": value })).collect()
}

/// Reads a template as JSON, with the long forms of its functions.
#[track_caller]
pub(crate) fn template(boto: &Boto, file: &str) -> Value {
    let path = repository().join("lambdas").join(file);
    boto.template(&std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// Reads a template of the last release.
#[track_caller]
fn released(file: &str) -> Value {
    let path = repository().join("lambdas/tests/released").join(file);
    serde_json::from_str(&std::fs::read_to_string(path).expect("a template")).expect("JSON")
}

/// Permissions that also cover the batch call. IAM of AWS has no `sqs:SendMessageBatch`.
const WITH_BATCHES: [&str; 3] = ["sqs:SendMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"];

fn name_batches(value: &mut Value) {
    match value {
        Value::Array(values) => {
            let named =
                |value: &Value| WITH_BATCHES.iter().find(|name| value == **name).map(|name| format!("{name}Batch"));
            let batches: Vec<Value> = values.iter().filter_map(named).map(Value::from).collect();
            values.extend(batches);
            values.iter_mut().for_each(name_batches);
        }
        Value::Object(members) => members.values_mut().for_each(name_batches),
        _ => {}
    }
}

/// Replaces each folder of code by an object in a bucket, as `aws cloudformation package` does.
fn packaged(mut template: Value) -> Value {
    for resource in template["Resources"].as_object_mut().expect("resources").values_mut() {
        if resource["Type"] == "AWS::Lambda::Function" {
            let folder = resource["Properties"]["Code"].as_str().expect("a folder");
            let name = folder.rsplit('/').next().unwrap_or(folder).to_owned();
            resource["Properties"]["Code"] = json!({ "S3Bucket": "code", "S3Key": format!("{name}.zip") });
        }
    }
    template
}

fn binary(name: &str) -> &'static str {
    match name {
        "scheduler" => env!("CARGO_BIN_EXE_scheduler"),
        "collector" => env!("CARGO_BIN_EXE_collector"),
        "pruner" => env!("CARGO_BIN_EXE_pruner"),
        _ => env!("CARGO_BIN_EXE_api"),
    }
}
