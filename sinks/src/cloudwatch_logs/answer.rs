//! Interprets the service's answers: the class of an error, and the rejected events of an accepted call.

use serde::Deserialize;

use crate::error::{ErrorClass, SinkError};

/// Characters of an answer that an error quotes. Chosen: the service's messages are shorter.
const ANSWER_CHARS_MAX: usize = 300;

/// A failed call, and its cause where this sink can react to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CallFailure {
    pub error: SinkError,
    pub cause: FailureCause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureCause {
    /// The group or the stream does not exist.
    NotFound,
    /// It exists already.
    Exists,
    /// The credentials may have expired.
    Credentials,
    /// The credentials lack a permission.
    Denied,
    Other,
}

impl From<SinkError> for CallFailure {
    fn from(error: SinkError) -> CallFailure {
        CallFailure { error, cause: FailureCause::Other }
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default, rename = "__type", alias = "code", alias = "Code")]
    kind: Option<String>,
    #[serde(default, alias = "Message")]
    message: Option<String>,
}

/// `kind` is the header `x-amzn-errortype`; the body repeats it or not.
pub(super) fn parse_failure(action: &str, status: u16, kind: Option<&str>, body: &[u8]) -> CallFailure {
    let body_error: Option<ErrorBody> = serde_json::from_slice(body).ok();
    let (in_body, message) = body_error.map_or((None, None), |body_error| (body_error.kind, body_error.message));
    let kind = kind.map(str::to_owned).or(in_body).unwrap_or_default();
    // `com.amazonaws.logs#ThrottlingException:http://...`
    let kind = kind.split(':').next().unwrap_or_default().rsplit('#').next().unwrap_or_default();
    let message = message.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    let shown: String = message.trim().chars().take(ANSWER_CHARS_MAX).collect();
    let (class, cause) = classify(status, kind, &message);
    let name = if kind.is_empty() { status.to_string() } else { kind.to_owned() };
    let mut text = format!("CloudWatch Logs answered {action} with {name}: {shown}");
    if name == "AccessDeniedException" {
        text.push_str(&format!("; allow logs:{action} to these credentials"));
    }
    CallFailure { error: SinkError { class, message: text }, cause }
}

fn classify(status: u16, kind: &str, message: &str) -> (ErrorClass, FailureCause) {
    match kind {
        "ResourceNotFoundException" => return (ErrorClass::Misconfigured, FailureCause::NotFound),
        "ResourceAlreadyExistsException" => return (ErrorClass::Retry, FailureCause::Exists),
        "ExpiredTokenException" | "ExpiredToken" | "RequestExpired" => {
            return (ErrorClass::Retry, FailureCause::Credentials);
        }
        "AccessDeniedException" | "AccessDenied" => return (ErrorClass::Misconfigured, FailureCause::Denied),
        // A wrong clock or a wrong key: only the message shows which.
        "InvalidSignatureException" if message.contains("xpired") || message.contains("not yet current") => {
            return (ErrorClass::Retry, FailureCause::Credentials);
        }
        "UnrecognizedClientException" | "InvalidClientTokenId" | "InvalidSignatureException" => {
            return (ErrorClass::Misconfigured, FailureCause::Credentials);
        }
        "ThrottlingException"
        | "Throttling"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "ServiceUnavailableException"
        | "ServiceUnavailable"
        | "InternalFailure"
        | "InternalServerError"
        | "RequestTimeout"
        | "RequestTimeoutException"
        | "OperationAbortedException" => return (ErrorClass::Retry, FailureCause::Other),
        // An invalid name is not an error of a record.
        "InvalidParameterException" | "ValidationException"
            if ["logGroupName", "logStreamName"].iter().any(|name| message.contains(name)) =>
        {
            return (ErrorClass::Misconfigured, FailureCause::Other);
        }
        "InvalidParameterException" | "ValidationException" | "SerializationException" => {
            return (ErrorClass::Permanent, FailureCause::Other);
        }
        _ => {}
    }
    match status {
        408 | 429 | 500..=599 => (ErrorClass::Retry, FailureCause::Other),
        413 => (ErrorClass::Permanent, FailureCause::Other),
        401 | 403 => (ErrorClass::Misconfigured, FailureCause::Credentials),
        _ => (ErrorClass::Misconfigured, FailureCause::Other),
    }
}

/// The rejected events of an accepted call, by index (API reference, RejectedLogEventsInfo).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RejectedEvents {
    /// Number of events, from the first, that are older than 14 days or than the group's retention.
    pub old: usize,
    /// Index of the first event that is more than 2 hours ahead.
    pub new_from: Option<usize>,
}

