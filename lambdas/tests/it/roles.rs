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

/// A call with parameters that are complete enough for the policy check, which comes before all other checks.
struct Call(&'static str, &'static str, Value);

fn on_table(action: &'static str, table: &str) -> Call {
    let name = format!("sexton-{table}");
    let key = json!({ "group": { "S": "db" } });
    let parameters = match action {
        "batch_get_item" => json!({ "RequestItems": { name: { "Keys": [key] } } }),
        "batch_write_item" => json!({ "RequestItems": { name: [{ "PutRequest": { "Item": key } }] } }),
        "put_item" => json!({ "TableName": name, "Item": key }),
        "query" => json!({
            "TableName": name, "KeyConditionExpression": "#g = :g",
            "ExpressionAttributeNames": { "#g": "group" }, "ExpressionAttributeValues": { ":g": { "S": "db" } }
        }),
        "scan" => json!({ "TableName": name }),
        _ => json!({ "TableName": name, "Key": key }),
    };
    Call("dynamodb", action, parameters)
}

fn on_queue(installation: &Installation, action: &'static str, queue: &str) -> Call {
    let url = format!("{}/{ACCOUNT}/sexton-{queue}", installation.server.endpoint());
    let mut parameters = json!({ "QueueUrl": url });
    match action {
        "send_message" => parameters["MessageBody"] = json!("{}"),
        "receive_message" => parameters["WaitTimeSeconds"] = json!(0),
        "delete_message" => parameters["ReceiptHandle"] = json!("none"),
        "tag_queue" => parameters["Tags"] = json!({ "sexton-runner-role": "AROA" }),
        _ => {}
    }
    Call("sqs", action, parameters)
}

fn publish(topic: &str) -> Call {
    let arn = format!("arn:aws:sns:us-east-1:{ACCOUNT}:sexton-{topic}");
    Call("sns", "publish", json!({ "TopicArn": arn, "Message": "m" }))
}

fn parameter(name: &str) -> Call {
    Call("ssm", "get_parameter", json!({ "Name": name }))
}

fn log_to(group: &str) -> Call {
    let events = json!([{ "timestamp": 1, "message": "m" }]);
    Call("logs", "put_log_events", json!({ "logGroupName": group, "logStreamName": "s", "logEvents": events }))
}

fn stream_in(group: &str) -> Call {
    Call("logs", "create_log_stream", json!({ "logGroupName": group, "logStreamName": "s" }))
}

#[track_caller]
fn check(installation: &Installation, stack: &str, role: &str, allowed: Vec<Call>, denied: Vec<Call>) {
    let caller = installation.role(stack, role);
    let expected_calls =
        allowed.into_iter().map(|call| (call, true)).chain(denied.into_iter().map(|call| (call, false)));
    let mut faults = Vec::new();
    for (Call(service, action, parameters), allowed) in expected_calls {
        let name = format!("{service} {action} {parameters}");
        let answer = installation.boto.call(&caller, service, action, parameters);
        let was_allowed = !matches!(&answer, Err(refusal) if DENIALS.contains(&refusal.code.as_str()));
        if was_allowed != allowed {
            faults.push(format!("{name}: expected allowed {allowed}, got {answer:?}"));
        }
    }
    assert!(faults.is_empty(), "{role} of {stack}:\n{}", faults.join("\n"));
}

#[test]
fn the_scheduler_fires_and_alerts_and_writes_no_job() {
    let Some(installation) = Installation::deploy() else { return };
    let queue = |action, name| on_queue(&installation, action, name);
    let allowed = vec![
        on_table("batch_get_item", "jobs"),
        on_table("scan", "jobs"),
        on_table("query", "due"),
        on_table("batch_write_item", "due"),
        on_table("put_item", "runs"),
        on_table("update_item", "runs"),
        on_table("query", "runs"),
        on_table("scan", "runners"),
        on_table("update_item", "runners"),
        on_table("put_item", "alerts"),
        on_table("update_item", "alerts"),
        on_table("put_item", "settings"),
        queue("send_message", "orders-db"),
        queue("send_message", "orders-web"),
        publish("alerts"),
        parameter("/sexton/order-signing-key"),
        stream_in("/aws/lambda/sexton-scheduler"),
        log_to("/aws/lambda/sexton-scheduler"),
    ];
    let denied = vec![
        on_table("put_item", "jobs"),
        on_table("update_item", "jobs"),
        on_table("delete_item", "jobs"),
        on_table("delete_item", "runs"),
        on_table("batch_write_item", "runs"),
        on_table("delete_item", "settings"),
        on_table("delete_item", "runners"),
        on_table("scan", "runs"),
        queue("receive_message", "orders-db"),
        queue("delete_message", "orders-db"),
        queue("tag_queue", "orders-db"),
        queue("receive_message", "reports"),
        queue("send_message", "reports"),
        publish("operations"),
        parameter("/db/password"),
        parameter("/other/order-signing-key"),
        log_to("/aws/lambda/sexton-collector"),
        log_to("/cron/db"),
        Call("iam", "list_roles", json!({})),
    ];
    check(&installation, STACK, "SchedulerRole", allowed, denied);
}

