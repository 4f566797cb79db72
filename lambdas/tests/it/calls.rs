//! Invokes the built Lambdas with recorded events of AWS.

use serde_json::{Value, json};

use crate::installation::Installation;

fn recorded(file: &str) -> String {
    let path = testbed::repository().join("lambdas/tests/events").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn an_edited_job_is_indexed_and_a_deleted_one_is_ignored() {
    let Some(installation) = Installation::deploy() else { return };
    installation.put_job("db", "dump", "true", "0 3 * * *");
    assert_eq!(installation.invoke("scheduler", &recorded("changes.json")), Ok(Value::Null));
    let due = installation.items("due");
    assert_eq!(due.len(), 1, "{due:?}");
}

#[test]
fn an_unknown_event_of_the_scheduler_is_an_error_that_names_the_expected_ones() {
    let Some(installation) = Installation::deploy() else { return };
    for payload in ["{}", r#"{"Records":[{"eventSource":"aws:sqs","body":"x"}]}"#] {
        let message = installation.invoke("scheduler", payload).expect_err(payload);
        assert!(message.contains("jobs table") || message.contains("tick"), "{message}");
    }
}

#[test]
fn unreadable_and_forged_reports_raise_alerts_in_the_dead_letter_queue_and_block_no_other() {
    let Some(installation) = Installation::deploy() else { return };
    let batch = recorded("reports.json")
        .replace("ROLE_DB", &installation.role_id("db"))
        .replace("ROLE_WEB", &installation.role_id("web"));
    assert_eq!(installation.invoke("collector", &batch), Ok(json!({ "batchItemFailures": [] })));
    let runs = installation.items("runs");
    assert_eq!(runs.len(), 1, "only the third report counts: {runs:?}");
    let rejected = installation.receive("sexton-reports-dead", 2);
    assert!(rejected.iter().any(|message| message["Body"] == "no json at all"), "{rejected:?}");
    let why =
        |message: &Value| message["MessageAttributes"]["why"]["StringValue"].as_str().unwrap_or_default().to_owned();
    assert!(
        rejected.iter().any(|message| why(message).contains("is not the role of the runners of group db")),
        "{rejected:?}"
    );
    // SQS may deliver the batch twice: the reports are moved again, without another alert.
    installation.invoke("collector", &batch).expect("the same batch is collected again");
    let alerts = installation.items("alerts").iter().filter(|item| item.to_string().contains("was moved to")).count();
    assert_eq!(alerts, 2, "{:?}", installation.items("alerts"));
}

#[test]
fn reports_for_a_group_without_a_stack_are_refused() {
    let Some(installation) = Installation::deploy() else { return };
    let batch = recorded("reports.json").replace(r#"\"group\":\"db\""#, r#"\"group\":\"other\""#);
    assert_eq!(installation.invoke("collector", &batch), Ok(json!({ "batchItemFailures": [] })));
    assert_eq!(installation.items("runs").len(), 0);
    assert_eq!(installation.receive("sexton-reports-dead", 3).len(), 3);
}

#[test]
fn a_report_that_cannot_be_stored_is_redelivered() {
    let Some(installation) = Installation::deploy() else { return };
    let batch = recorded("reports.json").replace("ROLE_DB", &installation.role_id("db"));
    installation.call("dynamodb", "delete_table", json!({ "TableName": "sexton-runs" }));
    let answer = installation.invoke("collector", &batch).expect("an answer");
    let failures: Vec<&Value> = answer["batchItemFailures"]
        .as_array()
        .expect("failures")
        .iter()
        .map(|failure| &failure["itemIdentifier"])
        .collect();
    assert_eq!(failures, ["79406a00-bf15-46ca-978f-7c1eb3bd6b2f"]);
}

#[test]
fn the_api_answers_only_requests_whose_signature_aws_has_checked() {
    let Some(installation) = Installation::deploy() else { return };
    installation.put_job("db", "dump", "true", "0 3 * * *");
    let signed: Value = serde_json::from_str(&recorded("url.json")).expect("JSON");
    let answer = installation.invoke("api", &signed.to_string()).expect("an answer");
    assert_eq!(answer["statusCode"], 200, "{answer}");
    assert!(answer["body"].as_str().is_some_and(|body| body.contains("dump")), "{answer}");
    let mut unsigned = signed;
    unsigned["requestContext"]["authorizer"] = Value::Null;
    let answer = installation.invoke("api", &unsigned.to_string()).expect("an answer");
    assert_eq!(answer["statusCode"], 401, "{answer}");
}

#[test]
fn the_pruner_handles_its_event() {
    let Some(installation) = Installation::deploy() else { return };
    assert_eq!(installation.invoke("pruner", r#"{"duty":"prune"}"#), Ok(json!(0)));
}

#[test]
fn the_collector_accepts_a_replaced_role_by_its_new_tag() {
    let Some(installation) = Installation::deploy() else { return };
    let batch = |role: &str| recorded("reports.json").replace("ROLE_DB", role);
    let known = installation.role_id("db");
    installation.invoke("collector", &batch(&known)).expect("the first role is known");
    installation.trust_sender("db", "AROANEW AROANEWER");
    let before = installation.receive("sexton-reports-dead", 2).len();
    installation.invoke("collector", &batch("AROANEWER")).expect("the new role is accepted");
    let rejected = installation.receive("sexton-reports-dead", 2);
    assert_eq!(rejected.len(), before, "the third report is accepted both times: {rejected:?}");
}
