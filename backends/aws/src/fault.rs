//! What a call that failed means to its caller: try again, or a sentence with a remedy. Decided here for all services.

use std::error::Error;

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use domain::ports::PortError;

/// Codes of DynamoDB, SQS, SNS and STS that pass by themselves: too much at once, somebody else's transaction,
/// credentials that are renewed by the next call, a service behind the service.
const PASSING: [&str; 23] = [
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

const DENIED: [&str; 5] =
    ["AccessDeniedException", "AccessDenied", "AuthorizationError", "AuthorizationErrorException", "403"];

const ABSENT: [&str; 6] = [
    "ResourceNotFoundException",
    "QueueDoesNotExist",
    "AWS.SimpleQueueService.NonExistentQueue",
    "NotFound",
    "NotFoundException",
    "QueueDoesNotExistException",
];

/// What was done, to be put in a sentence: `PutItem` to `the table sexton-runs`.
#[derive(Clone, Copy, Debug)]
pub struct Deed<'d> {
    pub service: &'d str,
    pub action: &'d str,
    pub place: &'d str,
}

/// Names the fault, and says whether the same call may work later.
pub fn fault<E>(deed: Deed<'_>, error: &SdkError<E, HttpResponse>) -> PortError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let Deed { service, action, place } = deed;
    let Some(service_error) = error.as_service_error() else {
        let says = format!("{service} {action} on {place} got no answer: {}", chain(error));
        return match error {
            SdkError::ConstructionFailure(_) => PortError::Permanent(says),
            _ => PortError::Retry(says),
        };
    };
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    let code = service_error.code().unwrap_or("no code");
    let message = service_error.message().unwrap_or("no message");
    told(deed, status, code, message)
}

/// The same for a part of an answer: one entry of a batch, one reason of a cancelled transaction.
pub fn told(deed: Deed<'_>, status: u16, code: &str, message: &str) -> PortError {
    let Deed { service, action, place } = deed;
    let code = code.rsplit('#').next().unwrap_or(code);
    let says = format!("{service} {action} on {place} failed with {code}: {message}");
    if PASSING.contains(&code) || status >= 500 || status == 429 {
        return PortError::Retry(says);
    }
    let remedy = if DENIED.contains(&code) {
        let permission = permission(action);
        format!("; the role of this process must be allowed {}:{permission} there", service.to_ascii_lowercase())
    } else if ABSENT.contains(&code) {
        "; deploy the template, add the group, or correct `prefix` and `region`".to_owned()
    } else {
        String::new()
    };
    PortError::Permanent(format!("{says}{remedy}"))
}

/// What a role is allowed when it is allowed an action: batches of SQS and SNS have no permission of their own.
/// Source: Service Authorization Reference, actions of Amazon SQS and Amazon SNS.
fn permission(action: &str) -> &str {
    action.strip_suffix("Batch").unwrap_or(action)
}

/// An error with what caused it, as one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let says = cause.to_string();
        if !text.contains(&says) {
            text.push_str(": ");
            text.push_str(&says);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_tried_again_and_the_rest_names_place_and_remedy() {
        let deed = Deed { service: "DynamoDB", action: "PutItem", place: "the table sexton-runs" };
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
            let told = told(deed, status, code, "m");
            assert_eq!(matches!(told, PortError::Retry(_)), retry, "{code}");
            assert!(told.to_string().contains("the table sexton-runs"), "{told}");
        }
        assert!(told(deed, 400, "AccessDeniedException", "m").to_string().contains("dynamodb:PutItem"));
        let batch = Deed { service: "SQS", action: "SendMessageBatch", place: "the queue sexton-reports" };
        assert!(told(batch, 403, "AccessDenied", "m").to_string().contains("sqs:SendMessage there"));
        assert!(told(deed, 400, "ResourceNotFoundException", "m").to_string().contains("template"));
    }
}
