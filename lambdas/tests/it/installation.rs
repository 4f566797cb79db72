//! An installation in ministack, deployed by its CloudFormation from the templates as they are, with three changes: what
//! `aws cloudformation package` does with the code; types of resources that ministack does not know are left out; and a
//! permission that AWS grants for a call and for its batch stands under both names, as ministack asks for either.

use std::time::Instant;

use serde_json::{Value, json};
use testbed::{Boto, Caller, DEADLINE, Ministack, Refusal, repository};

pub const ACCOUNT: &str = "111111111111";

/// The stack of the installation, and its prefix.
pub const STACK: &str = "sexton";

/// What ministack has no handler for. Nothing else is left out.
const UNKNOWN_TYPES: [&str; 1] = ["AWS::Logs::QueryDefinition"];

const LAMBDAS: [&str; 4] = ["scheduler", "collector", "pruner", "api"];

pub struct Installation {
    pub boto: Boto,
    pub server: Ministack,
}

impl Installation {
    /// With the groups `db` and `web`. IAM is enforced, for the Lambdas too.
    #[track_caller]
    pub fn deploy() -> Option<Installation> {
        let server = Ministack::start_enforcing()?;
        let boto = Boto::start(&server)?;
        let installation = Installation { boto, server };
        installation.upload_code();
        installation.create(STACK, packaged(installation.template("template.yaml")), json!([]));
        for group in ["db", "web"] {
            let parameters = json!([
                { "ParameterKey": "Group", "ParameterValue": group },
                { "ParameterKey": "RunnerPrincipal", "ParameterValue": format!("arn:aws:iam::{ACCOUNT}:root") },
            ]);
            installation.create(group, installation.template("group.yaml"), parameters);
        }
        Some(installation)
    }

    pub fn root(&self) -> Caller {
        Caller::root(ACCOUNT)
    }

    /// As the account's root, who may do everything.
    #[track_caller]
    pub fn call(&self, service: &str, action: &str, parameters: Value) -> Value {
        self.try_call(service, action, parameters)
            .unwrap_or_else(|refusal| panic!("{service} {action}: {refusal:?}\n{}", self.server.diagnostics()))
    }

    pub fn try_call(&self, service: &str, action: &str, parameters: Value) -> Result<Value, Refusal> {
        self.boto.call(&self.root(), service, action, parameters)
    }

    /// A template of this crate as JSON.
    #[track_caller]
    pub fn template(&self, file: &str) -> Value {
        template(&self.boto, file)
    }

    /// The physical name of a resource.
    #[track_caller]
    pub fn resource(&self, stack: &str, logical: &str) -> String {
        let found = self.call(
            "cloudformation",
            "describe_stack_resource",
            json!({ "StackName": stack, "LogicalResourceId": logical }),
        );
        found["StackResourceDetail"]["PhysicalResourceId"].as_str().expect("its name").to_owned()
    }

    /// Somebody who has assumed a role of a stack.
    #[track_caller]
    pub fn role(&self, stack: &str, logical: &str) -> Caller {
        let arn = format!("arn:aws:iam::{ACCOUNT}:role/{}", self.resource(stack, logical));
        let answer = self.call("sts", "assume_role", json!({ "RoleArn": arn, "RoleSessionName": "test" }));
        let text = |name: &str| answer["Credentials"][name].as_str().expect(name).to_owned();
        Caller { key: text("AccessKeyId"), secret: text("SecretAccessKey"), token: Some(text("SessionToken")) }
    }

    /// An item of the jobs table with the five attributes that a person has to write.
    #[track_caller]
    pub fn put_job(&self, group: &str, name: &str, command: &str, schedule: &str) {
        let item = json!({
            "group": { "S": group }, "name": { "S": name }, "command": { "S": command }, "schedule": { "S": schedule },
            "enabled": { "BOOL": true }
        });
        self.call("dynamodb", "put_item", json!({ "TableName": format!("{STACK}-jobs"), "Item": item }));
    }

    /// Everything in a table.
    #[track_caller]
    pub fn items(&self, table: &str) -> Vec<Value> {
        let found = self.call("dynamodb", "scan", json!({ "TableName": format!("{STACK}-{table}") }));
        found["Items"].as_array().cloned().unwrap_or_default()
    }

    /// Calls a Lambda and waits for what it answers; an error is its message.
    #[track_caller]
    pub fn invoke(&self, name: &str, payload: &str) -> Result<Value, String> {
        let request = json!({ "FunctionName": format!("{STACK}-{name}"), "Payload": payload });
        let answer = self.call("lambda", "invoke", request);
        let text = answer["Payload"].as_str().unwrap_or_default();
        match answer.get("FunctionError") {
            None => Ok(serde_json::from_str(text).unwrap_or(Value::Null)),
            Some(_) => Err(text.to_owned()),
        }
    }

