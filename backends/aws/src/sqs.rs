//! Client of SQS for the ports. Caches queue URLs, counts each call, keeps batches within the limits of AWS, and names
//! the call in errors.

mod outgoing;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Builder;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{BatchResultErrorEntry, DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName};
use domain::ports::{PortError, PortResult, SendResult};
use jiff::Timestamp;

use crate::fault::{CallName, Cause, call_error, cause_of, code_error};
use crate::meter::Meter;
use crate::retry::Retries;
pub(crate) use outgoing::{DELAY_MAX, Origin, OutgoingMessage, escape_for_sqs};

const SERVICE: &str = "SQS";

/// Entries of one batch (SQS API reference, SendMessageBatch, DeleteMessageBatch).
const BATCH_MAX: usize = 10;

/// Messages of one receive (SQS API reference, ReceiveMessage).
const RECEIVE_MAX: usize = 10;
/// Longest wait of one receive (SQS API reference, ReceiveMessage, WaitTimeSeconds).
const WAIT_MAX: Duration = Duration::from_secs(20);

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
    retries: Retries,
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
            Cause::Throttled | Cause::Transient => SendResult::Retry(message),
            Cause::Denied => SendResult::Denied(message),
            Cause::Absent => SendResult::Never(origin.absent.clone()),
            Cause::Invalid => SendResult::Never(message),
        }
    }
}

impl Sqs {
    pub(crate) fn new(client: Client, meter: Arc<Meter>, retries: Retries, call_timeout: Duration) -> Sqs {
        Sqs { client, meter, urls: Arc::default(), absent: Arc::default(), retries, call_timeout }
    }

    fn add_request(&self, action: &str, kind: &str, payload_bytes: usize) {
        self.meter.add_request(format!("sqs {action} {kind}"), payload_bytes);
    }

    /// Makes a call until it succeeds or cannot. `count`: counts an attempt.
    async fn call<T, E, F>(
        &self,
        count: impl Fn() + Send + Sync,
        attempt: impl Fn() -> F + Send,
    ) -> Result<T, SdkError<E, HttpResponse>>
    where
        T: Send,
        E: ProvideErrorMetadata + std::error::Error + Send + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send,
    {
        let attempt = move || {
            count();
            attempt()
        };
        self.retries.call(None, cause_of, attempt).await.result
    }

    async fn queue_url(&self, queue: &str, kind: &str) -> PortResult<String> {
        self.find_queue(queue, kind).await.map_err(|failed| failed.error)
    }

    async fn find_queue(&self, queue: &str, kind: &str) -> Result<String, FailedCall> {
        if let Some(url) = self.urls.lock().unwrap_or_else(PoisonError::into_inner).get(queue) {
            return Ok(url.clone());
        }
        let place = place(queue);
        let call_name = CallName { service: SERVICE, action: "GetQueueUrl", place: &place };
        let call = self.client.get_queue_url().queue_name(queue);
        let found = self.call(|| self.add_request("GetQueueUrl", kind, 0), || call.clone().send()).await;
        let found = found.map_err(|error| FailedCall::new(call_name, &error))?;
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
            let place = format!("the queues {prefix}*");
            let call_name = CallName { service: SERVICE, action: "ListQueues", place: &place };
            let call = self.client.list_queues().queue_name_prefix(prefix).max_results(1000).set_next_token(next);
            let found = self.call(|| self.add_request("ListQueues", kind, 0), || call.clone().send()).await;
            let found = found.map_err(|error| call_error(call_name, &error))?;
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
        let timeouts = Builder::default().timeout_config(timeouts.build());
        let attempt = || {
            let call = self
                .client
                .receive_message()
                .queue_url(&url)
                .max_number_of_messages(i32::try_from(most.clamp(1, RECEIVE_MAX)).unwrap_or(1))
                .visibility_timeout(whole_seconds(lease.min(LEASE_MAX)).max(1))
                .wait_time_seconds(whole_seconds(wait))
                .message_system_attribute_names(MessageSystemAttributeName::SenderId);
            call.customize().config_override(timeouts.clone()).send()
        };
        let cause = |error: &SdkError<_, HttpResponse>| {
            self.add_request("ReceiveMessage", kind, 0);
            cause_of(error)
        };
        let received = self.retries.call(None, cause, attempt).await.result;
        let received = received.map_err(|error| self.forget_url(queue, call_error(call_name, &error)))?;
        let messages = received.messages.unwrap_or_default();
        let bytes = messages.iter().filter_map(Message::body).map(str::len).sum();
        self.add_request("ReceiveMessage", kind, bytes);
        Ok(messages)
    }

    /// Deletes messages. Idempotent.
    pub(crate) async fn delete(&self, queue: &str, kind: &'static str, receipts: Vec<String>) -> PortResult<()> {
        let url = self.queue_url(queue, kind).await?;
        for chunk in receipts.chunks(BATCH_MAX) {
            let place = place(queue);
            let call_name = CallName { service: SERVICE, action: "DeleteMessageBatch", place: &place };
            let mut call = self.client.delete_message_batch().queue_url(&url);
            for (place, receipt) in chunk.iter().enumerate() {
                let entry = DeleteMessageBatchRequestEntry::builder().id(place.to_string()).receipt_handle(receipt);
                call = call.entries(entry.build().map_err(|error| PortError::Permanent(error.to_string()))?);
            }
            let count = || self.add_request("DeleteMessageBatch", kind, 0);
            let deleted = self.call(count, || call.clone().send()).await;
            let deleted = deleted.map_err(|error| self.forget_url(queue, call_error(call_name, &error)))?;
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
        let place = place(queue);
        let call_name = CallName { service: SERVICE, action: "ChangeMessageVisibility", place: &place };
        let call = self.client.change_message_visibility().queue_url(url).receipt_handle(receipt);
        let call = call.visibility_timeout(whole_seconds(lease.min(LEASE_MAX)));
        let changed = self.call(|| self.add_request("ChangeMessageVisibility", kind, 0), || call.clone().send()).await;
        changed.map_err(|error| call_error(call_name, &error))?;
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

fn place(queue: &str) -> String {
    format!("the queue {queue}")
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

    #[test]
    fn a_lease_is_rounded_up_to_whole_seconds() {
        assert_eq!([0, 1, 1000, 1001].map(|ms| whole_seconds(Duration::from_millis(ms))), [0, 1, 1, 2]);
    }
}
