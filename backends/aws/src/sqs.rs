//! Client of SQS for the ports. Caches queue URLs, counts each call, keeps batches within the limits of AWS, and names
//! the call in errors.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Builder;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName,
    SendMessageBatchRequestEntry,
};
use domain::ports::{PortError, PortResult, SendResult};
use jiff::Timestamp;

use crate::dynamo::run_parallel;
use crate::fault::{CallName, Cause, call_error, cause_of, code_error};
use crate::meter::Meter;

const SERVICE: &str = "SQS";

/// Bytes of one message, and of all messages of a batch together (SQS API reference, SendMessage, SendMessageBatch).
pub(crate) const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Entries of one batch (SQS API reference, SendMessageBatch, DeleteMessageBatch).
const BATCH_MAX: usize = 10;

/// Messages of one receive (SQS API reference, ReceiveMessage).
const RECEIVE_MAX: usize = 10;
/// Longest wait of one receive (SQS API reference, ReceiveMessage, WaitTimeSeconds).
const WAIT_MAX: Duration = Duration::from_secs(20);

/// Longest delay of a sent message (SQS API reference, SendMessage, DelaySeconds).
pub(crate) const DELAY_MAX: Duration = Duration::from_secs(900);

/// Longest lease: 12 h since the message was received (SQS API reference, ChangeMessageVisibility), less 5 s, because
/// SQS may refuse a value at the limit.
pub(crate) const LEASE_MAX: Duration = Duration::from_secs(43_195);

/// Client of the queues of one installation.
#[derive(Clone, Debug)]
pub(crate) struct Sqs {
    client: Client,
    meter: Arc<Meter>,
    urls: Arc<Mutex<HashMap<String, String>>>,
    /// Queues that were found not to exist, with `issued_at` of the messages.
    absent: Arc<Mutex<HashMap<String, Timestamp>>>,
    /// Added to the wait of a receive, as its timeout.
    call_timeout: Duration,
}

/// The error of a call, with its cause.
#[derive(Debug)]
struct FailedCall {
    cause: Cause,
    error: PortError,
}

impl FailedCall {
    fn new<E>(call_name: CallName<'_>, error: &SdkError<E, HttpResponse>) -> FailedCall
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        FailedCall { cause: cause_of(error), error: call_error(call_name, error) }
    }

    /// The result of each message of the call.
    fn into_result(self, origin: &Origin) -> SendResult {
        let message = self.error.to_string();
        match self.cause {
            Cause::Transient => SendResult::Retry(message),
            Cause::Denied => SendResult::Denied(message),
            Cause::Absent => SendResult::Never(origin.absent.clone()),
            Cause::Invalid => SendResult::Never(message),
        }
    }
}

/// The caller's knowledge of messages that are sent together.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The tick of the messages: a queue that does not exist is requested once in it.
    pub issued_at: Option<Timestamp>,
    /// What a missing queue means, with the remedy.
    pub absent: String,
}

/// A message to be sent.
#[derive(Clone, Debug)]
pub(crate) struct OutgoingMessage {
    pub body: String,
    /// SQS hides the message for this time after the send. At most [`DELAY_MAX`].
    pub delay: Duration,
    /// Names the message in errors: `the order for db/dump`.
    pub name: String,
}

impl Sqs {
    pub(crate) fn new(client: Client, meter: Arc<Meter>, call_timeout: Duration) -> Sqs {
        Sqs { client, meter, urls: Arc::default(), absent: Arc::default(), call_timeout }
    }

    fn add_request(&self, action: &str, kind: &str, payload_bytes: usize) {
        self.meter.add_request(format!("sqs {action} {kind}"), payload_bytes);
    }

    async fn queue_url(&self, queue: &str, kind: &str) -> PortResult<String> {
        self.find_queue(queue, kind).await.map_err(|failed| failed.error)
    }

