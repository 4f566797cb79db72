//! ministack and moto return what AWS's own client has stored, moto enforces the order of events, and AWS's client
//! recognises the calls that fail on purpose.

use serde_json::{Value, json};
use testbed::{AwsFault, AwsFaults, AwsServer, Ministack, Moto};

use crate::client;

const ACCOUNT: &str = "111111111111";

/// Creates a group with retention and a stream, and puts two events, the first at the present time.
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

fn returns_what_boto3_puts(server: &AwsServer) {
    client::aws_python(BOTO3, server.address(), &[ACCOUNT]);
    let groups = server.log_groups(ACCOUNT);
    assert_eq!((&groups[0]["logGroupName"], &groups[0]["retentionInDays"]), (&json!("/cron/db"), &json!(30)));
    let events = server.log_events(ACCOUNT, "/cron/db", "nightly");
    let messages: Vec<&Value> = events.iter().map(|event| &event["message"]).collect();
    assert_eq!(messages, ["caf\u{e9}", "two"]);
    assert_eq!(server.log_events(ACCOUNT, "/cron/db", "missing"), Vec::<Value>::new());
}

#[test]
fn ministack_returns_what_boto3_puts_and_separates_accounts() {
    let Some(server) = Ministack::start() else { return };
    returns_what_boto3_puts(&server);
    assert_eq!(server.log_groups("222222222222"), Vec::<Value>::new());
}

#[test]
fn moto_returns_what_boto3_puts_and_refuses_events_out_of_order() {
    let Some(server) = Moto::start() else { return };
    returns_what_boto3_puts(&server);
    let at = server.log_events(ACCOUNT, "/cron/db", "nightly")[0]["timestamp"].as_i64().expect("a time");
    let events = json!([{ "timestamp": at, "message": "late" }, { "timestamp": at - 1, "message": "early" }]);
    let put = json!({ "logGroupName": "/cron/db", "logStreamName": "nightly", "logEvents": events });
    let (status, answer) = server.call_logs(ACCOUNT, "PutLogEvents", &put);
    assert_eq!((status, &answer["__type"]), (400, &json!("InvalidParameterException")), "{answer}");
}

/// Creates the resources of the calls; or makes one call, and checks its result and which of its entries are stored.
const BOTO3_CALLS: &str = r#"
import boto3, botocore, sys
config = botocore.config.Config(retries={"total_max_attempts": 1}, read_timeout=3)
def client(service):
    return boto3.client(service, endpoint_url=f"http://{sys.argv[1]}:{sys.argv[2]}", region_name="us-east-1", config=config,
                        aws_access_key_id="111111111111", aws_secret_access_key="secret")
dynamodb, sqs, sns = client("dynamodb"), client("sqs"), client("sns")
table, names = "things", ["first", "last"]
if sys.argv[3] == "make":
    dynamodb.create_table(TableName=table, BillingMode="PAY_PER_REQUEST", KeySchema=[{"AttributeName": "name", "KeyType": "HASH"}],
                          AttributeDefinitions=[{"AttributeName": "name", "AttributeType": "S"}])
    sqs.create_queue(QueueName=table)
    sns.create_topic(Name=table)
    sys.exit()
def put(name): return {"PutRequest": {"Item": {"name": {"S": name}}}}
queue = f"http://{sys.argv[1]}:{sys.argv[2]}/111111111111/{table}"
calls = {
    "PutItem": lambda: dynamodb.put_item(TableName=table, Item={"name": {"S": "last"}}),
    "BatchWriteItem": lambda: dynamodb.batch_write_item(RequestItems={table: [put(name) for name in names]}),
    "TransactWriteItems": lambda: dynamodb.transact_write_items(TransactItems=[{"Put": {"TableName": table, "Item": {"name": {"S": "last"}}}}]),
    "SendMessageBatch": lambda: sqs.send_message_batch(QueueUrl=queue, Entries=[{"Id": name, "MessageBody": name} for name in names]),
    "Publish": lambda: sns.publish(TopicArn=f"arn:aws:sns:us-east-1:111111111111:{table}", Message="x"),
}
try:
    answer = calls[sys.argv[3]]()
    left = answer.get("UnprocessedItems", {}).get(table, []) + answer.get("Failed", [])
    result = f"done but {len(left)}"
except botocore.exceptions.ClientError as error:
    result = f'{error.response["ResponseMetadata"]["HTTPStatusCode"]} {error.response["Error"]["Code"]}'
except (botocore.exceptions.HTTPClientError, botocore.exceptions.ConnectionError) as error:
    result = type(error).__name__
there = {item["name"]["S"] for item in dynamodb.scan(TableName=table)["Items"]}
there |= {message["Body"] for message in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])}
for name in there:
    dynamodb.delete_item(TableName=table, Key={"name": {"S": name}})
sqs.purge_queue(QueueUrl=queue)
wanted = (sys.argv[4], sys.argv[5])
assert (result, " ".join(sorted(there))) == wanted, ((result, there), wanted)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_client_of_aws_recognises_each_fault() {
    let Some(server) = Ministack::start() else { return };
    let proxy = AwsFaults::start(server.address()).await;
    let address = proxy.address();
    let python = async |arguments: Vec<&'static str>| {
        tokio::task::spawn_blocking(move || client::aws_python(BOTO3_CALLS, address, &arguments))
            .await
            .expect("it ends")
    };
    python(vec!["make"]).await;
    for (action, fault, result, stored) in [
        ("PutItem", AwsFault::Refused, "500 InternalServerError", ""),
        ("PutItem", AwsFault::Throttled, "400 ProvisionedThroughputExceededException", ""),
        ("TransactWriteItems", AwsFault::Throttled, "400 TransactionCanceledException", ""),
        ("PutItem", AwsFault::Cut, "ConnectionClosedError", ""),
        ("PutItem", AwsFault::AnswerLost, "ConnectionClosedError", "last"),
        ("PutItem", AwsFault::AnswerLate, "ReadTimeoutError", "last"),
        ("BatchWriteItem", AwsFault::Partial, "done but 1", "first"),
        ("SendMessageBatch", AwsFault::Throttled, "403 RequestThrottled", ""),
        ("SendMessageBatch", AwsFault::Partial, "done but 1", "first"),
        ("Publish", AwsFault::Refused, "500 InternalFailure", ""),
        ("Publish", AwsFault::Throttled, "429 Throttled", ""),
    ] {
        proxy.strike(proxy.calls().len(), 1, fault);
        python(vec![action, result, stored]).await;
        assert_eq!(proxy.struck().len(), 1, "{action} {fault:?}");
    }
}