impl RejectedEvents {
    pub(super) fn parse(body: &[u8]) -> RejectedEvents {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Answer {
            rejected_log_events_info: Option<Info>,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Info {
            too_new_log_event_start_index: Option<usize>,
            too_old_log_event_end_index: Option<usize>,
            expired_log_event_end_index: Option<usize>,
        }
        let answer: Answer = serde_json::from_slice(body).unwrap_or_default();
        let Some(info) = answer.rejected_log_events_info else { return RejectedEvents::default() };
        let old = info.too_old_log_event_end_index.max(info.expired_log_event_end_index).unwrap_or(0);
        RejectedEvents { old, new_from: info.too_new_log_event_start_index }
    }

    /// For a call with `events` events: index and reason of each rejected one.
    pub(super) fn indices(&self, events: usize) -> impl Iterator<Item = (usize, &'static str)> {
        let old = self.old.min(events);
        let new_from = self.new_from.unwrap_or(events).clamp(old, events);
        (0..old)
            .map(|index| (index, "too old, or older than the group's retention"))
            .chain((new_from..events).map(|index| (index, "more than 2 hours ahead of the service's clock")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_classified() {
        for (status, body, class, cause) in [
            (
                400,
                r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#,
                ErrorClass::Retry,
                FailureCause::Other,
            ),
            (400, r#"{"__type":"com.amazonaws.logs#ThrottlingException"}"#, ErrorClass::Retry, FailureCause::Other),
            (400, r#"{"__type":"ExpiredTokenException"}"#, ErrorClass::Retry, FailureCause::Credentials),
            (500, "", ErrorClass::Retry, FailureCause::Other),
            (503, "<html>busy</html>", ErrorClass::Retry, FailureCause::Other),
            (429, "", ErrorClass::Retry, FailureCause::Other),
            (400, r#"{"__type":"ResourceNotFoundException"}"#, ErrorClass::Misconfigured, FailureCause::NotFound),
            (400, r#"{"__type":"ResourceAlreadyExistsException"}"#, ErrorClass::Retry, FailureCause::Exists),
            (
                400,
                r#"{"__type":"AccessDeniedException","Message":"no"}"#,
                ErrorClass::Misconfigured,
                FailureCause::Denied,
            ),
            (403, "<Error/>", ErrorClass::Misconfigured, FailureCause::Credentials),
            (400, r#"{"__type":"UnrecognizedClientException"}"#, ErrorClass::Misconfigured, FailureCause::Credentials),
            (
                400,
                r#"{"__type":"InvalidSignatureException","message":"x"}"#,
                ErrorClass::Misconfigured,
                FailureCause::Credentials,
            ),
            (
                400,
                r#"{"__type":"InvalidSignatureException","message":"Signature expired: 2026"}"#,
                ErrorClass::Retry,
                FailureCause::Credentials,
            ),
            (
                400,
                r#"{"__type":"InvalidParameterException","message":"Log event"}"#,
                ErrorClass::Permanent,
                FailureCause::Other,
            ),
            (
                400,
                r#"{"__type":"InvalidParameterException","message":"at 'logStreamName' failed"}"#,
                ErrorClass::Misconfigured,
                FailureCause::Other,
            ),
            (413, "", ErrorClass::Permanent, FailureCause::Other),
            (404, "", ErrorClass::Misconfigured, FailureCause::Other),
        ] {
            let failure = parse_failure("PutLogEvents", status, None, body.as_bytes());
            assert_eq!((failure.error.class, failure.cause), (class, cause), "{status} {body}");
        }
        let failure = parse_failure("PutLogEvents", 400, None, br#"{"__type":"AccessDeniedException","Message":"no"}"#);
        assert_eq!(
            failure.error.message,
            "CloudWatch Logs answered PutLogEvents with AccessDeniedException: no; allow logs:PutLogEvents to these credentials"
        );
    }

    #[test]
    fn rejected_events_are_found_by_index() {
        let of =
            |body: &str| RejectedEvents::parse(body.as_bytes()).indices(10).map(|(index, _)| index).collect::<Vec<_>>();
        assert_eq!(of(r#"{"nextSequenceToken":"1"}"#), [0usize; 0]);
        assert_eq!(of(r#"{"rejectedLogEventsInfo":{"tooOldLogEventEndIndex":2}}"#), [0, 1]);
        assert_eq!(
            of(
                r#"{"rejectedLogEventsInfo":{"expiredLogEventEndIndex":3,"tooOldLogEventEndIndex":1,"tooNewLogEventStartIndex":8}}"#
            ),
            [0, 1, 2, 8, 9]
        );
        assert_eq!(
            of(r#"{"rejectedLogEventsInfo":{"tooOldLogEventEndIndex":99,"tooNewLogEventStartIndex":1}}"#).len(),
            10
        );
    }
}
