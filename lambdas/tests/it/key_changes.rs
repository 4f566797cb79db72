//! Installations without a signing key, and the change of the key.

use serde_json::{Value, json};

use crate::installation::{ACCOUNT, Installation, SIGNING_KEY};
use crate::sexton::Sexton;
use crate::signed::key_pair;
use crate::whole::soon;

const ORDERS: &str = "sexton-orders-db";

/// Fires a job of group `db`, and returns its run as soon as `condition` holds.
#[track_caller]
fn fire(installation: &Installation, name: &str, mut condition: impl FnMut(&Value) -> bool) -> Value {
    installation.put_job("db", name, "true", &soon());
    let mut run = Value::Null;
    installation.wait(&format!("the job {name} fires"), || {
        installation.tick();
        let of_job = |item: &Value| item["job"]["S"] == name && condition(item);
        run = installation.items("runs").into_iter().find(of_job).unwrap_or_default();
        !run.is_null()
    });
    run
}

#[test]
fn without_a_key_nothing_is_sent_until_there_is_one() {
    let Some(installation) = Installation::deploy_without_key(&[]) else { return };
    let operator = Sexton::of_administrator(&installation);
    let (code, printed) = operator.try_run(&["check", "--aws"]);
    let fault = "BAD  parameter /sexton/order-signing-key: orders are not sent, because there is no key to sign them";
    assert!(code == Some(1) && printed.contains(fault), "{printed}");

    let reason = |run: &Value| run["reason"]["S"].as_str().unwrap_or_default().contains("no key to sign them");
    let run = fire(&installation, "first", reason);
    assert_eq!(run["state"]["S"], "scheduled", "{run}");
    installation.wait("an alert reports it", || {
        installation.items("alerts").iter().any(|item| {
            let item = item.to_string();
            item.contains("orders.db") && item.contains("no key to sign them") && item.contains("Unsigned=yes")
        })
    });
    let printed = operator.try_run(&["run", "db/first", "--aws"]).1;
    assert!(printed.contains("no key to sign them"), "{printed}");
    assert_eq!(installation.received_now(ORDERS).len(), 0);

    // The same Lambda uses a key that exists from now on.
    let Some((private, public)) = key_pair(&operator) else { return };
    installation.put_parameter(SIGNING_KEY, &private);
    installation.put_job("db", "second", "true", &soon());
    let mut orders = Vec::new();
    installation.wait("orders are sent", || {
        installation.tick();
        orders.extend(installation.received_now(ORDERS));
        orders.iter().any(|order| order["Body"].as_str().is_some_and(|body| body.contains("second")))
    });
    let is_signed = |order: &Value| order["Body"].as_str().is_some_and(|body| body.contains("\"signature\":"));
    assert!(orders.iter().all(is_signed), "{orders:?}");
    let (_, printed) = operator.try_run(&["check", "--aws"]);
    let line = printed.lines().find(|line| line.contains("parameter /sexton/order-signing-key")).unwrap_or_default();
    assert!(line.starts_with("ok") && line.contains(&public), "{printed}");
}

#[test]
fn an_installation_that_was_deployed_so_sends_unsigned_orders_and_its_clients_do_as_well() {
    let Some(installation) = Installation::deploy_without_key(&[("Unsigned", "yes")]) else { return };
    let operator = Sexton::of_administrator(&installation);
    let is_sent = |run: &Value| run["reason"]["S"].is_null();
    fire(&installation, "first", is_sent);
    operator.run(&["run", "db/first", "--aws"]);
    let orders = installation.receive(ORDERS, 2);
    let is_unsigned = |order: &Value| order["Body"].as_str().is_some_and(|body| !body.contains("\"signature\":"));
    assert!(orders.len() == 2 && orders.iter().all(is_unsigned), "{orders:?}");
    let (_, printed) = operator.try_run(&["check", "--aws"]);
    assert!(printed.contains("orders are sent unsigned, as deployed with Unsigned=yes"), "{printed}");
}

