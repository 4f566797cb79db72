//! An installation in ministack, deployed by its CloudFormation from the templates as they are, with two changes: what
//! `aws cloudformation package` does with the code, and the types of resources that ministack does not know are left out.

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
        let boto = Boto::of(&server)?;
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
        let ask = json!({
            "StackName": stack, "TemplateBody": template.to_string(), "Parameters": parameters,
            "Capabilities": ["CAPABILITY_IAM"]
        });
        self.call("cloudformation", "create_stack", ask);
        let begun = Instant::now();
        loop {
            let found = self.call("cloudformation", "describe_stacks", json!({ "StackName": stack }));
            match found["Stacks"][0]["StackStatus"].as_str() {
                Some("CREATE_COMPLETE") => return,
                Some("CREATE_IN_PROGRESS") if begun.elapsed() < DEADLINE => {}
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
        "scheduler" => env!("CARGO_BIN_EXE_pruner"),
        "collector" => env!("CARGO_BIN_EXE_pruner"),
        "pruner" => env!("CARGO_BIN_EXE_pruner"),
        _ => env!("CARGO_BIN_EXE_api"),
    }
}
