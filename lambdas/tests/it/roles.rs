//! For each role of the templates: calls that must be allowed, and calls that must be denied. ministack deploys the
//! templates and enforces their policies on real requests. It does not know the leading keys of a request, so a
//! separate test asks its policy evaluator about them.

use serde_json::{Value, json};

use crate::installation::{ACCOUNT, Installation, STACK};

/// Error codes of AWS for a call that no policy permits.
const DENIALS: [&str; 5] = [
    "AccessDenied",
    "AccessDeniedException",
    "AuthorizationError",
    "AuthorizationErrorException",
    "UnauthorizedOperation",
];

/// One call of boto3. The parameters are complete enough for the policy check, which comes before all other checks.
struct Call {
    service: &'static str,
    action: String,
    parameters: Value,
}

/// The calls of a table of this form, where each line is `KIND NAME: ACTION ...`:
///
/// ```text
/// table jobs: get_item scan
/// queue orders-db: send_message
/// ```
fn calls(installation: &Installation, table: &str) -> Vec<Call> {
    let lines = table.lines().map(str::trim).filter(|line| !line.is_empty());
    let rows = lines.map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{line} has no action")));
    rows.flat_map(|(resource, actions)| {
        let (kind, name) = resource.split_once(' ').unwrap_or_else(|| panic!("{resource} has no name"));
        actions.split(' ').map(move |action| call(installation, kind, name, action))
    })
    .collect()
}

fn call(installation: &Installation, kind: &str, name: &str, action: &str) -> Call {
    let (service, parameters) = match kind {
        "table" => ("dynamodb", on_table(action, name)),
        "queue" => ("sqs", on_queue(&installation.server.endpoint(), action, name)),
        "topic" => {
            let arn = format!("arn:aws:sns:us-east-1:{ACCOUNT}:sexton-{name}");
            let parameters = json!({ "TopicArn": arn });
            let more = match action {
                "publish" => Some(("Message", "m")),
                "subscribe" => Some(("Protocol", "sqs")),
                _ => None,
            };
            ("sns", more.map_or(parameters.clone(), |(name, value)| merged(parameters, name, value)))
        }
        "parameter" => ("ssm", json!({ "Name": name })),
        "secret" => ("secretsmanager", json!({ "SecretId": name })),
        "logs" => ("logs", on_log_group(action, name)),
        "users" => ("iam", json!({})),
        "runner-role" => {
            let arn = format!("arn:aws:iam::{ACCOUNT}:role/{}", installation.resource(name, "RunnerRole"));
            ("sts", json!({ "RoleArn": arn, "RoleSessionName": "other" }))
        }
        _ => panic!("{kind} is not a kind of resource"),
    };
    Call { service, action: action.to_owned(), parameters }
}

fn merged(mut parameters: Value, name: &str, value: &str) -> Value {
    parameters[name] = json!(value);
    parameters
}

fn on_table(action: &str, table: &str) -> Value {
    let name = format!("sexton-{table}");
    let key = json!({ "group": { "S": "db" } });
    match action {
        "batch_get_item" => json!({ "RequestItems": { name: { "Keys": [key] } } }),
        "batch_write_item" => json!({ "RequestItems": { name: [{ "PutRequest": { "Item": key } }] } }),
        "put_item" => json!({ "TableName": name, "Item": key }),
        "query" => json!({
            "TableName": name, "KeyConditionExpression": "#g = :g",
            "ExpressionAttributeNames": { "#g": "group" }, "ExpressionAttributeValues": { ":g": { "S": "db" } }
        }),
        "scan" => json!({ "TableName": name }),
        _ => json!({ "TableName": name, "Key": key }),
    }
}

fn on_queue(endpoint: &str, action: &str, queue: &str) -> Value {
    let mut parameters = json!({ "QueueUrl": format!("{endpoint}/{ACCOUNT}/sexton-{queue}") });
    match action {
        "send_message" => parameters["MessageBody"] = json!("{}"),
        "receive_message" => parameters["WaitTimeSeconds"] = json!(0),
        "delete_message" => parameters["ReceiptHandle"] = json!("none"),
        "tag_queue" => parameters["Tags"] = json!({ "sexton-runner-role": "AROA" }),
        _ => {}
    }
    parameters
}

fn on_log_group(action: &str, group: &str) -> Value {
    let mut parameters = json!({ "logGroupName": group, "logStreamName": "s" });
    if action == "put_log_events" {
        parameters["logEvents"] = json!([{ "timestamp": 1, "message": "m" }]);
    }
    parameters
}

