//! Alerts of the built Lambdas with their own roles: topics of groups, channels of jobs, and alerts that the last
//! release has stored. And the names that `sexton apply` refuses.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::installation::Installation;
use crate::sexton::Sexton;

/// Stores a pending alert as version 0.2.0 does.
#[track_caller]
fn store_alert(installation: &Installation, group: &str, job: &str, channels: &[&str]) {
    let (id, now) = (format!("{group}/{job}:1:failed"), Timestamp::now());
    let text = |value: &str| json!({ "S": value });
    let ready = format!("{}#{id}", now.strftime("%Y-%m-%dT%H:%M:%S.%9fZ"));
    let transition = json!({
        "id": text(&id), "kind": text("failed"), "group": text(group), "job": text(job), "reason": text("exit code 1"),
        "at": text(&now.to_string()), "count": { "N": "1" },
        "channels": { "L": channels.iter().map(|channel| text(channel)).collect::<Vec<_>>() },
        "not_before": text(&now.to_string()), "fate": text("pending"), "tries": { "N": "0" }
    });
    let item = json!({
        "id": text(&["told:", &id].concat()), "transition": { "M": transition }, "pending": text("yes"),
        "ready": text(&ready), "listed": text("yes"), "came": text(&ready),
        "expires": { "N": (now.as_second() + 86_400).to_string() }
    });
    installation.call("dynamodb", "put_item", json!({ "TableName": "sexton-alerts", "Item": item }));
}

#[test]
fn alerts_are_published_to_the_topic_of_the_group_and_of_the_channel() {
    let Some(installation) = Installation::deploy() else { return };
    installation.add_group("ops", &[("Group", "ops"), ("AlertsTopic", "sexton-alerts-ops")]);
    for (queue, topic) in
        [("all", "sexton-alerts"), ("ops-only", "sexton-alerts-ops"), ("pager", "sexton-alerts-oncall")]
    {
        installation.subscribe(queue, topic);
    }
    store_alert(&installation, "db", "plain", &[]);
    store_alert(&installation, "db", "paged", &["oncall"]);
    store_alert(&installation, "db", "typo", &["oncal"]);
    store_alert(&installation, "ops", "plain", &[]);
    installation.tick();
    let jobs = |queue: &str, count| -> BTreeSet<String> {
        let messages = installation.receive(queue, count);
        let alerts = messages
            .iter()
            .map(|message| -> Value { serde_json::from_str(message["Body"].as_str().expect("a body")).expect("JSON") });
        alerts.map(|alert| format!("{}/{}", alert["group"], alert["job"]).replace('"', "")).collect()
    };
    assert_eq!(jobs("ops-only", 1), ["ops/plain".to_owned()].into());
    assert_eq!(jobs("pager", 1), ["db/paged".to_owned()].into());
    assert_eq!(jobs("all", 2), ["db/plain".to_owned(), "db/typo".to_owned()].into(), "a wrong name silences no alert");
    let logs = installation.lambda_log("scheduler");
    assert!(!logs.iter().any(|line| line.contains("alert given up")), "{logs:?}");
    installation.tick();
    for queue in ["ops-only", "pager", "all"] {
        assert_eq!(installation.received_now(queue).len(), 0, "{queue}: each alert once");
    }
}

#[test]
fn apply_refuses_names_of_packs_and_channels_that_do_not_exist() {
    let Some(installation) = Installation::deploy() else { return };
    installation.subscribe("pager", "sexton-alerts-oncall");
    let operator = Sexton::of_operator(&installation);
    let file = |name: &str, rules: &str, channel: &str| {
        let text = format!(
            "[[job]]\ngroup = \"db\"\nname = \"{name}\"\nschedule = \"@manually\"\ncommand = \"true\"\n\
             rules = [\"{rules}\"]\nalert = {{ channels = [\"{channel}\"] }}\n"
        );
        operator.write(&format!("{name}.toml"), &text)
    };
    let bad = file("bad", "pyhton", "oncal");
    let (code, refused) = operator.try_run(&["apply", &bad, "--aws"]);
    assert_eq!(code, Some(2), "{refused}");
    for problem in [
        "job db/bad: no rule pack `pyhton`; did you mean `python`?",
        "job db/bad: no alert channel `oncal`: there is no topic sexton-alerts-oncal",
    ] {
        assert_eq!(refused.matches(problem).count(), 1, "{problem}: {refused}");
    }
    assert_eq!(installation.items("jobs").len(), 0, "nothing is stored");
    operator.run(&["apply", &file("good", "python", "oncall"), &file("plain", "auto", "alerts"), "--aws"]);
    assert_eq!(installation.items("jobs").len(), 2);
}
