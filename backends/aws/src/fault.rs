//! Decides for all AWS services whether a failed call can be retried, and writes its error text with the remedy.

use std::error::Error;

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use domain::ca_store;
use domain::ports::PortError;

/// Error codes of DynamoDB, SQS, SNS, SSM and KMS, also of parts of a batch or transaction, for too many calls: the
/// call was not executed, and succeeds when there are fewer.
const THROTTLED_CODES: [&str; 19] = [
    "ThrottlingException",
    "ThrottlingError",
    "Throttling",
    "Throttled",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "LimitExceededException",
    "OverLimit",
    "ProvisionedThroughputExceeded",
    "ProvisionedThroughputExceededException",
    "BandwidthLimitExceeded",
    "EC2ThrottledException",
    "SlowDown",
    "KMS.ThrottlingException",
    "KMSThrottling",
    "KMSThrottlingException",
];

/// Error codes of DynamoDB, SQS, SNS, STS and KMS after which the same call can succeed: a concurrent transaction,
/// expired credentials (the next call renews them), a failing service behind the service.
const TRANSIENT_CODES: [&str; 12] = [
    "PriorRequestNotComplete",
    "TransactionConflict",
    "TransactionInProgressException",
    "TransactionConflictException",
    "ReplicatedWriteConflictException",
    "InternalServerError",
    "InternalError",
    "ServiceUnavailable",
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
    "RequestTimeout",
];

/// Error codes for a missing permission.
const DENIED_CODES: [&str; 5] =
    ["AccessDeniedException", "AccessDenied", "AuthorizationError", "AuthorizationErrorException", "403"];

/// Error codes for a missing table, queue, topic or parameter.
const ABSENT_CODES: [&str; 6] = [
    "ResourceNotFoundException",
    "QueueDoesNotExist",
    "AWS.SimpleQueueService.NonExistentQueue",
    "NotFound",
    "NotFoundException",
    "QueueDoesNotExistException",
];

/// Start of the remedy for a missing permission.
const DENIED_REMEDY: &str = "; allow the role of this process";

/// Whether a call was refused because a permission is missing.
pub fn is_denied(error: &PortError) -> bool {
    matches!(error, PortError::Permanent(message) if message.contains(DENIED_REMEDY))
}

/// Why AWS refused a call, as far as callers differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Too many calls: the same call can succeed when there are fewer.
    Throttled,
    /// The same call can succeed.
    Transient,
    /// A missing permission.
    Denied,
    /// A missing table, queue, topic or parameter.
    Absent,
    /// The call is wrong.
    Invalid,
}

impl Cause {
    pub(crate) fn of(status: u16, code: &str) -> Cause {
        let code = code.rsplit('#').next().unwrap_or(code);
        match code {
            _ if THROTTLED_CODES.contains(&code) || status == 429 => Cause::Throttled,
            _ if TRANSIENT_CODES.contains(&code) || status >= 500 => Cause::Transient,
            _ if DENIED_CODES.contains(&code) => Cause::Denied,
            _ if ABSENT_CODES.contains(&code) => Cause::Absent,
            _ => Cause::Invalid,
        }
    }

    /// Whether the same call can succeed later without a change.
    pub(crate) fn is_transient(self) -> bool {
        matches!(self, Cause::Throttled | Cause::Transient)
    }
}

/// The cause of a failed call.
pub(crate) fn cause_of<E>(error: &SdkError<E, HttpResponse>) -> Cause
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error.as_service_error() {
        Some(service_error) => {
            let status = error.raw_response().map_or(0, |response| response.status().as_u16());
            Cause::of(status, service_error.code().unwrap_or("no code"))
        }
        None if matches!(error, SdkError::ConstructionFailure(_)) => Cause::Invalid,
        None => Cause::Transient,
    }
}

/// Names a call in error texts: `PutItem` on `the table sexton-runs`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallName<'c> {
    pub service: &'c str,
    pub action: &'c str,
    pub place: &'c str,
}

