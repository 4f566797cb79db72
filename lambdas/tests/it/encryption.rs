//! A key of the operator's own for all that is stored.

use serde_json::{Value, json};
use testbed::repository;

use crate::installation::{ACCOUNT, Installation};
use crate::sexton::Sexton;

/// The policy of docs/aws.md.
fn documented_policy() -> Value {
    let docs = std::fs::read_to_string(repository().join("docs/aws.md")).expect("docs/aws.md");
    let (_, rest) = docs.split_once("```json\n").expect("a policy");
    let (policy, _) = rest.split_once("```").expect("its end");
    serde_json::from_str(&policy.replace("ACCOUNT", ACCOUNT).replace("REGION", "us-east-1")).expect("JSON")
}

/// The properties of all resources of a type.
fn properties<'t>(template: &'t Value, kind: &str) -> Vec<&'t Value> {
    let all = template["Resources"].as_object().expect("resources").values();
    all.filter(|resource| resource["Type"] == kind).map(|resource| &resource["Properties"]).collect()
}

#[test]
fn a_key_encrypts_all_that_is_stored_and_check_tries_its_policy() {
    let Some(installation) = Installation::deploy_without_key(&[]) else { return };
    let plain = installation.call(
        "sqs",
        "get_queue_attributes",
        json!({
            "QueueUrl": installation.queue_url("sexton-reports"), "AttributeNames": ["All"]
        }),
    );
    assert_eq!(plain["Attributes"].get("KmsMasterKeyId"), None, "{plain}");
    for file in ["template.yaml", "group.yaml"] {
        let template = installation.template(file);
        let has_key = |value: &Value| value.to_string().contains(r#"["HasKmsKey",{"Ref":"KmsKey"}"#);
        for queue in properties(&template, "AWS::SQS::Queue") {
            assert!(has_key(&queue["KmsMasterKeyId"]), "{queue}");
        }
        for topic in properties(&template, "AWS::SNS::Topic") {
            assert!(has_key(&topic["KmsMasterKeyId"]), "{topic}");
        }
        for group in properties(&template, "AWS::Logs::LogGroup") {
            assert!(has_key(&group["KmsKeyId"]), "{group}");
        }
        for table in properties(&template, "AWS::DynamoDB::Table") {
            assert_eq!(table["SSESpecification"]["Fn::If"][0], "HasKmsKey", "{table}");
            assert_eq!(table["SSESpecification"]["Fn::If"][1]["KMSMasterKeyId"], json!({ "Ref": "KmsKey" }), "{table}");
        }
    }

    // The queue of the collector gets the key, as by an update of the stack.
    let made = installation.call("kms", "create_key", json!({}));
    let arn = made["KeyMetadata"]["Arn"].as_str().expect("its ARN").to_owned();
    let attributes =
        json!({ "QueueUrl": installation.queue_url("sexton-reports"), "Attributes": { "KmsMasterKeyId": arn } });
    installation.call("sqs", "set_queue_attributes", attributes);
    let operator = Sexton::of_administrator(&installation);
    operator.allow_person(&["kms:DescribeKey", "kms:GetKeyPolicy"], "*");
    let found = |printed: &str| -> String {
        let line = printed.lines().find(|line| line.contains(&format!("key {arn}")));
        line.unwrap_or_else(|| panic!("{printed}")).to_owned()
    };
    let line = found(&operator.try_run(&["check", "--aws"]).1);
    assert!(line.starts_with("BAD") && line.contains("logs.us-east-1.amazonaws.com kms:Encrypt"), "{line}");
    let policy = documented_policy().to_string();
    installation.call("kms", "put_key_policy", json!({ "KeyId": arn, "PolicyName": "default", "Policy": policy }));
    let line = found(&operator.try_run(&["check", "--aws"]).1);
    assert!(line.starts_with("ok"), "{line}");
    installation.call("kms", "disable_key", json!({ "KeyId": arn }));
    let line = found(&operator.try_run(&["check", "--aws"]).1);
    assert!(line.starts_with("BAD") && line.contains("Disabled"), "{line}");
}
