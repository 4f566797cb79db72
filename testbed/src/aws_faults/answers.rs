//! The error answers of AWS, in JSON 1.0 and 1.1 (DynamoDB, SQS, SSM) and in the query protocol (SNS). Called by the
//! proxy.
//!
//! Codes and statuses: DynamoDB developer guide, error handling; SQS API reference, error response in JSON; SNS API
//! reference, common errors; for batches, BatchWriteItem, BatchGetItem, SendMessageBatch and DeleteMessageBatch.

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use super::{Answer, AwsCall};

/// The service for each prefix of `x-amz-target`.
const SERVICES: [(&str, &str); 3] = [("DynamoDB_", "DynamoDB"), ("AmazonSQS", "SQS"), ("AmazonSSM", "SSM")];

/// The call of a request. The query protocol names the action in the form.
pub(crate) fn call_of(head: &Parts, body: &[u8]) -> AwsCall {
    if let Some((service, action)) = head
        .headers
        .get("x-amz-target")
        .and_then(|target| target.to_str().ok())
        .and_then(|target| target.split_once('.'))
    {
        let known = SERVICES.iter().find(|(begin, _)| service.starts_with(begin));
        let service = known.map_or(service, |(_, name)| *name).to_owned();
        return AwsCall { service, action: action.to_owned(), body: serde_json::from_slice(body).unwrap_or_default() };
    }
    let form = String::from_utf8_lossy(body);
    let action = form.split('&').find_map(|field| field.strip_prefix("Action=")).unwrap_or("unknown");
    AwsCall { service: "SNS".to_owned(), action: action.to_owned(), body: Value::Null }
}

pub(crate) fn refused(call: &AwsCall) -> Answer {
    let (code, message) = match call.service.as_str() {
        "SQS" | "SNS" => ("InternalFailure", "The request processing has failed because of an unknown error."),
        _ => ("InternalServerError", "Internal server error"),
    };
    failed(call, 500, code, message)
}

pub(crate) fn throttled(call: &AwsCall) -> Answer {
    match (call.service.as_str(), call.action.as_str()) {
        ("DynamoDB", "TransactWriteItems") => cancelled(call),
        ("DynamoDB", _) => failed(
            call,
            400,
            "ProvisionedThroughputExceededException",
            "The level of configured provisioned throughput for the table was exceeded.",
        ),
        ("SQS", _) => failed(call, 403, "RequestThrottled", "The request was denied due to request throttling."),
        ("SNS", _) => failed(call, 429, "Throttled", "Rate exceeded"),
        _ => failed(call, 400, "ThrottlingException", "Rate exceeded"),
    }
}

/// The answer to a transaction that is throttled.
fn cancelled(call: &AwsCall) -> Answer {
    let parts = call.body["TransactItems"].as_array().map_or(0, Vec::len);
    let throttled = |part| match part {
        0 => json!({ "Code": "ThrottlingError", "Message": "Throughput exceeds the current capacity of your table." }),
        _ => json!({ "Code": "None" }),
    };
    let body = json!({
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "Message": "Transaction cancelled, please refer cancellation reasons for specific reasons",
        "CancellationReasons": (0..parts).map(throttled).collect::<Vec<_>>(),
    });
    answer(call, 400, None, body.to_string())
}

fn failed(call: &AwsCall, status: u16, code: &str, message: &str) -> Answer {
    let whose = if status < 500 { "Sender" } else { "Receiver" };
    match call.service.as_str() {
        "SNS" => {
            let body = format!(
                "<ErrorResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><Error><Type>{whose}</Type>\
                 <Code>{code}</Code><Message>{message}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
            );
            answer(call, status, None, body)
        }
        "SQS" => {
            let body = json!({ "__type": format!("com.amazonaws.sqs#{code}"), "message": message });
            answer(call, status, Some(format!("{code};{whose}")), body.to_string())
        }
        _ => {
            let body = json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": message });
            answer(call, status, None, body.to_string())
        }
    }
}

/// `query_error` is the header that SQS adds for clients of its older protocol.
fn answer(call: &AwsCall, status: u16, query_error: Option<String>, body: String) -> Answer {
    let kind = match call.service.as_str() {
        "SNS" => "text/xml",
        "SSM" => "application/x-amz-json-1.1",
        _ => "application/x-amz-json-1.0",
    };
    let mut builder = Response::builder().status(status).header("content-type", kind);
    if let Some(query_error) = query_error {
        builder = builder.header("x-amzn-query-error", query_error);
    }
    builder.body(Full::new(Bytes::from(body))).expect("an answer of plain texts")
}

/// The number of entries of a batch that can fail in part. SQS can fail every entry; DynamoDB throttles the call
/// instead when it can execute none.
pub(crate) fn entries(call: &AwsCall) -> usize {
    match asked_of_table(call) {
        Some((_, [_])) => 0,
        Some((_, items)) => items.len(),
        None => call.body["Entries"].as_array().map_or(0, Vec::len),
    }
}

/// The table of a batch, and its items or keys. Batches of this project always have one table.
pub(crate) fn asked_of_table(call: &AwsCall) -> Option<(&str, &[Value])> {
    let (table, asked) = call.body["RequestItems"].as_object()?.iter().next()?;
    Some((table, asked.as_array().or_else(|| asked["Keys"].as_array())?))
}

/// The batch without its last entry, and that entry; `None` when no other entry remains.
pub(crate) fn without_last(call: &AwsCall) -> Option<(Value, Value)> {
    let mut body = call.body.clone();
    let table = asked_of_table(call).map(|(table, _)| table.to_owned());
    let entries = match table {
        None => &mut body["Entries"],
        Some(table) if body["RequestItems"][&table].is_array() => &mut body["RequestItems"][&table],
        Some(table) => &mut body["RequestItems"][&table]["Keys"],
    };
    let last = entries.as_array_mut()?.pop()?;
    let some_are_left = entries.as_array().is_some_and(|entries| !entries.is_empty());
    some_are_left.then_some((body, last))
}

/// The batch of writes without these.
pub(crate) fn without(call: &AwsCall, left: &[Value]) -> Value {
    let mut body = call.body.clone();
    for requests in body["RequestItems"].as_object_mut().into_iter().flat_map(|tables| tables.values_mut()) {
        if let Some(requests) = requests.as_array_mut() {
            requests.retain(|request| !left.contains(request));
        }
    }
    body
}

/// The answer to such a batch, with the entries left out as not processed.
pub(crate) fn with_left(call: &AwsCall, mut answered: Value, left: &[Value]) -> Value {
    match (call.action.as_str(), asked_of_table(call)) {
        ("BatchWriteItem", Some((table, _))) => answered["UnprocessedItems"] = json!({ table: left }),
        ("BatchGetItem", Some((table, _))) => {
            let mut asked = call.body["RequestItems"][table].clone();
            asked["Keys"] = json!(left);
            answered["UnprocessedKeys"] = json!({ table: asked });
        }
        _ => answered["Failed"] = Value::Array(left.iter().map(entry_failed).collect()),
    }
    answered
}

/// The answer to a batch of messages of which none was accepted.
pub(crate) fn none_done(call: &AwsCall) -> Answer {
    let failed: Vec<Value> = call.body["Entries"].as_array().into_iter().flatten().map(entry_failed).collect();
    answer(call, 200, None, json!({ "Successful": [], "Failed": failed }).to_string())
}

fn entry_failed(entry: &Value) -> Value {
    json!({ "Id": entry["Id"], "SenderFault": false, "Code": "InternalError", "Message": "try again" })
}