#[test]
fn the_key_is_changed_when_every_runner_knows_the_new_one() {
    let Some(installation) = Installation::deploy_without_key(&[]) else { return };
    installation.trust_sender("db", ACCOUNT);
    let server = Sexton::of_group(&installation);
    let Some((private, public)) = key_pair(&server) else { return };
    installation.put_parameter(SIGNING_KEY, &private);
    let text = std::fs::read_to_string(server.path("sexton.toml")).expect("written");
    server.write("sexton.toml", &format!("{text}[runner]\nname = \"north\"\npolicy = \"policy.toml\"\n"));
    server.write("policy.toml", &format!("order_keys = [\"{public}\"]\n"));
    let mut runner = server.runner();
    // A runner of an older release, which reports no keys.
    let beat = json!({
        "runner": { "S": "south" }, "host": { "S": "south.example" }, "groups": { "L": [{ "S": "web" }] },
        "at": { "S": jiff::Timestamp::now().to_string() }, "running": { "N": "0" }, "version": { "S": "0.1.0" }
    });
    let item = json!({
        "group": { "S": "web" }, "runner": { "S": "south" }, "at": beat["at"], "beat": { "M": beat }
    });
    installation.call("dynamodb", "put_item", json!({ "TableName": "sexton-runners", "Item": item }));

    let operator = Sexton::of_administrator(&installation);
    let (code, printed) = operator.try_run(&["keys", "rotate", "--aws"]);
    assert!(code == Some(1) && printed.contains("2 runners do not know the new key"), "{printed}");
    assert!(printed.contains("north") && printed.contains("unknown: version 0.1.0"), "{printed}");
    assert!(printed.contains("still signs all orders"), "{printed}");
    let new = printed.split('"').nth(1).expect("the public key").to_owned();
    assert_ne!(new, public);

    assert_eq!(runner.stop(), Some(0), "{}", runner.printed());
    server.write("policy.toml", &format!("order_keys = [\"{public}\", \"{new}\"]\n"));
    let mut runner = server.runner();
    let (code, printed) = operator.try_run(&["keys", "rotate", "--aws", "--json"]);
    let answer: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(
        (code, &answer["new"]["public"], &answer["switched"]),
        (Some(1), &json!(new), &json!(false)),
        "{printed}"
    );
    let without: Vec<&Value> =
        answer["without_new_key"].as_array().expect("runners").iter().map(|r| &r["runner"]).collect();
    assert_eq!(without, ["south"], "{printed}");
    let current = || {
        let request = json!({ "Name": SIGNING_KEY, "WithDecryption": true });
        installation.call("ssm", "get_parameter", request)["Parameter"]["Value"].clone()
    };
    assert_eq!(current(), json!(private));

    let printed = operator.run(&["keys", "rotate", "--aws", "--force"]);
    assert!(printed.contains("1 runner does not know") && printed.contains("signs all orders from"), "{printed}");
    assert_ne!(current(), json!(private));
    let next = installation.try_call("ssm", "get_parameter", json!({ "Name": "/sexton/order-signing-key-next" }));
    assert_eq!(next.map_err(|refusal| refusal.code), Err("ParameterNotFound".to_owned()));
    let (_, line) = operator.try_run(&["check", "--aws"]);
    assert!(line.contains(&new), "{line}");

    // Orders of the new key run; the next change makes another key.
    operator.run(&["apply", &operator.write("jobs.toml", JOB), "--aws"]);
    // The emulator may deliver the first order to the receive of the runner that was stopped.
    operator.run(&["run", "db/hello", "--aws"]);
    operator.run(&["run", "db/hello", "--aws"]);
    installation.wait("an order of the new key is executed", || {
        assert!(!runner.printed().contains("order refused"), "{}", runner.printed());
        !operator.records(&["runs", "db/hello", "--outcome", "succeeded", "--aws"]).is_empty()
    });
    installation.call(
        "dynamodb",
        "delete_item",
        json!({
            "TableName": "sexton-runners", "Key": { "group": { "S": "web" }, "runner": { "S": "south" } }
        }),
    );
    let (code, printed) = operator.try_run(&["keys", "rotate", "--aws", "--json"]);
    let answer: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!((code, &answer["old"]["public"]), (Some(1), &json!(new)), "{printed}");
    assert_ne!(answer["new"]["public"], json!(new), "{printed}");
    assert_eq!(runner.stop(), Some(0), "{}", runner.printed());
}

const JOB: &str = "[[job]]\ngroup = \"db\"\nname = \"hello\"\nschedule = \"@yearly\"\ncommand = \"true\"\n";