/// Makes each call as the role, and compares which of them IAM permits. The tables have the form of [`calls`].
#[track_caller]
fn check(stack: &str, role: &str, allowed: &str, denied: &str) {
    let Some(installation) = Installation::deploy() else { return };
    check_in(&installation, stack, role, allowed, denied);
}

/// As [`check`], in an installation that the caller has deployed.
#[track_caller]
pub(crate) fn check_in(installation: &Installation, stack: &str, role: &str, allowed: &str, denied: &str) {
    let caller = installation.role(stack, role);
    let mut faults = Vec::new();
    for (table, is_allowed) in [(allowed, true), (denied, false)] {
        for Call { service, action, parameters } in calls(installation, table) {
            let name = format!("{service} {action} {parameters}");
            let answer = installation.boto.call(&caller, service, &action, parameters);
            let was_allowed = !matches!(&answer, Err(refusal) if DENIALS.contains(&refusal.code.as_str()));
            if was_allowed != is_allowed {
                faults.push(format!("{name}: expected allowed {is_allowed}, got {answer:?}"));
            }
        }
    }
    assert!(faults.is_empty(), "{role} of {stack}:\n{}", faults.join("\n"));
}

#[test]
fn the_scheduler_fires_and_alerts_and_writes_no_job() {
    let allowed = "
        table jobs: batch_get_item scan
        table due: query batch_write_item
        table runs: put_item update_item query
        table runners: scan update_item
        table alerts: put_item update_item
        table settings: put_item
        queue orders-db: send_message list_queue_tags
        queue orders-web: send_message
        topic alerts: publish
        topic alerts-oncall: publish get_topic_attributes
        parameter /sexton/order-signing-key: get_parameter
        logs /aws/lambda/sexton-scheduler: create_log_stream put_log_events";
    let denied = "
        table jobs: put_item update_item delete_item
        table runs: delete_item batch_write_item scan
        table settings: delete_item
        table runners: delete_item
        queue orders-db: receive_message delete_message tag_queue
        queue reports: receive_message send_message
        topic operations: publish
        topic other: publish
        topic alerts-oncall: subscribe
        parameter /db/password: get_parameter
        parameter /other/order-signing-key: get_parameter
        logs /aws/lambda/sexton-collector: put_log_events
        logs /cron/db: put_log_events
        users all: list_roles";
    check(STACK, "SchedulerRole", allowed, denied);
}

#[test]
fn the_collector_receives_and_rejects_reports_and_writes_no_job() {
    let allowed = "
        queue reports: receive_message delete_message get_queue_attributes
        queue reports-dead: send_message
        queue orders-db: list_queue_tags send_message
        table jobs: batch_get_item
        table runs: batch_get_item put_item
        table runners: update_item
        table alerts: put_item
        table settings: get_item
        topic alerts: publish
        topic alerts-oncall: publish get_topic_attributes
        parameter /sexton/order-signing-key: get_parameter
        logs /aws/lambda/sexton-collector: put_log_events";
    let denied = "
        table jobs: put_item scan
        table due: put_item
        table runs: delete_item scan
        queue reports: send_message
        queue orders-db: tag_queue receive_message
        queue reports-dead: receive_message
        topic operations: publish
        parameter /db/password: get_parameter";
    check(STACK, "CollectorRole", allowed, denied);
}

#[test]
fn the_pruner_deletes_runs_and_nothing_else() {
    let allowed = "
        table jobs: scan query
        table runs: query batch_write_item delete_item
        table runners: scan delete_item
        table settings: put_item
        logs /aws/lambda/sexton-pruner: put_log_events";
    let denied = "
        table jobs: delete_item put_item
        table runs: update_item put_item
        table due: put_item
        table alerts: delete_item
        table settings: delete_item
        queue orders-db: send_message
        topic alerts: publish
        parameter /sexton/order-signing-key: get_parameter";
    check(STACK, "PrunerRole", allowed, denied);
}

#[test]
fn the_api_edits_jobs_and_orders_runs_and_receives_no_orders() {
    let allowed = "
        table jobs: put_item delete_item scan
        table due: put_item
        table runs: put_item query
        table runners: update_item
        table alerts: query
        table settings: put_item
        queue orders-db: send_message
        topic alerts-oncall: get_topic_attributes
        parameter /sexton/order-signing-key: get_parameter
        logs /aws/lambda/sexton-api: put_log_events";
    let denied = "
        table runs: delete_item batch_write_item
        queue orders-db: receive_message tag_queue
        queue reports: send_message
        topic alerts: publish
        topic alerts-oncall: publish
        parameter /db/password: get_parameter";
    check(STACK, "ApiRole", allowed, denied);
}

