//! The rights of groups: secrets of their own, beside other installations of the account, and wherever their runners
//! run.

use serde_json::{Value, json};
use testbed::Caller;

use crate::installation::{ACCOUNT, Installation};
use crate::roles::check_in;
use crate::sexton::Sexton;

/// ARN that may assume the roles of groups in tests.
fn account() -> String {
    format!("arn:aws:iam::{ACCOUNT}:root")
}

#[test]
fn more_secrets_grants_its_paths_and_never_the_signing_key() {
    let Some(installation) = Installation::deploy() else { return };
    let account = account();
    // The name of the prefix, with the remedy of the upgrade notes for its existing references.
    let parameters =
        [("Group", "sexton"), ("RunnerPrincipal", &*account), ("MoreSecrets", "/sexton/,/shared/deep/,/a.b-c_d/")];
    installation.add_group("same", &parameters);
    let allowed = "
        parameter /sexton/groups/sexton/password: get_parameter
        parameter /sexton/password: get_parameter
        parameter /shared/deep/password: get_parameter
        parameter /a.b-c_d/password: get_parameter
        secret sexton/groups/sexton/password: get_secret_value
        secret sexton/password: get_secret_value
        secret shared/deep/password: get_secret_value
        secret a.b-c_d/password: get_secret_value";
    let denied = "
        parameter /sexton/order-signing-key: get_parameter
        parameter /sexton/order-signing-key-next: get_parameter
        parameter /shared/password: get_parameter
        parameter /shared/deeper: get_parameter
        parameter /db/password: get_parameter
        parameter /: get_parameter
        secret shared/password: get_secret_value
        secret db/password: get_secret_value";
    check_in(&installation, "same", "RunnerRole", allowed, denied);

    installation.add_group("plain", &[("Group", "plain"), ("Prefix", "plain"), ("RunnerPrincipal", &account)]);
    let denied = "
        parameter /plain/order-signing-key: get_parameter
        parameter /plain/order-signing-key-next: get_parameter
        parameter /plain/password: get_parameter
        parameter /plain/groups/other/password: get_parameter
        secret plain/password: get_secret_value";
    check_in(&installation, "plain", "RunnerRole", "parameter /plain/groups/plain/password: get_parameter", denied);
}

#[test]
fn two_installations_of_an_account_have_the_same_group_and_neither_reads_the_data_of_the_other() {
    let Some(installation) = Installation::deploy() else { return };
    installation.add_group("other-db", &[("Group", "db"), ("Prefix", "other"), ("RunnerPrincipal", &account())]);
    let groups = installation.call("logs", "describe_log_groups", json!({ "logGroupNamePrefix": "/cron/" }));
    let names: Vec<&str> = groups["logGroups"]
        .as_array()
        .expect("groups")
        .iter()
        .filter_map(|group| group["logGroupName"].as_str())
        .collect();
    assert_eq!(names, ["/cron/db", "/cron/other/db", "/cron/web"]);
    let (own, others) = (
        "
        parameter /sexton/groups/db/password: get_parameter
        secret sexton/groups/db/password: get_secret_value
        logs /cron/db: create_log_stream put_log_events",
        "
        parameter /other/groups/db/password: get_parameter
        secret other/groups/db/password: get_secret_value
        logs /cron/other/db: create_log_stream put_log_events",
    );
    let tables = "
        queue orders-db: receive_message delete_message
        queue reports: send_message
        table runs: update_item
        table runners: update_item";
    check_in(&installation, "db", "RunnerRole", &format!("{own}{tables}"), others);
    check_in(&installation, "other-db", "RunnerRole", others, &format!("{own}{tables}"));
    let template = installation.template("group.yaml");
    assert_eq!(template["Resources"]["Output"]["UpdateReplacePolicy"], "Retain");
}

/// No emulator knows the attributes of a request, so the test asks the policy evaluator.
#[test]
fn a_runner_writes_the_attributes_of_a_claim_and_no_outcome() {
    let Some(installation) = Installation::deploy() else { return };
    let role = installation.resource("db", "RunnerRole");
    let policy = installation.call("iam", "get_role_policy", json!({ "RoleName": role, "PolicyName": "runner" }));
    let policies = [policy["PolicyDocument"].clone()];
    let permits = |attributes: &[&str]| {
        let resource = format!("arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/sexton-runs");
        let keys = json!({ "dynamodb:LeadingKeys": ["db#10-minutes"], "dynamodb:Attributes": attributes });
        installation.boto.permits(&policies, "dynamodb:UpdateItem", &resource, keys)
    };
    // The claims of 0.1, and of this release.
    let first = ["bucket", "run_id", "state", "runner", "host", "claimed_at", "version", "attempt", "held", "start_by"];
    assert!(permits(&first));
    assert!(permits(&[&first[..], &["runner_id"]].concat()));
    for foreign in ["outcome", "reason", "exit_code", "excerpt", "finished_at", "expires", "job", "group", "not_before"]
    {
        assert!(!permits(&[&first[..], &[foreign]].concat()), "{foreign}");
    }
    let statements = policy["PolicyDocument"]["Statement"].as_array().expect("statements");
    let condition =
        |statement: &Value| statement["Condition"]["ForAllValues:StringEquals"]["dynamodb:Attributes"].clone();
    let listed: Vec<Value> = statements.iter().map(condition).filter(|listed| !listed.is_null()).collect();
    assert_eq!(listed, [json!(aws::CLAIM_ATTRIBUTES)]);
}