    async fn find_queue(&self, queue: &str, kind: &str) -> Result<String, FailedCall> {
        if let Some(url) = self.urls.lock().unwrap_or_else(PoisonError::into_inner).get(queue) {
            return Ok(url.clone());
        }
        self.add_request("GetQueueUrl", kind, 0);
        let place = place(queue);
        let call_name = CallName { service: SERVICE, action: "GetQueueUrl", place: &place };
        let found = self
            .client
            .get_queue_url()
            .queue_name(queue)
            .send()
            .await
            .map_err(|error| FailedCall::new(call_name, &error))?;
        let Some(url) = found.queue_url else {
            let error = code_error(call_name, 500, "InternalError", "the answer has no URL");
            return Err(FailedCall { cause: Cause::Transient, error });
        };
        self.urls.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.to_owned(), url.clone());
        Ok(url)
    }

    /// Returns the sorted names of the queues that begin with `prefix`.
    pub(crate) async fn list_queues(&self, prefix: &str, kind: &str) -> PortResult<Vec<String>> {
        let (mut names, mut next) = (Vec::new(), None);
        loop {
            self.add_request("ListQueues", kind, 0);
            let place = format!("the queues {prefix}*");
            let call_name = CallName { service: SERVICE, action: "ListQueues", place: &place };
            let call = self.client.list_queues().queue_name_prefix(prefix).max_results(1000).set_next_token(next);
            let found = call.send().await.map_err(|error| call_error(call_name, &error))?;
            for url in found.queue_urls.unwrap_or_default() {
                if let Some(name) = url.rsplit('/').next() {
                    names.push(name.to_owned());
                    self.urls.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), url);
                }
            }
            next = found.next_token;
            if next.is_none() {
                names.sort();
                return Ok(names);
            }
        }
    }

    /// Sends all messages, in as few calls as AWS permits. Sends none if one of them is too long or contains
    /// a character that SQS refuses.
    pub(crate) async fn send(&self, queue: &str, kind: &'static str, messages: Vec<OutgoingMessage>) -> PortResult<()> {
        for message in &messages {
            check_message(queue, message).map_err(PortError::Permanent)?;
        }
        let origin = Origin { issued_at: None, absent: format!("{} does not exist", place(queue)) };
        for result in self.send_each(queue, kind, messages, origin).await? {
            match result {
                SendResult::Sent => {}
                SendResult::Retry(message) => return Err(PortError::Retry(message)),
                SendResult::Denied(message) | SendResult::Never(message) => return Err(PortError::Permanent(message)),
            }
        }
        Ok(())
    }

    /// Sends messages, in as few calls as AWS permits; one that cannot be sent stops no other. A queue that does not
    /// exist is not requested again for messages of the same `issued_at`.
    pub(crate) async fn send_each(
        &self,
        queue: &str,
        kind: &'static str,
        messages: Vec<OutgoingMessage>,
        origin: Origin,
    ) -> PortResult<Vec<SendResult>> {
        let mut results = vec![SendResult::Sent; messages.len()];
        let mut sendable = Vec::with_capacity(messages.len());
        for (index, message) in messages.into_iter().enumerate() {
            match check_message(queue, &message) {
                Ok(()) => sendable.push((index, message)),
                Err(reason) => results[index] = SendResult::Never(reason),
            }
        }
        if sendable.is_empty() {
            return Ok(results);
        }
        let url = match self.find_queue_once(queue, kind, &origin).await {
            Ok(url) => url,
            Err(refused) => {
                for (index, _) in sendable {
                    results[index] = refused.clone();
                }
                return Ok(results);
            }
        };
        let (this, queue) = (self.clone(), queue.to_owned());
        let send = move |batch: Vec<(usize, OutgoingMessage)>| {
            let (this, url, queue, origin) = (this.clone(), url.clone(), queue.clone(), origin.clone());
            async move { Ok(this.send_batch(&url, &queue, kind, batch, &origin).await) }
        };
        for (index, result) in run_parallel(batches(sendable), send).await?.into_iter().flatten() {
            results[index] = result;
        }
        Ok(results)
    }

    /// The URL of a queue, or the result of every message to it.
    async fn find_queue_once(&self, queue: &str, kind: &str, origin: &Origin) -> Result<String, SendResult> {
        let absent_at = self.absent.lock().unwrap_or_else(PoisonError::into_inner).get(queue).copied();
        if absent_at.is_some() && absent_at == origin.issued_at {
            return Err(SendResult::Never(origin.absent.clone()));
        }
        self.find_queue(queue, kind).await.map_err(|failed| {
            if let (Cause::Absent, Some(at)) = (failed.cause, origin.issued_at) {
                self.absent.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.to_owned(), at);
            }
            failed.into_result(origin)
        })
    }

    /// Sends one batch; returns the result of each message.
    async fn send_batch(
        &self,
        url: &str,
        queue: &str,
        kind: &str,
        batch: Vec<(usize, OutgoingMessage)>,
        origin: &Origin,
    ) -> Vec<(usize, SendResult)> {
        self.add_request("SendMessageBatch", kind, batch.iter().map(|(_, message)| message.body.len()).sum());
        let place = place(queue);
        let call_name = CallName { service: SERVICE, action: "SendMessageBatch", place: &place };
        let mut call = self.client.send_message_batch().queue_url(url);
        let mut results: Vec<(usize, SendResult)> = Vec::with_capacity(batch.len());
        for (position, (index, message)) in batch.into_iter().enumerate() {
            results.push((index, SendResult::Sent));
            let entry = SendMessageBatchRequestEntry::builder()
                .id(position.to_string())
                .message_body(message.body)
                .delay_seconds(whole_seconds(message.delay.min(DELAY_MAX)));
            match entry.build() {
                Ok(entry) => call = call.entries(entry),
                Err(error) => results[position].1 = SendResult::Never(error.to_string()),
            }
        }
        let refused = match call.send().await {
            Ok(sent) => sent.failed,
            Err(error) => {
                let failed = FailedCall::new(call_name, &error);
                if failed.cause != Cause::Transient {
                    self.drop_url(queue);
                }
                let refused = failed.into_result(origin);
                return results.into_iter().map(|(index, _)| (index, refused.clone())).collect();
            }
        };
        for entry in refused {
            let status = entry_status(&entry);
            let message = entry.message.as_deref().unwrap_or("no message");
            let error = code_error(call_name, status, &entry.code, message);
            let failed = FailedCall { cause: Cause::of(status, &entry.code), error };
            if let Some(result) = entry.id.parse::<usize>().ok().and_then(|position| results.get_mut(position)) {
                result.1 = failed.into_result(origin);
            }
        }
        results
    }

    /// Receives up to `most` messages, leased for `lease`; waits up to `wait` for the first.
    pub(crate) async fn receive(
        &self,
        queue: &str,
        kind: &str,
        most: usize,
        lease: Duration,
        wait: Duration,
    ) -> PortResult<Vec<Message>> {
        let url = self.queue_url(queue, kind).await?;
        let place = place(queue);
        let call_name = CallName { service: SERVICE, action: "ReceiveMessage", place: &place };
        let wait = wait.min(WAIT_MAX);
        let timeout = wait + self.call_timeout;
        let timeouts =
            TimeoutConfig::builder().operation_attempt_timeout(timeout).operation_timeout(timeout + self.call_timeout);
        let call = self
            .client
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(i32::try_from(most.clamp(1, RECEIVE_MAX)).unwrap_or(1))
            .visibility_timeout(whole_seconds(lease.min(LEASE_MAX)).max(1))
            .wait_time_seconds(whole_seconds(wait))
            .message_system_attribute_names(MessageSystemAttributeName::SenderId)
            .customize()
            .config_override(Builder::default().timeout_config(timeouts.build()));
        let received = call.send().await.map_err(|error| {
            self.add_request("ReceiveMessage", kind, 0);
            self.forget_url(queue, call_error(call_name, &error))
        })?;
        let messages = received.messages.unwrap_or_default();
        let bytes = messages.iter().filter_map(Message::body).map(str::len).sum();
        self.add_request("ReceiveMessage", kind, bytes);
        Ok(messages)
    }

    /// Deletes messages. Idempotent.
    pub(crate) async fn delete(&self, queue: &str, kind: &'static str, receipts: Vec<String>) -> PortResult<()> {
        let url = self.queue_url(queue, kind).await?;
        for chunk in receipts.chunks(BATCH_MAX) {
            self.add_request("DeleteMessageBatch", kind, 0);
            let place = place(queue);
            let call_name = CallName { service: SERVICE, action: "DeleteMessageBatch", place: &place };
            let mut call = self.client.delete_message_batch().queue_url(&url);
            for (place, receipt) in chunk.iter().enumerate() {
                let entry = DeleteMessageBatchRequestEntry::builder().id(place.to_string()).receipt_handle(receipt);
                call = call.entries(entry.build().map_err(|error| PortError::Permanent(error.to_string()))?);
            }
            let deleted = call.send().await.map_err(|error| self.forget_url(queue, call_error(call_name, &error)))?;
            // The receipt is too old: the message was deleted, or will be redelivered with a new receipt.
            let failed: Vec<BatchResultErrorEntry> =
                deleted.failed.into_iter().filter(|entry| entry.code != "ReceiptHandleIsInvalid").collect();
            batch_result(call_name, &failed)?;
        }
        Ok(())
    }

    /// Changes the lease of a received message to `lease` from now.
    pub(crate) async fn change_lease(&self, queue: &str, kind: &str, receipt: &str, lease: Duration) -> PortResult<()> {
        let url = self.queue_url(queue, kind).await?;
        self.add_request("ChangeMessageVisibility", kind, 0);
        let place = place(queue);
        let call_name = CallName { service: SERVICE, action: "ChangeMessageVisibility", place: &place };
        let call = self.client.change_message_visibility().queue_url(url).receipt_handle(receipt);
        call.visibility_timeout(whole_seconds(lease.min(LEASE_MAX)))
            .send()
            .await
            .map_err(|error| call_error(call_name, &error))?;
        Ok(())
    }

    /// Drops the cached URL after a permanent error, so that the next call reads it again. A queue that was deleted and
    /// created again has the same URL, unless account or region changed.
    fn forget_url(&self, queue: &str, error: PortError) -> PortError {
        if matches!(error, PortError::Permanent(_)) {
            self.drop_url(queue);
        }
        error
    }

    fn drop_url(&self, queue: &str) {
        self.urls.lock().unwrap_or_else(PoisonError::into_inner).remove(queue);
    }
}