    /// The scheduler's minute.
    #[track_caller]
    pub fn tick(&self) {
        self.invoke("scheduler", r#"{"duty":"tick"}"#).expect("a tick");
    }

    /// Waits until `condition` holds; tells what it was and what happened, when it does not.
    #[track_caller]
    pub fn wait(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let started = Instant::now();
        while !condition() {
            assert!(started.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}; {}", self.diagnosis());
        }
    }

    /// What there is to see of an installation where something went wrong.
    pub fn diagnosis(&self) -> String {
        let tables = ["jobs", "due", "runs", "alerts"].map(|table| format!("{table}: {:#?}", self.items(table)));
        let logs = ["scheduler", "collector"].map(|name| self.lambda_log(name).concat());
        format!("{}\n{}\n{}", tables.join("\n"), logs.concat(), self.server.diagnostics())
    }

    /// Waits for so many messages of a queue, and deletes them.
    #[track_caller]
    pub fn receive(&self, queue: &str, count: usize) -> Vec<Value> {
        let mut messages = Vec::new();
        self.wait(&format!("{count} messages are in {queue}"), || {
            messages.extend(self.received_now(queue));
            messages.len() >= count
        });
        messages
    }

    /// The messages of a queue that are there now; deletes them.
    #[track_caller]
    pub fn received_now(&self, queue: &str) -> Vec<Value> {
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

    /// The id of the role of a group's runners, as its stack put it on the group's queue.
    #[track_caller]
    pub fn role_id(&self, group: &str) -> String {
        let tags = self.call("sqs", "list_queue_tags", json!({ "QueueUrl": self.orders_url(group) }));
        tags["Tags"]["sexton-runner-role"].as_str().expect("the tag").to_owned()
    }

    /// Lets a sender report for a group.
    #[track_caller]
    pub fn trust_sender(&self, group: &str, sender: &str) {
        let tags = json!({ "sexton-runner-role": sender });
        self.call("sqs", "tag_queue", json!({ "QueueUrl": self.orders_url(group), "Tags": tags }));
    }

    fn orders_url(&self, group: &str) -> String {
        self.queue_url(&format!("{STACK}-orders-{group}"))
    }

    pub fn queue_url(&self, queue: &str) -> String {
        format!("{}/{ACCOUNT}/{queue}", self.server.endpoint())
    }

    /// What a Lambda wrote.
    #[track_caller]
    pub fn lambda_log(&self, name: &str) -> Vec<String> {
        self.logged(&format!("/aws/lambda/{STACK}-{name}"))
    }

    /// What the runners of a group shipped of a run: its lines and what brackets them.
    #[track_caller]
    pub fn output_of(&self, group: &str, run_id: &str) -> Vec<Value> {
        let records = self.logged(&format!("/cron/{group}"));
        let records = records.iter().map(|text| serde_json::from_str(text).expect("JSON"));
        records.filter(|record: &Value| record["run_id"] == run_id).collect()
    }

    /// The messages of a log group.
    #[track_caller]
    fn logged(&self, group: &str) -> Vec<String> {
        let found = self.call("logs", "filter_log_events", json!({ "logGroupName": group }));
        let events = found["events"].as_array().cloned().unwrap_or_default();
        events.iter().filter_map(|event| event["message"].as_str().map(str::to_owned)).collect()
    }

    /// The function's real binary, by a launcher: what is uploaded stays small.
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
    fn create(&self, stack: &str, mut template: Value, parameters: Value) {
        let resources = template["Resources"].as_object_mut().expect("resources");
        resources.retain(|_, resource| !UNKNOWN_TYPES.iter().any(|unknown| resource["Type"] == *unknown));
        name_batches(&mut template);
        let request = json!({
            "StackName": stack, "TemplateBody": template.to_string(), "Parameters": parameters,
            "Capabilities": ["CAPABILITY_IAM"]
        });
        self.call("cloudformation", "create_stack", request);
        let started = Instant::now();
        loop {
            let found = self.call("cloudformation", "describe_stacks", json!({ "StackName": stack }));
            match found["Stacks"][0]["StackStatus"].as_str() {
                Some("CREATE_COMPLETE") => return,
                Some("CREATE_IN_PROGRESS") if started.elapsed() < DEADLINE => {}
                _ => {
                    let events = self.call("cloudformation", "describe_stack_events", json!({ "StackName": stack }));
                    panic!("stack {stack} was not made: {events}");
                }
            }
        }
    }
}

/// A template of this crate as JSON, short forms of functions written out.
#[track_caller]
pub fn template(boto: &Boto, file: &str) -> Value {
    let path = repository().join("lambdas").join(file);
    boto.template(&std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// SQS's permissions by call; there is no `sqs:SendMessageBatch` in AWS's IAM.
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

/// As `aws cloudformation package` leaves it: each folder of code is an object in a bucket.
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
