//! The update of an installation of the last release (`docs/aws.md`): nothing stored is lost, and runners of both
//! releases finish its runs.

use serde_json::{Value, json};

use crate::installation::{ACCOUNT, Installation, SIGNING_KEY};
use crate::sexton::Sexton;

/// A private key of Ed25519: RFC 8032, 7.1, test 1.
const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
                   MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
                   -----END PRIVATE KEY-----\n";

const JOB: &str = "[[job]]\ngroup = \"db\"\nname = \"hello\"\nschedule = \"@yearly\"\ncommand = \"true\"\n";

#[test]
fn an_update_from_the_last_release_loses_nothing_and_runners_of_both_releases_finish_the_runs() {
    let Some(installation) = Installation::deploy_last_release() else { return };
    installation.trust_sender("db", ACCOUNT);
    installation.put_parameter(SIGNING_KEY, KEY);
    installation.put_parameter("/db/password", "old place");
    let operator = Sexton::of_operator(&installation);
    operator.run(&["apply", &operator.write("jobs.toml", JOB), "--aws"]);
    // Two open runs, output, an alert and a heartbeat of an older runner.
    operator.run(&["run", "db/hello", "--aws"]);
    operator.run(&["run", "db/hello", "--aws"]);
    let alert = json!({ "id": { "S": "sent long before" }, "why": { "S": "kept" } });
    installation.call("dynamodb", "put_item", json!({ "TableName": "sexton-alerts", "Item": alert }));
    let stream = json!({ "logGroupName": "/cron/db", "logStreamName": "kept" });
    installation.call("logs", "create_log_stream", stream);
    let line = json!({ "logGroupName": "/cron/db", "logStreamName": "kept",
        "logEvents": [{ "timestamp": jiff::Timestamp::now().as_millisecond(), "message": "a kept line" }] });
    installation.call("logs", "put_log_events", line);
    let before: Vec<Vec<Value>> = ["jobs", "runs", "alerts"].map(|table| installation.items(table)).into();

    installation.update(&[], &[("MoreSecrets", "/db/")]);

    // The emulator replaces policies and tags, which AWS changes.
    installation.trust_sender("db", ACCOUNT);
    operator.attach("ClientPolicy");
    let after: Vec<Vec<Value>> = ["jobs", "runs", "alerts"].map(|table| installation.items(table)).into();
    assert_eq!(after.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 1], "{after:?}");
    for (before, after) in before.iter().flatten().zip(after.iter().flatten()) {
        assert_eq!(before, after);
    }
    let kept = installation.call("logs", "filter_log_events", json!({ "logGroupName": "/cron/db" }));
    assert!(kept.to_string().contains("a kept line"), "{kept}");
    let role = installation.role("db", "RunnerRole");
    let secret = installation.boto.call(
        &role,
        "ssm",
        "get_parameter",
        json!({ "Name": "/db/password", "WithDecryption": true }),
    );
    assert_eq!(secret.expect("readable")["Parameter"]["Value"], "old place");

    // A runner of the last release: it takes an order, claims its run, and reports with the formats of then.
    let orders = installation.receive("sexton-orders-db", 2);
    let order: Value = serde_json::from_str(orders[0]["Body"].as_str().expect("a body")).expect("JSON");
    let order: Value = serde_json::from_str(order["order"].as_str().expect("an order")).expect("JSON");
    let run_id = order["run_id"].as_str().expect("a run");
    let bucket = after[1].iter().find(|run| run["run_id"]["S"] == run_id).expect("the run")["bucket"].clone();
    installation.boto.call(&role, "dynamodb", "update_item", last_claim(&bucket, run_id)).expect("claimed");
    let reports = installation.queue_url("sexton-reports");
    let message = json!({ "QueueUrl": reports, "MessageBody": last_report(&order).to_string() });
    installation.boto.call(&role, "sqs", "send_message", message).expect("reported");

    // A runner of this release finishes the other run.
    for order in &orders[1..] {
        let url = installation.queue_url("sexton-orders-db");
        installation.call("sqs", "send_message", json!({ "QueueUrl": url, "MessageBody": order["Body"] }));
    }
    let server = Sexton::of_group(&installation);
    let mut runner = server.runner();
    installation.wait("both runs have their outcome", || {
        operator.records(&["runs", "db/hello", "--outcome", "succeeded", "--aws"]).len() == 2
    });
    assert_eq!(runner.stop(), Some(0), "{}", runner.printed());
    let dead = installation.received_now("sexton-reports-dead");
    assert_eq!(dead.len(), 0, "{dead:?}");
}

/// The claim of a run as the last release writes it.
fn last_claim(bucket: &Value, run_id: &str) -> Value {
    let now = jiff::Timestamp::now();
    json!({
        "TableName": "sexton-runs", "Key": { "bucket": bucket, "run_id": { "S": run_id } },
        "UpdateExpression": "SET #state = :claimed, #runner = :runner, #host = :host, #claimed_at = :at ADD #version :one",
        "ConditionExpression": "#attempt = :attempt AND #state = :scheduled AND attribute_not_exists(#held) \
                                AND (attribute_not_exists(#start_by) OR #start_by >= :at)",
        "ExpressionAttributeNames": {
            "#state": "state", "#runner": "runner", "#host": "host", "#claimed_at": "claimed_at", "#version": "version",
            "#attempt": "attempt", "#held": "held", "#start_by": "start_by"
        },
        "ExpressionAttributeValues": {
            ":claimed": { "S": "claimed" }, ":scheduled": { "S": "scheduled" }, ":runner": { "S": "old" },
            ":host": { "S": "old" }, ":at": { "S": format!("{now:.9}") }, ":attempt": { "N": "1" }, ":one": { "N": "1" }
        }
    })
}

/// The report of a run as the last release writes it.
fn last_report(order: &Value) -> Value {
    let now = jiff::Timestamp::now();
    json!({
        "version": 1, "run_id": order["run_id"], "group": "db", "job": "hello", "attempt": 1, "nominal": order["nominal"],
        "trigger": "manual", "runner": "old", "host": "old", "at": now.to_string(), "event": "finished",
        "ended": "exited", "note": null, "exit_code": 0, "signal": null, "started_at": now.to_string(),
        "finished_at": now.to_string(), "duration_ms": 7, "stdout_lines": 1, "stderr_lines": 0, "stdout_bytes": 2,
        "stderr_bytes": 0, "last_seq": 1, "dropped_lines": 0, "dropped_bytes": 0, "cpu_ms": 1, "max_rss_bytes": 9,
        "leaked": [], "rules": [], "rules_digest": "0123456789abcdef", "excerpt": [], "outcome": "succeeded",
        "reason": "it ended with exit code 0"
    })
}