/// Converts the error of a call.
pub(crate) fn call_error<E>(call_name: CallName<'_>, error: &SdkError<E, HttpResponse>) -> PortError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let CallName { service, action, place } = call_name;
    let Some(service_error) = error.as_service_error() else {
        let message = format!("{service} {action} on {place} got no answer: {}", error_chain(error));
        return match error {
            SdkError::ConstructionFailure(_) => PortError::Permanent(message),
            _ => PortError::Retry(message),
        };
    };
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    let code = service_error.code().unwrap_or("no code");
    let message = service_error.message().unwrap_or("no message");
    code_error(call_name, status, code, message)
}

/// Converts an error code: of a call, of one entry of a batch, or of one reason of a cancelled transaction.
pub(crate) fn code_error(call_name: CallName<'_>, status: u16, code: &str, message: &str) -> PortError {
    let CallName { service, action, place } = call_name;
    let code = code.rsplit('#').next().unwrap_or(code);
    let text = format!("{service} {action} on {place} failed with {code}: {message}");
    let remedy = match Cause::of(status, code) {
        Cause::Throttled | Cause::Transient => return PortError::Retry(text),
        Cause::Denied => {
            let permission = required_permission(action);
            format!("{DENIED_REMEDY} {}:{permission} there", service.to_ascii_lowercase())
        }
        Cause::Absent => "; deploy the template, add the group, or correct `prefix` and `region`".to_owned(),
        Cause::Invalid => String::new(),
    };
    PortError::Permanent(format!("{text}{remedy}"))
}

/// Returns the permission for an action: batch calls of SQS and SNS need that of the single call (Service Authorization
/// Reference, actions of Amazon SQS and Amazon SNS).
fn required_permission(action: &str) -> &str {
    action.strip_suffix("Batch").unwrap_or(action)
}

/// Writes an error and its causes on one line, with the remedy on a machine without CA certificates.
pub(crate) fn error_chain(error: &(dyn Error + 'static)) -> String {
    // The SDK trusts no certificate where it finds no CA certificates; reqwest reads the same files and names that.
    let has_no_store = || reqwest::Client::builder().build().err().is_some_and(|error| ca_store::is_missing(&error));
    let text = chain_text(error);
    if ca_store::is_missing(error) || (text.contains("UnknownIssuer") && has_no_store()) {
        return ca_store::MISSING.to_owned();
    }
    text
}

fn chain_text(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let message = cause.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transient_errors_are_retried_and_others_name_place_and_remedy() {
        let call_name = CallName { service: "DynamoDB", action: "PutItem", place: "the table sexton-runs" };
        for (status, code, retry) in [
            (400, "ThrottlingException", true),
            (400, "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException", true),
            (500, "InternalServerError", true),
            (503, "anything", true),
            (400, "ExpiredTokenException", true),
            // From SQS and SNS, when the queue or topic is encrypted with a KMS key.
            (400, "KMS.ThrottlingException", true),
            (400, "KMSThrottling", true),
            (400, "ValidationException", false),
            (400, "AccessDeniedException", false),
            (400, "ResourceNotFoundException", false),
        ] {
            let error = code_error(call_name, status, code, "m");
            assert_eq!(matches!(error, PortError::Retry(_)), retry, "{code}");
            assert!(error.to_string().contains("the table sexton-runs"), "{error}");
        }
        assert!(code_error(call_name, 400, "AccessDeniedException", "m").to_string().contains("dynamodb:PutItem"));
        let batch = CallName { service: "SQS", action: "SendMessageBatch", place: "the queue sexton-reports" };
        assert!(code_error(batch, 403, "AccessDenied", "m").to_string().contains("sqs:SendMessage there"));
        assert!(code_error(call_name, 400, "ResourceNotFoundException", "m").to_string().contains("template"));
    }
}