#[test]
fn the_collector_receives_and_rejects_reports_and_writes_no_job() {
    let Some(installation) = Installation::deploy() else { return };
    let queue = |action, name| on_queue(&installation, action, name);
    let allowed = vec![
        queue("receive_message", "reports"),
        queue("delete_message", "reports"),
        queue("get_queue_attributes", "reports"),
        queue("send_message", "reports-dead"),
        queue("list_queue_tags", "orders-db"),
        queue("send_message", "orders-db"),
        on_table("batch_get_item", "jobs"),
        on_table("batch_get_item", "runs"),
        on_table("put_item", "runs"),
        on_table("update_item", "runners"),
        on_table("put_item", "alerts"),
        on_table("get_item", "settings"),
        publish("alerts"),
        parameter("/sexton/order-signing-key"),
        log_to("/aws/lambda/sexton-collector"),
    ];
    let denied = vec![
        on_table("put_item", "jobs"),
        on_table("scan", "jobs"),
        on_table("put_item", "due"),
        on_table("delete_item", "runs"),
        on_table("scan", "runs"),
        queue("send_message", "reports"),
        queue("tag_queue", "orders-db"),
        queue("receive_message", "orders-db"),
        queue("receive_message", "reports-dead"),
        publish("operations"),
        parameter("/db/password"),
    ];
    check(&installation, STACK, "CollectorRole", allowed, denied);
}

#[test]
fn the_pruner_deletes_runs_and_nothing_else() {
    let Some(installation) = Installation::deploy() else { return };
    let queue = |action, name| on_queue(&installation, action, name);
    let allowed = vec![
        on_table("scan", "jobs"),
        on_table("query", "jobs"),
        on_table("query", "runs"),
        on_table("batch_write_item", "runs"),
        on_table("delete_item", "runs"),
        on_table("scan", "runners"),
        on_table("delete_item", "runners"),
        on_table("put_item", "settings"),
        log_to("/aws/lambda/sexton-pruner"),
    ];
    let denied = vec![
        on_table("delete_item", "jobs"),
        on_table("put_item", "jobs"),
        on_table("update_item", "runs"),
        on_table("put_item", "runs"),
        on_table("put_item", "due"),
        on_table("delete_item", "alerts"),
        on_table("delete_item", "settings"),
        queue("send_message", "orders-db"),
        publish("alerts"),
        parameter("/sexton/order-signing-key"),
    ];
    check(&installation, STACK, "PrunerRole", allowed, denied);
}

#[test]
fn the_api_edits_jobs_and_orders_runs_and_receives_no_orders() {
    let Some(installation) = Installation::deploy() else { return };
    let queue = |action, name| on_queue(&installation, action, name);
    let allowed = vec![
        on_table("put_item", "jobs"),
        on_table("delete_item", "jobs"),
        on_table("scan", "jobs"),
        on_table("put_item", "due"),
        on_table("put_item", "runs"),
        on_table("query", "runs"),
        on_table("update_item", "runners"),
        on_table("query", "alerts"),
        on_table("put_item", "settings"),
        queue("send_message", "orders-db"),
        parameter("/sexton/order-signing-key"),
        log_to("/aws/lambda/sexton-api"),
    ];
    let denied = vec![
        on_table("delete_item", "runs"),
        on_table("batch_write_item", "runs"),
        queue("receive_message", "orders-db"),
        queue("send_message", "reports"),
        queue("tag_queue", "orders-db"),
        publish("alerts"),
        parameter("/db/password"),
    ];
    check(&installation, STACK, "ApiRole", allowed, denied);
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
    let Some(installation) = Installation::deploy() else { return };
    let queue = |action, name| on_queue(&installation, action, name);
    let secret = |id: &str| Call("secretsmanager", "get_secret_value", json!({ "SecretId": id }));
    let allowed = vec![
        queue("receive_message", "orders-db"),
        queue("delete_message", "orders-db"),
        queue("send_message", "reports"),
        on_table("update_item", "runs"),
        on_table("update_item", "runners"),
        stream_in("/cron/db"),
        log_to("/cron/db"),
        parameter("/db/password"),
        secret("db/password"),
    ];
    let mut denied = vec![
        queue("receive_message", "orders-web"),
        queue("delete_message", "orders-web"),
        queue("send_message", "orders-db"),
        queue("send_message", "orders-web"),
        queue("tag_queue", "orders-db"),
        queue("receive_message", "reports"),
        queue("delete_message", "reports"),
        queue("receive_message", "orders-db-dead"),
        publish("alerts"),
        publish("operations"),
        log_to("/cron/web"),
        stream_in("/cron/web"),
        log_to("/aws/lambda/sexton-scheduler"),
        parameter("/web/password"),
        parameter("/sexton/order-signing-key"),
        secret("web/password"),
        Call("logs", "get_log_events", json!({ "logGroupName": "/cron/db", "logStreamName": "s" })),
        Call(
            "sts",
            "assume_role",
            json!({
                "RoleArn": format!("arn:aws:iam::{ACCOUNT}:role/{}", installation.resource("web", "RunnerRole")),
                "RoleSessionName": "other"
            }),
        ),
    ];
    for table in ["jobs", "due", "runs", "runners", "alerts", "settings"] {
        denied.extend(
            ["get_item", "query", "scan", "put_item", "delete_item", "batch_get_item", "batch_write_item"]
                .map(|action| on_table(action, table)),
        );
    }
    denied.extend(["jobs", "due", "alerts", "settings"].map(|table| on_table("update_item", table)));
    check(&installation, "db", "RunnerRole", allowed, denied);
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
