//! An endpoint that enforces every documented limit of PutLogEvents and of the creates, and answers like the service.
//! It can throttle, fail, and lose an answer. A call that breaks a limit is refused and kept for the test.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;

const BATCH_BYTES_MAX: usize = 1_048_576;
const BATCH_EVENTS_MAX: usize = 10_000;
const EVENT_BYTES: usize = 26;
const DAY_MS: i64 = 86_400_000;
const OLD_MS: i64 = 14 * DAY_MS;
const AHEAD_MS: i64 = 2 * 3_600_000;
/// Calls of each action in any second: the quotas of an account.
const QUOTAS: [(&str, usize); 3] = [("CreateLogStream", 50), ("CreateLogGroup", 10), ("PutRetentionPolicy", 5)];

/// How a call is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    Serve,
    Throttle,
    Fail,
    /// The call is executed, and its answer is lost.
    LoseAnswer,
    /// The call is executed when the test releases it.
    Hang,
    Deny,
    /// As for an event that is not valid.
    Refuse,
    /// As a proxy that admits no large body.
    TooLarge,
    /// Refuses events of more bytes than this, like the service until April 2025.
    EventBytesMax(usize),
    ExpiredToken,
    /// Another client makes the same call a moment before.
    AnotherFirst,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub timestamp: i64,
    pub message: String,
}

impl Event {
    pub(crate) fn object(&self) -> Value {
        serde_json::from_str(&self.message).expect("an object")
    }
}

type Streams = BTreeMap<String, Vec<Event>>;

#[derive(Default)]
pub(crate) struct State {
    /// Retention and streams of each group.
    pub groups: BTreeMap<String, (Option<i64>, Streams)>,
    /// Every call, with its arrival.
    pub calls: Vec<(String, Value, Instant)>,
    /// Events and counted bytes of each accepted put.
    pub batches: Vec<(usize, usize)>,
    /// The access key id of each call.
    pub signers: Vec<String>,
    /// Keys whose token has expired.
    pub expired: Vec<String>,
    /// Every broken limit.
    pub violations: Vec<String>,
}

type Planner = Box<dyn Fn(&str, &Value, usize) -> Plan + Send + Sync>;

#[derive(Clone)]
pub(crate) struct StrictLogs {
    state: Arc<Mutex<State>>,
    planner: Arc<Planner>,
    released: Arc<Semaphore>,
    pub address: std::net::SocketAddr,
}

