//! What a call that failed means to its caller: try again, or a sentence with a remedy. Decided here for all services.

use std::error::Error;

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use domain::ports::PortError;

/// Codes of DynamoDB, SQS, SNS and STS that pass by themselves: too much at once, somebody else's transaction,
/// credentials that are renewed by the next call, a service behind the service.
const TRANSIENT_CODES: [&str; 23] = [
    "ThrottlingException",
    "Throttling",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "LimitExceededException",
    "OverLimit",
    "ProvisionedThroughputExceededException",
    "SlowDown",
    "PriorRequestNotComplete",
    "TransactionInProgressException",
    "TransactionConflictException",
    "ReplicatedWriteConflictException",
    "InternalServerError",
    "InternalError",
    "ServiceUnavailable",
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
    "KMS.ThrottlingException",
    "KMSThrottling",
];

const DENIED_CODES: [&str; 5] =
    ["AccessDeniedException", "AccessDenied", "AuthorizationError", "AuthorizationErrorException", "403"];

const ABSENT_CODES: [&str; 6] = [
    "ResourceNotFoundException",
    "QueueDoesNotExist",
    "AWS.SimpleQueueService.NonExistentQueue",
    "NotFound",
    "NotFoundException",
    "QueueDoesNotExistException",
];

/// What was done, to be put in a sentence: `PutItem` to `the table sexton-runs`.
#[derive(Clone, Copy, Debug)]
pub struct CallName<'c> {
    pub service: &'c str,
    pub action: &'c str,
    pub place: &'c str,
}

/// Names the fault, and says whether the same call may work later.
pub fn call_error<E>(call_name: CallName<'_>, error: &SdkError<E, HttpResponse>) -> PortError
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

/// The same for a part of an answer: one entry of a batch, one reason of a cancelled transaction.
pub fn code_error(call_name: CallName<'_>, status: u16, code: &str, message: &str) -> PortError {
    let CallName { service, action, place } = call_name;
    let code = code.rsplit('#').next().unwrap_or(code);
    let message = format!("{service} {action} on {place} failed with {code}: {message}");
    if TRANSIENT_CODES.contains(&code) || status >= 500 || status == 429 {
        return PortError::Retry(message);
    }
    let remedy = if DENIED_CODES.contains(&code) {
        let permission = required_permission(action);
        format!("; the role of this process must be allowed {}:{permission} there", service.to_ascii_lowercase())
    } else if ABSENT_CODES.contains(&code) {
        "; deploy the template, add the group, or correct `prefix` and `region`".to_owned()
    } else {
        String::new()
    };
    PortError::Permanent(format!("{message}{remedy}"))
}

/// What a role is allowed when it is allowed an action: batches of SQS and SNS have no permission of their own.
/// Source: Service Authorization Reference, actions of Amazon SQS and Amazon SNS.
fn required_permission(action: &str) -> &str {
    action.strip_suffix("Batch").unwrap_or(action)
}

/// An error with what caused it, as one line.
pub fn error_chain(error: &dyn Error) -> String {
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
            // Of SQS and of SNS, where a queue or topic is encrypted with a key of KMS.
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