/// Escapes the two characters that SQS refuses and JSON writers leave as they are (SQS API reference, SendMessage). In
/// JSON they occur only within strings.
pub(crate) fn escape_for_sqs(json: &str) -> String {
    json.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff")
}

fn place(queue: &str) -> String {
    format!("the queue {queue}")
}

/// # Errors
/// Returns why SQS refuses the message.
fn check_message(queue: &str, message: &OutgoingMessage) -> Result<(), String> {
    let bytes = message.body.len();
    if bytes > MESSAGE_BYTES_MAX {
        return Err(format!(
            "{} has {bytes} bytes, and messages of the queue {queue} have at most {MESSAGE_BYTES_MAX}; \
             shorten its command, stdin or environment, or put them into a file on the runners",
            message.name
        ));
    }
    let is_legal =
        |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    match message.body.chars().find(|c| !is_legal(*c)) {
        Some(wrong) => Err(format!("{} contains the character {wrong:?}, which SQS does not accept", message.name)),
        None if message.body.is_empty() => Err(format!("{} is empty, which SQS does not accept", message.name)),
        None => Ok(()),
    }
}

/// Splits messages, in order, into batches of at most [`BATCH_MAX`] entries and [`MESSAGE_BYTES_MAX`] bytes.
fn batches(messages: Vec<(usize, OutgoingMessage)>) -> Vec<Vec<(usize, OutgoingMessage)>> {
    let mut batches: Vec<Vec<(usize, OutgoingMessage)>> = Vec::new();
    let mut bytes = 0;
    for (index, message) in messages {
        let needs_new_batch = match batches.last() {
            Some(last) => last.len() == BATCH_MAX || bytes + message.body.len() > MESSAGE_BYTES_MAX,
            None => true,
        };
        if needs_new_batch {
            batches.push(Vec::new());
            bytes = 0;
        }
        bytes += message.body.len();
        if let Some(last) = batches.last_mut() {
            last.push((index, message));
        }
    }
    batches
}

