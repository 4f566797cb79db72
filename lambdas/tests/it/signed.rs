//! The scheduler's Lambda signs orders with the installation's key, and the runner executes no others.

use std::process::Command;

use serde_json::{Value, json};
use testbed::{certificates, repository};

use crate::installation::{ACCOUNT, Installation, SIGNING_KEY};
use crate::sexton::Sexton;
use crate::whole::soon;

const SECRET: &str = "correct horse battery staple";

const ORDERS: &str = "sexton-orders-db";

/// Makes a key pair with the commands of docs/aws.md. Returns the private key's PEM and the public key for the policy
/// file; none if openssl is not installed.
#[track_caller]
pub(crate) fn key_pair(folder: &Sexton) -> Option<(String, String)> {
    certificates()?;
    let docs = std::fs::read_to_string(repository().join("docs/aws.md")).expect("docs/aws.md");
    for line in docs.lines().filter(|line| line.starts_with("openssl ")) {
        let output = Command::new("sh").args(["-c", line]).current_dir(folder.path("")).output().expect("a shell");
        assert!(output.status.success(), "{line}: {output:?}");
    }
    let text = |name: &str| std::fs::read_to_string(folder.path(name)).expect(name);
    let public = text("order-signing-key.pub.pem");
    let public = public.lines().filter(|line| !line.starts_with("-----")).collect();
    Some((text("order-signing-key.pem"), public))
}

/// Forges messages as a principal that may write to the queue but has no key: the same run with another command.
fn forged(genuine: &str, command: &str) -> [String; 2] {
    let mut message: Value = serde_json::from_str(genuine).expect("JSON");
    let mut order: Value = serde_json::from_str(message["order"].as_str().expect("an order")).expect("JSON");
    order["job"]["command"] = json!(command);
    message["order"] = json!(order.to_string());
    let unsigned = json!({ "order": message["order"] });
    [message.to_string(), unsigned.to_string()]
}

#[test]
fn a_runner_refuses_forged_orders_and_masks_secrets_in_all_logs() {
    let Some(installation) = Installation::deploy() else { return };
    installation.trust_sender("db", ACCOUNT);
    let server = Sexton::of_group(&installation);
    let Some((private, public)) = key_pair(&server) else { return };
    installation.put_parameter(SIGNING_KEY, &private);
    installation.put_parameter("/sexton/groups/db/password", SECRET);
    server.write("policy.toml", &format!("order_keys = [\"{public}\"]\nreferences = [\"ssm:/sexton/groups/db/*\"]\n"));
    let text = std::fs::read_to_string(server.path("sexton.toml")).expect("written");
    server.write("sexton.toml", &format!("{text}[runner]\npolicy = \"policy.toml\"\n"));

    // No runner runs yet, so the test takes the scheduler's order out of the queue.
    let operator = Sexton::of_operator(&installation);
    let jobs = format!(
        "[[job]]\ngroup = \"db\"\nname = \"teller\"\nschedule = \"{}\"\ncommand = 'echo \"it is $PASSWORD\"'\n\
         env = {{ PASSWORD = \"ssm:/sexton/groups/db/password\" }}\n",
        soon()
    );
    operator.run(&["apply", &operator.write("jobs.toml", &jobs), "--aws"]);
    let mut held = Vec::new();
    installation.wait("the order is sent", || {
        installation.tick();
        held = installation.received_now(ORDERS);
        !held.is_empty()
    });
    let genuine = held[0]["Body"].as_str().expect("a body");
    assert!(genuine.contains("ssm:/sexton/groups/db/password") && !genuine.contains(SECRET), "{genuine}");

    let trace = server.path("forged");
    let send = |body: &str| {
        installation.call(
            "sqs",
            "send_message",
            json!({ "QueueUrl": installation.queue_url(ORDERS), "MessageBody": body }),
        );
    };
    forged(genuine, &format!("touch {}", trace.display())).iter().for_each(|body| send(body));
    let mut runner = server.runner();
    let check_none_executed = || assert!(!trace.exists(), "a forged order was executed: {}", runner.printed());
    installation.wait("both forged orders are refused", || {
        check_none_executed();
        runner.printed().matches("order refused").count() == 2
    });
    assert!(runner.printed().contains("not signed"), "{}", runner.printed());
    send(genuine);
    let mut runs = Vec::new();
    installation.wait("the signed order is executed", || {
        runs = operator.records(&["runs", "db/teller", "--outcome", "succeeded", "--aws"]);
        !runs.is_empty()
    });
    check_none_executed();
    check_left_to_the_dead_letter_queue(&installation);

    let run_id = runs[0]["run_id"].as_str().expect("its name");
    let mut output = Vec::new();
    installation.wait("the end of the run is in CloudWatch Logs", || {
        output = installation.output_of("db", run_id);
        output.iter().any(|record| record["event"] == "run.finished")
    });
    assert!(output.iter().any(|record| record["message"] == "it is ***"), "{output:#?}");
    let everything = format!("{output:?}{:?}{}", installation.items("runs"), runner.printed());
    assert!(!everything.contains(SECRET), "{everything}");
    assert_eq!(runner.stop(), Some(0), "{}", runner.printed());
}

/// Checks that the two refused orders are still in SQS, which moves them to the dead-letter queue after five receives.
#[track_caller]
fn check_left_to_the_dead_letter_queue(installation: &Installation) {
    let request = json!({ "QueueUrl": installation.queue_url(ORDERS), "AttributeNames": ["All"] });
    let attributes = installation.call("sqs", "get_queue_attributes", request)["Attributes"].clone();
    let count = |name: &str| attributes[name].as_str().and_then(|text| text.parse::<u32>().ok()).unwrap_or_default();
    let there = count("ApproximateNumberOfMessages") + count("ApproximateNumberOfMessagesNotVisible");
    let dead = installation.received_now("sexton-orders-db-dead").len() as u32;
    assert_eq!(there + dead, 2, "{attributes}");
    let redrive: Value = serde_json::from_str(attributes["RedrivePolicy"].as_str().expect("a policy")).expect("JSON");
    assert!(
        redrive["deadLetterTargetArn"].as_str().is_some_and(|arn| arn.ends_with(":sexton-orders-db-dead")),
        "{redrive}"
    );
}
