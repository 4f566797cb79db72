//! The whole way, from a job that somebody typed into the table to the alert that a person reads: the templates deployed,
//! the Lambdas as built and as their own roles, called by stream and queue as AWS calls them.

use std::collections::BTreeMap;
use std::time::Duration;

use aws::{AccessKey, Options};
use domain::event::{Body, Ended, Event, Report};
use domain::order::Order;
use domain::ports::{Claim, Ports};
use domain::run::Outcome;
use jiff::{SignedDuration, Timestamp, ToSpan};
use serde_json::{Value, json};
use testbed::Boto;

use crate::installation::{ACCOUNT, Installation};

/// How far ahead the job is due when it is typed in: the stream has to be read until then.
const AHEAD: SignedDuration = SignedDuration::from_secs(20);

/// The ports as the runners of group `db` have them.
async fn as_runner(installation: &Installation) -> Ports {
    let role = installation.resource("db", "RunnerRole");
    let options = Options {
        region: Some("us-east-1".to_owned()),
        endpoint: Some(installation.server.endpoint()),
        role_arn: Some(format!("arn:aws:iam::{ACCOUNT}:role/{role}")),
        access_key: Some(AccessKey { id: ACCOUNT.to_owned(), secret: "secret".to_owned() }),
        ..Options::default()
    };
    aws::connect(&options).await.expect("the role can be assumed").ports
}

fn event(order: &Order, body: Body) -> Event {
    Event::of(order, "r1", "h1", Timestamp::now(), body)
}

fn failed_with(exit_code: i32) -> Body {
    let at = Timestamp::now();
    Body::Finished(Box::new(Report {
        ended: Ended::Exited,
        note: None,
        exit_code: Some(exit_code),
        signal: None,
        started_at: Some(at),
        finished_at: at,
        duration_ms: 5,
        stdout_lines: 1,
        stderr_lines: 0,
        stdout_bytes: 6,
        stderr_bytes: 0,
        last_seq: 1,
        dropped_lines: 0,
        dropped_bytes: 0,
        cpu_ms: None,
        max_rss_bytes: None,
        leaked: Vec::new(),
        rules: Vec::new(),
        rules_digest: String::new(),
        excerpt: Vec::new(),
        outcome: Outcome::Failed,
        reason: format!("exit code {exit_code}"),
    }))
}

/// A queue that gets what people get.
fn subscribe_people(installation: &Installation) {
    let made = installation.call("sqs", "create_queue", json!({ "QueueName": "people" }));
    let queue = format!("arn:aws:sqs:us-east-1:{ACCOUNT}:people");
    let topic = format!("arn:aws:sns:us-east-1:{ACCOUNT}:sexton-alerts");
    let policy = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": { "Service": "sns.amazonaws.com" }, "Action": "sqs:SendMessage", "Resource": queue
    }] });
    let attributes = json!({ "Policy": policy.to_string() });
    installation.call("sqs", "set_queue_attributes", json!({ "QueueUrl": made["QueueUrl"], "Attributes": attributes }));
    let attributes = json!({ "RawMessageDelivery": "true" });
    let ask = json!({ "TopicArn": topic, "Protocol": "sqs", "Endpoint": queue, "Attributes": attributes });
    installation.call("sns", "subscribe", ask);
}

/// Two at once.
fn ticks(installation: &Installation) {
    let other = Boto::of(&installation.server).expect("a second client");
    std::thread::scope(|scope| {
        scope.spawn(|| installation.invoke("scheduler", r#"{"duty":"tick"}"#).expect("a tick"));
        let ask = json!({ "FunctionName": "sexton-scheduler", "Payload": r#"{"duty":"tick"}"# });
        let answer = other.call(&installation.root(), "lambda", "invoke", ask).expect("a tick");
        assert_eq!(answer.get("FunctionError"), None, "{answer}");
    });
}

#[tokio::test]
async fn a_typed_job_fires_once_runs_once_and_its_failure_is_told_once() {
    let Some(installation) = Installation::deploy() else { return };
    // ministack says of every message that the account sent it.
    installation.trust_sender("db", ACCOUNT);
    subscribe_people(&installation);
    let at = Timestamp::now().checked_add(AHEAD).expect("an instant").strftime("at(%Y-%m-%dT%H:%M:%S)").to_string();
    installation.put_job("db", "hello", "echo hello; exit 3", &at);
    installation.wait("the stream has the job indexed", || installation.items("due").len() == 1);

    installation.wait("the job fires", || {
        ticks(&installation);
        !installation.items("runs").is_empty()
    });
    ticks(&installation);
    assert_eq!(installation.items("runs").len(), 1);

    let runner = as_runner(&installation).await;
    let groups = ["db".to_owned()];
    let orders =
        runner.orders.receive(&groups, 10, Duration::from_secs(60), Duration::from_secs(1)).await.expect("orders");
    let order = &orders.first().unwrap_or_else(|| panic!("no order; {}", installation.story())).message;
    assert!(orders.iter().all(|one| one.message.run_id == order.run_id), "{orders:?}");
    let mut granted = Vec::new();
    for name in ["r1", "r2", "r3"] {
        let claim = runner.claims.claim(&order.run_key(), order.attempt, name, "h1", Timestamp::now()).await;
        granted.extend((claim.expect("an answer") == Claim::Granted).then_some(name));
    }
    assert_eq!(granted, ["r1"], "one start");
    for delivery in &orders {
        runner.orders.delete(&delivery.receipt).await.expect("it is deleted");
    }

    let started = event(order, Body::Started { pid: Some(7), command: "echo hello; exit 3".to_owned() });
    let finished = event(order, failed_with(3));
    runner.reports.send(&[finished.clone(), started, finished]).await.expect("reports are sent");
    installation.wait("the run has its outcome", || text_of(&installation.items("runs")[0], "outcome") == "failed");

    let told = installation.receive("people", 1);
    let alert: Value = serde_json::from_str(told[0]["Body"].as_str().expect("a body")).expect("JSON");
    assert_eq!((&alert["kind"], &alert["group"], &alert["job"]), (&json!("failed"), &json!("db"), &json!("hello")));
    assert_eq!(alert["run_id"], json!(order.run_id.as_str()));
    ticks(&installation);
    assert_eq!(installation.received_now("people").len(), 0, "told once");
    assert_eq!(installation.items("runs").len(), 1, "one outcome");
    let logs = installation.lambda_log("collector");
    assert!(logs.iter().any(|line| line.contains("\"received\":")), "the collector's own lines: {logs:?}");
}

/// A text attribute of an item.
fn text_of(item: &Value, name: &str) -> String {
    item[name]["S"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_broken_job_is_told_and_stops_no_other() {
    let Some(installation) = Installation::deploy() else { return };
    let at = Timestamp::now().checked_add(2.hours()).expect("an instant").strftime("at(%Y-%m-%dT%H:%M:%S)").to_string();
    installation.put_job("db", "broken", "true", "every now and then");
    installation.put_job("db", "good", "true", &at);
    installation.wait("the good one is indexed", || installation.items("due").len() == 1);
    installation.wait("the broken one is told", || {
        let told: BTreeMap<String, Value> =
            installation.items("alerts").into_iter().map(|item| (text_of(&item, "id"), item)).collect();
        told.values().any(|item| item.to_string().contains("crontab has five fields"))
    });
}