impl StrictLogs {
    /// `planner` gets the action, its body and the number of earlier calls.
    pub(crate) async fn start(planner: impl Fn(&str, &Value, usize) -> Plan + Send + Sync + 'static) -> StrictLogs {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let this = StrictLogs {
            state: Arc::default(),
            planner: Arc::new(Box::new(planner)),
            released: Arc::new(Semaphore::new(0)),
            address,
        };
        let serving = this.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().requests(stream));
            }
        });
        this
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("lock")
    }

    /// Lets every hanging call end, now and later.
    pub(crate) fn release(&self) {
        self.released.close();
    }

    pub(crate) fn count(&self, action: &str) -> usize {
        self.state().calls.iter().filter(|(called, ..)| called == action).count()
    }

    /// The events of a stream, in order of arrival; none when the stream does not exist.
    pub(crate) fn events(&self, group: &str, stream: &str) -> Vec<Event> {
        let state = self.state();
        state.groups.get(group).and_then(|(_, streams)| streams.get(stream)).cloned().unwrap_or_default()
    }

    async fn requests(self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        while let Some((head, body)) = request(&mut stream, &mut buffer).await {
            let action = header(&head, "x-amz-target").and_then(|target| target.strip_prefix("Logs_20140328."));
            let action = action.unwrap_or("none").to_owned();
            let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let plan = (self.planner)(&action, &body, self.state().calls.len());
            self.state().calls.push((action.clone(), body.clone(), Instant::now()));
            let signer = header(&head, "authorization").and_then(signer).unwrap_or_default().to_owned();
            self.state().signers.push(signer.clone());
            let expired = self.state().expired.contains(&signer);
            if plan == Plan::Hang {
                // Returns when the semaphore is closed.
                let _ = self.released.acquire().await;
            }
            let (status, answer) = match plan {
                _ if expired => (400, error("ExpiredTokenException", "The security token included is expired")),
                _ if signer.is_empty() => (400, error("MissingAuthenticationTokenException", "not signed")),
                Plan::Throttle => (400, error("ThrottlingException", "Rate exceeded")),
                Plan::Fail => (500, error("InternalFailure", "")),
                Plan::Deny => (400, error("AccessDeniedException", "not authorized")),
                Plan::Refuse => (400, error("InvalidParameterException", "Log event is not valid")),
                Plan::TooLarge => (413, Value::Null),
                Plan::ExpiredToken => (400, error("ExpiredTokenException", "expired")),
                Plan::AnotherFirst => {
                    let mut state = self.state();
                    state.serve(&action, &body);
                    state.serve(&action, &body)
                }
                Plan::EventBytesMax(most) if largest_event(&body) > most => {
                    let message =
                        format!("Log event too large: {} bytes exceeds limit of {most}", largest_event(&body));
                    (400, error("InvalidParameterException", &message))
                }
                Plan::Serve | Plan::LoseAnswer | Plan::Hang | Plan::EventBytesMax(_) => {
                    self.state().serve(&action, &body)
                }
            };
            if plan == Plan::LoseAnswer {
                return;
            }
            let text = answer.to_string();
            let length = text.len();
            let reply = format!(
                "HTTP/1.1 {status} x\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {length}\r\n\r\n{text}"
            );
            if stream.write_all(reply.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// `AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/logs/aws4_request, ...`
fn signer(authorization: &str) -> Option<&str> {
    authorization.strip_prefix("AWS4-HMAC-SHA256 Credential=")?.split('/').next()
}

fn error(kind: &str, message: &str) -> Value {
    json!({ "__type": kind, "message": message })
}

impl State {
    fn serve(&mut self, action: &str, body: &Value) -> (u16, Value) {
        if let Some((_, most)) = QUOTAS.iter().find(|(quota, _)| *quota == action) {
            let since = Instant::now() - Duration::from_secs(1);
            let recent = self.calls.iter().filter(|(called, _, at)| called == action && *at > since).count();
            if recent > *most {
                self.violations.push(format!("{recent} calls of {action} in a second"));
                return (400, error("ThrottlingException", "Rate exceeded"));
            }
        }
        let name = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        let (group, stream) = (name("logGroupName"), name("logStreamName"));
        let missing = |what: &str| (400, error("ResourceNotFoundException", what));
        match action {
            "CreateLogGroup" if self.groups.contains_key(&group) => {
                (400, error("ResourceAlreadyExistsException", "The specified log group already exists"))
            }
            "CreateLogGroup" => {
                self.groups.insert(group, (None, BTreeMap::new()));
                (200, json!({}))
            }
            "PutRetentionPolicy" => match self.groups.get_mut(&group) {
                Some((retention, _)) => {
                    *retention = body["retentionInDays"].as_i64();
                    (200, json!({}))
                }
                None => missing("The specified log group does not exist."),
            },
            "TagLogGroup" | "TagResource" => (200, json!({})),
            "CreateLogStream" => match self.groups.get_mut(&group) {
                None => missing("The specified log group does not exist."),
                Some((_, streams)) if streams.contains_key(&stream) => {
                    (400, error("ResourceAlreadyExistsException", "The specified log stream already exists"))
                }
                Some((_, streams)) => {
                    streams.insert(stream, Vec::new());
                    (200, json!({}))
                }
            },
            "PutLogEvents" => self.put(&group, &stream, body),
            _ => {
                self.violations.push(format!("unexpected action {action}"));
                (400, error("UnknownOperationException", action))
            }
        }
    }

    fn put(&mut self, group: &str, stream: &str, body: &Value) -> (u16, Value) {
        let read = |event: &Value| {
            let message = event["message"].as_str().unwrap_or_default().to_owned();
            Event { timestamp: event["timestamp"].as_i64().unwrap_or(-1), message }
        };
        let events: Vec<Event> = body["logEvents"].as_array().map_or(Vec::new(), |all| all.iter().map(read).collect());
        let bytes: usize = events.iter().map(|event| event.message.len() + EVENT_BYTES).sum();
        if let Some(fault) = broken_limit(&events, bytes) {
            self.violations.push(fault.clone());
            return (400, error("InvalidParameterException", &fault));
        }
        // A test marks a bad event with this text; the service rejects such events.
        if events.iter().any(|event| event.message.contains("poison")) {
            return (400, error("InvalidParameterException", "Log event is not valid"));
        }
        let Some((_, streams)) = self.groups.get_mut(group) else {
            return (400, error("ResourceNotFoundException", "The specified log group does not exist."));
        };
        let Some(stored) = streams.get_mut(stream) else {
            return (400, error("ResourceNotFoundException", "The specified log stream does not exist."));
        };
        let now = Timestamp::now().as_millisecond();
        let old = events.iter().take_while(|event| event.timestamp < now - OLD_MS).count();
        let new = events.iter().position(|event| event.timestamp > now + AHEAD_MS);
        self.batches.push((events.len(), bytes));
        let taken = old..new.unwrap_or(events.len()).max(old);
        stored.extend(events[taken].iter().cloned());
        let mut info = serde_json::Map::new();
        if old > 0 {
            info.insert("tooOldLogEventEndIndex".into(), old.into());
        }
        if let Some(new) = new {
            info.insert("tooNewLogEventStartIndex".into(), new.into());
        }
        let answer = match info.is_empty() {
            true => json!({ "nextSequenceToken": "1" }),
            false => json!({ "nextSequenceToken": "1", "rejectedLogEventsInfo": info }),
        };
        (200, answer)
    }
}

fn largest_event(body: &Value) -> usize {
    let bytes = |event: &Value| event["message"].as_str().unwrap_or_default().len() + EVENT_BYTES;
    body["logEvents"].as_array().into_iter().flatten().map(bytes).max().unwrap_or_default()
}

fn broken_limit(events: &[Event], bytes: usize) -> Option<String> {
    let first = events.first().map_or(0, |event| event.timestamp);
    let last = events.last().map_or(0, |event| event.timestamp);
    if events.is_empty() {
        return Some("no event".to_owned());
    }
    if events.len() > BATCH_EVENTS_MAX {
        return Some(format!("{} events", events.len()));
    }
    if bytes > BATCH_BYTES_MAX {
        return Some(format!("{bytes} bytes"));
    }
    if events.iter().any(|event| event.message.is_empty()) {
        return Some("an empty message".to_owned());
    }
    if events.iter().any(|event| event.message.len() > BATCH_BYTES_MAX - EVENT_BYTES) {
        return Some("a message too long".to_owned());
    }
    if events.iter().any(|event| event.timestamp < 0) {
        return Some("a time before 1970".to_owned());
    }
    if !events.is_sorted_by_key(|event| event.timestamp) {
        return Some("not in chronological order".to_owned());
    }
    (last - first >= DAY_MS).then(|| format!("a span of {} ms", last - first))
}

async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    let end = head_end + header(&head, "content-length")?.parse::<usize>().ok()?;
    while buffer.len() < end {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = buffer[head_end..end].to_vec();
    buffer.drain(..end);
    Some((head, body))
}

fn header<'h>(head: &'h str, wanted: &str) -> Option<&'h str> {
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
}
