//! ministack and moto hold what AWS's own client gives them, and moto minds the order of events.

use serde_json::{Value, json};
use testbed::{AwsServer, Ministack, Moto};

use crate::client;

const ACCOUNT: &str = "111111111111";

/// Makes a group with retention and a stream, and puts two events; the clock gives the first one's time.
const BOTO3: &str = r#"
import boto3, sys, time
logs = boto3.client("logs", endpoint_url=f"http://{sys.argv[1]}:{sys.argv[2]}", region_name="us-east-1",
                    aws_access_key_id=sys.argv[3], aws_secret_access_key="secret")
logs.create_log_group(logGroupName="/cron/db")
logs.put_retention_policy(logGroupName="/cron/db", retentionInDays=30)
logs.create_log_stream(logGroupName="/cron/db", logStreamName="nightly")
now = int(time.time() * 1000)
logs.put_log_events(logGroupName="/cron/db", logStreamName="nightly",
                    logEvents=[{"timestamp": now, "message": "caf\u00e9"}, {"timestamp": now + 1, "message": "two"}])
"#;

fn holds_what_boto3_puts(server: &AwsServer) {
    client::aws_python(BOTO3, server.address(), &[ACCOUNT]);
    let groups = server.log_groups(ACCOUNT);
    assert_eq!((&groups[0]["logGroupName"], &groups[0]["retentionInDays"]), (&json!("/cron/db"), &json!(30)));
    let events = server.log_events(ACCOUNT, "/cron/db", "nightly");
    let messages: Vec<&Value> = events.iter().map(|event| &event["message"]).collect();
    assert_eq!(messages, ["caf\u{e9}", "two"]);
    assert_eq!(server.log_events(ACCOUNT, "/cron/db", "missing"), Vec::<Value>::new());
}

#[test]
fn ministack_holds_what_boto3_puts_and_keeps_accounts_apart() {
    let Some(server) = Ministack::start() else { return };
    holds_what_boto3_puts(&server);
    assert_eq!(server.log_groups("222222222222"), Vec::<Value>::new());
}

#[test]
fn moto_holds_what_boto3_puts_and_refuses_events_out_of_order() {
    let Some(server) = Moto::start() else { return };
    holds_what_boto3_puts(&server);
    let at = server.log_events(ACCOUNT, "/cron/db", "nightly")[0]["timestamp"].as_i64().expect("a time");
    let events = json!([{ "timestamp": at, "message": "late" }, { "timestamp": at - 1, "message": "early" }]);
    let put = json!({ "logGroupName": "/cron/db", "logStreamName": "nightly", "logEvents": events });
    let (status, answer) = server.call_logs(ACCOUNT, "PutLogEvents", &put);
    assert_eq!((status, &answer["__type"]), (400, &json!("InvalidParameterException")), "{answer}");
}
