//! What the service's answers mean: the class of an error, and which events of a call it did not take.

use serde::Deserialize;

use crate::error::{Class, SinkError};

/// How much of an answer is shown.
const ANSWER_CHARS_MAX: usize = 300;

/// A call that failed, and what this sink itself can do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub error: SinkError,
    pub fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The group or the stream is not there.
    NotFound,
    /// It is there already.
    Exists,
    /// Credentials that were good may be old.
    Credentials,
    Other,
}

impl From<SinkError> for Failure {
    fn from(error: SinkError) -> Failure {
        Failure { error, fault: Fault::Other }
    }
}

#[derive(Deserialize)]
struct Told {
    #[serde(default, rename = "__type", alias = "code", alias = "Code")]
    kind: Option<String>,
    #[serde(default, alias = "Message")]
    message: Option<String>,
}

/// `kind`: the header `x-amzn-errortype`, which the body repeats or not.
pub fn failure_of(action: &str, status: u16, kind: Option<&str>, body: &[u8]) -> Failure {
    let told: Option<Told> = serde_json::from_slice(body).ok();
    let (in_body, message) = told.map_or((None, None), |told| (told.kind, told.message));
    let kind = kind.map(str::to_owned).or(in_body).unwrap_or_default();
    // `com.amazonaws.logs#ThrottlingException:http://...`
    let kind = kind.split(':').next().unwrap_or_default().rsplit('#').next().unwrap_or_default();
    let message = message.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    let shown: String = message.trim().chars().take(ANSWER_CHARS_MAX).collect();
    let (class, fault) = class_of(status, kind, &message);
    let name = if kind.is_empty() { status.to_string() } else { kind.to_owned() };
    let mut says = format!("CloudWatch Logs answered {action} with {name}: {shown}");
    if name == "AccessDeniedException" {
        says.push_str(&format!("; allow logs:{action} to these credentials"));
    }
    Failure { error: SinkError { class, says }, fault }
}

fn class_of(status: u16, kind: &str, message: &str) -> (Class, Fault) {
    match kind {
        "ResourceNotFoundException" => return (Class::Misconfigured, Fault::NotFound),
        "ResourceAlreadyExistsException" => return (Class::Retry, Fault::Exists),
        "ExpiredTokenException" | "ExpiredToken" | "RequestExpired" => return (Class::Retry, Fault::Credentials),
        // A clock that is wrong here, or a key that is: only the message tells.
        "InvalidSignatureException" if message.contains("xpired") || message.contains("not yet current") => {
            return (Class::Retry, Fault::Credentials);
        }
        "UnrecognizedClientException" | "InvalidClientTokenId" | "InvalidSignatureException" => {
            return (Class::Misconfigured, Fault::Credentials);
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
        | "OperationAbortedException" => return (Class::Retry, Fault::Other),
        // No record is at fault when a name is.
        "InvalidParameterException" | "ValidationException"
            if ["logGroupName", "logStreamName"].iter().any(|name| message.contains(name)) =>
        {
            return (Class::Misconfigured, Fault::Other);
        }
        "InvalidParameterException" | "ValidationException" | "SerializationException" => {
            return (Class::Permanent, Fault::Other);
        }
        _ => {}
    }
    match status {
        408 | 429 | 500..=599 => (Class::Retry, Fault::Other),
        413 => (Class::Permanent, Fault::Other),
        401 | 403 => (Class::Misconfigured, Fault::Credentials),
        _ => (Class::Misconfigured, Fault::Other),
    }
}

/// Which events of an accepted call were not taken, by their index in it (API reference, RejectedLogEventsInfo).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rejected {
    /// The first so many: older than 14 days, or than the group's retention.
    pub old: usize,
    /// From this one on: more than 2 hours ahead.
    pub new_from: Option<usize>,
}

impl Rejected {
    pub fn of(body: &[u8]) -> Rejected {
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
        let Some(info) = answer.rejected_log_events_info else { return Rejected::default() };
        let old = info.too_old_log_event_end_index.max(info.expired_log_event_end_index).unwrap_or(0);
        Rejected { old, new_from: info.too_new_log_event_start_index }
    }

    /// Of a call with so many events: the index of each that was not taken, with why.
    pub fn indices(&self, events: usize) -> impl Iterator<Item = (usize, &'static str)> {
        let old = self.old.min(events);
        let new_from = self.new_from.unwrap_or(events).clamp(old, events);
        (0..old)
            .map(|index| (index, "too old, or older than the group keeps"))
            .chain((new_from..events).map(|index| (index, "more than 2 hours ahead of the service's clock")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_the_class_that_fits_it() {
        for (status, body, class, fault) in [
            (400, r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#, Class::Retry, Fault::Other),
            (400, r#"{"__type":"com.amazonaws.logs#ThrottlingException"}"#, Class::Retry, Fault::Other),
            (400, r#"{"__type":"ExpiredTokenException"}"#, Class::Retry, Fault::Credentials),
            (500, "", Class::Retry, Fault::Other),
            (503, "<html>busy</html>", Class::Retry, Fault::Other),
            (429, "", Class::Retry, Fault::Other),
            (400, r#"{"__type":"ResourceNotFoundException"}"#, Class::Misconfigured, Fault::NotFound),
            (400, r#"{"__type":"ResourceAlreadyExistsException"}"#, Class::Retry, Fault::Exists),
            (400, r#"{"__type":"AccessDeniedException","Message":"no"}"#, Class::Misconfigured, Fault::Other),
            (403, "<Error/>", Class::Misconfigured, Fault::Credentials),
            (400, r#"{"__type":"UnrecognizedClientException"}"#, Class::Misconfigured, Fault::Credentials),
            (400, r#"{"__type":"InvalidSignatureException","message":"x"}"#, Class::Misconfigured, Fault::Credentials),
            (
                400,
                r#"{"__type":"InvalidSignatureException","message":"Signature expired: 2026"}"#,
                Class::Retry,
                Fault::Credentials,
            ),
            (400, r#"{"__type":"InvalidParameterException","message":"Log event"}"#, Class::Permanent, Fault::Other),
            (
                400,
                r#"{"__type":"InvalidParameterException","message":"at 'logStreamName' failed"}"#,
                Class::Misconfigured,
                Fault::Other,
            ),
            (413, "", Class::Permanent, Fault::Other),
            (404, "", Class::Misconfigured, Fault::Other),
        ] {
            let failure = failure_of("PutLogEvents", status, None, body.as_bytes());
            assert_eq!((failure.error.class, failure.fault), (class, fault), "{status} {body}");
        }
        let told = failure_of("PutLogEvents", 400, None, br#"{"__type":"AccessDeniedException","Message":"no"}"#);
        assert_eq!(
            told.error.says,
            "CloudWatch Logs answered PutLogEvents with AccessDeniedException: no; allow logs:PutLogEvents to these credentials"
        );
    }

    #[test]
    fn rejected_events_are_named() {
        let of = |body: &str| Rejected::of(body.as_bytes()).indices(10).map(|(index, _)| index).collect::<Vec<_>>();
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
