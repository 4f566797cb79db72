//! The whole path from a job typed into the table to its alert: deployed templates, the built Lambdas with their own
//! roles, invoked by stream and queue as on AWS, and the built `sexton runner` with the role of its group.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp, ToSpan};
use serde_json::{Value, json};
use testbed::Boto;

use crate::installation::{ACCOUNT, Installation};
use crate::sexton::Sexton;

/// Time from storing a job to its nominal time. By then the stream must be read.
const AHEAD: SignedDuration = SignedDuration::from_secs(20);

/// Returns a schedule with one firing, after [`AHEAD`].
pub(crate) fn soon() -> String {
    Timestamp::now().checked_add(AHEAD).expect("an instant").strftime("at(%Y-%m-%dT%H:%M:%S)").to_string()
}

/// Runs two ticks at once.
fn ticks(installation: &Installation) {
    let other = Boto::start(&installation.server).expect("a second client");
    std::thread::scope(|scope| {
        scope.spawn(|| installation.tick());
        let request = json!({ "FunctionName": "sexton-scheduler", "Payload": r#"{"duty":"tick"}"# });
        let answer = other.call(&installation.root(), "lambda", "invoke", request).expect("a tick");
        assert_eq!(answer.get("FunctionError"), None, "{answer}");
    });
}

/// Stores a job by hand, and runs two concurrent schedulers until its run has an outcome.
fn fire(installation: &Installation, command: &str) {
    installation.put_job("db", "hello", command, &soon());
    installation.wait("the stream has the job indexed", || installation.items("due").len() == 1);
    installation.wait("the job fires", || {
        ticks(installation);
        !installation.items("runs").is_empty()
    });
    ticks(installation);
    installation.wait("the run has its outcome", || {
        installation.items("runs").iter().all(|run| !text_of(run, "outcome").is_empty())
    });
}

#[test]
fn a_job_written_by_hand_runs_once_its_lines_are_in_cloudwatch_and_its_failure_raises_one_alert() {
    let Some(installation) = Installation::deploy() else { return };
    // ministack names the account as the sender of every message.
    installation.trust_sender("db", ACCOUNT);
    installation.subscribe("people", "sexton-alerts");
    let server = Sexton::of_group(&installation);
    server.run(&["check", "--group", "db"]);
    let mut runner = server.runner();
    let command = "echo one; echo two; echo oops >&2; printf three; exit 3";
    fire(&installation, command);

    let operator = Sexton::of_operator(&installation);
    assert_eq!(operator.records(&["runs", "--aws"]).len(), 1, "one minute, one run");
    let run = operator.records(&["runs", "db/hello", "--outcome", "failed", "--aws"]).remove(0);
    let run_id = run["run_id"].as_str().expect("its name");
    let run = operator.records(&["show", run_id, "--aws"]).remove(0);
    assert_eq!((&run["outcome"], &run["exit_code"]), (&json!("failed"), &json!(3)), "{run}");
    assert_eq!((&run["stdout_lines"], &run["stderr_lines"]), (&json!(3), &json!(1)), "{run}");
    assert!(operator.run(&["show", run_id, "--aws"]).contains("exit code 3"));

    check_output(&installation, run_id, command);
    assert_eq!(operator.run(&["logs", run_id, "--stream", "stdout", "--aws"]), "one\ntwo\nthree\n");
    assert_eq!(operator.run(&["logs", run_id, "--stream", "stderr", "--aws"]), "oops\n");
    assert_eq!(operator.run(&["logs", run_id, "--follow", "--aws"]).lines().count(), 4);
    assert_eq!(runner.stop(), Some(0), "{}", runner.printed());

    let alerts = installation.receive("people", 1);
    let alert: Value = serde_json::from_str(alerts[0]["Body"].as_str().expect("a body")).expect("JSON");
    assert_eq!((&alert["kind"], &alert["group"], &alert["job"]), (&json!("failed"), &json!("db"), &json!("hello")));
    assert_eq!(alert["run_id"], run_id);
    ticks(&installation);
    assert_eq!(installation.received_now("people").len(), 0, "one alert");
    assert_eq!(installation.items("runs").len(), 1, "one outcome");
    let logs = installation.lambda_log("collector");
    assert!(logs.iter().any(|line| line.contains("\"received\":")), "the collector's own log: {logs:?}");
}

/// Checks that each printed line is in CloudWatch Logs once, between the bracket records of the run.
#[track_caller]
fn check_output(installation: &Installation, run_id: &str, command: &str) {
    let mut records = Vec::new();
    installation.wait("the end of the run is in CloudWatch Logs", || {
        records = installation.output_of("db", run_id);
        records.iter().any(|record| record["event"] == "run.finished")
    });
    let seqs: Vec<u64> = records.iter().filter_map(|record| record["seq"].as_u64()).collect();
    assert_eq!(seqs, [1, 2, 3, 4], "{records:#?}");
    let messages = |stream: &str| -> Vec<&Value> {
        records.iter().filter(|record| record["stream"] == stream).map(|record| &record["message"]).collect()
    };
    assert_eq!(messages("stdout"), ["one", "two", "three"]);
    assert_eq!(messages("stderr"), ["oops"]);
    let (first, last) = (&records[0], &records[records.len() - 1]);
    assert_eq!((&first["event"], &first["command"]), (&json!("run.started"), &json!(command)), "{records:#?}");
    assert_eq!((&last["event"], &last["outcome"]), (&json!("run.finished"), &json!("failed")), "{records:#?}");
    assert_eq!((&last["exit_code"], records.len()), (&json!(3), 6), "{records:#?}");
}

/// Returns a text attribute of an item; empty if absent.
fn text_of(item: &Value, name: &str) -> String {
    item[name]["S"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn an_invalid_job_raises_an_alert_and_blocks_no_other() {
    let Some(installation) = Installation::deploy() else { return };
    let at = Timestamp::now().checked_add(2.hours()).expect("an instant").strftime("at(%Y-%m-%dT%H:%M:%S)").to_string();
    installation.put_job("db", "broken", "true", "every now and then");
    installation.put_job("db", "good", "true", &at);
    installation.wait("the valid job is indexed", || installation.items("due").len() == 1);
    installation.wait("the invalid job raises an alert", || {
        let alerts: BTreeMap<String, Value> =
            installation.items("alerts").into_iter().map(|item| (text_of(&item, "id"), item)).collect();
        alerts.values().any(|item| item.to_string().contains("crontab has five fields"))
    });
}