/// The trust of a group's role.
#[track_caller]
fn trust(installation: &Installation, stack: &str, parameters: &[(&str, &str)]) -> Value {
    installation.add_group(stack, &[&[("Group", stack)], parameters].concat());
    let role = installation.call("iam", "get_role", json!({ "RoleName": installation.resource(stack, "RunnerRole") }));
    role["Role"]["AssumeRolePolicyDocument"]["Statement"].clone()
}

#[test]
fn each_place_where_runners_run_has_a_parameter_of_its_own() {
    let Some(installation) = Installation::deploy() else { return };
    let service = |name: &str, condition: Value| {
        let mut statement = json!({
            "Effect": "Allow", "Principal": { "Service": format!("{name}.amazonaws.com") }, "Action": "sts:AssumeRole"
        });
        if !condition.is_null() {
            statement["Condition"] = condition;
        }
        statement
    };
    let ec2 = service("ec2", Value::Null);
    assert_eq!(trust(&installation, "ec2", &[]), json!([ec2]));
    let mut pods = service("pods.eks", Value::Null);
    pods["Action"] = json!(["sts:AssumeRole", "sts:TagSession"]);
    assert_eq!(trust(&installation, "eks", &[("Ec2", "no"), ("EksPodIdentity", "yes")]), json!([pods]));
    let tasks = service(
        "ecs-tasks",
        json!({
            "StringEquals": { "aws:SourceAccount": ACCOUNT },
            "ArnLike": { "aws:SourceArn": format!("arn:aws:ecs:us-east-1:{ACCOUNT}:*") }
        }),
    );
    assert_eq!(trust(&installation, "ecs", &[("Ec2", "no"), ("Ecs", "yes")]), json!([tasks]));
    let machines = service(
        "ssm",
        json!({
            "StringEquals": { "aws:SourceAccount": ACCOUNT },
            "ArnEquals": { "aws:SourceArn": format!("arn:aws:ssm:us-east-1:{ACCOUNT}:*") }
        }),
    );
    assert_eq!(trust(&installation, "hybrid", &[("SsmHybrid", "yes")]), json!([ec2, machines]));
    let anchor = format!("arn:aws:rolesanywhere:us-east-1:{ACCOUNT}:trust-anchor/0b6a1c2d-1111-2222-3333-444455556666");
    let mut certificates = service("rolesanywhere", json!({ "ArnEquals": { "aws:SourceArn": anchor } }));
    certificates["Action"] = json!(["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]);
    assert_eq!(trust(&installation, "anywhere", &[("Ec2", "no"), ("TrustAnchor", &anchor)]), json!([certificates]));
    let role = installation.resource("hybrid", "RunnerRole");
    let policy = installation.call("iam", "get_role_policy", json!({ "RoleName": role, "PolicyName": "runner" }));
    let policies = [policy["PolicyDocument"].clone()];
    let parameter = |name: &str| format!("arn:aws:ssm:us-east-1:{ACCOUNT}:parameter{name}");
    for (action, resource, permitted) in [
        ("ssm:UpdateInstanceInformation", "*".to_owned(), true),
        ("ec2messages:GetMessages", "*".to_owned(), true),
        ("ssm:GetParameter", parameter("/sexton/groups/web/password"), false),
        ("ssm:GetParameters", parameter("/sexton/groups/hybrid/password"), false),
        ("ssm:GetParameter", parameter("/sexton/order-signing-key"), false),
        ("ssm:SendCommand", "*".to_owned(), false),
    ] {
        assert_eq!(
            installation.boto.permits(&policies, action, &resource, json!({})),
            permitted,
            "{action} {resource}"
        );
    }
}

#[test]
fn a_user_of_another_account_assumes_the_role_with_the_external_id_only() {
    let Some(installation) = Installation::deploy() else { return };
    let theirs = Caller::root("222222222222");
    let principal = "arn:aws:iam::222222222222:root";
    let statements =
        trust(&installation, "far", &[("Ec2", "no"), ("RunnerPrincipal", principal), ("ExternalId", "f3a/9=c")]);
    assert_eq!(
        statements,
        json!([{
            "Effect": "Allow", "Principal": { "AWS": principal }, "Action": "sts:AssumeRole",
            "Condition": { "StringEquals": { "sts:ExternalId": "f3a/9=c" } }
        }])
    );
    let arn = format!("arn:aws:iam::{ACCOUNT}:role/{}", installation.resource("far", "RunnerRole"));
    let assume = |external_id: Option<&str>| {
        let mut request = json!({ "RoleArn": arn, "RoleSessionName": "far" });
        if let Some(id) = external_id {
            request["ExternalId"] = json!(id);
        }
        installation.boto.call(&theirs, "sts", "assume_role", request)
    };
    assert!(assume(Some("f3a/9=c")).is_ok());
    for wrong in [None, Some("f3a/9=C")] {
        assert_eq!(assume(wrong).map_err(|refusal| refusal.code), Err("AccessDenied".to_owned()), "{wrong:?}");
    }
}

#[test]
fn check_tries_each_reference_of_the_jobs_of_a_group() {
    let Some(installation) = Installation::deploy() else { return };
    let job = |name: &str, reference: &str| {
        installation.put_job("db", name, "true", "0 3 * * *");
        let change = json!({
            "TableName": "sexton-jobs", "Key": { "group": { "S": "db" }, "name": { "S": name } },
            "UpdateExpression": "SET env = :env",
            "ExpressionAttributeValues": { ":env": { "M": { "X": { "S": reference } } } }
        });
        installation.call("dynamodb", "update_item", change);
    };
    job("own", "ssm:/sexton/groups/db/password");
    job("absent", "ssm:/sexton/groups/db/absent");
    job("old", "secretsmanager:db/password#key");
    job("file", "file:/etc/password");
    installation.put_parameter("/sexton/groups/db/password", "value 7");
    installation.call(
        "secretsmanager",
        "create_secret",
        json!({ "Name": "db/password", "SecretString": "{\"key\":\"v\"}" }),
    );

    // The user that may assume the role may list the jobs, too.
    let server = Sexton::of_group(&installation);
    let jobs = format!("arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/sexton-jobs");
    server.allow(&["dynamodb:Query", "dynamodb:Scan"], &jobs);
    let (code, printed) = server.try_run(&["check", "--group", "db"]);
    assert_eq!(code, Some(1), "{printed}");
    let found = |start: &str| {
        printed.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {printed}"))
    };
    found("ok   reference ssm:/sexton/groups/db/password of db/own: readable");
    assert!(found("BAD  reference ssm:/sexton/groups/db/absent of db/absent").contains("does not exist"), "{printed}");
    let old = found("BAD  reference secretsmanager:db/password#key of db/old");
    assert!(old.contains("store it below /sexton/groups/db/") && old.contains("MoreSecrets=/db/"), "{old}");
    assert!(!printed.contains("value 7") && !printed.contains("order-signing-key"), "{printed}");

    // The stack of an older release: its role reads the old place, and the key of a group with the name of the prefix.
    let role = installation.resource("db", "RunnerRole");
    let policy = installation.call("iam", "get_role_policy", json!({ "RoleName": role, "PolicyName": "runner" }));
    let mut policy = policy["PolicyDocument"].clone();
    let statements = policy["Statement"].as_array_mut().expect("statements");
    statements
        .retain(|statement| statement["Effect"] == "Allow" && !statement.to_string().contains("secret:sexton/groups"));
    statements.push(json!({ "Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": "*" }));
    statements.push(json!({ "Effect": "Allow", "Action": "ssm:GetParameter", "Resource": "*" }));
    let put = json!({ "RoleName": role, "PolicyName": "runner", "PolicyDocument": policy.to_string() });
    installation.call("iam", "put_role_policy", put);
    let untag = json!({ "QueueUrl": installation.queue_url("sexton-orders-db"), "TagKeys": [aws::SECRETS_TAG] });
    installation.call("sqs", "untag_queue", untag);
    let (_, printed) = server.try_run(&["check", "--group", "db"]);
    let found = |start: &str| {
        printed.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {printed}"))
    };
    let old = found("BAD  reference secretsmanager:db/password#key of db/old: readable now, but not after the update");
    assert!(old.contains("MoreSecrets=/db/"), "{old}");
    found("BAD  parameter /sexton/order-signing-key: the role of a runner can read the key");
}