/// Only EventBridge Scheduler can assume this role, so the test asks the policy evaluator.
#[test]
fn the_role_of_the_timers_invokes_two_lambdas_and_nothing_else() {
    let Some(installation) = Installation::deploy() else { return };
    let role = installation.resource(STACK, "TicksRole");
    let assume = json!({ "RoleArn": format!("arn:aws:iam::{ACCOUNT}:role/{role}"), "RoleSessionName": "test" });
    assert_eq!(
        installation.try_call("sts", "assume_role", assume).map_err(|refusal| refusal.code),
        Err("AccessDenied".to_owned())
    );
    let policy = installation.call("iam", "get_role_policy", json!({ "RoleName": role, "PolicyName": "ticks" }));
    let policies = [policy["PolicyDocument"].clone()];
    for (action, resource, permitted) in [
        ("lambda:InvokeFunction", "function:sexton-scheduler", true),
        ("lambda:InvokeFunction", "function:sexton-pruner", true),
        ("lambda:InvokeFunction", "function:sexton-collector", false),
        ("lambda:InvokeFunction", "function:sexton-api", false),
        ("lambda:UpdateFunctionCode", "function:sexton-scheduler", false),
        ("lambda:InvokeFunction", "function:other", false),
    ] {
        let arn = format!("arn:aws:lambda:us-east-1:{ACCOUNT}:{resource}");
        assert_eq!(installation.boto.permits(&policies, action, &arn, json!({})), permitted, "{action} {resource}");
    }
}

#[test]
fn a_runner_receives_and_reports_only_for_its_group() {
    let allowed = "
        queue orders-db: receive_message delete_message
        queue reports: send_message
        table runs: update_item
        table runners: update_item
        queue orders-db: list_queue_tags
        logs /cron/db: create_log_stream put_log_events
        parameter /sexton/groups/db/password: get_parameter
        parameter /sexton/groups/db/deep/password: get_parameter
        secret sexton/groups/db/password: get_secret_value";
    let denied = "
        queue orders-web: receive_message delete_message send_message
        queue orders-db: send_message tag_queue
        queue reports: receive_message delete_message
        queue orders-db-dead: receive_message
        topic alerts: publish
        topic operations: publish
        logs /cron/web: put_log_events create_log_stream
        logs /cron/db: get_log_events
        logs /aws/lambda/sexton-scheduler: put_log_events
        queue orders-web: list_queue_tags
        parameter /db/password: get_parameter
        parameter /web/password: get_parameter
        parameter /sexton/groups/web/password: get_parameter
        parameter /sexton/groups/dbx/password: get_parameter
        parameter /sexton/groups/password: get_parameter
        parameter /sexton/order-signing-key: get_parameter
        secret db/password: get_secret_value
        secret web/password: get_secret_value
        secret sexton/groups/web/password: get_secret_value
        runner-role web: assume_role
        table jobs: get_item query scan put_item update_item delete_item batch_get_item batch_write_item
        table due: get_item query scan put_item update_item delete_item batch_get_item batch_write_item
        table runs: get_item query scan put_item delete_item batch_get_item batch_write_item
        table runners: get_item query scan put_item delete_item batch_get_item batch_write_item
        table alerts: get_item query scan put_item update_item delete_item batch_get_item batch_write_item
        table settings: get_item query scan put_item update_item delete_item batch_get_item batch_write_item";
    check("db", "RunnerRole", allowed, denied);
}

#[test]
fn a_runner_writes_claims_and_heartbeats_only_under_keys_of_its_group() {
    let Some(installation) = Installation::deploy() else { return };
    let role = installation.resource("db", "RunnerRole");
    let policy = installation.call("iam", "get_role_policy", json!({ "RoleName": role, "PolicyName": "runner" }));
    let policies = [policy["PolicyDocument"].clone()];
    let permits = |table: &str, keys: &[&str]| {
        let resource = format!("arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/sexton-{table}");
        let keys = json!({ "dynamodb:LeadingKeys": keys });
        installation.boto.permits(&policies, "dynamodb:UpdateItem", &resource, keys)
    };
    for (table, keys, permitted) in [
        ("runs", &["db#2026-11-23T07:50"][..], true),
        ("runs", &["web#2026-11-23T07:50"], false),
        ("runs", &["db#1", "web#1"], false),
        ("runs", &["db"], false),
        ("runs", &["dbx#1"], false),
        ("runners", &["db"], true),
        ("runners", &["web"], false),
        ("runners", &["db#1"], false),
    ] {
        assert_eq!(permits(table, keys), permitted, "{table} {keys:?}");
    }
}