/// Returns the error of the first failed entry of a batch. The caller repeats the whole batch, which is harmless.
fn batch_result(call_name: CallName<'_>, failed: &[BatchResultErrorEntry]) -> PortResult<()> {
    match failed.first() {
        None => Ok(()),
        Some(entry) => {
            let message = entry.message.as_deref().unwrap_or("no message");
            Err(code_error(call_name, entry_status(entry), &entry.code, message))
        }
    }
}

/// The status that the entry would have as a call of its own.
fn entry_status(entry: &BatchResultErrorEntry) -> u16 {
    if entry.sender_fault { 400 } else { 500 }
}

fn whole_seconds(span: Duration) -> i32 {
    i32::try_from(span.as_secs() + u64::from(span.subsec_nanos() > 0)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> OutgoingMessage {
        OutgoingMessage { body: "x".repeat(bytes), delay: Duration::ZERO, name: "the order for db/dump".to_owned() }
    }

    #[test]
    fn a_batch_has_at_most_ten_messages_and_one_mebibyte() {
        let sizes = |messages: Vec<OutgoingMessage>| {
            batches(messages.into_iter().enumerate().collect()).iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes((0..25).map(|_| message(10)).collect()), [10, 10, 5]);
        assert_eq!(sizes(vec![message(600_000), message(600_000), message(400_000), message(48_576)]), [1, 3]);
        assert_eq!(sizes(vec![message(MESSAGE_BYTES_MAX), message(1)]), [1, 1]);
        assert!(batches(Vec::new()).is_empty());
    }

    #[test]
    fn a_message_that_sqs_would_refuse_is_refused_before_it_is_sent() {
        assert!(check_message("q", &message(MESSAGE_BYTES_MAX)).is_ok());
        let text = check_message("q", &message(MESSAGE_BYTES_MAX + 1)).unwrap_err();
        assert!(text.starts_with("the order for db/dump has 1048577 bytes"), "{text}");
        for wrong in ["a\u{0}", "\u{b}", "\u{ffff}", "\u{fffe}", ""] {
            assert!(
                check_message("q", &OutgoingMessage { body: wrong.to_owned(), ..message(0) }).is_err(),
                "{wrong:?}"
            );
        }
        assert!(
            check_message("q", &OutgoingMessage { body: "\t\n\r é\u{7f}\u{10ffff}".to_owned(), ..message(0) }).is_ok()
        );
    }

    #[test]
    fn every_character_survives_the_escaping_for_sqs() {
        let text = "\u{0}\u{b}\u{1f}\u{fffe}\u{ffff}\"\\é\u{10ffff}";
        let json = escape_for_sqs(&serde_json::to_string(text).unwrap());
        assert!(check_message("q", &OutgoingMessage { body: json.clone(), ..message(0) }).is_ok());
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn a_lease_is_rounded_up_to_whole_seconds() {
        assert_eq!([0, 1, 1000, 1001].map(|ms| whole_seconds(Duration::from_millis(ms))), [0, 1, 1, 2]);
    }
}
