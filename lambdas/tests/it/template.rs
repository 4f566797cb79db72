//! The templates pass the linter and match the code.

use std::process::Command;

use aws::{Names, Table, tables};
use serde_json::{Value, json};
use testbed::{Boto, Ministack, cfn_lint, repository};

use crate::installation::template;

#[test]
fn the_templates_pass_the_linter() {
    let Some(cfn_lint) = cfn_lint() else { return };
    let checked = Command::new(cfn_lint)
        .args(["--include-checks", "I", "--", "lambdas/template.yaml", "lambdas/group.yaml"])
        .current_dir(repository())
        .output()
        .expect("the linter can be started");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}

/// Returns a name with the default prefix and the group `db`.
fn plain(value: &Value) -> String {
    let text = value.as_str().or_else(|| value["Fn::Sub"].as_str()).unwrap_or_else(|| panic!("{value} is not a name"));
    text.replace("${Prefix}", "sexton").replace("${Group}", "db")
}

/// Writes a table as CloudFormation does, with the properties on which the code relies.
fn shape(table: &Table) -> Value {
    let keys = |partition: &str, sort: Option<&str>| {
        let mut keys = vec![json!({ "AttributeName": partition, "KeyType": "HASH" })];
        keys.extend(sort.map(|sort| json!({ "AttributeName": sort, "KeyType": "RANGE" })));
        Value::from(keys)
    };
    let index = |index: &aws::Index| {
        json!({
            "IndexName": index.name,
            "KeySchema": keys(index.partition, Some(index.sort)),
            "Projection": { "ProjectionType": index.projection.name() },
        })
    };
    let mut attributes = vec![table.partition];
    attributes.extend(table.sort);
    attributes.extend(table.indexes.iter().flat_map(|index| [index.partition, index.sort]));
    attributes.sort_unstable();
    attributes.dedup();
    json!({
        "TableName": table.name,
        "KeySchema": keys(table.partition, table.sort),
        "GlobalSecondaryIndexes": table.indexes.iter().map(index).collect::<Vec<_>>(),
        "TimeToLiveSpecification": table.expires.map(|name| json!({ "AttributeName": name, "Enabled": true })),
        "StreamSpecification": table.stream.then(|| json!({ "StreamViewType": "KEYS_ONLY" })),
        "Attributes": attributes,
    })
}

fn shape_in_template(properties: &Value) -> Value {
    let attributes = properties["AttributeDefinitions"].as_array().expect("attributes");
    let mut names: Vec<&str> = attributes.iter().filter_map(|attribute| attribute["AttributeName"].as_str()).collect();
    assert!(
        attributes.iter().all(|attribute| attribute["AttributeType"] == "S"),
        "every key is a string: {attributes:?}"
    );
    names.sort_unstable();
    json!({
        "TableName": plain(&properties["TableName"]),
        "KeySchema": properties["KeySchema"],
        "GlobalSecondaryIndexes": properties.get("GlobalSecondaryIndexes").cloned().unwrap_or(json!([])),
        "TimeToLiveSpecification": properties["TimeToLiveSpecification"],
        "StreamSpecification": properties["StreamSpecification"],
        "Attributes": names,
    })
}

#[test]
fn the_template_creates_the_tables_of_the_code() {
    let Some(server) = Ministack::start() else { return };
    let Some(boto) = Boto::start(&server) else { return };
    let template = template(&boto, "template.yaml");
    let resources = template["Resources"].as_object().expect("resources");
    let made = resources.values().filter(|resource| resource["Type"] == "AWS::DynamoDB::Table");
    let mut made: Vec<Value> = made.map(|table| shape_in_template(&table["Properties"])).collect();
    let mut used: Vec<Value> = tables(&Names::new("sexton")).iter().map(shape).collect();
    for tables in [&mut made, &mut used] {
        tables.sort_by_key(|table| table["TableName"].as_str().map(str::to_owned));
    }
    assert_eq!(made, used);
}

#[test]
fn queues_and_topics_have_the_names_of_the_code() {
    let Some(server) = Ministack::start() else { return };
    let Some(boto) = Boto::start(&server) else { return };
    let names = Names::new("sexton");
    let mut found = Vec::new();
    for file in ["template.yaml", "group.yaml"] {
        for resource in template(&boto, file)["Resources"].as_object().expect("resources").values() {
            let name = ["QueueName", "TopicName"].iter().find_map(|name| resource["Properties"].get(name));
            if resource["Type"] != "AWS::CloudWatch::Alarm" {
                found.extend(name.map(plain));
            }
        }
    }
    found.sort();
    let mut wanted = vec![
        names.reports(),
        names.reports_dead(),
        names.orders("db"),
        names.orders_dead("db"),
        names.alerts_topic(),
        names.operations_topic(),
    ];
    wanted.sort();
    assert_eq!(found, wanted);
}

/// Alarms cost 0.40 of the two dollars a month that an idle installation may cost.
#[test]
fn an_installation_has_four_alarms_and_a_group_has_none_unless_asked() {
    let Some(server) = Ministack::start() else { return };
    let Some(boto) = Boto::start(&server) else { return };
    let alarms = |file: &str| {
        let template = template(&boto, file);
        let all = template["Resources"].as_object().expect("resources").values();
        all.filter(|resource| resource["Type"] == "AWS::CloudWatch::Alarm" && resource.get("Condition").is_none())
            .count()
    };
    assert_eq!((alarms("template.yaml"), alarms("group.yaml")), (4, 0));
}

/// A change of a name replaces a resource, and the old one is deleted unless the template retains it.
#[test]
fn no_update_of_a_stack_deletes_runs_jobs_alerts_or_output() {
    let Some(server) = Ministack::start() else { return };
    let Some(boto) = Boto::start(&server) else { return };
    let policy =
        |file: &str, resource: &str| template(&boto, file)["Resources"][resource]["UpdateReplacePolicy"].clone();
    for table in ["JobsTable", "RunsTable", "AlertsTable", "SettingsTable"] {
        assert_eq!(policy("template.yaml", table), "Retain", "{table}");
    }
    assert_eq!(policy("group.yaml", "Output"), "Retain");
}
